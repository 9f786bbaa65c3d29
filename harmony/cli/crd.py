"""`harmony crd`: print the CustomResourceDefinition of GPUAutoscaler."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from harmony.cli.extras import needing

__all__ = ["crd"]


@needing("controller")
def crd(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
) -> None:
    """Print the CustomResourceDefinition of GPUAutoscaler.

    Apply it with `harmony crd | kubectl apply --server-side -f -`.
    """
    import yaml

    from controller.resource.crd import crd_manifest

    manifest = crd_manifest()
    if as_json:
        print(json.dumps(manifest, indent=2))
    else:
        print(yaml.safe_dump(manifest, sort_keys=False, width=120, allow_unicode=True), end="")
