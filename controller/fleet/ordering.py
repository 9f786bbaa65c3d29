"""The one place where a service becomes the values that outputs are given."""

from __future__ import annotations

import math
from typing import Any

from controller.outputs.base import Acted, Order, Standing
from controller.service import Service

__all__ = ["order_of", "standing_of", "untouched"]

Json = dict[str, Any]


def standing_of(service: Service, owner: Json | None = None, since: str = "") -> Standing:
    """How a service stands; ``owner`` is the autoscaler on its target, ``since`` when its own object was made."""
    return Standing(service.settings, since, service.mode, service.view, service.rival, owner)


def order_of(service: Service, owner: Json | None = None, since: str = "") -> Order:
    """What a service wants done, between deciding (`Service.consider`) and `Service.conclude`."""
    plan, turn, realized = service.plan, service.turn, service.trust.realized
    assert plan is not None
    assert turn is not None
    return Order(
        service.settings,
        since,
        service.mode,
        service.view,
        service.rival,
        owner,
        now_s=service.clock_s,
        wanted=plan.wanted,
        desired=plan.desired,
        held_by=plan.held_by,
        decision=turn.decision,
        demand=turn.observation.demand,
        capacity=service.learned.capacity,
        forecast=service.forecast,
        realized=math.nan if realized is None else realized,
    )


def untouched(service: Service) -> Acted:
    """What stands where nothing was done this turn: the count as it is, and what others were asked for before."""
    plan = service.plan
    return Acted(service.view.ordered, None if plan is None or service.settings.writes_count else plan.desired)
