"""OpenAPI v3 as far as clients need it that ask whether the server validates fields itself (kubectl, Helm)."""

from __future__ import annotations

from typing import Any

from .kinds import Kind, Registry

Json = dict[str, Any]
_ROOT = ["openapi", "v3"]


def openapi(registry: Registry, path: str) -> Json | None:
    """The document at /openapi/v3 or below, None where there is none."""
    parts = [part for part in path.split("/") if part]
    if parts[:2] != _ROOT:
        return None
    if parts == _ROOT:
        places = dict.fromkeys(_place(kind) for kind in registry.kinds.values())
        return {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}"} for place in places}}
    wanted = "/".join(parts[2:])
    kinds = [kind for kind in registry.kinds.values() if _place(kind) == wanted]
    if not kinds:
        return None
    info = {"title": "Kubernetes", "version": "v1.36.0"}
    paths = {path: item for kind in kinds for path, item in _paths(kind, wanted).items()}
    schemas = {_schema_name(kind): _schema(kind) for kind in kinds}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _place(kind: Kind) -> str:
    return f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"


def _schema_name(kind: Kind) -> str:
    return f"{kind.group or 'core'}.{kind.version}.{kind.kind}"


def _gvk(kind: Kind) -> Json:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _schema(kind: Kind) -> Json:
    root = kind.schema or {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return root | {"x-kubernetes-group-version-kind": [_gvk(kind)]}


def _paths(kind: Kind, place: str) -> Json:
    inside = "namespaces/{namespace}/" if kind.namespaced else ""
    names = ("dryRun", "fieldManager", "fieldValidation", "force")
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]
    operation = {
        "parameters": parameters,
        "x-kubernetes-group-version-kind": _gvk(kind),
        "responses": {"200": {"description": "OK"}},
    }
    base = f"/{place}/{inside}{kind.plural}"
    return {base: {"post": operation}, f"{base}/{{name}}": {"patch": operation, "put": operation}}
