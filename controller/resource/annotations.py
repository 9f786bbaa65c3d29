"""Annotations: pausing any managed object, and opting an existing HorizontalPodAutoscaler or ScaledObject in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from controller.resource.errors import Loc, SpecError
from controller.resource.group import Annotation
from harmony.model.authority import Pause

__all__ = ["ANNOTATED_MODES", "FIELD_ANNOTATIONS", "is_managed", "is_opted_in", "read_pause", "read_spec"]

ANNOTATED_MODES = ("Observe", "Recommend", "Floor")
DEMAND = "demand"  # name of the indicator that a demand query makes

# Which annotation a field of the spec was read from, for messages about it.
FIELD_ANNOTATIONS: dict[Loc, str] = {
    loc: f"metadata.annotations[{name}]"
    for loc, name in {
        ("mode",): Annotation.MODE,
        ("preset",): Annotation.PRESET,
        ("presetMatchers",): Annotation.PRESET_MATCHERS,
        ("indicators", 0, "query"): Annotation.DEMAND_QUERY,
        ("objective", "perReplica"): Annotation.PER_REPLICA,
        ("objective", "epsilon"): Annotation.EPSILON,
        ("leadTime", "seconds"): Annotation.LEAD_TIME,
        ("cost", "gpusPerReplica"): Annotation.GPUS_PER_REPLICA,
        ("cost", "pricePerGPUHour"): Annotation.PRICE_PER_GPU_HOUR,
        ("prometheus", "url"): Annotation.PROMETHEUS_URL,
    }.items()
}

_DURATION = re.compile(r"(?=\d)(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8}(?:\.\d{1,6})?)s)?")


def read_pause(annotations: Mapping[str, str], where: str) -> Pause:
    """What is stopped for now (KEDA's meaning: of the switches any value but "false" counts as true).

    Raises `SpecError` when paused-replicas is not a count.
    """
    replicas = annotations.get(Annotation.PAUSED_REPLICAS)
    return Pause(
        paused=_switched_on(annotations.get(Annotation.PAUSED)),
        replicas=None if replicas is None else read_count(Annotation.PAUSED_REPLICAS, replicas, where),
        scale_in=_switched_on(annotations.get(Annotation.PAUSED_SCALE_IN)),
        scale_out=_switched_on(annotations.get(Annotation.PAUSED_SCALE_OUT)),
    )


def is_managed(annotations: Mapping[str, str], where: str) -> bool:
    """True when an existing autoscaler was opted in; `SpecError` for anything but "true" and "false".

    Stricter than the switches: "no" must not hand an object over.
    """
    value = annotations.get(Annotation.MANAGED)
    if value is None:
        return False
    if value.strip().lower() not in ("true", "false"):
        raise _wrong(Annotation.MANAGED, where, f'{value[:60]!r} is not one of "true", "false"')
    return value.strip().lower() == "true"


def is_opted_in(annotations: Mapping[str, str]) -> bool:
    """The same for an object that another controller may serve: as written, and nonsense does not count."""
    return annotations.get(Annotation.MANAGED, "").strip().lower() == "true"


def read_spec(annotations: Mapping[str, str], where: str) -> dict[str, Any]:
    """What annotations say, in the shape of a GPUAutoscaler's spec (bounds and target are still to be added).

    Raises `SpecError` naming the annotation when something needed is missing or is not a number or duration.
    """
    mode = annotations.get(Annotation.MODE, "Recommend")
    if mode not in ANNOTATED_MODES:
        raise _wrong(
            Annotation.MODE,
            where,
            f"{mode[:60]!r} is not one of {', '.join(ANNOTATED_MODES)}; more authority needs a GPUAutoscaler, "
            "because here another autoscaler keeps the count",
        )
    _check_complete(annotations, where)

    def number(name: str) -> float | None:
        return None if name not in annotations else _read_number(name, annotations[name], where)

    spec: dict[str, Any] = {"mode": mode, "objective": {}, "cost": {}}
    spec["objective"]["perReplica"] = number(Annotation.PER_REPLICA)
    if (epsilon := number(Annotation.EPSILON)) is not None:
        spec["objective"]["epsilon"] = epsilon
    if (price := number(Annotation.PRICE_PER_GPU_HOUR)) is not None:
        spec["cost"]["pricePerGPUHour"] = price
    if (gpus := annotations.get(Annotation.GPUS_PER_REPLICA)) is not None:
        spec["cost"]["gpusPerReplica"] = read_count(Annotation.GPUS_PER_REPLICA, gpus, where)
    if (lead := annotations.get(Annotation.LEAD_TIME)) is not None:
        spec["leadTime"] = {"seconds": read_duration(Annotation.LEAD_TIME, lead, where)}
    if (query := annotations.get(Annotation.DEMAND_QUERY)) is not None:
        spec["indicators"] = [{"name": DEMAND, "query": query, "level": 1}]
        spec["objective"]["demand"] = DEMAND
    if (url := annotations.get(Annotation.PROMETHEUS_URL)) is not None:
        spec["prometheus"] = {"url": url}
    for field, name in (("preset", Annotation.PRESET), ("presetMatchers", Annotation.PRESET_MATCHERS)):
        if name in annotations:
            spec[field] = annotations[name]
    return spec


def read_count(name: str, text: str, where: str) -> int:
    """A whole number, 0 or more."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", text, re.ASCII):
        raise _wrong(name, where, f'{text[:60]!r} is not a whole number such as "5"')
    return int(text)


def read_duration(name: str, text: str, where: str) -> float:
    """Seconds of a duration such as 90s, 5m or 1h30m."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise _wrong(name, where, f'{text[:60]!r} is not a duration such as "90s", "5m" or "1h30m"')
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def _check_complete(annotations: Mapping[str, str], where: str) -> None:
    if Annotation.DEMAND_QUERY not in annotations and Annotation.PRESET not in annotations:
        raise _wrong(Annotation.DEMAND_QUERY, where, f"is missing; give this PromQL, or {Annotation.PRESET}")
    if Annotation.PER_REPLICA not in annotations:
        raise _wrong(Annotation.PER_REPLICA, where, 'is missing; give what one ready replica carries, such as "25"')
    if Annotation.PRESET_MATCHERS in annotations and Annotation.PRESET not in annotations:
        raise _wrong(Annotation.PRESET_MATCHERS, where, f"has no effect without {Annotation.PRESET}")


def _read_number(name: str, text: str, where: str) -> float:
    if not re.fullmatch(r"\s*[0-9]{1,15}(\.[0-9]{1,15})?(e[+-]?[0-9]{1,2})?\s*", text, re.ASCII | re.IGNORECASE):
        raise _wrong(name, where, f'{text[:60]!r} is not a number such as "0.5"')
    return float(text)


def _switched_on(value: str | None) -> bool:
    return value is not None and value.strip().lower() != "false"


def _wrong(name: str, where: str, message: str) -> SpecError:
    return SpecError(where, f"metadata.annotations[{name}]", message)
