"""Laws of the decision rule, against brute force and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harmony.decision.risk import candidate_counts, replicas_needed, weigh
from harmony.decision.rule import decide, lead_window
from harmony.model.capacity import Capacity
from harmony.model.decision import Reason
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective
from tests.harmony.builders import forecast, observation

paths_of_demand = arrays(
    np.float64,
    st.tuples(st.integers(2, 40), st.integers(5, 8)),
    elements=st.floats(0, 5000, allow_nan=False, width=32),
)


@given(paths_of_demand, st.floats(0, 0.5), st.sampled_from(["time", "window"]))
def test_picks_the_cheapest_acceptable_count(paths: np.ndarray, epsilon: float, measure: str) -> None:
    objective = Objective(epsilon=epsilon, measure=measure, max_replicas=60)  # type: ignore[arg-type]
    seen = observation(forecast=forecast(paths), objective=objective, demand=0.0)
    need = replicas_needed(paths[:, :5], 100.0)
    missed = (need[None] > np.arange(61)[:, None, None]) if measure == "time" else None
    risk = missed.mean(axis=(1, 2)) if missed is not None else (need.max(axis=1) > np.arange(61)[:, None]).mean(axis=1)
    acceptable = [r for r in range(1, 61) if risk[r] <= epsilon]
    assert decide(seen).replicas == acceptable[0]  # cost grows with every idle replica


@given(
    paths_of_demand,
    st.floats(0.1, 5),
    st.floats(0, 20),
    st.floats(0, 3),
    st.integers(1, 50),
)
def test_cost_equals_brute_force(paths: np.ndarray, idle: float, miss: float, switch: float, current: int) -> None:
    objective = Objective(price_per_gpu_hour=idle, miss_price_per_replica_hour=miss, switch_price=switch)
    need = replicas_needed(paths, 100.0)
    counts = candidate_counts(need, 1, 1000, always=(current,))
    table = weigh(need, counts, objective, current)
    for r, cost, time_risk, window_risk in zip(
        counts, table.expected_cost, table.violated_time, table.violated_window, strict=True
    ):
        brute = np.mean(idle * np.maximum(0, r - need) + miss * np.maximum(0, need - r)) + switch * abs(r - current)
        assert cost == pytest.approx(brute, abs=1e-7)
        assert time_risk == pytest.approx(np.mean(need > r))
        assert window_risk == pytest.approx(np.mean(need.max(axis=1) > r))


def test_newsvendor_dead_band_between_two_quantiles() -> None:
    """With a price on switching, the count stays while it lies between the quantiles at (c_u -+ c_s)/(c_u + c_o)."""
    need = np.arange(1.0, 101.0)[:, None]
    over, under, switch = 1.0, 9.0, 0.5
    objective = Objective(
        epsilon=0.999, price_per_gpu_hour=over, miss_price_per_replica_hour=under, switch_price=switch
    )
    low = math.ceil(100 * (under - switch) / (under + over))
    high = math.ceil(100 * (under + switch) / (under + over))
    for current in (1, 50, low, (low + high) // 2, high, 99):
        seen = observation(
            forecast=forecast(np.repeat(need * 100.0, 5, axis=1)), objective=objective, ordered=current, demand=0.0,
            risk_level=0.999,
        )  # fmt: skip
        assert decide(seen).replicas == min(max(current, low), high)


@given(paths_of_demand, st.floats(0.5, 50))
def test_units_do_not_matter(paths: np.ndarray, unit: float) -> None:
    here = decide(observation(forecast=forecast(paths)))
    there = decide(
        observation(forecast=forecast(paths * unit), demand=1000.0 * unit, capacity=Capacity.known(100.0 * unit))
    )
    assert abs(here.replicas - there.replicas) <= 1  # equal but for rounding at whole replicas


@given(paths_of_demand, st.floats(0, 500))
def test_more_demand_never_means_fewer_replicas(paths: np.ndarray, extra: float) -> None:
    less = decide(observation(forecast=forecast(paths)))
    more = decide(observation(forecast=forecast(paths + extra), demand=1000.0 + extra))
    assert more.replicas >= less.replicas


@given(paths_of_demand, st.floats(0.001, 0.3), st.floats(0.001, 0.3))
def test_a_stricter_promise_never_means_fewer_replicas(paths: np.ndarray, a: float, b: float) -> None:
    counts = [
        decide(observation(forecast=forecast(paths), objective=Objective(epsilon=e))).replicas for e in sorted((a, b))
    ]
    assert counts[0] >= counts[1]


@given(paths_of_demand)
def test_epsilon_zero_takes_the_sample_maximum(paths: np.ndarray) -> None:
    seen = observation(forecast=forecast(paths), objective=Objective(epsilon=0.0), demand=0.0, risk_level=0.0)
    assert decide(seen).replicas == max(1, int(replicas_needed(paths[:, :5], 100.0).max()))


@given(paths_of_demand, st.integers(0, 5), st.integers(5, 30), st.integers(0, 40), st.booleans())
def test_bounds_always_hold(paths: np.ndarray, low: int, high: int, ordered: int, absent: bool) -> None:
    objective = Objective(min_replicas=low, max_replicas=high)
    demand = float("nan") if absent else 1200.0
    for made in (None, forecast(paths)):
        decision = decide(observation(forecast=made, objective=objective, ordered=ordered, demand=demand))
        assert low <= decision.replicas <= high


@given(paths_of_demand, st.integers(1, 40))
def test_absent_data_never_scale_down(paths: np.ndarray, ordered: int) -> None:
    nan = float("nan")
    gone = forecast(np.full_like(paths, nan))
    for seen in (
        observation(demand=nan, forecast=None, ordered=ordered),
        observation(demand=nan, forecast=forecast(paths), ordered=ordered),
        observation(demand=nan, forecast=gone, ordered=ordered),
        observation(demand=0.0, forecast=gone, ordered=ordered),
    ):
        assert decide(seen).replicas >= ordered


def test_present_demand_is_a_floor() -> None:
    decision = decide(observation(demand=2050.0, forecast=forecast(np.full((50, 6), 500.0))))
    assert (decision.replicas, decision.reason, decision.bound_by) == (21, Reason.REACTIVE_FLOOR, "reactive floor")


def test_an_unreachable_promise_is_said_and_served_as_well_as_can_be() -> None:
    objective = Objective(max_replicas=12)
    decision = decide(observation(objective=objective, forecast=forecast(np.full((50, 6), 3000.0))))
    assert (decision.replicas, decision.reason) == (12, Reason.UNREACHABLE)
    assert decision.violation_probability == 1.0


def test_every_candidate_is_kept_with_risk_and_cost() -> None:
    paths = np.random.default_rng(0).gamma(20, 60, (200, 6))
    decision = decide(observation(forecast=forecast(paths)))
    table = decision.candidates
    assert table is not None
    assert list(table.replicas) == list(range(1, int(table.replicas[-1]) + 1))
    assert all(np.diff(table.violated_time) <= 0)
    assert all(table.violated_window >= table.violated_time)
    assert decision.violation_probability <= 0.01
    row = decision.to_json()["candidates"][decision.replicas - 1]
    assert row["replicas"] == decision.replicas
    assert row["violation_probability"] == decision.violation_probability


def test_risk_is_taken_per_path_not_from_marginals() -> None:
    """Two demands with equal marginals: bursts at random steps, or all bursts on the same paths."""
    rng = np.random.default_rng(3)
    together = np.full((400, 5), 500.0)
    together[:20] = 2000.0
    apart = np.stack([rng.permutation(together[:, h]) for h in range(5)], axis=1)
    objective = Objective(epsilon=0.06, measure="window")
    with_joint = decide(observation(objective=objective, forecast=forecast(together), demand=500.0))
    with_apart = decide(observation(objective=objective, forecast=forecast(apart), demand=500.0))
    assert (with_joint.replicas, with_apart.replicas) == (5, 20)


def test_recalibrated_probability_is_stated() -> None:
    paths = np.linspace(0, 10_000, 1000)[:, None].repeat(5, axis=1)
    seen = observation(forecast=forecast(paths), demand=0.0, risk_level=0.05)
    decision = decide(seen)
    assert decision.replicas == 95
    assert decision.violation_probability == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize(("lead", "interval", "steps"), [(300, 60, 5), (301, 60, 6), (30, 60, 1), (300, 300, 9)])
def test_lead_window_covers_the_lead_and_the_wait(lead: float, interval: float, steps: int) -> None:
    assert lead_window(observation(lead_time=LeadTime.known(lead), interval_s=interval)) == steps


def test_wider_forecasts_order_more_when_misses_cost_more_than_idling() -> None:
    noise = np.random.default_rng(1).standard_normal((4000, 5))
    counts = [
        decide(observation(forecast=forecast(2000 + s * noise), demand=0.0)).replicas for s in (50, 100, 200, 400)
    ]
    assert all(a < b for a, b in itertools.pairwise(counts))


@settings(max_examples=20)
@given(paths_of_demand)
def test_equal_observations_give_equal_decisions(paths: np.ndarray) -> None:
    one, two = (decide(observation(forecast=forecast(paths), capacity=Capacity(100.0, 0.2))) for _ in range(2))
    assert one.to_json() == two.to_json()


def test_uncertain_capacity_orders_more() -> None:
    made = forecast(np.full((400, 5), 2000.0))
    known = decide(observation(forecast=made, demand=0.0))
    guessed = decide(observation(forecast=made, demand=0.0, capacity=Capacity(100.0, 0.2)))
    assert known.replicas == 20
    assert guessed.replicas == pytest.approx(20 * math.exp(0.2 * 2.326), abs=1.5)


def test_very_many_candidates_are_thinned_but_the_choice_keeps_the_promise() -> None:
    rng = np.random.default_rng(5)
    paths = rng.gamma(4, 50_000, (500, 5))
    decision = decide(observation(forecast=forecast(paths), demand=0.0))
    assert decision.candidates is not None
    assert len(decision.candidates) <= 260
    assert np.mean(paths > decision.replicas * 100.0) <= 0.01
    assert np.mean(paths > decision.replicas * 100.0 * 0.97) > 0.005
