"""`SeasonalShape`: a smoothed level and the usual shape of the day and the week, of few coefficients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.clock_ridge import ClockRidge
from forecasting.baselines.common import fill_forward
from forecasting.baselines.shapes import Shape
from forecasting.panel import BoolArray, FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["SeasonalShape"]

SHARES = (0.6, 0.3, 0.15, 0.07, 0.03, 0.012)  # of the newest value in exponential averages
LEADS = 6  # whose shape is read, evenly over the horizon
LEVEL = 0.05  # share of the average that the shape grows with


class SeasonalShape(ClockRidge):
    """Exponential averages of what is left beside the usual day and week, and the shape of these; about twenty terms.

    The shape (`Shape`) is learned on the scale of square roots and smoothed and shrunk as far as alternate days and
    weeks agree. A ridge weighs the averages, the shape of the steps to come (also times the level), and the seasons.
    Widths and paths are those of `ClockRidge`, which has ten times as many terms and needs more history.
    """

    method = "seasonal_shape"

    def __init__(self, *, cap: float | None = 2.0) -> None:
        super().__init__(cap=cap)
        self._shapes: list[Shape] = []

    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        self._prepare(panels)
        self._shapes = [
            Shape.of([(self._to(p.values[:, k], k), p.start_s) for p in panels], self.step_s)
            for k in range(len(self.indicators))
        ]
        super()._learn(panels, validation, rng, progress)

    def _terms(self, windows: WindowBatch, column: int, seasons: bool) -> tuple[FloatArray, FloatArray, BoolArray]:
        values = self._to(fill_forward(windows.values[:, :, column : column + 1])[:, :, 0], column)
        last, age = values[:, -1], np.arange(values.shape[1])[::-1]
        shape, end = self._shapes[column], windows.end_s[:, None]
        beside = values - shape.at(end - self.step_s * age)
        weights = (1 - np.array(SHARES)) ** age[:, None]
        terms = [
            np.ones((len(last), 1)),
            beside @ (weights / weights.sum(axis=0)) - beside[:, -1:],
            beside[:, -1:],
        ]
        if shape:
            now = shape.at(end)
            leads = np.unique(np.linspace(1, self.horizon, min(self.horizon, LEADS)).round())
            ahead = shape.at(end + self.step_s * leads) - now
            level = (1 - LEVEL) ** age
            terms += [ahead, now, (beside @ (level / level.sum()))[:, None] * ahead]
        known = ~np.isnan(last)
        if seasons and windows.seasonal is not None:
            ago = windows.seasonal[:, :, : self.horizon, column]
            ago = self._to(np.where(np.isnan(ago), fill_forward(ago), ago), column)
            known = known & ~np.isnan(ago).any(axis=(1, 2))
            terms.append(ago.mean(axis=2) - last[:, None])
        return last, np.concatenate(terms, axis=1), known
