"""A course of counts against brute force, and what looking further must and must not change."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import UsageError
from harmony.decision.guards import GuardMemory, apply_behavior
from harmony.decision.look_ahead import break_even_steps, look_ahead
from harmony.model.objective import Behavior, ScalingRules, Stages

SEEDS = st.integers(0, 2**32 - 1)


def cost(
    need: np.ndarray, k: int, ordered: int, course: tuple[int, ...], price: float, switch: float, wake: float
) -> float:
    total, before = 0.0, ordered
    for t, n in enumerate(course):
        window = need[:, t : t + k]
        total += n + price * float((window > n).mean()) + switch * abs(n - before) + wake * (before == 0 < n)
        before = n
    return total


@given(SEEDS, st.integers(1, 3), st.integers(0, 4), st.sampled_from([0.0, 2.0, 30.0]), st.sampled_from([0.0, 0.7, 3.0]),
       st.sampled_from([0.0, 5.0]))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_the_course_is_the_cheapest_of_all(
    seed: int, k: int, ordered: int, price: float, switch: float, wake: float
) -> None:
    need = np.random.default_rng(seed).integers(0, 5, (4, k + 3)).astype(float)
    course = look_ahead(need, k, ordered, price=price, switch=switch, wake=wake)
    best = min(
        cost(need, k, ordered, c, price, switch, wake) for c in itertools.product(range(5), repeat=course.counts.size)
    )
    assert course.cost == pytest.approx(best)
    assert cost(need, k, ordered, tuple(course.counts.tolist()), price, switch, wake) == pytest.approx(best)


@given(SEEDS, st.integers(1, 4), st.integers(0, 9), st.floats(0, 50))
@settings(max_examples=200, deadline=None)
def test_where_changes_are_free_looking_further_changes_nothing(seed: int, k: int, ordered: int, price: float) -> None:
    need = np.random.default_rng(seed).integers(0, 9, (20, k + 6)).astype(float)
    short, far = (look_ahead(need[:, :steps], k, ordered, price=price) for steps in (k, k + 6))
    counts = np.arange(10)
    here = counts + price * np.array([(need[:, :k] > n).mean() for n in counts])
    assert here[short.now] == pytest.approx(here.min())
    assert here[far.now] == pytest.approx(here.min())


@given(SEEDS, st.integers(1, 3), st.integers(0, 9), st.floats(0, 20), st.floats(0, 5))
@settings(max_examples=200, deadline=None)
def test_bounds_floor_and_absent_data(seed: int, k: int, ordered: int, price: float, switch: float) -> None:
    rng = np.random.default_rng(seed)
    need = rng.integers(0, 12, (10, k + 4)).astype(float)
    course = look_ahead(need, k, ordered, price=price, switch=switch, least=2, most=8, floor=5)
    assert course.now >= 5
    assert ((course.counts >= 2) & (course.counts <= 8)).all()
    need[0, -1] = math.nan
    assert (look_ahead(need, k, ordered, price=price, switch=switch).counts >= ordered).all()


def test_a_trough_is_worth_a_drop_only_if_it_lasts() -> None:
    for trough in range(1, 12):
        need = np.array([[*[2.0] * trough, *[10.0] * (16 - trough)]])
        course = look_ahead(need, 3, 10, price=1e4, switch=2.0)
        if trough == break_even_steps(3, 8, switch=2.0):
            continue  # as good either way
        lasts = trough > break_even_steps(3, 8, switch=2.0)
        assert (course.drop_in == 0) == lasts, trough
        if lasts:
            assert course.pre_warm_in is None  # back to what there was, not beyond
            assert int((course.counts == 10).argmax()) == trough - 3 + 1  # ordered one lead before it is needed


def test_sleep_is_priced_with_its_wake_up() -> None:
    need = np.zeros((1, 20))
    need[0, 12:] = 1.0
    assert look_ahead(need, 4, 1, price=1e4).now == 0
    assert look_ahead(need, 4, 1, price=1e4, wake=20.0).now == 1
    course = look_ahead(need, 4, 0, price=1e4, wake=2.0)
    assert course.now == 0
    assert course.pre_warm_in == 9  # serves at the thirteenth step
    assert break_even_steps(4, 1, wake=2.0) == 5.0
    assert math.isinf(break_even_steps(4, 0))


def test_what_is_starting_is_not_ordered_again() -> None:
    need = np.full((5, 6), 7.0)
    assert look_ahead(need, 3, 7, price=1e3, switch=1.0).counts.tolist() == [7] * 4  # however many of them still start


def test_a_rising_forecast_ends_a_staged_scale_down() -> None:
    stages = Behavior(ScalingRules(), ScalingRules(), Stages(25, 300.0))
    memory, current, orders = GuardMemory(), 20, []
    for turn in range(12):
        # From the fifth minute on the forecast holds a rise to 18, beyond what is dropped by then.
        need = np.full((10, 12), 6.0)
        if turn >= 5:
            need[:, 4:] = 18.0
        wanted = look_ahead(need, 5, current, price=1e4).now
        guarded = apply_behavior(memory, stages, 60.0 * turn, current, wanted)
        memory, current = guarded.memory, guarded.replicas
        orders.append(current)
    assert orders[0] == 15
    assert min(orders) == 15  # the second stage, at five minutes, never came
    assert orders[-1] == 18


def test_impossible_forecasts_are_refused() -> None:
    with pytest.raises(UsageError, match="steps or more"):
        look_ahead(np.ones((3, 2)), 3, 1, price=1.0)
    with pytest.raises(UsageError, match="prices"):
        look_ahead(np.ones((3, 3)), 3, 1, price=-1.0)
