"""`SeasonalNaive`: what was seen one season ago, plus errors that this rule made in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import (
    PART_ROWS,
    Baseline,
    Draws,
    IntArray,
    draw_rows,
    fill_forward,
    join_pools,
    pool_every,
    slim_pool,
    tidy_pool,
    training_chunks,
)
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["SeasonalNaive"]


class SeasonalNaive(Baseline):
    """The value one season before each step plus empirical training residuals, drawn as whole vectors.

    With `WindowBatch.seasonal` (a day, a week) the season that erred least in training comes first, the others where
    it is absent. Without it, or where none is known, the season is the lag inside the lookback (2 steps or more) that
    erred least in training, for each indicator its own.
    """

    method = "seasonal_naive"

    def __init__(self, *, cap: float | None = None) -> None:
        super().__init__(cap=cap)
        self._lags: IntArray = np.empty(0, dtype=np.int64)
        self._order: IntArray = np.empty((0, 0), dtype=np.int64)
        self._pools: dict[bool, FloatArray] = {}

    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        self._lags = _best_lags(panels, self.lookback)
        self._order = self._season_order(panels)
        self._pools = {with_seasons: tidy_pool(self._residuals(panels, with_seasons)) for with_seasons in (False, True)}

    def _learn_more(self, panels: Sequence[Panel], past: Sequence[int] | None, rng: np.random.Generator) -> None:
        every = pool_every(past, self.lookback, self.horizon)
        for with_seasons, pool in self._pools.items():
            self._pools[with_seasons] = join_pools(pool, self._residuals(panels, with_seasons, past), every=every)

    def _let_go(self) -> None:
        self._pools = {with_seasons: slim_pool(pool) for with_seasons, pool in self._pools.items()}

    def _season_order(self, panels: Sequence[Panel]) -> IntArray:
        """(seasons, indicators) season numbers, least mean absolute training error first, unknown ones last."""
        total: FloatArray | float = 0.0
        count: IntArray | int = 0
        for chunk in training_chunks(panels, self.lookback, self.horizon):
            assert chunk.windows.seasonal is not None  # training_chunks asks for it
            miss = np.abs(chunk.targets[:, None] - chunk.windows.seasonal)
            total = total + np.nansum(miss, axis=(0, 2))
            count = count + (~np.isnan(miss)).sum(axis=(0, 2))
        mean = np.where(np.asarray(count) > 0, total / np.maximum(count, 1), np.inf)
        return np.argsort(mean, axis=0, kind="stable")

    def _residuals(self, panels: Sequence[Panel], with_seasons: bool, past: Sequence[int] | None = None) -> FloatArray:
        columns = list(range(len(self.indicators)))
        parts = [
            chunk.targets - self._points(chunk.windows, self.horizon, columns, with_seasons)
            for chunk in training_chunks(panels, self.lookback, self.horizon, past=past, size=PART_ROWS)
        ]
        return np.concatenate([np.empty((0, self.horizon, len(columns))), *parts])

    def _points(self, windows: WindowBatch, horizon: int, columns: list[int], with_seasons: bool) -> FloatArray:
        """(batch, horizon, columns) the point forecast."""
        values = fill_forward(windows.values[:, :, columns])
        lags = self._lags[columns]
        ahead = np.arange(1, horizon + 1)[:, None]
        rows = self.lookback - 1 + ahead - -(-ahead // lags) * lags
        points: FloatArray = values[:, rows, np.arange(len(columns))]
        if with_seasons and windows.seasonal is not None and windows.seasonal.shape[1]:
            seasonal = windows.seasonal[:, :, :horizon, columns]
            for order in self._order[::-1]:
                chosen = np.take_along_axis(seasonal, order[columns][None, None, None, :], axis=1)[:, 0]
                points = np.where(np.isnan(chosen), points, chosen)
        return points

    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        with_seasons = windows.seasonal is not None
        pool = self._pools[with_seasons]
        rows = draw_rows(len(pool), draws.samples, draws.rng)
        points = self._points(windows, draws.horizon, draws.columns, with_seasons)
        return points[:, None] + pool[rows][:, : draws.horizon, draws.columns]


def _best_lags(panels: Sequence[Panel], lookback: int) -> IntArray:
    """(indicators,) the lag in 2..lookback with the least mean absolute difference, 1 for a lookback of 1."""
    lags = np.arange(min(2, lookback), lookback + 1)
    total = np.zeros((len(lags), len(panels[0].indicators)))
    count = np.zeros_like(total)
    for i, lag in enumerate(lags):
        for panel in panels:
            miss = np.abs(panel.values[lag:] - panel.values[:-lag])
            total[i] += np.nansum(miss, axis=0)
            count[i] += (~np.isnan(miss)).sum(axis=0)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    best: IntArray = lags[np.argmin(mean, axis=0)]
    return best
