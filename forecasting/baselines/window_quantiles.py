"""`WindowQuantiles`: the window itself as the distribution of what comes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import Baseline, Draws, draw_rows, fill_forward
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["WindowQuantiles"]


class WindowQuantiles(Baseline):
    """The last ``lookback`` values as the forecast distribution; paths are contiguous stretches of the window.

    A stretch starts at a random row and goes on from the window's first row when it reaches the end (the circular
    block bootstrap: Politis and Romano 1992), so that at every step each value is equally likely and the steps and
    indicators of a path belong together.
    """

    method = "window_quantiles"

    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        """Nothing to learn: the window is all there is."""

    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        values = fill_forward(windows.values[:, :, draws.columns])
        starts = draw_rows(self.lookback, draws.samples, draws.rng)
        rows = (starts[:, None] + np.arange(draws.horizon)) % self.lookback
        paths: FloatArray = values[:, rows]
        return paths
