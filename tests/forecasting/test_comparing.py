from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.comparing import bootstrap_ratio, mean_ratio


def test_ratios_are_geometric_means_over_series_that_both_have() -> None:
    assert mean_ratio({"a": 1.0, "b": 8.0, "c": 3.0}, {"a": 2.0, "b": 2.0}) == pytest.approx(math.sqrt(2))
    assert mean_ratio({"a": 1.0, "b": math.nan}, {"a": 2.0, "b": 1.0}) == pytest.approx(0.5)
    # A series that either method scores 0 on has no ratio.
    assert math.isnan(mean_ratio({"a": 0.0}, {"a": 1.0}))
    assert math.isnan(mean_ratio({"a": 1.0}, {"b": 1.0}))


@given(st.floats(0.1, 10), st.integers(0, 1000), st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_scores_that_differ_by_a_factor_have_that_ratio_for_certain(factor: float, seed: int, block: int) -> None:
    other = np.random.default_rng(seed).gamma(2.0, size=60)
    found = bootstrap_ratio([(factor * other, other)], [block])
    assert (found.value, found.low, found.high) == pytest.approx((factor,) * 3)


def test_what_is_absent_from_one_method_is_left_out_of_both() -> None:
    one, other = [1.0, math.nan, 3.0], [2.0, 50.0, 6.0]
    assert bootstrap_ratio([(one, other)], [1]).value == pytest.approx(0.5)


def test_series_count_the_same_whatever_their_size() -> None:
    found = bootstrap_ratio([([1.0] * 5, [2.0] * 5), ([400.0] * 50, [200.0] * 50)], [1, 5])
    assert found.value == pytest.approx(1.0)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    held = 0
    for trial in range(200):
        shared = rng.gamma(4.0, size=150)
        one, other = 0.9 * shared * rng.gamma(50.0, 1 / 50, 150), shared * rng.gamma(50.0, 1 / 50, 150)
        found = bootstrap_ratio([(one, other)], [1], seed=trial)
        held += found.low <= 0.9 <= found.high
    assert 178 <= held <= 200  # of 200 draws of 95 %, fewer than 178 come once in 10,000


def test_neighbours_that_move_together_make_the_interval_wider() -> None:
    rng = np.random.default_rng(3)
    one = np.repeat(rng.gamma(2.0, size=40), 12)  # each score twelve times in a row
    other = np.ones(480)
    apart, together = bootstrap_ratio([(one, other)], [1]), bootstrap_ratio([(one, other)], [12])
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_nothing_to_compare_is_no_ratio() -> None:
    found = bootstrap_ratio([([0.0, 0.0], [1.0, 1.0]), ([math.nan], [1.0])], [1, 1])
    assert all(math.isnan(v) for v in (found.value, found.low, found.high))
