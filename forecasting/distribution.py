"""`ForecastDistribution`: the joint future of many indicators as sample paths; the only thing that deciding sees.

Free of torch on purpose: deciding, simulating and their tests need numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from forecasting.errors import DataError, suggest
from forecasting.panel import FloatArray, Indicator

__all__ = ["ForecastBatch", "ForecastDistribution", "LogProb"]

LogProb = Callable[[FloatArray], float]


@dataclass(frozen=True, eq=False)
class ForecastDistribution:
    """Joint sample paths of one service's indicators over the steps after ``origin_s``.

    Attributes:
        paths: (samples, horizon, indicators) float64 in the indicators' own units; NaN for an indicator that could
            not be forecast (absent all through the history).
        indicators: one per last axis.
        origin_s: time of the last observed row; step h (from 1) is at ``origin_s + h * step_s``.
        step_s: seconds between steps.
        model: name and version of what made it.
        experts: what the forecast is made of, by name (horizon, indicators) weights that add up to 1; None if unknown.

    Raises `DataError` for a wrong shape or no samples.
    """

    paths: FloatArray
    indicators: tuple[Indicator, ...]
    origin_s: float
    step_s: float
    model: str = ""
    log_prob_fn: LogProb | None = field(default=None, repr=False)
    experts: Mapping[str, FloatArray] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.paths.ndim != 3 or self.paths.shape[2] != len(self.indicators) or self.paths.shape[0] == 0:
            raise DataError(
                f"sample paths have shape {self.paths.shape}, expected (samples >= 1, horizon, "
                f"{len(self.indicators)} indicators)"
            )

    # ---- grid -----------------------------------------------------------------------------------------------
    @property
    def samples(self) -> int:
        """Number of sample paths."""
        return int(self.paths.shape[0])

    @property
    def horizon(self) -> int:
        """Number of steps ahead."""
        return int(self.paths.shape[1])

    @property
    def names(self) -> tuple[str, ...]:
        """Indicator names in order."""
        return tuple(i.name for i in self.indicators)

    @property
    def times_s(self) -> FloatArray:
        """(horizon,) seconds since the Unix epoch of every step."""
        return self.origin_s + self.step_s * np.arange(1, self.horizon + 1, dtype=np.float64)

    def position(self, name: str) -> int:
        """Column of an indicator; `DataError` naming the near ones if there is none of that name."""
        for i, ind in enumerate(self.indicators):
            if ind.name == name:
                return i
        raise DataError(f"forecast has no indicator {name!r}; {suggest(name, self.names)}")

    # ---- reading --------------------------------------------------------------------------------------------
    def of(self, name: str) -> FloatArray:
        """(samples, horizon) the paths of one indicator."""
        return self.paths[:, :, self.position(name)]

    def mean(self) -> FloatArray:
        """(horizon, indicators) the mean of the paths."""
        out: FloatArray = self.paths.mean(axis=0)
        return out

    def quantile(self, q: float | Sequence[float]) -> FloatArray:
        """Marginal quantiles, (horizon, indicators) for one level, (levels, horizon, indicators) for several.

        Raises `DataError` for a level outside 0..1.
        """
        levels = np.asarray(q, dtype=np.float64)
        if levels.size == 0 or not bool(((levels >= 0) & (levels <= 1)).all()):
            raise DataError(f"quantile levels must lie in 0..1, got {q}")
        out: FloatArray = np.quantile(self.paths, levels, axis=0)
        return out

    def prob_above(self, name: str, threshold: float) -> FloatArray:
        """(horizon,) the share of paths on which the indicator exceeds ``threshold``, step by step."""
        x = self.of(name)
        out: FloatArray = np.where(np.isnan(x).any(axis=0), np.nan, (x > threshold).mean(axis=0))
        return out

    def max_over(self, name: str, window: tuple[int, int] | None = None) -> FloatArray:
        """(samples,) each path's maximum over the steps ``window`` = (first, last), both inclusive, counted from 1.

        Taken *per sample path*: maxima of marginals would overstate or understate the risk of the window.
        Raises `DataError` for a window outside 1..horizon.
        """
        first, last = (1, self.horizon) if window is None else window
        if not 1 <= first <= last <= self.horizon:
            raise DataError(f"window {window} is not inside steps 1..{self.horizon}")
        out: FloatArray = self.of(name)[:, first - 1 : last].max(axis=1)
        return out

    def marginal(self, name: str) -> ForecastDistribution:
        """The distribution of one indicator alone (its paths, without the others)."""
        p = self.position(name)
        return ForecastDistribution(
            paths=self.paths[:, :, p : p + 1],
            indicators=(self.indicators[p],),
            origin_s=self.origin_s,
            step_s=self.step_s,
            model=self.model,
            experts=None if self.experts is None else {n: w[:, p : p + 1] for n, w in self.experts.items()},
        )

    def leading_experts(self, name: str | None = None) -> dict[str, float]:
        """What an indicator's forecast (the first one's by default) is made of, largest share first; empty if unknown.

        Weights are means over the steps and add up to 1.
        """
        at = 0 if name is None else self.position(name)
        shares = {n: float(w[:, at].mean()) for n, w in (self.experts or {}).items()}
        return dict(sorted(shares.items(), key=lambda kept: -kept[1]))

    def log_prob(self, values: FloatArray) -> float:
        """Log-density of a joint outcome ``values`` (horizon, indicators), where the model has a density.

        Raises `DataError` when it has none (an empirical forecaster) or the shape is wrong.
        """
        if self.log_prob_fn is None:
            raise DataError(f"{self.model or 'this forecast'} has sample paths but no density; ask a flow for log_prob")
        v = np.asarray(values, dtype=np.float64)
        if v.shape != self.paths.shape[1:]:
            raise DataError(f"outcome has shape {v.shape}, expected {self.paths.shape[1:]} (horizon, indicators)")
        return self.log_prob_fn(v)


@dataclass(frozen=True, eq=False)
class ForecastBatch:
    """Forecasts of many windows at once; index it for one `ForecastDistribution`.

    Attributes:
        paths: (batch, samples, horizon, indicators).
        indicators, step_s, model: as in `ForecastDistribution`, shared by the batch.
        origin_s: (batch,) time of each window's last row.
        log_prob_of: density of window ``i`` where the model has one.
        experts: by name (batch, horizon, indicators) weights, or None.
    """

    paths: FloatArray
    indicators: tuple[Indicator, ...]
    origin_s: FloatArray
    step_s: float
    model: str = ""
    log_prob_of: Callable[[int], LogProb] | None = field(default=None, repr=False)
    experts: Mapping[str, FloatArray] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Number of forecasts."""
        return int(self.paths.shape[0])

    def __getitem__(self, i: int) -> ForecastDistribution:
        """Forecast ``i`` of the batch (a view of the paths)."""
        return ForecastDistribution(
            paths=self.paths[i],
            indicators=self.indicators,
            origin_s=float(self.origin_s[i]),
            step_s=self.step_s,
            model=self.model,
            log_prob_fn=None if self.log_prob_of is None else self.log_prob_of(i),
            experts=None if self.experts is None else {name: w[i] for name, w in self.experts.items()},
        )

    def __iter__(self) -> Iterator[ForecastDistribution]:
        """The forecasts in order."""
        return (self[i] for i in range(len(self)))
