"""`WideForest`: the quantile forest, its trees reading all indicators of a window (extra ``trees``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import fill_forward, local_spread
from forecasting.baselines.quantile_forest import QuantileForest
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["WideForest"]

HOUR_S = 3600.0
SHORT = 6  # rows


class WideForest(QuantileForest):
    """A quantile forest that also sees the other indicators, the level, and the minute of the hour.

    Of every other indicator trees see where it stands in its window, its two newest changes and its mean over the
    newest rows, in spreads of the window.
    """

    method = "wide_forest"

    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        values = np.concatenate([p.values for p in panels])
        seen = ~np.isnan(values)
        count = np.maximum(seen.sum(axis=0), 1)
        self._middle = np.where(seen, values, 0.0).sum(axis=0) / count
        away = np.where(seen, values - self._middle, 0.0)
        self._spread = np.sqrt((away**2).sum(axis=0) / count)
        super()._learn(panels, validation, rng, progress)

    def _terms(self, windows: WindowBatch, column: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        last, scale, own = super()._terms(windows, column)
        others = [k for k in range(len(self.indicators)) if k != column and self._spread[k] > 0]
        raw = windows.values[:, :, others]
        seen = ~np.isnan(raw)
        mean = np.where(seen, raw, 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
        spread = np.maximum(local_spread(raw), self._floor[others])
        away = (fill_forward(raw[:, -SHORT:]) - mean[:, None]) / spread[:, None]
        newest = [away[:, max(-lag, -away.shape[1])] for lag in (1, 2, 3)]
        terms = [
            own,
            newest[0],
            newest[0] - newest[1],
            newest[1] - newest[2],
            away.mean(axis=1),
            ((last - self._middle[column]) / (self._spread[column] or 1.0))[:, None],
            np.modf(windows.end_s / HOUR_S)[0][:, None],
        ]
        return last, scale, np.nan_to_num(np.concatenate(terms, axis=1))
