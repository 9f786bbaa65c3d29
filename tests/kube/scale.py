"""The /scale subresource: autoscaling/v1 Scale over any kind that has one."""

from __future__ import annotations

from typing import Any

from .errors import Cause, UndecodableError, bad_request, internal, invalid
from .kinds import Kind
from .selectors import lookup, selector_text

Json = dict[str, Any]


def scale_of(kind: Kind, obj: Json) -> Json:
    """The Scale of an object. As in the real API, spec.replicas is left out when it is 0 (omitempty)."""
    assert kind.scale is not None
    replicas = lookup(obj, kind.scale.replicas)
    if replicas is None and kind.custom:
        raise internal(f'the spec replicas field ".{kind.scale.replicas}" does not exist')
    status: Json = {"replicas": lookup(obj, kind.scale.status_replicas) or 0}
    selector = lookup(obj, kind.scale.selector) if kind.scale.selector else None
    if selector:
        status["selector"] = selector if isinstance(selector, str) else selector_text(selector)
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: obj["metadata"][key] for key in kept if key in obj["metadata"]},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }


def wanted_replicas(scale: Any, name: str) -> int:
    """The replicas that a written Scale asks for (absent = 0, as on a real server).

    Raises:
        ApiError: 400 for another kind or a wrong type, 422 for a negative count.
    """
    if not isinstance(scale, dict) or scale.get("kind", "Scale") != "Scale":
        raise bad_request(f"expected a Scale of autoscaling/v1, got {scale.get('kind') if scale else scale}")
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if replicas is None:
        replicas = 0
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        text = f"cannot unmarshal {type(replicas).__name__} into Go struct field ScaleSpec.spec.replicas of type int32"
        raise UndecodableError(f'Scale in version "v1" cannot be handled as a Scale: json: {text}')
    if replicas < 0:
        text = f"Invalid value: {replicas}: must be greater than or equal to 0"
        raise invalid("Scale", "autoscaling", name, [Cause("FieldValueInvalid", "spec.replicas", text)])
    return replicas


def with_replicas(kind: Kind, obj: Json, replicas: int) -> Json:
    """The object with its replica field set (in place)."""
    assert kind.scale is not None
    *parents, last = kind.scale.replicas.split(".")
    inner = obj
    for part in parents:
        inner = inner.setdefault(part, {})
    inner[last] = replicas
    return obj
