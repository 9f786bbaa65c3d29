"""A life without authority: simulated starts in seconds, and what the shadow would have been worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.distribution import ForecastDistribution
from harmony.decision.feedback import RiskFeedback
from harmony.loop.loop import ControlLoop, Learned
from harmony.loop.ports import Reading, Replicas
from harmony.loop.shadow import Regret, ShadowPool
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective
from harmony.model.observation import Outcome
from harmony.policies.harmony import HarmonyPolicy
from tests.harmony.builders import forecast


class HandClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 0.0

    def now_s(self) -> float:
        return self.at


def pool(initial: int = 2, lead_s: float = 90.0) -> tuple[HandClock, ShadowPool]:
    clock = HandClock()
    return clock, ShadowPool(clock, LeadTime.known(lead_s), initial)


def test_starts_take_seconds_and_not_steps() -> None:
    clock, shadow = pool()
    assert shadow.scale(5) == 5
    seen = []
    for clock.at in (0.0, 89.9, 90.0):
        seen.append(shadow.replicas())
    assert seen == [Replicas(5, 2), Replicas(5, 2), Replicas(5, 5)]


def test_a_drop_cancels_the_newest_starts_first() -> None:
    clock, shadow = pool()
    shadow.scale(4)
    clock.at = 60.0
    shadow.scale(6)
    shadow.scale(4)
    clock.at = 90.0
    assert shadow.replicas() == Replicas(4, 4)  # the older two went on
    shadow.scale(1)
    assert shadow.replicas() == Replicas(1, 1)
    shadow.scale(-3)
    assert shadow.replicas() == Replicas(0, 0)


@given(st.lists(st.tuples(st.floats(-100, 400), st.integers(0, 30)), max_size=30), st.booleans())
def test_counts_stay_sane_whatever_the_clock_does(orders: list[tuple[float, int]], sampled: bool) -> None:
    clock = HandClock()
    shadow = ShadowPool(clock, LeadTime.prior(90.0), 3, np.random.default_rng(0) if sampled else None)
    for dt, wanted in orders:
        clock.at += dt
        before = shadow.replicas()
        assert shadow.scale(wanted) == wanted
        now = shadow.replicas()
        assert now.ordered == wanted
        assert now.ready == min(before.ready, wanted)
    clock.at += 1e6
    last = shadow.replicas()
    assert last.ready == last.ordered


def test_sampled_starts_follow_the_lead_time() -> None:
    clock = HandClock()
    lead = LeadTime.prior(100.0, spread=1.3, weight=50.0)
    shadow = ShadowPool(clock, lead, 0, np.random.default_rng(1))
    shadow.scale(4000)
    clock.at = lead.quantile_s(0.9)
    assert shadow.replicas().ready / 4000 == pytest.approx(0.9, abs=0.02)


def test_only_real_starts_are_handed_out() -> None:
    clock, shadow = pool()
    shadow.scale(9)
    clock.at = 1000.0
    shadow.replicas()
    assert shadow.started_s() == []
    shadow.saw_start(42.0)
    assert (shadow.started_s(), shadow.started_s()) == ([42.0], [])


class Readings:
    """Rising demand and its perfect forecast."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock

    def demand(self, at: float) -> float:
        return 500.0 + 400.0 * math.sin(at / 4000.0)

    def read(self) -> Reading:
        return Reading(self.demand(self.clock.at), Outcome())

    def latest(self, now_s: float) -> ForecastDistribution:
        return forecast([[self.demand(now_s + 60.0 * h) for h in range(1, 7)]] * 10)


def test_the_very_loop_lives_in_the_shadow_and_would_have_missed_nothing() -> None:
    """Against a static 9 of the peak: fewer GPU-hours, no misses; the bound says so after a day."""
    clock, shadow = pool(initial=9, lead_s=300.0)
    world = Readings(clock)
    learned = Learned(Capacity.known(100.0), LeadTime.known(300.0), RiskFeedback.start(0.01))
    policy = HarmonyPolicy(hold_s=300.0)
    live = ControlLoop(Objective(), policy, learned, world, shadow, clock, 60.0, 60.0, world)
    regret = Regret()
    for minute in range(3 * 1440):
        clock.at = minute * 60.0
        live.turn()
        regret = regret.add(60.0, world.demand(clock.at), 100.0, Replicas(9, 9), shadow.replicas(), gpus=2)
        if minute == 600:
            assert regret.lower_bound() is None
    assert regret.misses_caused_s == regret.misses_avoided_s == 0.0
    assert regret.seconds == 3 * 86_400.0
    assert regret.saved_per_hour == pytest.approx(2 * 4.0, rel=0.2)
    bound = regret.lower_bound()
    assert bound is not None
    assert 0 < bound < regret.gpu_hours_saved / 72.0


def test_misses_avoided_caused_and_absent() -> None:
    regret = Regret()
    more, less = Replicas(10, 10), Replicas(5, 5)
    for demand, actual, shadow in (
        (800.0, less, more),  # avoided
        (800.0, more, less),  # caused
        (800.0, less, less),  # both miss
        (300.0, less, more),  # neither
        (float("nan"), less, more),  # nobody knows
    ):
        regret = regret.add(60.0, demand, 100.0, actual, shadow)
    assert (regret.misses_avoided_s, regret.misses_caused_s) == (60.0, 60.0)
    assert (regret.seconds, regret.absent_s) == (240.0, 60.0)
    assert regret.gpu_hours_saved == pytest.approx((-5 + 5 + 0 - 5 - 5) / 60)


@given(st.lists(st.tuples(st.floats(1.0, 9000.0), st.integers(0, 9), st.integers(0, 9)), max_size=60))
def test_blocks_add_up_to_the_total(turns: list[tuple[float, int, int]]) -> None:
    regret = Regret()
    for dt, actual, shadow in turns:
        regret = regret.add(dt, 100.0, 100.0, Replicas(actual, actual), Replicas(shadow, shadow))
    assert regret.total + regret.part == pytest.approx(regret.gpu_hours_saved, abs=1e-6)
    assert regret.blocks * 3600.0 + regret.part_s == pytest.approx(sum(t[0] for t in turns), abs=1e-3)


@pytest.mark.parametrize("dt", [0.0, -60.0, float("nan"), float("inf")])
def test_no_time_no_evidence(dt: float) -> None:
    regret = Regret()
    assert regret.add(dt, 1.0, 1.0, Replicas(1, 1), Replicas(2, 2)) is regret


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_the_lower_bound_lies_below_the_true_mean_95_times_in_100(memory: float) -> None:
    """Two weeks of hours, independent or each resembling the one before; 400 services, four standard errors."""
    rng = np.random.default_rng(8)
    below = 0
    for _ in range(400):
        level, regret = rng.standard_normal(), Regret()
        for _ in range(336):
            level = memory * level + math.sqrt(1 - memory**2) * rng.standard_normal()
            regret = regret._with_block(1.0 + 3.0 * level)
        bound = regret.lower_bound()
        assert bound is not None
        below += bound <= 1.0
    assert below / 400 >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 400)


def test_constant_savings_are_certain() -> None:
    regret = Regret()
    for _ in range(48):
        regret = regret.add(3600.0, 100.0, 100.0, Replicas(5, 5), Replicas(3, 3))
    assert regret.lower_bound() == pytest.approx(2.0)
