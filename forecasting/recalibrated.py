"""`Recalibrated`: a shared model whose forecasts of one service's demand are moved to where outcomes lay there."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np

from forecasting.base import ForecastModel, as_is, rows_read
from forecasting.distribution import ForecastBatch, ForecastDistribution
from forecasting.errors import DataError, UsageError
from forecasting.panel import FloatArray, Panel
from forecasting.pooling import Levels, arranged
from forecasting.windows import WindowBatch

__all__ = ["Recalibrated"]

LEARNED = 300  # windows that levels are learned from, evenly over the rows
SAMPLES = 100  # paths of each


class Recalibrated:
    """A model as it is, but for the levels of its demand: what it states is what came true on a service's rows.

    Only the middle of each marginal moves (`forecasting.pooling.Levels`); the tails, the other indicators, and how
    steps hang together stay the model's. It learns from the demand alone, whatever else a window holds.

    Args:
        model: what is recalibrated; it is shared, never changed.
        levels: where outcomes lay, of one indicator.
        demand: that indicator's name.
    """

    def __init__(self, model: ForecastModel, levels: Levels, demand: str) -> None:
        self.model = model
        self.demand = demand
        self._levels = levels
        self._digest = hashlib.sha256(levels.below.tobytes() + levels.windows.tobytes()).hexdigest()[:8]

    @classmethod
    def of(cls, model: ForecastModel, panel: Panel, horizon: int, *, seed: int = 0) -> Self:
        """Learned from a panel's first indicator; raises `DataError` where it has no window with an outcome."""
        lookback = rows_read(model)
        ends = np.arange(min(lookback, len(panel) // 2) - 1, len(panel) - horizon)
        if not len(ends):
            raise DataError(f"{panel.name}: {len(panel)} rows are too few to recalibrate {horizon} steps ahead")
        ends = ends[:: max(1, -(-len(ends) // LEARNED))]
        windows = WindowBatch.of(panel, ends, lookback, horizon=horizon)
        name = panel.names[0]
        paths = as_is(model)(windows, horizon, samples=SAMPLES, seed=seed, only=[name]).paths
        outcome = panel.values[ends[:, None] + np.arange(1, horizon + 1), :1]
        return cls(model, Levels.of(np.sort(paths, axis=1), outcome), name)

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    @property
    def version(self) -> str:
        """The model's, and a digest of the levels."""
        return f"{self.model.version}~{self._digest}"

    @property
    def lookback(self) -> int:
        """Rows of history that the model reads."""
        return rows_read(self.model)

    def fit(self, panels: Sequence[Panel], **_: object) -> Self:
        """Raises `UsageError`: it is made by `of`."""
        raise UsageError("a recalibrated model is made of one that is fitted: Recalibrated.of(model, panel, horizon)")

    def update(self, panels: Sequence[Panel], *, seed: int = 0) -> Self:
        """Levels learned anew from the newest of ``panels``; the shared model stays as it is."""
        steps = 2 ** len(self._levels.below) - 1
        newer = Recalibrated.of(self.model, panels[-1], steps, seed=seed)
        self._levels, self._digest = newer._levels, newer._digest
        return self

    def predict(
        self,
        windows: WindowBatch,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastBatch:
        """Joint sample paths, the demand's at its own levels; see `ForecastModel.predict`."""
        return self.applied(self.model.predict(windows, horizon, samples=samples, seed=seed, only=only))

    def predict_as_is(
        self,
        windows: WindowBatch,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastBatch:
        """`predict` that takes absent newest rows for rows like any others, as loops do."""
        return self.applied(as_is(self.model)(windows, horizon, samples=samples, seed=seed, only=only))

    def applied(self, batch: ForecastBatch) -> ForecastBatch:
        """The shared model's forecasts as this service's; densities are not known any more."""
        names = [i.name for i in batch.indicators]
        paths = batch.paths
        if self.demand in names:
            at = slice(names.index(self.demand), names.index(self.demand) + 1)
            paths = paths.copy()
            own = paths[..., at]
            paths[..., at] = arranged(self._upto(own.shape[2]).applied(np.sort(own, axis=1)), own)
        return dataclasses.replace(batch, paths=paths, model=f"{self.name} {self.version}", log_prob_of=None)

    def applied_to(self, forecast: ForecastDistribution) -> ForecastDistribution:
        """The same of one forecast."""
        experts = forecast.experts
        whole = ForecastBatch(
            paths=forecast.paths[None],
            indicators=forecast.indicators,
            origin_s=np.array([forecast.origin_s]),
            step_s=forecast.step_s,
            experts=None if experts is None else {name: w[None] for name, w in experts.items()},
        )
        return self.applied(whole)[0]

    def _upto(self, horizon: int) -> Levels:
        """Levels of as many bands as ``horizon`` has: what was not learned is as far ahead as was."""
        most = len(self._levels.below) - 1
        bands: FloatArray = np.arange(int(np.log2(horizon)) + 1, dtype=np.float64)
        at = np.minimum(bands.astype(np.int64), most)
        return Levels(self._levels.below[at], self._levels.windows[at])
