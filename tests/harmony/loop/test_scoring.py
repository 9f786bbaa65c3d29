"""Scores of forecasts: coverage and CRPS of distributions whose answer is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.distribution import ForecastDistribution
from forecasting.panel import Indicator
from harmony.loop.scoring import ENOUGH, ForecastScores

STEP_S = 60.0


def forecast(at_s: float, paths: np.ndarray) -> ForecastDistribution:
    return ForecastDistribution(paths[:, :, None], (Indicator("demand"),), at_s, STEP_S)


def scored(draw, spread: float, steps: int = 400, seed: int = 0) -> ForecastScores:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Normal forecasts of a normal demand, ``spread`` times as wide as the truth."""
    rng = np.random.default_rng(seed)
    scores = ForecastScores()
    quantiles = np.sort(rng.normal(size=4001))
    for k in range(steps):
        scores = scores.keep(forecast(k * STEP_S, 100 + 10 * spread * np.tile(quantiles[:, None], (1, 3))), "demand", 2)
        scores = scores.settle(k * STEP_S, 100 + 10 * draw(rng), STEP_S)
    return scores


def test_a_true_forecast_covers_what_it_says() -> None:
    scores = scored(lambda rng: rng.normal(), 1.0, steps=2000)
    for share, covered in scores.coverage.items():
        assert covered == pytest.approx(share, abs=0.05)
    # CRPS of a normal forecast of its own normal: sigma / sqrt(pi) (Gneiting and Raftery 2007)
    assert scores.crps == pytest.approx(10 / math.sqrt(math.pi), rel=0.1)
    assert scores.is_calibrated is True


@pytest.mark.parametrize("spread", [0.2, 8.0])
def test_too_narrow_and_too_wide_are_called_miscalibrated(spread: float) -> None:
    assert scored(lambda rng: rng.normal(), spread).is_calibrated is False


def test_too_little_is_not_judged() -> None:
    scores = scored(lambda rng: rng.normal(), 1.0, steps=int(ENOUGH) - 2)
    assert scores.is_calibrated is None
    assert ForecastScores().is_calibrated is None
    assert math.isnan(ForecastScores().crps)
    assert all(math.isnan(c) for c in ForecastScores().coverage.values())


def test_the_score_is_of_the_step_that_was_forecast() -> None:
    scores = ForecastScores()
    paths = np.tile(np.array([10.0, 20.0, 30.0]), (200, 1))
    scores = scores.keep(forecast(0.0, paths), "demand", 2)
    scores = scores.keep(forecast(0.0, paths + 5), "demand", 2)  # of the same step: the first one counts
    scores = scores.settle(STEP_S, 10.0, STEP_S)
    assert scores.weight == 0.0
    scores = scores.settle(2 * STEP_S, 20.0, STEP_S)
    assert scores.weight == 1.0
    assert scores.crps == pytest.approx(0.0, abs=1e-6)
    scores = scores.settle(2 * STEP_S, 20.0, STEP_S)
    assert scores.weight == 1.0


def test_a_lead_beyond_the_horizon_is_scored_at_its_end() -> None:
    scores = ForecastScores()
    scores = scores.keep(forecast(0.0, np.full((50, 3), 7.0)), "demand", 9)
    scores = scores.settle(3 * STEP_S, 7.0, STEP_S)
    assert scores.weight == 1.0


def test_absent_is_not_scored() -> None:
    scores = ForecastScores()
    scores = scores.keep(forecast(0.0, np.full((50, 3), math.nan)), "demand", 1)
    scores = scores.settle(STEP_S, 7.0, STEP_S)
    scores = scores.keep(forecast(STEP_S, np.full((50, 3), 7.0)), "demand", 1)
    scores = scores.settle(2 * STEP_S, math.nan, STEP_S)
    assert scores.weight == 0.0


def test_it_survives_a_restart() -> None:
    scores = scored(lambda rng: rng.normal(), 1.0)
    again = ForecastScores.from_json(json.loads(json.dumps(scores.to_json())))
    assert again.coverage == pytest.approx(scores.coverage, rel=1e-5)
    assert again.crps == pytest.approx(scores.crps, rel=1e-5)
    assert ForecastScores.from_json(ForecastScores().to_json()).weight == 0.0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-5, 5) | st.just(10**400) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["n", "x"]), inner, max_size=2),
    max_leaves=12,
)


@given(JSON | st.fixed_dictionaries({"n": st.lists(st.floats() | st.integers(-9, 9), min_size=6, max_size=6)}))
def test_anything_may_stand_where_it_was_saved(data: object) -> None:
    scores = ForecastScores.from_json(data)
    assert scores.weight >= 0
    scores = scores.keep(forecast(0.0, np.full((50, 1), 7.0)), "demand", 1)
    scores = scores.settle(STEP_S, 8.0, STEP_S)
    assert scores.is_calibrated in (None, True, False)
