"""`LastValue`: the newest reading plus errors that this rule made in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import (
    PART_ROWS,
    Baseline,
    Draws,
    draw_rows,
    join_pools,
    last_seen,
    local_spread,
    pool_every,
    slim_pool,
    spread_floor,
    tidy_pool,
    training_chunks,
)
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["LastValue", "ScaledLastValue"]


class LastValue(Baseline):
    """The last value seen plus empirical training residuals, drawn as whole vectors over steps and indicators.

    Args:
        scaled: divide each residual by the standard deviation of its window and multiply by that of the window to be
            forecast, so that quiet hours get narrow forecasts and busy ones wide ones.
        floor: the least standard deviation to divide by, as a share of its root mean square in training.
        cap: see `Baseline`.
    """

    def __init__(self, *, scaled: bool = False, floor: float = 0.1, cap: float | None = None) -> None:
        super().__init__(cap=cap)
        self.method = "last_value_scaled" if scaled else "last_value"
        self.scaled = scaled
        self.floor = floor
        self._pool: FloatArray = np.empty((0, 0, 0))
        self._floor: FloatArray = np.empty(0)

    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        if self.scaled:
            chunks = training_chunks(panels, self.lookback, self.horizon, size=PART_ROWS)
            self._floor = spread_floor(np.concatenate([local_spread(c.windows.values) for c in chunks]), self.floor)
        self._pool = tidy_pool(self._residuals(panels))

    def _learn_more(self, panels: Sequence[Panel], past: Sequence[int] | None, rng: np.random.Generator) -> None:
        every = pool_every(past, self.lookback, self.horizon)
        self._pool = join_pools(self._pool, self._residuals(panels, past), every=every)

    def _let_go(self) -> None:
        self._pool = slim_pool(self._pool)

    def _residuals(self, panels: Sequence[Panel], past: Sequence[int] | None = None) -> FloatArray:
        parts = [np.empty((0, self.horizon, len(self.indicators)))]
        for chunk in training_chunks(panels, self.lookback, self.horizon, past=past, size=PART_ROWS):
            residual = chunk.targets - last_seen(chunk.windows.values)[:, None]
            parts.append(residual / self._scale(chunk.windows)[:, None])
        return np.concatenate(parts)

    def _scale(self, windows: WindowBatch) -> FloatArray:
        if not self.scaled:
            return np.ones((1, len(self.indicators)))
        return np.maximum(local_spread(windows.values), self._floor)

    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        rows = draw_rows(len(self._pool), draws.samples, draws.rng)
        noise = self._pool[rows][:, : draws.horizon, draws.columns]
        last = last_seen(windows.values[:, :, draws.columns])
        scale = self._scale(windows)[:, draws.columns]
        return last[:, None, None] + scale[:, None, None] * noise


class ScaledLastValue(LastValue):
    """`LastValue` whose residuals are narrow after quiet windows and wide after busy ones (``scaled``)."""

    def __init__(self) -> None:
        super().__init__(scaled=True)
