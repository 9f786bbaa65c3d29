"""A life without authority: simulated starts in seconds, and what the shadow would have been worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony.loop.ledger import Row
from harmony.loop.managed import ManagedService
from harmony.loop.ports import Replicas
from harmony.loop.shadow import Regret, Shadow
from harmony.loop.state import Look, Terms
from harmony.model.authority import Mode
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective
from harmony.policies.quantile import QuantilePolicy
from tests.harmony.builders import forecast

LEAD_S = 90.0


def test_starts_take_seconds_and_not_steps() -> None:
    shadow = Shadow(2).order(5, 0.0, LEAD_S)
    assert [shadow.at(t).replicas for t in (0.0, 89.9, 90.0)] == [Replicas(5, 2), Replicas(5, 2), Replicas(5, 5)]


def test_a_drop_cancels_the_newest_starts_first() -> None:
    shadow = Shadow(2).order(4, 0.0, LEAD_S).order(6, 60.0, LEAD_S).order(4, 60.0, LEAD_S).at(90.0)
    assert shadow.replicas == Replicas(4, 4)  # the older two went on
    assert shadow.order(1, 90.0, LEAD_S).replicas == Replicas(1, 1)
    assert shadow.order(-3, 90.0, LEAD_S).replicas == Replicas(0, 0)


@given(st.lists(st.tuples(st.floats(-100, 400), st.integers(0, 30), st.floats(1.0, 500.0)), max_size=30))
def test_counts_stay_sane_whatever_the_clock_does(orders: list[tuple[float, int, float]]) -> None:
    now, shadow = 0.0, Shadow(3)
    for dt, wanted, takes_s in orders:
        now += dt
        before = shadow.at(now).replicas
        shadow = shadow.order(wanted, now, takes_s)
        after = shadow.replicas
        assert after.ordered == wanted
        assert after.ready == min(before.ready, wanted)
        assert shadow.order(wanted, now, takes_s) == shadow
    last = shadow.at(now + 1e6).replicas
    assert last.ready == last.ordered


def demand_at(at_s: float) -> float:
    """Rising and falling demand."""
    return 500.0 + 400.0 * math.sin(at_s / 4000.0)


def test_the_very_loop_lives_in_the_shadow_and_would_have_missed_nothing() -> None:
    """Against a static 9 of the peak: fewer GPU-hours, no misses; the bound says so after a day."""
    terms = Terms(
        objective=Objective(gpus_per_replica=2),
        policy=QuantilePolicy(hold_s=300.0),
        capacity=Capacity.known(100.0),
        lead_time=LeadTime.known(300.0),
        step_s=60.0,
        interval_s=60.0,
        mode=Mode.RECOMMEND,
    )
    service = ManagedService(terms)
    rows: list[Row] = []
    for minute in range(3 * 1440 + 1):
        now_s = minute * 60.0
        made = forecast([[demand_at(now_s + 60.0 * h) for h in range(1, 7)]] * 10)
        turn = service.consider(Look(now_s, demand_at(now_s), 0.0, 9, 9, rows=rows, forecast=made))
        assert turn.plan.desired == 9
        service.conclude(turn, 9)
        service.served(now_s, 9, 9)
        rows = [(now_s, demand_at(now_s), math.nan)]
        if minute == 600:
            assert service.state.regret.lower_bound() is None
    regret = service.state.regret
    assert regret.misses_caused_s == regret.misses_avoided_s == 0.0
    assert regret.seconds == 3 * 86_400.0
    assert regret.gpu_hours_saved / 72.0 == pytest.approx(2 * 4.0, rel=0.2)
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
