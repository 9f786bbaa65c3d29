"""Where a replay's loop gets its forecasts: batches prepared ahead (each from its own past only), or the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from forecasting.base import ForecastModel
from forecasting.distribution import ForecastBatch, ForecastDistribution
from forecasting.fleet import forecast_rows
from forecasting.panel import FloatArray, Indicator, Panel

__all__ = ["BatchedForecasts", "TrueFuture"]

CHUNK = 256


class BatchedForecasts:
    """Forecasts of one panel's demand at every ``every``-th row, computed in batches when first asked for.

    A forecast at row t sees rows up to t and nothing later, exactly as `model.predict` on a live panel would; only
    the batching differs. ``first`` is the first row with enough history; before it there is no forecast.
    """

    def __init__(
        self,
        panel: Panel,
        model: ForecastModel,
        *,
        lookback: int,
        horizon: int,
        samples: int,
        seed: int,
        every: int = 1,
        first: int = 0,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> None:
        self.panel = panel
        self.model = model
        self.horizon = horizon
        self._lookback = lookback
        self._samples = samples
        self._seed = seed
        self._every = every
        self._first = first
        self._on_batch = on_batch
        self._chunks: dict[int, ForecastBatch] = {}

    @property
    def _per_chunk(self) -> int:
        return CHUNK * self._every

    def latest(self, now_s: float) -> ForecastDistribution | None:
        """The forecast made at ``now_s``; None before there is enough history or off the decision grid."""
        row = round((now_s - self.panel.start_s) / self.panel.step_s)
        if row < self._first or row % self._every:
            return None
        number = row // self._per_chunk
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = self._chunks[number] = self._compute(number)
        return chunk[(row - number * self._per_chunk) // self._every]

    def _compute(self, number: int) -> ForecastBatch:
        """The forecasts of a chunk's rows: of the panel's first indicator, without the windows that a density needs."""
        start = number * self._per_chunk
        rows = np.arange(start, min(start + self._per_chunk, len(self.panel)), self._every)
        batch = forecast_rows(
            self.model,
            self.panel,
            rows,
            self.horizon,
            samples=self._samples,
            seed=self._seed,
            lookback=self._lookback,
            only=self.panel.names[:1],
        )
        if self._on_batch is not None:
            self._on_batch(int(rows[-1]) + 1, len(self.panel))
        return replace(batch, log_prob_of=None)


class TrueFuture:
    """The truth as a forecast of one path: for the oracle only."""

    def __init__(self, demand: FloatArray, indicator: Indicator, start_s: float, step_s: float, horizon: int) -> None:
        self._padded = np.concatenate([demand, np.full(horizon, np.nan)])
        self._indicators = (indicator,)
        self._start_s = start_s
        self._step_s = step_s
        self._horizon = horizon

    def latest(self, now_s: float) -> ForecastDistribution | None:
        """The coming ``horizon`` steps as they will be (NaN beyond the end)."""
        row = round((now_s - self._start_s) / self._step_s)
        ahead = self._padded[row + 1 : row + 1 + self._horizon]
        return ForecastDistribution(ahead[None, :, None], self._indicators, now_s, self._step_s, "truth")
