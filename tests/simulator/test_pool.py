"""Cold starts: an order is ready one lead later, a drop cancels the newest first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import UsageError
from simulator.pool import GpuPool, StartUp


def pool(start_up: StartUp, initial: int = 5) -> GpuPool:
    return GpuPool(initial, start_up, 60.0, np.random.default_rng(0))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 8))
def test_fixed_lead_makes_ready_the_minimum_of_ordered_over_the_lead(orders: list[int], k: int) -> None:
    """ready(t) = min of ordered over [t - k, t]: the definition anyone can recount."""
    p = pool(StartUp(60.0 * k), initial=orders[0])
    for t, order in enumerate(orders):
        p.advance(t)
        p.scale(t, order)
        assert p.ordered == order
        assert p.ready == min(orders[max(0, t - k) : t + 1])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.floats(1.0, 3.0))
def test_ready_never_exceeds_ordered_and_catches_up(orders: list[int], spread: float) -> None:
    p = pool(StartUp(120.0, spread))
    for t, order in enumerate(orders):
        p.advance(t)
        p.scale(t, order)
        assert 0 <= p.ready <= p.ordered == order
    p.advance(10**6)
    assert p.ready == p.ordered


def test_observed_starts_follow_the_distribution() -> None:
    p = pool(StartUp(300.0, 1.5), initial=0)
    p.scale(0, 4000)
    p.advance(10**6)
    took = np.array([seconds for seconds, _ in p.started()])
    assert took.size == 4000
    assert np.median(took) == pytest.approx(300, rel=0.05)
    assert np.log(took).std() == pytest.approx(np.log(1.5), rel=0.05)
    assert p.started() == ()


def test_newest_orders_are_cancelled_first() -> None:
    p = pool(StartUp(180.0), initial=2)
    p.scale(0, 4)
    p.scale(1, 6)
    p.scale(2, 5)  # cancels one of the two ordered in step 1
    p.advance(3)
    assert p.ready == 4
    p.advance(4)
    assert p.ready == 5


@pytest.mark.parametrize(("median", "spread"), [(0.0, 1.0), (-5.0, 1.0), (float("nan"), 1.0), (60.0, 0.5)])
def test_impossible_start_ups_are_refused(median: float, spread: float) -> None:
    with pytest.raises(UsageError, match="lead time"):
        StartUp(median, spread)
