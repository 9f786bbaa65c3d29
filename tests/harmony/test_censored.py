"""Saturated steps are lower bounds of demand, and what is in the system tells the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import UsageError
from harmony.decision.censored import offered_demand, offered_now, saturated_steps, uncensored


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 5.0))
@settings(max_examples=200, deadline=None)
def test_the_balance_gives_back_exactly_what_arrived(seed: int, capacity: float) -> None:
    rng = np.random.default_rng(seed)
    asked, waiting = rng.gamma(2.0, 1.0, 50), 0.0
    served, queue = [], []
    for value in asked:
        done = min(capacity, value + waiting / 60.0)
        waiting += (value - done) * 60.0
        served.append(done)
        queue.append(waiting)
    told = offered_demand(np.array(served), np.array(queue), 60.0)
    np.testing.assert_allclose(told[1:], asked[1:], atol=1e-9)
    full = saturated_steps(np.array(served), np.full(50, capacity), np.array(queue))
    assert (np.array(served)[~full] < capacity).all()
    assert (asked[full] >= 0.95 * capacity - 1e-9).any() or not full.any()


def test_absent_parts_are_absent_and_nothing_is_negative() -> None:
    assert math.isnan(offered_now(math.nan, 1.0, 1.0, 60.0))
    assert math.isnan(offered_now(1.0, math.nan, 1.0, 60.0))
    assert offered_now(1.0, 0.0, 600.0, 60.0) == 0.0  # they all left
    told = offered_demand(np.array([1.0, math.nan, 1.0, 1.0]), np.array([0.0, 0.0, math.nan, 6.0]), 60.0)
    assert np.isnan(told).tolist() == [False, True, True, True]
    with pytest.raises(UsageError, match="equal length"):
        offered_demand(np.ones(2), np.ones(3), 60.0)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_a_censored_step_is_never_read_as_less_and_others_stay(seed: int) -> None:
    rng = np.random.default_rng(seed)
    demand = rng.gamma(2.0, 1.0, 80)
    demand[rng.random(80) < 0.1] = math.nan
    censored = rng.random(80) < 0.3
    told = uncensored(demand, censored)
    assert np.isnan(told).tolist() == np.isnan(demand).tolist()
    known = ~np.isnan(demand)
    assert (told[known] >= demand[known]).all()
    np.testing.assert_array_equal(told[known & ~censored], demand[known & ~censored])
    later = demand.copy()
    later[40:] = 99.0
    np.testing.assert_array_equal(uncensored(later, censored)[:40], told[:40])  # made of the past alone


def test_the_mean_of_what_is_known_to_be_more() -> None:
    told = uncensored(np.array([1.0, 4.0, 6.0, 3.0, 9.0]), np.array([False, False, False, True, True]))
    assert told.tolist() == [1.0, 4.0, 6.0, 5.0, 9.0]
