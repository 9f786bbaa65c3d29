"""The usual day and week of a series, and the specialist that rests on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting import scores
from forecasting.baselines.ridge import Ridge
from forecasting.baselines.seasonal_shape import SeasonalShape, _usual
from forecasting.baselines.shapes import Shape
from forecasting.panel import FloatArray
from forecasting.windows import WindowBatch
from tests.forecasting.builders import panel_of

STEP, DAY = 600.0, 144
WEEK = 7 * DAY
MONDAY = 4 * 86_400.0  # 1970-01-05


def wave(rows: int) -> FloatArray:
    """One busy morning a day."""
    return np.asarray(np.exp(-(((np.arange(rows) % DAY) - 60) ** 2) / 200.0))


def times(rows: int) -> FloatArray:
    return MONDAY + STEP * np.arange(rows)


def test_a_day_is_found_under_noise_and_a_level_that_moves() -> None:
    rng = np.random.default_rng(0)
    rows = 20 * DAY
    drift = np.cumsum(rng.normal(scale=0.02, size=rows))
    x = 10 + drift + wave(rows) + rng.normal(scale=0.3, size=rows)
    found = Shape.of([(x, MONDAY)], STEP)
    truth = wave(DAY) - wave(DAY).mean()
    assert np.sqrt(((found.at(times(DAY)) - truth) ** 2).mean()) < 0.05
    assert found.at(times(3 * DAY)[-DAY:]) == pytest.approx(found.at(times(DAY)), abs=0.05)


@pytest.mark.parametrize("walk", [False, True], ids=["noise", "random walk"])
def test_what_no_two_days_share_is_no_shape(walk: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=28 * DAY)
    x = np.cumsum(x) if walk else x
    found = Shape.of([(x, MONDAY)], STEP)
    mean = np.abs(x.reshape(28, DAY) - x.reshape(28, DAY).mean(axis=1, keepdims=True)).mean()
    assert np.abs(found.at(times(WEEK))).mean() < 0.15 * mean


def test_a_week_is_read_from_three_weeks_on() -> None:
    rng = np.random.default_rng(2)
    rows = 5 * WEEK
    x = wave(rows) * np.where(np.arange(rows) // DAY % 7 < 5, 1.0, 0.2) + rng.normal(scale=0.1, size=rows)
    long, short = (Shape.of([(x[:n], MONDAY)], STEP) for n in (rows, 2 * WEEK))
    busy = long.at(times(WEEK)).reshape(7, DAY)[:, 60]
    assert busy[:5].min() > busy[5:].max() + 0.4
    assert np.ptp(short.at(times(WEEK)).reshape(7, DAY)[:, 60]) == 0
    assert not Shape.of([(x[: DAY + DAY // 2], MONDAY)], STEP)
    assert not Shape.of([(x, MONDAY)], 86_400.0)  # of a day one value says nothing


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), unit=st.floats(1e-6, 1e6), absent=st.floats(0.0, 0.9))
def test_it_is_finite_whatever_is_absent_and_grows_with_the_unit(seed: int, unit: float, absent: float) -> None:
    rng = np.random.default_rng(seed)
    x = wave(6 * DAY) + rng.normal(scale=0.2, size=6 * DAY)
    x[rng.random(x.size) < absent] = np.nan
    at = times(WEEK)
    found = Shape.of([(x, MONDAY)], STEP).at(at)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(Shape.of([(unit * x, MONDAY)], STEP).at(at), unit * found, rtol=1e-6, atol=1e-9 * unit)
    assert np.isfinite(Shape.of([(np.full(6 * DAY, np.nan), MONDAY)], STEP).at(at)).all()


def test_parts_of_a_series_make_one_shape() -> None:
    rng = np.random.default_rng(3)
    rows = 12 * DAY
    x = wave(rows) + rng.normal(scale=0.2, size=rows)
    whole = Shape.of([(x, MONDAY)], STEP).at(times(DAY))
    parts = Shape.of([(x[: 5 * DAY], MONDAY), (x[5 * DAY :], MONDAY + STEP * 5 * DAY)], STEP).at(times(DAY))
    np.testing.assert_allclose(parts, whole, atol=0.03)


def test_few_days_are_enough_where_many_coefficients_take_more() -> None:
    rng = np.random.default_rng(4)
    rows = 9 * DAY
    x = rng.poisson(30 + 60 * wave(rows)).astype(float)
    panel = panel_of(x[:, None], step_s=STEP)
    ends = np.arange(6 * DAY, rows - 7, 3)
    windows = WindowBatch.of(panel, ends, DAY, horizon=6)
    outcome = panel.values[ends[:, None] + np.arange(1, 7)]
    loss = {}
    for model in (Ridge(), SeasonalShape()):
        found = model.fit([panel.rows(0, 6 * DAY)], lookback=DAY, horizon=6)
        loss[model.name] = float(np.nanmean(scores.crps(found.predict(windows, 6, samples=100).paths, outcome)))
    assert loss["seasonal_shape"] < 0.98 * loss["ridge"]
    # The counts' own spread: nothing forecasts them better than their rate does.
    best = scores.crps(rng.poisson((30 + 60 * wave(rows))[ends[:, None] + np.arange(1, 7)], (100, len(ends), 6))
                       .transpose(1, 0, 2)[..., None].astype(float), outcome).mean()  # fmt: skip
    assert loss["seasonal_shape"] < 1.15 * best


def test_times_of_one_grid_are_looked_up_once_with_the_same_outcome() -> None:
    shape = Shape(wave(DAY), np.random.default_rng(2).normal(size=(7, DAY)))
    for ends in (np.arange(900, 1500), np.array([40, 3000, 41]), np.arange(900, 1500) + 0.3 * (np.arange(600) % 2)):
        end_s = MONDAY + STEP * ends
        expected = shape.at(end_s[:, None] - STEP * np.arange(50)[::-1])
        np.testing.assert_array_equal(_usual(shape, end_s, STEP, 50), expected)
