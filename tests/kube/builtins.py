"""Defaults and basic checks of the built-in kinds: what controllers see, not the whole of Kubernetes' validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .errors import Cause, UndecodableError
from .kinds import Kind

Json = dict[str, Any]
_WORKLOADS = ("Deployment", "StatefulSet", "ReplicaSet")
_KEEPS_STATUS = ("Node",)  # kinds whose status a client may set on creation

_FIRST_STATUS: dict[str, Json] = {
    "Pod": {"phase": "Pending", "qosClass": "BestEffort"},
    "Namespace": {"phase": "Active"},
    "HorizontalPodAutoscaler": {"desiredReplicas": 0, "currentMetrics": None},
}


def _default(obj: Json, **values: Any) -> None:
    for key, value in values.items():
        if obj.get(key) is None:
            obj[key] = value


def fill(kind: Kind, obj: Json, creating: bool) -> None:
    """Sets the defaults of a built-in kind in place; on creation, also the first status."""
    if creating and kind.has_status and kind.kind not in _KEEPS_STATUS:
        obj.pop("status", None)
    spec = obj.get("spec")
    if kind.kind in _WORKLOADS and isinstance(spec, dict):
        _default(spec, replicas=1)
        if kind.kind == "Deployment":
            rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}
            _default(spec, strategy=rolling, revisionHistoryLimit=10, progressDeadlineSeconds=600)
            if spec["strategy"].get("type") == "RollingUpdate":
                _default(spec["strategy"], rollingUpdate=rolling["rollingUpdate"])
            elif spec["strategy"].get("rollingUpdate", 0) is None:
                del spec["strategy"]["rollingUpdate"]  # as decoding leaves it out
    elif kind.kind == "HorizontalPodAutoscaler" and isinstance(spec, dict):
        _default(spec, minReplicas=1)
    elif kind.kind == "Pod" and isinstance(spec, dict):
        _default(spec, restartPolicy="Always", terminationGracePeriodSeconds=30)
    if creating:
        if kind.has_status and kind.kind not in _KEEPS_STATUS:
            obj["status"] = dict(_FIRST_STATUS.get(kind.kind, {}))
        if kind.kind == "Namespace":
            obj["spec"] = {"finalizers": ["kubernetes"]}
            obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]


def _at_least(path: str, value: Any, least: int) -> Iterator[Cause]:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UndecodableError(
            f"json: cannot unmarshal {type(value).__name__} into Go struct field {path} of type int32"
        )
    if value < least:
        text = f"must be greater than or equal to {least}" if least == 0 else f"must be greater than {least - 1}"
        yield Cause("FieldValueInvalid", path, f"Invalid value: {value}: {text}")


def check(kind: Kind, obj: Json) -> Iterator[Cause]:
    """The findings on a built-in object."""
    spec = obj.get("spec") if isinstance(obj.get("spec"), dict) else {}
    assert spec is not None
    if kind.kind in _WORKLOADS:
        yield from _check_workload(spec)
        yield from _check_strategy(spec.get("strategy") or {})
    elif kind.kind == "HorizontalPodAutoscaler":
        yield from _check_hpa(spec)
    elif kind.kind == "Pod" and not spec.get("containers"):
        yield Cause("FieldValueRequired", "spec.containers", "Required value")


def _check_workload(spec: Json) -> Iterator[Cause]:
    yield from _at_least("spec.replicas", spec.get("replicas"), 0)
    selector = spec.get("selector") or {}
    wanted = selector.get("matchLabels") or {}
    if not wanted and not selector.get("matchExpressions"):
        yield Cause("FieldValueRequired", "spec.selector", "Required value")
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        text = f"Invalid value: {labels}: `selector` does not match template `labels`"
        yield Cause("FieldValueInvalid", "spec.template.metadata.labels", text)
    if not (template.get("spec") or {}).get("containers"):
        yield Cause("FieldValueRequired", "spec.template.spec.containers", "Required value")


def _check_strategy(strategy: Json) -> Iterator[Cause]:
    if strategy.get("type") == "Recreate" and strategy.get("rollingUpdate") is not None:
        text = "Forbidden: may not be specified when strategy `type` is 'Recreate'"
        yield Cause("FieldValueForbidden", "spec.strategy.rollingUpdate", text)


def _check_hpa(spec: Json) -> Iterator[Cause]:
    yield from _at_least("spec.minReplicas", spec.get("minReplicas"), 1)
    yield from _at_least("spec.maxReplicas", spec.get("maxReplicas", 0), 1)
    least, most = spec.get("minReplicas"), spec.get("maxReplicas")
    if isinstance(least, int) and isinstance(most, int) and 0 < most < least:
        text = f"Invalid value: {most}: must be greater than or equal to `minReplicas`"
        yield Cause("FieldValueInvalid", "spec.maxReplicas", text)
    reference = spec.get("scaleTargetRef") or {}
    for name in ("kind", "name"):
        if not reference.get(name):
            yield Cause("FieldValueRequired", f"spec.scaleTargetRef.{name}", "Required value")


_EVENT_NAMES = (  # core/v1 field, events.k8s.io/v1 field
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
)


def convert(obj: Json, kind: Kind) -> Json:
    """The object as `kind` shows it: another version of a custom kind, or the other of the two Event shapes."""
    if obj["apiVersion"] == kind.api_version:
        return obj
    shown = obj | {"apiVersion": kind.api_version}
    if kind.kind == "Event" and kind.table == "events":
        for core, other in _EVENT_NAMES:
            source, target = (core, other) if kind.group else (other, core)
            if source in shown:
                shown[target] = shown.pop(source)
    return shown
