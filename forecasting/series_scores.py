"""What a method scored on one series: the figures, and how they come of paths and outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from forecasting import scores
from forecasting.panel import FloatArray

__all__ = ["SeriesScores", "WindowScores", "mean_of", "plain", "score_windows"]

INTERVALS = (0.5, 0.8, 0.95, 0.99)
UPPER = (0.9, 0.99, 0.999)  # quantiles that replicas are counted for
ENERGY_SAMPLES = 50  # the energy score is quadratic in them


@dataclass(frozen=True)
class SeriesScores:
    """What one method scored on one series; errors in the MinMax scale of the training part.

    `load` is the demand (the first indicator of level 1); `forecastable` leaves out noise and constants. `coverage_80`
    is the share of outcomes inside the central 80 % interval; `randomised_80` is the same with outcomes on a plateau of
    the forecast counted by the part of its levels that lies inside (NaN where it was not scored). `pinball_99` is the
    quantile loss at 0.99, `above_99` the share of outcomes above that quantile (`_999`: 0.999). `unforecast` is the
    share of observed outcomes for which the method gave no forecast; they are in no score. `peak_memory_mib` is what
    fitting or forecasting held at its fullest beyond what was held before; NaN where the system does not tell.
    `window_crps` are the windows' own, in time order.
    """

    crps: float
    mse: float
    mae: float
    crps_load: float
    mse_load: float
    mae_load: float
    crps_forecastable: float
    mse_forecastable: float
    coverage_50: float
    coverage_80: float
    coverage_95: float
    coverage_99: float
    pinball_90: float
    pinball_99: float
    pinball_999: float
    pinball_99_load: float
    above_90: float
    above_99: float
    above_999: float
    energy_score: float
    unforecast: float
    fit_seconds: float
    predict_seconds: float
    peak_memory_mib: float
    windows: int
    randomised_50: float = math.nan
    randomised_80: float = math.nan
    randomised_95: float = math.nan
    randomised_99: float = math.nan
    indicators: dict[str, dict[str, float]] = field(default_factory=dict)
    window_crps: tuple[float, ...] = field(default=(), repr=False)

    def to_json(self, *, by_window: bool = False) -> dict[str, Any]:
        """Plain values for `json.dumps`; what could not be scored is null. ``by_window``: with `window_crps`."""
        told = {k: plain(v) for k, v in asdict(self).items()}
        if not by_window:
            del told["window_crps"]
        return told


@dataclass(frozen=True)
class WindowScores:
    """Scores element by element: (windows, horizon, indicators), a level or quantile first; energy by window."""

    crps: FloatArray
    mse: FloatArray
    mae: FloatArray
    coverage: FloatArray
    randomised: FloatArray
    pinball: FloatArray
    above: FloatArray
    energy: FloatArray
    observed: FloatArray

    @classmethod
    def join(cls, parts: Sequence[WindowScores]) -> WindowScores:
        """Consecutive windows as one table."""
        return cls(
            crps=np.concatenate([p.crps for p in parts]),
            mse=np.concatenate([p.mse for p in parts]),
            mae=np.concatenate([p.mae for p in parts]),
            coverage=np.concatenate([p.coverage for p in parts], axis=1),
            randomised=np.concatenate([p.randomised for p in parts], axis=1),
            pinball=np.concatenate([p.pinball for p in parts], axis=1),
            above=np.concatenate([p.above for p in parts], axis=1),
            energy=np.concatenate([p.energy for p in parts]),
            observed=np.concatenate([p.observed for p in parts]),
        )

    def summary(
        self,
        names: Sequence[str],
        load: int,
        forecastable: Sequence[int],
        *,
        fit_seconds: float,
        predict_seconds: float,
        peak_memory_mib: float,
    ) -> SeriesScores:
        """Means over windows and steps, then over indicators; ``load`` and ``forecastable`` are columns."""
        crps, mse, mae = (_by_indicator(part) for part in (self.crps, self.mse, self.mae))
        known = list(forecastable)
        seen = self.observed > 0
        covered, by_part, lost, over = (
            [mean_of(_by_indicator(part)) for part in table]
            for table in (self.coverage, self.randomised, self.pinball, self.above)
        )
        return SeriesScores(
            crps=mean_of(crps),
            mse=mean_of(mse),
            mae=mean_of(mae),
            crps_load=float(crps[load]),
            mse_load=float(mse[load]),
            mae_load=float(mae[load]),
            crps_forecastable=mean_of(crps[known]),
            mse_forecastable=mean_of(mse[known]),
            coverage_50=covered[0],
            coverage_80=covered[1],
            coverage_95=covered[2],
            coverage_99=covered[3],
            pinball_90=lost[0],
            pinball_99=lost[1],
            pinball_999=lost[2],
            pinball_99_load=mean_of(self.pinball[1][..., load]),
            above_90=over[0],
            above_99=over[1],
            above_999=over[2],
            energy_score=mean_of(self.energy),
            unforecast=float(np.isnan(self.crps[seen]).mean()) if seen.any() else 0.0,
            fit_seconds=fit_seconds,
            predict_seconds=predict_seconds,
            peak_memory_mib=peak_memory_mib,
            windows=len(self.energy),
            randomised_50=by_part[0],
            randomised_80=by_part[1],
            randomised_95=by_part[2],
            randomised_99=by_part[3],
            indicators={
                name: {"crps": float(c), "mse": float(m), "mae": float(a)}
                for name, c, m, a in zip(names, crps, mse, mae, strict=True)
            },
            window_crps=tuple(mean_of(window) for window in self.crps),
        )


def score_windows(paths: FloatArray, outcome: FloatArray) -> WindowScores:
    """Paths (windows, samples, horizon, indicators) against outcomes (windows, horizon, indicators), on one scale."""
    return WindowScores(
        crps=scores.crps(paths, outcome),
        mse=scores.mean_squared_error(paths, outcome),
        mae=scores.mean_absolute_error(paths, outcome),
        coverage=scores.coverage(paths, outcome, INTERVALS),
        randomised=scores.randomised_coverage(paths, outcome, INTERVALS),
        pinball=scores.pinball(paths, outcome, UPPER),
        above=scores.above(paths, outcome, UPPER),
        energy=scores.energy_score(paths[:, :ENERGY_SAMPLES], outcome),
        observed=(~np.isnan(outcome)).astype(np.float64),
    )


def mean_of(values: FloatArray) -> float:
    """Mean of what is there, NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def plain(value: Any) -> Any:  # noqa: ANN401 - walks a JSON tree
    """The value as JSON can tell it: what is not a finite number is null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _by_indicator(values: FloatArray) -> FloatArray:
    """(indicators,) means over windows and steps of what was scored."""
    return np.array([mean_of(values[..., k]) for k in range(values.shape[-1])])
