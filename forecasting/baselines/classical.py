"""`AutoEts` and `AutoArima`: exponential smoothing and ARIMA, chosen by information criteria (extra ``evaluate``)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import (
    Baseline,
    Draws,
    draw_rows,
    fill_forward,
    join_pools,
    tidy_pool,
    training_chunks,
)
from forecasting.baselines.extras import library
from forecasting.panel import FloatArray, Panel
from forecasting.windows import DAY_S, WindowBatch

__all__ = ["AutoArima", "AutoEts"]

FIT_ROWS = 1_000  # newest training rows that a model is chosen and estimated on
JUDGED = 400  # training windows, evenly spread, whose errors the paths draw from
LEAST = 10  # rows that a window needs for a model to start from
MOST_SEASON = 24  # steps of a day that these models can still carry


class _Classical(Baseline):
    """A model of each indicator by itself, estimated once; each window starts it afresh, without estimating again.

    Paths add errors that the model made on training windows, as whole vectors over steps and indicators. A day of at
    most 24 steps is a season of the model.

    Args:
        cap: see `Baseline`; by default twice the highest value seen, as a trend may run away.
    """

    def __init__(self, *, cap: float | None = 2.0) -> None:
        super().__init__(cap=cap)
        self._library()
        self._models: list[Any] = []
        self._units: list[float] = []
        self._pool: FloatArray = np.empty((0, 0, 0))

    def _library(self) -> Any:  # noqa: ANN401
        return library("statsforecast.models", self.method, "statsforecast", "evaluate")

    @abstractmethod
    def _model(self, season: int) -> Any:  # noqa: ANN401
        """A model of statsforecast that knows `fit` and `forward`."""

    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        longest = max(panels, key=len)
        day = round(DAY_S / self.step_s)
        self._models, self._units = [], []
        for k, indicator in enumerate(self.indicators):
            if progress is not None:
                progress(k, len(self.indicators), f"{self.name}: {indicator.name}")
            rows = fill_forward(longest.values[None, -FIT_ROWS:, k : k + 1])[0, :, 0]
            still = bool(np.isnan(rows).any()) or np.ptp(rows) == 0
            season = day if 1 < day <= MOST_SEASON else 1
            # Near 1, where the tolerances of its search are meant to lie.
            self._units.append(1.0 if still else float(np.abs(rows).mean()))
            self._models.append(None if still else self._model(season).fit(rows / self._units[-1]))
        self._pool = tidy_pool(self._residuals(panels))

    def _learn_more(self, panels: Sequence[Panel], past: Sequence[int] | None, rng: np.random.Generator) -> None:
        """The models stay as they were estimated; their newer errors are added."""
        self._pool = join_pools(self._pool, self._residuals(panels, past))

    def _residuals(self, panels: Sequence[Panel], past: Sequence[int] | None = None) -> FloatArray:
        columns = list(range(len(self.indicators)))
        parts = [np.empty((0, self.horizon, len(columns)))]
        for chunk in training_chunks(panels, self.lookback, self.horizon, past=past):
            rows = np.arange(0, len(chunk.windows), max(1, chunk.total // JUDGED))
            some = WindowBatch(
                values=chunk.windows.values[rows],
                indicators=chunk.windows.indicators,
                end_s=chunk.windows.end_s[rows],
                step_s=chunk.windows.step_s,
            )
            parts.append(chunk.targets[rows] - self._points(some, self.horizon, columns))
        return np.concatenate(parts)

    def _points(self, windows: WindowBatch, horizon: int, columns: Sequence[int]) -> FloatArray:
        """(batch, horizon, columns) the point forecast; the last value without a model, or in too short a window."""
        values = fill_forward(windows.values)
        out = np.repeat(values[:, -1:, :][:, :, list(columns)], horizon, axis=1)
        for i, k in enumerate(columns):
            model, unit = self._models[k], self._units[k]
            for b in range(len(windows)) if model is not None and values.shape[1] >= LEAST else ():
                window = values[b, :, k]
                if not np.isnan(window).any() and np.ptp(window) > 0:
                    out[b, :, i] = unit * model.forward(window / unit, horizon)["mean"]
        return out

    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        rows = draw_rows(len(self._pool), draws.samples, draws.rng)
        noise = self._pool[rows][:, : draws.horizon, draws.columns]
        points = self._points(windows, draws.horizon, draws.columns)
        return points[:, None] + noise


class AutoEts(_Classical):
    """Exponential smoothing (error, trend, season) by the corrected AIC, from statsforecast.

    Raises `UsageError` when statsforecast is not installed.
    """

    method = "auto_ets"

    def _model(self, season: int) -> Any:  # noqa: ANN401
        return self._library().AutoETS(season_length=season)


class AutoArima(_Classical):
    """ARIMA by stepwise search of the corrected AIC (Hyndman and Khandakar 2008), from statsforecast.

    Raises `UsageError` when statsforecast is not installed.
    """

    method = "auto_arima"

    def _model(self, season: int) -> Any:  # noqa: ANN401
        # Seasonal terms of 24 steps make a search of minutes; the season's shape is left to exponential smoothing.
        return self._library().AutoARIMA(season_length=1)
