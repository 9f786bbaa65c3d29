"""From an object of the API server to `ServiceSettings`; every mistake is a `SpecError` that names the field."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from controller.resource.annotations import FIELD_ANNOTATIONS, is_managed, read_count, read_pause, read_spec
from controller.resource.assembly import assemble
from controller.resource.base import DNS_NAME
from controller.resource.errors import Loc, SpecError, from_validation
from controller.resource.group import API_VERSION, HPA_KIND, KIND, SCALED_OBJECT_KIND, Annotation
from controller.resource.rules import broken_rules
from controller.resource.settings import ServiceKey, ServiceSettings
from controller.resource.spec import AutoscalerSpec

__all__ = ["SpecError", "parse_annotated", "parse_autoscaler"]


def parse_autoscaler(obj: dict[str, Any]) -> ServiceSettings:
    """The settings of one GPUAutoscaler, its pause annotations included; `SpecError` when they cannot be used."""
    key, uid, generation, annotations = _identity(obj)
    where = f"{key.namespace}/{key.name}"
    if key.kind != KIND or obj.get("apiVersion") != API_VERSION:
        raise SpecError(where, "kind", f"{key.kind!r} of {obj.get('apiVersion')!r} is not a {KIND} of {API_VERSION}")
    if "spec" not in obj:
        raise SpecError(where, "spec", "is missing; at least scaleTargetRef, maxReplicas and objective are needed")
    spec = _checked(obj["spec"], where, {})
    return assemble(spec, key, uid, generation, read_pause(annotations, where))


def parse_annotated(obj: dict[str, Any]) -> ServiceSettings | None:
    """The settings of an annotated HorizontalPodAutoscaler or ScaledObject; None when it was not opted in.

    Bounds and target are the object's own. While we hold its minimum up, the annotation original-min-replicas says
    what its user had asked for. Raises `SpecError` when annotations cannot be used.
    """
    key, uid, generation, annotations = _identity(obj)
    where = f"{key.namespace}/{key.name}"
    if key.kind not in (HPA_KIND, SCALED_OBJECT_KIND):
        raise SpecError(where, "kind", f"{key.kind!r} is not one of {HPA_KIND}, {SCALED_OBJECT_KIND}")
    if not is_managed(annotations, where):
        return None
    own = obj.get("spec")
    if not isinstance(own, dict):
        raise SpecError(where, "spec", "is missing")
    spec, names = read_spec(annotations, where), dict(FIELD_ANNOTATIONS)
    if key.kind == HPA_KIND:
        _take(spec, names, own, {"minReplicas": ("minReplicas", 1), "maxReplicas": ("maxReplicas", None)})
        spec["scaleTargetRef"] = own.get("scaleTargetRef")
    else:
        _take(spec, names, own, {"minReplicas": ("minReplicaCount", 0), "maxReplicas": ("maxReplicaCount", 100)})
        spec["scaleTargetRef"] = _scaled_object_target(own.get("scaleTargetRef"))
    held = annotations.get(Annotation.ORIGINAL_MIN_REPLICAS)
    if held is not None:
        spec["minReplicas"] = read_count(Annotation.ORIGINAL_MIN_REPLICAS, held, where)
    return assemble(_checked(spec, where, names), key, uid, generation, read_pause(annotations, where))


def _checked(given: object, where: str, names: dict[Loc, str]) -> AutoscalerSpec:
    """The spec as a model that keeps every rule; `SpecError` for the first mistake."""
    try:
        spec = AutoscalerSpec.model_validate(given)
    except ValidationError as error:
        raise from_validation(error, where, "spec", AutoscalerSpec, names) from None
    for path, message in broken_rules(spec):
        raise SpecError(where, f"spec.{path}" if path else "spec", message)
    return spec


def _identity(obj: object) -> tuple[ServiceKey, str, int, dict[str, str]]:
    """Key, uid, generation and annotations of an object; `SpecError` when it has no usable metadata."""
    if not isinstance(obj, dict):
        raise SpecError("?", "object", f"expected an object with kind and metadata, not {type(obj).__name__}")
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        raise SpecError("?", "metadata", "is missing")
    name, namespace, kind = meta.get("name"), meta.get("namespace", "default"), obj.get("kind")
    for path, value in (("metadata.name", name), ("metadata.namespace", namespace), ("kind", kind)):
        if not isinstance(value, str) or not value:
            raise SpecError("?", path, "expected text that is not empty")
    for path, value in (("metadata.name", str(name)), ("metadata.namespace", str(namespace))):
        if len(value) > 253 or not re.fullmatch(DNS_NAME.strip("^$"), value):
            raise SpecError("?", path, f"{value[:60]!r} is not a name of lower-case letters, digits, - and .")
    where = f"{namespace}/{name}"
    annotations = meta.get("annotations") or {}
    if not isinstance(annotations, dict) or not all(isinstance(v, str) for v in annotations.values()):
        raise SpecError(where, "metadata.annotations", "expected names and texts; numbers and booleans need quotes")
    uid, generation = meta.get("uid"), meta.get("generation")
    key = ServiceKey(str(kind), str(namespace), str(name))
    return key, uid if isinstance(uid, str) else "", generation if isinstance(generation, int) else 0, annotations


def _take(
    spec: dict[str, Any], names: dict[Loc, str], own: dict[str, Any], fields: dict[str, tuple[str, int | None]]
) -> None:
    """Put fields of the object's own spec, or their defaults, where ours has them; absent and null are the same."""
    for field, (theirs, default) in fields.items():
        value = own.get(theirs)
        if value is None:
            value = default
        names[(field,)] = f"spec.{theirs}"
        if value is not None:
            spec[field] = value


def _scaled_object_target(given: object) -> object:
    """KEDA scales Deployments of apps/v1 unless told otherwise, and knows more fields of the reference than we need."""
    if not isinstance(given, dict):
        return given
    out = {"apiVersion": given.get("apiVersion") or "apps/v1", "kind": given.get("kind") or "Deployment"}
    return out | ({"name": given["name"]} if "name" in given else {})
