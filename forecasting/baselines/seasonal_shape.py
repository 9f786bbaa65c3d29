"""`SeasonalShape`: a smoothed level and the usual shape of the day and the week, of few coefficients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from forecasting.base import Progress
from forecasting.baselines.clock_ridge import ClockRidge, Terms
from forecasting.baselines.common import fill_forward
from forecasting.baselines.shapes import Shape
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["SeasonalShape"]

SHARES = (0.6, 0.3, 0.15, 0.07, 0.03, 0.012)  # of the newest value in exponential averages
LEADS = 6  # whose shape is read, evenly over the horizon
ON_GRID = 1e-6  # of a step
LEVEL = 0.05  # share of the average that the shape grows with


class SeasonalShape(ClockRidge):
    """Exponential averages of what is left beside the usual day and week, and the shape of these; about twenty terms.

    The shape (`Shape`) is learned on the scale of square roots and smoothed and shrunk as far as alternate days and
    weeks agree. A ridge weighs the averages, the shape of the steps to come (also times the level), and the seasons.
    Widths and paths are those of `ClockRidge`, which has ten times as many terms and needs more history.
    """

    method = "seasonal_shape"
    adds_up = False  # the shape stays as it was learned

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

    def _terms(self, windows: WindowBatch, column: int, others: FloatArray, *, seasons: bool) -> Terms:
        values = self._to(fill_forward(windows.values[:, :, column : column + 1])[:, :, 0], column)
        last, age = values[:, -1], np.arange(values.shape[1])[::-1]
        shape, end = self._shapes[column], windows.end_s[:, None]
        beside = values - (_usual(shape, windows.end_s, self.step_s, len(age)) if shape else 0.0)
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
        known, plain = {False: ~np.isnan(last)}, sum(part.shape[1] for part in terms)
        if seasons and windows.seasonal is not None:
            ago = self._ago(windows.seasonal, column)
            known[True] = known[False] & ~np.isnan(ago).any(axis=(1, 2))
            terms.append(ago.mean(axis=2) - last[:, None])
        return Terms(last, np.concatenate(terms, axis=1), known, plain)


def _usual(shape: Shape, end_s: FloatArray, step_s: float, rows: int) -> FloatArray:
    """(batch, rows) what is usual at the times of windows; times of one grid are looked up once, however often read."""
    first = float(end_s.min()) if len(end_s) else 0.0
    at = np.rint((end_s - first) / step_s).astype(np.int64)
    count = rows + int(at.max(initial=0))
    if count >= end_s.size * rows or np.abs(first + step_s * at - end_s).max() > ON_GRID * step_s:
        return shape.at(end_s[:, None] - step_s * np.arange(rows)[::-1])
    times: FloatArray = first + step_s * np.arange(1.0 - rows, count - rows + 1)
    out: FloatArray = sliding_window_view(shape.at(times), rows)[at]
    return out
