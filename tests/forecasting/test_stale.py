"""Windows whose newest rows are absent are forecast from what was seen last, and are as unsure as that is old."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.base import as_is
from forecasting.baselines.ridge import Ridge
from forecasting.ensemble import Ensemble
from forecasting.errors import DataError
from forecasting.explaining import explain
from forecasting.fleet import FleetForecaster, Wanted, forecast_rows
from forecasting.forecaster import Forecaster
from forecasting.panel import FloatArray
from forecasting.recalibrated import Recalibrated
from forecasting.stale import moved_back, unseen
from forecasting.windows import DAY_S, WindowBatch
from tests.forecasting.builders import panel_of, wavy

LOOKBACK, FITTED = 144, 12
SERIES = wavy(2200, 2, seed=3)
ENDS = np.arange(1500, 2150, 9)
OUTCOME = SERIES.values[ENDS + 1, 0]

Model = Forecaster | Ridge | Ensemble


@pytest.fixture(scope="module", params=["base", "ensemble", "ridge"])
def model(request: pytest.FixtureRequest) -> Model:
    if request.param == "base":
        return Forecaster.base()
    made = Ensemble() if request.param == "ensemble" else Ridge()
    return made.fit([SERIES.rows(0, 1500)], lookback=LOOKBACK, horizon=FITTED)


def windows(horizon: int = 1, ends: object = ENDS) -> WindowBatch:
    return WindowBatch.of(SERIES, np.asarray(ends), LOOKBACK, horizon=horizon)


def without(batch: WindowBatch, rows: int, columns: slice = slice(None)) -> WindowBatch:
    """The newest rows of some columns absent."""
    values = batch.values.copy()
    values[:, batch.lookback - rows :, columns] = np.nan
    return dataclasses.replace(batch, values=values)


@given(st.integers(0, 20), st.integers(1, 30), st.integers(1, 12))
def test_moved_back_is_the_window_of_that_time(rows: int, lookback: int, horizon: int) -> None:
    rows = min(rows, lookback - 1)
    values = wavy(200, 2, seed=rows).values.copy()
    values[100 - rows + 1 : 101] = np.nan
    panel = panel_of(values, step_s=DAY_S / 20)
    now = WindowBatch.of(panel, [100], lookback, horizon=horizon)
    before = WindowBatch.of(panel, [100 - rows], lookback, horizon=rows + horizon)
    moved = moved_back(now, rows)
    assert unseen(now, [0, 1]).tolist() == [[rows, rows]]
    np.testing.assert_array_equal(moved.values[:, rows:], before.values[:, rows:])
    assert np.isnan(moved.values[:, :rows]).all()
    np.testing.assert_allclose(moved.end_s, before.end_s)
    assert moved.seasonal is not None
    assert before.seasonal is not None
    np.testing.assert_array_equal(moved.seasonal[:, :, rows:], now.seasonal)
    held = ~np.isnan(moved.seasonal[:, :, :rows])
    np.testing.assert_array_equal(moved.seasonal[:, :, :rows][held], before.seasonal[:, :, :rows][held])


def test_what_is_absent_all_through_lacks_no_newest_rows() -> None:
    batch = without(windows(ends=[1600, 1700]), LOOKBACK, slice(1, 2))
    assert unseen(batch, [1, 0]).tolist() == [[0, 0], [0, 0]]


def test_a_whole_window_is_forecast_as_it_is_whatever_else_is_in_the_batch(model: Model) -> None:
    whole = windows(6, [1600, 1700, 1800])
    plain = model.predict_as_is(whole, 6, samples=40, seed=4).paths
    np.testing.assert_array_equal(model.predict(whole, 6, samples=40, seed=4).paths, plain)
    mixed = WindowBatch.concat([whole, *(without(whole, k) for k in (2, 5, 30))])
    found = model.predict(mixed, 6, samples=40, seed=4)
    as_is = model.predict_as_is(mixed, 6, samples=40, seed=4).paths
    np.testing.assert_array_equal(found.paths[:3], as_is[:3])
    assert (found.paths[3:] != as_is[3:]).mean() > 0.9
    for at in range(3, len(mixed)):
        one = without(windows(6, [1600 + 100 * (at % 3)]), (2, 5, 30)[at // 3 - 1])
        alone = model.predict(one, 6, samples=40, seed=4)
        np.testing.assert_allclose(found.paths[at], alone.paths[0], rtol=1e-4)
    assert found.experts is not None
    np.testing.assert_allclose(sum(found.experts.values()), 1.0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_what_is_forecast_is_the_farther_steps_of_the_last_row_seen(model: Model, rows: int) -> None:
    stale = without(windows(6, [1700]), rows)
    found = model.predict(stale, 6, samples=40, seed=4)
    before = model.predict_as_is(moved_back(stale, rows), rows + 6, samples=40, seed=4)
    np.testing.assert_array_equal(found.paths, before.paths[:, :, rows:])
    assert found.origin_s.tolist() == stale.end_s.tolist()


def test_each_indicator_counts_for_itself(model: Model) -> None:
    stale = without(windows(6, [1600, 1700]), 4, slice(0, 1))
    both = model.predict(stale, 6, samples=40, seed=4)
    for i, name in enumerate(("a", "b")):
        alone = model.predict(stale, 6, samples=40, seed=4, only=[name])
        np.testing.assert_allclose(both.paths[..., i], alone.paths[..., 0], rtol=1e-6)


@pytest.mark.parametrize(("rows", "horizon"), [(1, 24), (20, 6), (40, 30), (143, 6), (143, 1)])
def test_beyond_what_was_learned_there_are_numbers_still(rows: int, horizon: int) -> None:
    stale = without(windows(horizon, [1700]), rows)
    found = Forecaster.base().predict(stale, horizon, samples=30)
    assert found.paths.shape == (1, 30, horizon, 2)
    assert np.isfinite(found.paths).all()
    assert (np.ptp(found.paths, axis=1) > 0).all()


def intervals(model: Model, rows: int) -> tuple[FloatArray, FloatArray]:
    paths = model.predict(without(windows(), rows), 1, samples=200, seed=1, only=["a"]).paths[:, :, 0, 0]
    low, high = np.quantile(paths, [0.1, 0.9], axis=1)
    return low, high


@pytest.mark.parametrize("rows", [6, 24])
def test_intervals_hold_what_they_say_in_an_outage(model: Model, rows: int) -> None:
    if isinstance(model, Ridge) and rows > FITTED:
        pytest.skip("farther than it was fitted")
    low, high = intervals(model, rows)
    assert ((low <= OUTCOME) & (high >= OUTCOME)).mean() == pytest.approx(0.8, abs=0.1)


def test_the_longer_an_outage_the_less_sure() -> None:
    steps = np.random.default_rng(0).normal(size=(1200, 1))
    wandering = panel_of(500.0 + np.cumsum(steps, axis=0))
    learned = Ensemble().fit([wandering.rows(0, 800)], lookback=LOOKBACK, horizon=FITTED)
    batch = WindowBatch.of(wandering, np.arange(820, 1190, 7), LOOKBACK, horizon=1)
    for model in (Forecaster.base(), learned):
        widths = []
        for rows in (0, 6, 24, 72):
            paths = model.predict(without(batch, rows), 1, samples=200).paths[:, :, 0, 0]
            widths.append(float(np.median(np.ptp(np.quantile(paths, [0.1, 0.9], axis=1), axis=0))))
        assert (np.diff(widths) > 0).all(), widths


def test_densities_are_those_of_the_paths() -> None:
    model, batch = Forecaster.base(), without(windows(3, [1700]), 2)
    found = model.predict(batch, 3, samples=20)[0]
    moved = model.predict(moved_back(batch, 2), 5, samples=20)[0]
    y = SERIES.values[1701:1704]
    assert found.log_prob(y) == pytest.approx(moved.log_prob(np.concatenate([np.full((2, 2), np.nan), y])))
    uneven = without(windows(3, [1700]), 2, slice(0, 1))
    apart = model.predict(uneven, 3, samples=20)[0].log_prob(y)
    parts = [model.predict(uneven, 3, samples=20, only=[n])[0].log_prob(y[:, [i]]) for i, n in enumerate("ab")]
    assert apart == pytest.approx(sum(parts), abs=1e-3)
    with pytest.raises(DataError, match="steps after the last reading"):
        model.predict(without(batch, 30), 3, samples=20)[0].log_prob(y)


def test_explaining_takes_what_it_hides_for_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Forecaster.base()
    told = explain(model, windows(6, [1700]), 6)
    monkeypatch.setattr(Forecaster, "predict", Forecaster.predict_as_is)
    assert explain(model, windows(6, [1700]), 6).past == told.past


def test_loops_are_not_told_wider_forecasts_because_their_metrics_are_away() -> None:
    values = wavy(700, 1).values.copy()
    values[-24:] = np.nan
    panel, base = panel_of(values), Forecaster.base()
    horizon, last = 6, len(panel) - 1
    asked = forecast_rows(base, panel, [last], horizon, only=["a"])[0].paths
    held = forecast_rows(base, panel, [last], horizon, only=["a"], held=True)[0].paths
    fleet = FleetForecaster(base).forecast([Wanted("s", panel, horizon)], panel.end_s).made["s"].paths
    np.testing.assert_array_equal(fleet, held)
    assert np.ptp(held[:, 0]) < 0.7 * np.ptp(asked[:, 0])
    moved = Recalibrated.of(base, panel.rows(0, 600), horizon)
    windows = WindowBatch.of(panel, [last], 144, horizon=horizon)
    narrow, wide = (ask(windows, horizon, samples=200, only=["a"]).paths for ask in (as_is(moved), moved.predict))
    assert np.ptp(narrow[0, :, 0]) < 0.7 * np.ptp(wide[0, :, 0])
