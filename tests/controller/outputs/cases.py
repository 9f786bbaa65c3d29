"""One service for each output that wants it; the laws in `test_laws.py` hold for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.controller.e2e.test_rbac import crd
from tests.controller.outputs.test_floor import hpa

__all__ = ["CASES", "Case"]

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A GPUAutoscaler that an output has work with: its spec, what must be installed, and who scales its target.

    ``writes`` is how often the API server is written to for its first order of more replicas than there are.
    """

    name: str
    spec: Json
    writes: int
    crds: tuple[Json, ...] = ()
    owner: Json | None = field(default=None)


_ALL = [
    Case("keda", {"actuation": "External"}, 0),
    Case("floor", {"mode": "Floor"}, 1, owner=hpa(2)),
    Case("scale", {}, 1),
    Case(
        "buffer",
        # The wish alone: the count itself stays, because nobody may raise it.
        {"capacityBuffer": {"enabled": True}, "behavior": {"scaleUp": {"selectPolicy": "Disabled"}}},
        2,  # a patch that finds none, and one that makes it
        crds=(crd("autoscaling.x-k8s.io", "v1beta1", "capacitybuffers", "CapacityBuffer"),),
    ),
    Case("gauge", {"actuation": "External"}, 0),
]

CASES = {case.name: case for case in _ALL}
