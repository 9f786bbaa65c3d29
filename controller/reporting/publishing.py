"""A managed service after a turn, for the API, the dashboard and the journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from controller.outputs.base import Acted
from controller.reporting.status import conditions_of, held_by
from controller.service import Service
from harmony.serving import Snapshot
from harmony.serving.snapshot import HISTORY_ROWS, judged

__all__ = ["Publish", "snapshot_of"]

Publish = Callable[[Sequence[Snapshot], Sequence[str]], object]
"""Takes the snapshots of a tick and the names of services that are gone; `harmony.serving.Hub.publish` is one."""


def snapshot_of(service: Service, acted: Acted) -> Snapshot | None:
    """What stands about a service after a turn; None before its first."""
    settings, record, plan = service.settings, service.record, service.plan
    if record is None or plan is None:
        return None
    demand = service.history.indicators[0]
    now_s = record.observation.now_s
    times, values = service.history.demand_between(now_s - HISTORY_ROWS * settings.step_s, now_s)
    return Snapshot(
        service=f"{settings.key.namespace}/{settings.key.name}",
        kind=settings.key.kind,
        target=f"{settings.target.kind} {settings.target.name}",
        mode=str(settings.mode),
        unit=demand.unit,
        demand_name=demand.name,
        gpu_type=service.gpu_type,
        currency=settings.currency,
        record=record,
        guards_before=record.before.guards,
        ordered=service.view.ordered,
        ready=service.view.ready,
        desired=acted.desired,
        held_by=held_by(service, acted),
        history_s=times[-HISTORY_ROWS:],
        history=values[-HISTORY_ROWS:],
        conditions=tuple(asdict(c) for c in conditions_of(service, acted)),
        **judged(service.managed),
    )
