"""What the bundled model and the ensemble make of damaged windows, beside what they make of whole ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forecasting import scores
from forecasting.base import ForecastModel
from forecasting.ensemble import Ensemble
from forecasting.forecaster import Forecaster
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch
from tests.forecasting.builders import wavy

LOOKBACK, HORIZON = 144, 6
ENDS = np.arange(1000, 1190, 3)
CLEAN = wavy(1200, seed=5)
OUTCOME = CLEAN.values[ENDS[:, None] + np.arange(1, HORIZON + 1)]

Damage = Callable[[FloatArray, np.random.Generator], FloatArray]


@pytest.fixture(scope="module", params=["base", "ensemble"])
def model(request: pytest.FixtureRequest) -> ForecastModel:
    if request.param == "base":
        return Forecaster.base()
    return Ensemble().fit([CLEAN.rows(0, 900)], lookback=LOOKBACK, horizon=HORIZON)


def at_random(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.where(rng.random(values.shape) < 0.3, np.nan, values)


def in_blocks(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Three outages of a tenth of a window each, in all indicators at once."""
    out = values.copy()
    block = LOOKBACK // 10
    for start in range(10, len(values) - block, LOOKBACK // 3):
        first = start + int(rng.integers(block))
        out[first : first + block] = np.nan
    return out


def spiked(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """One reading a window that is a hundred standard deviations off: it may be a burst, so it is not thrown away."""
    out = values.copy()
    out[50::LOOKBACK] += 100 * values.std(axis=0)
    return out


def crps(model: ForecastModel, panel: Panel, *, wherever: bool = True) -> FloatArray:
    """By indicator; not ``wherever``: of windows whose newest row is there (a lasting outage is another question)."""
    windows = WindowBatch.of(panel, ENDS, LOOKBACK, horizon=HORIZON)
    found = model.predict(windows, HORIZON, samples=100, seed=1).paths
    here = np.full(len(ENDS), fill_value=True) if wherever else ~np.isnan(panel.values[ENDS]).any(axis=1)
    out: FloatArray = np.nanmean(scores.crps(found, OUTCOME)[here], axis=(0, 1))
    return out


@pytest.mark.parametrize(
    ("damage", "most"), [(at_random, 1.15), (in_blocks, 1.15), (spiked, 5.0)], ids=["at random", "blocks", "spikes"]
)
def test_damaged_readings_cost_little(model: ForecastModel, damage: Damage, most: float) -> None:
    damaged = CLEAN.replace(values=damage(CLEAN.values, np.random.default_rng(0)))
    ratio = crps(model, damaged, wherever=damage is not in_blocks).mean() / crps(model, CLEAN).mean()
    assert ratio <= most


def test_an_indicator_that_dies_costs_the_others_nothing(model: ForecastModel) -> None:
    values = CLEAN.values.copy()
    values[980:, 2] = np.nan
    others = crps(model, CLEAN.replace(values=values))[:2] / crps(model, CLEAN)[:2]
    assert (others <= 1.05).all()


def test_another_unit_changes_nothing_but_the_unit() -> None:
    model = Forecaster.base()
    windows = [
        WindowBatch.of(CLEAN.replace(values=CLEAN.values * by), [1000], LOOKBACK, horizon=HORIZON) for by in (1.0, 1e3)
    ]
    one, thousand = (model.predict(w, HORIZON, samples=50, seed=2).paths for w in windows)
    np.testing.assert_allclose(thousand / 1e3, one, rtol=1e-3)


def test_an_hour_that_the_clock_jumps_costs_little(model: ForecastModel) -> None:
    shifted = CLEAN.replace(start_s=CLEAN.start_s + 3600.0)
    assert crps(model, shifted).mean() <= 1.15 * crps(model, CLEAN).mean()


def test_one_reading_is_enough_to_say_something(model: ForecastModel) -> None:
    values = np.full_like(CLEAN.values, np.nan)
    values[1000] = CLEAN.values[1000]
    windows = WindowBatch.of(CLEAN.replace(values=values), [1000], LOOKBACK, horizon=HORIZON)
    found = model.predict(windows, HORIZON, samples=50).paths
    assert np.isfinite(found).all()
    assert (np.abs(np.median(found, axis=1) - values[1000]) <= values[1000]).all()
