"""The four kinds of PATCH, applied in place to a private copy of the stored object."""

from __future__ import annotations

import copy
from typing import Any

from .errors import ApiError, bad_request, unprocessable

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = ("application/apply-patch+yaml", "application/apply-patch+cbor")

# Keys of lists that a strategic patch merges element by element (patchMergeKey of the API types).
_MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "secrets": ("name",),
    "ports": ("containerPort", "port"),
    "volumeMounts": ("mountPath",),
    "conditions": ("type",),
    "addresses": ("type",),
    "taints": ("key",),
    "ownerReferences": ("uid",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey",),
    "schedulingGates": ("name",),
    "resourceClaims": ("name",),
}
_PRIMITIVE_SETS = ("finalizers",)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic(target: Any, patch: Any) -> Any:
    """Merge in which known lists are merged by key, with the `$patch` directives."""
    if not isinstance(patch, dict):
        return patch
    result = target if isinstance(target, dict) else {}
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            result[name] = [entry for entry in result.get(name) or [] if entry not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, list):
            result[key] = _merge_list(key, result.get(key) or [], value)
        else:
            result[key] = strategic(result.get(key), value)
    return result


def _merge_list(name: str, current: list[Any], patch: list[Any]) -> list[Any]:
    if name in _PRIMITIVE_SETS:
        return list(dict.fromkeys([*current, *patch]))
    entries = [entry for entry in patch if isinstance(entry, dict)]
    key = next((key for key in _MERGE_KEYS.get(name, ()) if any(key in entry for entry in entries)), None)
    if key is None or len(entries) != len(patch):
        return patch
    if any(entry.get("$patch") == "replace" for entry in entries):
        return [entry for entry in entries if "$patch" not in entry]
    merged = {entry.get(key): entry for entry in current}
    for entry in entries:
        if key not in entry:
            raise ApiError(400, "BadRequest", f"map: {entry} does not contain declared merge key: {key}")
        if entry.get("$patch") == "delete":
            merged.pop(entry[key], None)
        else:
            merged[entry[key]] = strategic(merged.get(entry[key]), entry)
    return list(merged.values())


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902; an operation that cannot be done is a 422."""
    if not isinstance(operations, list):
        raise bad_request("json patch: the body must be a list of operations")
    for operation in operations:
        try:
            target = _operate(target, operation)
        except (KeyError, IndexError, ValueError, TypeError) as failure:
            raise unprocessable() from failure
    return target


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(text)
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _read(target: Any, parts: list[str]) -> Any:
    for part in parts:
        target = target[int(part)] if isinstance(target, list) else target[part]
    return target


def _add(target: Any, parts: list[str], value: Any) -> Any:
    if not parts:
        return value
    parent, last = _read(target, parts[:-1]), parts[-1]
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last)
        if not 0 <= index <= len(parent):
            raise IndexError(last)
        parent.insert(index, value)
    else:
        parent[last] = value
    return target


def _remove(target: Any, parts: list[str]) -> Any:
    parent, last = _read(target, parts[:-1]), parts[-1]
    return parent.pop(int(last)) if isinstance(parent, list) else parent.pop(last)


def _operate(target: Any, operation: dict[str, Any]) -> Any:
    parts = _pointer(operation["path"])
    match operation["op"]:
        case "add":
            return _add(target, parts, operation["value"])
        case "remove":
            _remove(target, parts)
        case "replace":
            _read(target, parts)
            if not parts:
                return operation["value"]
            parent, last = _read(target, parts[:-1]), parts[-1]
            parent[int(last) if isinstance(parent, list) else last] = operation["value"]
        case "test":
            if _read(target, parts) != operation["value"]:
                raise ValueError("test failed")
        case "copy":
            return _add(target, parts, copy.deepcopy(_read(target, _pointer(operation["from"]))))
        case "move":
            return _add(target, parts, _remove(target, _pointer(operation["from"])))
        case unknown:
            raise ValueError(unknown)
    return target


def let_go(target: Any, last: Any, now: Any, name: str = "") -> None:
    """Takes from `target`, in place, what a manager applied `last` and does not apply `now`."""
    if isinstance(target, dict) and isinstance(last, dict):
        for key, value in last.items():
            if key not in target:
                continue
            if isinstance(now, dict) and key in now:
                let_go(target[key], value, now[key], key)
            elif isinstance(value, dict) and isinstance(target[key], dict):
                let_go(target[key], value, {}, key)  # what others have put beside it stays
                if not target[key]:
                    del target[key]
            else:
                del target[key]
    elif isinstance(target, list) and isinstance(last, list):
        by = next((key for key in _MERGE_KEYS.get(name, ()) if any(isinstance(e, dict) and key in e for e in last)), "")
        if by:
            before, after = ({e.get(by): e for e in entries} for entries in (last, now or []))
            for entry in [e for e in target if e.get(by) in before]:
                if entry.get(by) in after:
                    let_go(entry, before[entry.get(by)], after[entry.get(by)])
                else:
                    target.remove(entry)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def apply_patch(content_type: str, target: Any, patch: Any, custom: bool) -> Any:
    """The object after the patch.

    Raises:
        ApiError: 415 for a media type that this kind does not take, 400 or 422 for a patch that cannot be applied.
    """
    if content_type == JSON_PATCH:
        return json_patch(target, patch)
    if not isinstance(patch, dict):
        raise bad_request("the patch must be an object")
    if content_type in APPLY:
        stated = _without_nulls(patch)  # null takes nothing away: what stands there stays
        return merge(target, stated) if custom else strategic(target, stated)
    return merge(target, patch) if content_type == MERGE else strategic(target, patch)
