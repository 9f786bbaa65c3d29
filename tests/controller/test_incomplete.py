"""Readings that cover a part of the demand: never a reason to give replicas up, never a lesson, always told."""

from __future__ import annotations

import math

import pytest

from controller.observing.starts import Starts
from controller.observing.targets import TargetView
from controller.prometheus.states import FeedReason, FeedState, IndicatorState
from controller.reporting.status import conditions_of
from controller.service import Service
from harmony.loop.state import ScalePlan
from tests.controller.lives import T0, acted, certain, service, turn

LACKS = "Prometheus warns that its answer is incomplete (a store is away)"


def partly(of: Service, now_s: float, at_least: float, ordered: int) -> ScalePlan:
    """One turn in which a part of the demand could be read."""
    name = of.settings.queries[0].indicator.name
    age = now_s - of.history.newest(0)[0]
    state = IndicatorState(name, FeedReason.INCOMPLETE, LACKS, age)
    feed_state = FeedState(now_s, (state,), age, age <= 180, LACKS, at_least)
    of.saw(TargetView(ordered=ordered, starts=Starts(pods=ordered, ready=ordered)), feed_state)
    steps = of.wants(now_s)
    known = of.history.newest(0)[1]
    plan = of.consider(now_s, certain(now_s // 60 * 60, known) if steps else None)
    assert plan is not None
    of.conclude(plan.desired)
    return plan


def settled(replicas: int = 8) -> Service:
    of = service()
    for k in range(20):
        turn(of, T0 + 60 * k, 25.0 * replicas - 10, replicas)
    return of


@pytest.mark.parametrize("minutes", [1, 30])
@pytest.mark.parametrize("at_least", [0.0, 50.0, math.nan])
def test_a_part_of_the_demand_lowers_no_count_however_long(at_least: float, minutes: int) -> None:
    of, before = settled(), None
    for k in range(20, 20 + minutes):
        plan = partly(of, T0 + 60 * k, at_least, 8)
        assert plan.desired >= 8
        before = before or of.learned.capacity
    assert of.learned.capacity == before, "and teaches nothing"
    assert of.record is not None
    assert of.record.outcome.steps == 0
    told = {c.type: c for c in conditions_of(of, acted(of))}
    available = told["MetricsAvailable"]
    assert (available.status, available.reason) == ("False", "MetricsIncomplete")
    assert LACKS in available.message
    assert told["Ready"].reason == "MetricsIncomplete"


def test_demand_that_grows_in_the_part_that_is_seen_is_served() -> None:
    assert partly(settled(), T0 + 60 * 20, 400.0, 8).desired >= 16
    of = settled()
    for k in range(20, 30):
        plan = partly(of, T0 + 60 * k, 400.0 if k == 29 else 100.0, 8)
    assert plan.desired >= 16, "also long after the last complete reading"


def test_a_low_demand_that_was_read_whole_is_still_held_until_it_is_whole_again() -> None:
    of = service()
    for k in range(20):
        turn(of, T0 + 60 * k, 25.0, 8)
    plan = partly(of, T0 + 60 * 20, 20.0, 8)
    assert (plan.desired, plan.held_by) == (8, "its metrics are incomplete")
    assert turn(of, T0 + 60 * 21, 25.0, 8).desired < 8
