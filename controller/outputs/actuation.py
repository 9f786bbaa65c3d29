"""Acting on a decision: `/scale`, somebody's floor, a capacity buffer, or nothing at all; one writer per target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from controller.kube.client import Kube
from controller.kube.errors import Conflict, KubeError
from controller.observing.targets import LeadershipLostError, ReplicasMovedError, Targets
from controller.outputs.buffers import WRITE_AGAIN_S, Buffer, buffer_replicas, delete_buffer, write_buffer
from controller.outputs.floor import floor_state, set_floor
from controller.resource.reasons import EventReason
from controller.service import Plan, Service
from harmony.model.authority import Mode
from harmony.model.decision import Reason

__all__ = ["Acted", "Actuator"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Acted:
    """What came of acting on one service.

    `applied` is the count that stands now; `changed` whether we changed something; `floor` the minimum that we hold
    of another autoscaler (None: none); `error` what went wrong, for the status; `event` what to tell people.
    """

    applied: int
    changed: bool = False
    floor: int | None = None
    error: str = ""
    event: tuple[EventReason, str] | None = None


class Actuator:
    """Writes to the cluster what the plans say, and refuses where another writer owns the target."""

    def __init__(self, kube: Kube, targets: Targets, may_act: Callable[[], bool], *, dry_run: bool = False) -> None:
        self._kube = kube
        self._targets = targets
        self._may_act = may_act
        self._dry_run = dry_run

    async def act(self, service: Service, plan: Plan, owner: Json | None) -> Acted:
        """Do what the plan says. ``owner`` is the HPA or ScaledObject that scales the same target, if there is one.

        Trouble with the cluster comes back as `Acted.error`; nothing is raised for it.
        """
        ordered = service.view.ordered
        if self._dry_run:
            return Acted(ordered)
        try:
            if service.mode is Mode.FLOOR:
                acted = await self._floor(service, plan, owner)
            elif plan.desired != ordered and service.settings.actuation == "Scale":
                acted = await self._scale(service, plan)
            else:
                acted = Acted(ordered)
        except (ReplicasMovedError, Conflict) as error:
            return Acted(ordered, error=f"{error}; decided again on the next tick")
        except LeadershipLostError as error:
            return Acted(ordered, error=str(error))
        except KubeError as error:
            return Acted(ordered, error=str(error), event=(EventReason.RESCALE_FAILED, str(error)))
        try:
            await self._buffer(service, plan)
        except LeadershipLostError as error:
            return replace(acted, error=acted.error or str(error))
        except KubeError as error:  # what was ordered before stands
            text = f"CapacityBuffer: {error}"
            event = acted.event or (EventReason.RESCALE_FAILED, text)
            return replace(acted, error=acted.error or text, event=event)
        return acted

    async def _scale(self, service: Service, plan: Plan) -> Acted:
        """Write the count through `/scale`."""
        settings, view = service.settings, service.view
        if service.rival:
            return Acted(view.ordered, error=f"{service.rival} scales {settings.target.name} too; not written")
        done = await self._targets.scale(settings.key.namespace, settings.target, plan.desired, view, self._may_act)
        return Acted(done, changed=True, event=(EventReason.RESCALED, _why(service, plan, view.ordered)))

    async def _floor(self, service: Service, plan: Plan, owner: Json | None) -> Acted:
        """Keep the minimum of the other autoscaler; absent data leave it where it is."""
        ordered = service.view.ordered
        if owner is None:
            what = f"{service.settings.target.kind} {service.settings.target.name}"
            return Acted(ordered, error=f"mode Floor needs a HorizontalPodAutoscaler or ScaledObject on {what}")
        if service.keeper:
            what = f"{owner['kind']} {owner['metadata']['name']}"
            return Acted(ordered, error=f"{service.keeper} keeps the minimum of {what} too; not written")
        state = floor_state(owner)
        decision = service.turn.decision if service.turn is not None else None
        if service.settings.pause.is_active or (decision is not None and decision.reason is Reason.ABSENT_DATA):
            return Acted(ordered, floor=state.minimum)
        floor = await set_floor(self._kube, owner, plan.wanted, self._may_act)
        if floor == state.minimum:
            return Acted(ordered, floor=floor)
        note = f"minimum of {owner['kind']} {owner['metadata']['name']}: {state.minimum} -> {floor}"
        return Acted(ordered, changed=True, floor=floor, event=(EventReason.FLOOR_SET, note))

    async def _buffer(self, service: Service, plan: Plan) -> None:
        """Size the CapacityBuffer, where one is wanted and we have any authority; let go of it where not any more."""
        settings, now_s = service.settings, service.clock_s
        if service.is_idle:
            return
        if settings.buffer_quantile is None or service.is_shadowing:
            if service.buffer is not None:
                self._check_lead()
                await delete_buffer(self._kube, settings)
                service.buffer = None
            return
        if service.forecast is None:
            return
        wanted = buffer_replicas(settings, service.forecast, service.learned.capacity, plan.desired)
        if wanted is None:
            return
        known = service.buffer
        if known is not None and known.replicas == wanted and abs(now_s - known.at_s) < WRITE_AGAIN_S:
            return
        self._check_lead()
        await write_buffer(self._kube, settings, wanted)
        service.buffer = Buffer(wanted, now_s)

    def _check_lead(self) -> None:
        if not self._may_act():
            raise LeadershipLostError("another controller leads now")


def _why(service: Service, plan: Plan, before: int) -> str:
    """One sentence for an event."""
    text = f"{before} -> {plan.desired} replicas"
    if service.turn is None:
        return text
    decision = service.turn.decision
    text += f", reason {decision.reason}"
    risk = decision.violation_probability
    if risk == risk:
        text += f", stated probability of a miss {risk:.2g} (promised {service.settings.objective.epsilon:g})"
    return text + (f", held by {plan.bound_by}" if plan.bound_by else "")
