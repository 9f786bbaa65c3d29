"""What the server says of itself: versions, groups, resources."""

from __future__ import annotations

from typing import Any

from .kinds import Kind, Registry

Json = dict[str, Any]
VERSION: Json = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0",
    "gitCommit": "fake",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "go1.25",
    "compiler": "gc",
    "platform": "linux/amd64",
}


def _group(name: str, versions: list[str]) -> Json:
    offered = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": offered, "preferredVersion": offered[0]}


def _resources(kind: Kind) -> list[Json]:
    entry: Json = {
        "name": kind.plural,
        "singularName": kind.kind.lower(),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    entries = [entry]
    for sub in kind.subresources:
        below: Json = {"name": f"{kind.plural}/{sub}", "singularName": "", "namespaced": kind.namespaced}
        if sub == "scale":
            below |= {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        else:
            below["kind"] = kind.kind
        entries.append(below | {"verbs": ["get", "patch", "update"]})
    return entries


def discovery(registry: Registry, path: str) -> Json | None:
    """The document at a discovery path, None where there is none."""
    parts = [part for part in path.split("/") if part]
    groups = {name: versions for name, versions in registry.groups().items() if name}
    if parts == ["version"]:
        return VERSION
    if parts == ["api"]:
        addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}]
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}
    if parts == ["apis"]:
        listed = [_group(name, versions) for name, versions in groups.items()]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    if len(parts) == 2 and parts[0] == "apis" and parts[1] in groups:
        return {"kind": "APIGroup", "apiVersion": "v1"} | _group(parts[1], groups[parts[1]])
    group, version = ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2]) if len(parts) == 3 else ("", "")
    kinds = [kind for kind in registry.of_group(group) if kind.version == version]
    if not kinds or parts[0] not in ("api", "apis"):
        return None
    group_version = f"{group}/{version}" if group else version
    listed = [entry for kind in kinds for entry in _resources(kind)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}
