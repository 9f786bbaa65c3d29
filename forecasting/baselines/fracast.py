"""`Fracast`: a small model that others trained beforehand, its weights in its package (extra ``evaluate``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import Baseline, Draws, fill_forward
from forecasting.baselines.extras import library
from forecasting.baselines.stated_quantiles import paths_of
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["Fracast"]

LEAST = 8  # readings that it asks for
CHUNK = 64  # windows at once: it pads each to 2,048 rows


class Fracast(Baseline):
    """Fracast-0 (package fracast, 85,001 parameters) without any learning on the series, up to 48 steps at once.

    It gives the quantiles 0.1 to 0.9 of each step by itself; beyond them the tails are Gaussian, as wide as the half
    between the median and the outermost quantile says. Steps and indicators are drawn by themselves. What it was
    trained on by others are large public collections, which may hold some of the series that it is scored on.

    Raises `UsageError` when fracast is not installed.
    """

    method = "fracast"
    history = 2048

    def __init__(self, *, cap: float | None = None) -> None:
        super().__init__(cap=cap)
        self._library()
        self._model: Any = None

    def _library(self) -> Any:  # noqa: ANN401
        return library("fracast", self.method, "fracast", "evaluate")

    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        """Nothing to learn; the weights are read from the package."""
        self._model = self._library().FracastModel.from_pretrained(weights="fp32")

    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        from forecasting.scope import one_thread

        found = [self._quantiles(windows.values[:, :, k], draws.horizon, one_thread) for k in draws.columns]
        fitted = len(self.indicators), self.horizon
        return paths_of(np.stack(found, axis=2), np.asarray(self._model.quantiles), draws, fitted=fitted)

    def _quantiles(self, values: FloatArray, horizon: int, scope: Any) -> FloatArray:  # noqa: ANN401
        """(batch, horizon, levels) rising quantiles; all the last value where too little was read, or nothing moved."""
        last = fill_forward(values[:, :, None])[:, -1]
        out = np.repeat(np.repeat(last[:, :, None], horizon, axis=1), len(self._model.quantiles), axis=2)
        low = np.fmin.reduce(values, axis=1)
        span = np.fmax.reduce(values, axis=1) - low
        enough = np.flatnonzero(((~np.isnan(values)).sum(axis=1) >= LEAST) & (span > 0))
        with scope():
            for lo in range(0, len(enough), CHUNK):
                some = enough[lo : lo + CHUNK]
                # Between 0 and 1, as it computes in single precision and takes tiny ranges for none.
                scaled = (values[some] - low[some, None]) / span[some, None]
                found = np.sort(self._model.forecast_batch(scaled, horizon=horizon).astype(np.float64), axis=2)
                out[some] = low[some, None, None] + span[some, None, None] * found
        return out
