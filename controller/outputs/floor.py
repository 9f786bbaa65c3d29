"""Floor mode: the forecast keeps the minimum of the user's own HorizontalPodAutoscaler or ScaledObject.

What the minimum was is written beside it, so that letting go restores it, whoever lets go and whenever: there is no
finalizer, and nothing that a restart could lose. A minimum that the user changes meanwhile becomes the one to restore.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from controller.kube.fenced import Fenced
from controller.kube.resources import HPAS, SCALED_OBJECTS, Resource
from controller.observing.ownership import Claim, TargetId, claims_of, first_of, spec_of, target_id, target_of
from controller.outputs.base import Acted, Means, Neighbours, Order, Output, Standing
from controller.resource.annotations import is_opted_in
from controller.resource.group import GROUP, KIND, Annotation
from controller.resource.reasons import EventReason
from controller.resource.settings import ServiceKey
from harmony.model.authority import Mode
from harmony.model.decision import Reason

__all__ = ["OUTPUT", "Floor", "FloorState", "floor_state", "floors_left", "keepers", "restore_floor", "set_floor"]

Json = dict[str, Any]
ORIGINAL = Annotation.ORIGINAL_MIN_REPLICAS
FLOOR = f"{GROUP}/floor-replicas"


class Floor(Output):
    """Keeps the minimum of the autoscaler on a target in mode Floor, one keeper a minimum, and gives it back after."""

    def __init__(self, means: Means) -> None:
        self._kube = means.kube
        self._keepers: dict[ServiceKey, str] = {}
        self._left: list[Json] = []

    def wants(self, standing: Standing) -> bool:
        """Mode Floor, while it is in force."""
        return standing.mode is Mode.FLOOR

    def survey(self, standings: Sequence[Standing], neighbours: Neighbours) -> None:
        """Find out who keeps which minimum, and which are kept by nobody."""
        self._keepers = keepers(standings, neighbours)
        self._left = floors_left([s for s in standings if self.wants(s)], neighbours)

    async def apply(self, order: Order, acted: Acted) -> Acted:
        """Keep the minimum at what is wanted; absent data and a pause leave it where it is."""
        owner = order.owner
        if owner is None:
            what = f"{order.settings.target.kind} {order.settings.target.name}"
            return acted.failed(f"mode Floor needs a HorizontalPodAutoscaler or ScaledObject on {what}")
        what = f"{owner['kind']} {owner['metadata']['name']}"
        if keeper := self._keepers.get(order.key):
            return acted.failed(f"{keeper} keeps the minimum of {what} too; not written")
        state = floor_state(owner)
        if order.settings.pause.is_active or order.decision.reason is Reason.ABSENT_DATA:
            return replace(acted, floor=state.minimum)
        floor = await set_floor(self._kube, owner, order.wanted)
        if floor == state.minimum:
            return replace(acted, floor=floor)
        note = f"minimum of {what}: {state.minimum} -> {floor}"
        return replace(acted, changed=True, floor=floor, event=(EventReason.FLOOR_SET, note))

    def left(self) -> Sequence[Json]:
        """Autoscalers whose minimum is not kept any more: the mode changed, the object is gone or opted out."""
        return self._left

    def describe(self, left: Json) -> str:
        """The floor, and the minimum that was the user's."""
        state = floor_state(left)
        return f"still has a floor of {state.minimum} that nobody keeps; its own minimum is {state.original}"

    async def restore(self, left: Json) -> tuple[EventReason, str]:
        """Give the user's own minimum back."""
        return EventReason.FLOOR_RESTORED, f"minimum is {await restore_floor(self._kube, left)} again"

    def forget(self, key: ServiceKey) -> None:
        """Nothing outlives a survey."""
        self._keepers.pop(key, None)


# ---- whose minimum ------------------------------------------------------------------------------------------
def keepers(standings: Iterable[Standing], neighbours: Neighbours) -> dict[ServiceKey, str]:
    """Services that would keep a minimum which another keeps already, and who that is.

    One keeper per minimum: the autoscaler's own annotations, else the oldest GPUAutoscaler in mode Floor. What counts
    is the mode that was granted: to step back for a while hands nothing over. Whether another controller can make sense
    of an object is not known here: as written, it counts.
    """
    floors = {s.key: s for s in standings if s.settings.mode is Mode.FLOOR}
    claims: dict[TargetId, list[Claim]] = {}
    for key, standing in floors.items():
        if key.kind == KIND:
            target = target_id(key.namespace, standing.settings.target)
            claims.setdefault(target, []).append(Claim(KIND, key.namespace, key.name, standing.since))
    for target, others in claims_of((KIND, _foreign(neighbours))).items():
        claims.setdefault(target, []).extend(others)
    found = {}
    for key, standing in floors.items():
        if key.kind != KIND or (owner := standing.owner) is None:
            continue
        itself = ServiceKey(owner["kind"], key.namespace, owner["metadata"]["name"])
        first = first_of(claims.get(target_id(key.namespace, standing.settings.target), ()))
        if itself in floors or _keeps_its_own(neighbours.foreign.get(itself)):
            found[key] = f"{itself} (by annotation)"
        elif first is not None and first.name != key.name:
            found[key] = str(first)
    return found


def floors_left(kept: Iterable[Standing], neighbours: Neighbours) -> list[Json]:
    """HPAs and ScaledObjects that still carry a floor of ours which none of ``kept`` keeps.

    A floor that a controller with another selector may keep is left to it: one on an object that opted in with
    other labels, and one on the target of another's GPUAutoscaler in mode Floor.
    """
    held = {_name(s.owner) for s in kept if s.owner is not None}
    theirs = {target_of(obj) for obj in _foreign(neighbours)}
    left = []
    for obj in neighbours.autoscalers:
        notes = obj["metadata"].get("annotations") or {}
        if ORIGINAL not in notes or _name(obj) in held or target_of(obj) in theirs:
            continue
        if not (ServiceKey(obj["kind"], *_name(obj)) in neighbours.foreign and is_opted_in(notes)):
            left.append(obj)
    return left


def _name(obj: Json) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _foreign(neighbours: Neighbours) -> list[Json]:
    """GPUAutoscalers in mode Floor that another controller may serve."""
    found = (obj for key, obj in neighbours.foreign.items() if key.kind == KIND)
    return [obj for obj in found if spec_of(obj).get("mode") == Mode.FLOOR]


def _keeps_its_own(obj: Json | None) -> bool:
    """Whether an HPA or ScaledObject that opted in elsewhere keeps its own minimum in mode Floor."""
    notes = (obj or {}).get("metadata", {}).get("annotations") or {}
    return notes.get(Annotation.MODE) == Mode.FLOOR and is_opted_in(notes)


# ---- the minimum itself -------------------------------------------------------------------------------------
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


async def set_floor(kube: Fenced, obj: Json, wanted: int) -> int:
    """Put the minimum to ``wanted``, never below the user's own nor above the maximum; returns the minimum in force.

    Raises `KubeError`; a conflict means that the object changed meanwhile: the next tick sees it fresh.
    """
    state = floor_state(obj)
    floor = max(state.original, min(wanted, state.maximum))
    notes = {ORIGINAL: str(state.original), FLOOR: str(floor)}
    stand = {name: (obj["metadata"].get("annotations") or {}).get(name) for name in notes}
    if floor == state.minimum and (stand == notes or (floor == state.original and not any(stand.values()))):
        return floor
    await _patch(kube, obj, floor, notes)
    return floor


async def restore_floor(kube: Fenced, obj: Json) -> int:
    """Give the user's own minimum back and take our notes away; returns it."""
    state = floor_state(obj)
    await _patch(kube, obj, state.original, {ORIGINAL: None, FLOOR: None})
    return state.original


async def _patch(kube: Fenced, obj: Json, minimum: int, notes: Mapping[str, str | None]) -> None:
    meta = obj["metadata"]
    resource, name = _resource(obj)
    body = {
        "metadata": {"resourceVersion": meta["resourceVersion"], "annotations": dict(notes)},
        "spec": {name: minimum},
    }
    await kube.patch(resource, meta["namespace"], meta["name"], body)


OUTPUT = Floor
