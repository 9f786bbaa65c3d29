"""`Flair`: level times shape of the period, from weeks of history (extra ``evaluate``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import Baseline, Draws, fill_forward
from forecasting.baselines.extras import library
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["Flair"]

# Steps that it has periods for, by their name there.
STEPS_S = {1.0: "S", 10.0: "10S", 60.0: "T", 300.0: "5T", 600.0: "10T", 900.0: "15T", 1800.0: "30T", 3600.0: "H"}
LEAST = 3  # readings


class Flair(Baseline):
    """FLAIR (Honda 2026, package flaircast): ridge on the level of each period, times the period's shape.

    It learns nothing beforehand and reads up to `history` rows of each window. Indicators are drawn by themselves.

    Raises `UsageError` when flaircast is not installed.
    """

    method = "flair"
    history = 2016

    def __init__(self, *, cap: float | None = 2.0) -> None:
        super().__init__(cap=cap)
        self._library()

    def _library(self) -> Any:  # noqa: ANN401
        return library("flaircast", self.method, "flaircast", "evaluate")

    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        """Nothing to learn beforehand."""

    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        forecast = self._library().forecast
        step = min(STEPS_S, key=lambda s: abs(np.log(s / windows.step_s)))
        seeds = draws.rng.integers(2**31, size=len(self.indicators))
        out = np.full((len(windows), draws.samples, draws.horizon, len(draws.columns)), np.nan)
        for i, k in enumerate(draws.columns):
            column = windows.values[:, :, k : k + 1]
            filled = fill_forward(column)[:, :, 0]
            for b in range(len(windows)):
                begin = int(np.argmax(~np.isnan(column[b, :, 0])))  # what was before the first reading is not there
                known = filled[b, begin:]
                if np.isnan(known).any():
                    continue
                if len(known) < LEAST or np.ptp(known) == 0:
                    out[b, :, :, i] = known[-1]
                    continue
                unit = float(np.abs(known).mean())  # its small numbers are meant for values near 1
                paths = forecast(
                    known / unit, draws.horizon, STEPS_S[step], n_samples=draws.samples, seed=int(seeds[k])
                )
                out[b, :, :, i] = unit * paths
        return out
