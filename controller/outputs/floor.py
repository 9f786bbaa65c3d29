"""Floor mode: the forecast keeps the minimum of the user's own HorizontalPodAutoscaler or ScaledObject.

What the minimum was is written beside it, so that letting go restores it, whoever lets go and whenever: there is no
finalizer and no memory in the process. A minimum that the user changes meanwhile becomes the one to restore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.kube.client import Kube
from controller.kube.resources import HPAS, SCALED_OBJECTS, Resource
from controller.observing.targets import LeadershipLostError
from controller.resource.group import GROUP, Annotation

__all__ = ["FloorState", "floor_state", "restore_floor", "set_floor"]

Json = dict[str, Any]
ORIGINAL = Annotation.ORIGINAL_MIN_REPLICAS
FLOOR = f"{GROUP}/floor-replicas"


@dataclass(frozen=True, slots=True)
class FloorState:
    """Bounds of somebody's autoscaler: its minimum now, the user's own minimum, its maximum, and whether we hold it."""

    minimum: int
    original: int
    maximum: int
    held: bool


def _resource(obj: Json) -> tuple[Resource, str]:
    """Where such an object lives and what its minimum is called."""
    if obj.get("kind") == "ScaledObject" or "minReplicaCount" in (obj.get("spec") or {}):
        return SCALED_OBJECTS, "minReplicaCount"
    return HPAS, "minReplicas"


def floor_state(obj: Json) -> FloorState:
    """Read the bounds; a floor that is not the one we set was set by the user and is theirs."""
    spec, notes = obj.get("spec") or {}, obj["metadata"].get("annotations") or {}
    resource, name = _resource(obj)
    keda = resource is SCALED_OBJECTS
    minimum = spec.get(name)
    minimum = (0 if keda else 1) if minimum is None else int(minimum)
    maximum = int(spec.get("maxReplicaCount" if keda else "maxReplicas") or 100)
    original, ours = _count(notes.get(ORIGINAL)), _count(notes.get(FLOOR))
    if original is None or ours != minimum:
        return FloorState(minimum, minimum, maximum, held=original is not None)
    return FloorState(minimum, original, maximum, held=True)


def _count(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None


async def set_floor(kube: Kube, obj: Json, wanted: int, may_act: Callable[[], bool]) -> int:
    """Put the minimum to ``wanted``, never below the user's own nor above the maximum; returns the minimum in force.

    Raises `KubeError`; a conflict means that the object changed meanwhile: the next tick sees it fresh.
    """
    state = floor_state(obj)
    floor = max(state.original, min(wanted, state.maximum))
    notes = {ORIGINAL: str(state.original), FLOOR: str(floor)}
    stand = {name: (obj["metadata"].get("annotations") or {}).get(name) for name in notes}
    if floor == state.minimum and (stand == notes or (floor == state.original and not any(stand.values()))):
        return floor
    await _patch(kube, obj, floor, notes, may_act)
    return floor


async def restore_floor(kube: Kube, obj: Json, may_act: Callable[[], bool]) -> int:
    """Give the user's own minimum back and take our notes away; returns it."""
    state = floor_state(obj)
    await _patch(kube, obj, state.original, {ORIGINAL: None, FLOOR: None}, may_act)
    return state.original


async def _patch(
    kube: Kube, obj: Json, minimum: int, notes: Mapping[str, str | None], may_act: Callable[[], bool]
) -> None:
    meta = obj["metadata"]
    resource, name = _resource(obj)
    if not may_act():
        raise LeadershipLostError(f"{resource.kind} {meta['namespace']}/{meta['name']}: another controller leads now")
    body = {
        "metadata": {"resourceVersion": meta["resourceVersion"], "annotations": dict(notes)},
        "spec": {name: minimum},
    }
    await kube.patch(resource, meta["namespace"], meta["name"], body)
