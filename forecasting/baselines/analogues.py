"""`Analogues`: what followed the windows of the past that looked most like this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import Baseline, Draws, IntArray, fill_forward, halved, local_spread, spread_floor
from forecasting.baselines.thinned import thinned
from forecasting.panel import FloatArray, Panel
from forecasting.windows import DAY_S, WindowBatch

__all__ = ["Analogues"]

FIT_ROWS = 12_000
SLIM_ROWS = 1_000
ALIKE = 1.5  # windows that count as alike are this many times the root of all there are
NEAREST = 10  # there are at least so many
EDGE = 0.1  # weight of the farthest of them, that of one just like the window being 1
CLIP = 3.0  # standard deviations
FLOOR = 0.1
SHORT = 6  # rows
DAYS, WEEKS = 2, 3  # of history from which on the hour, and the day of the week, say something


class _Past(NamedTuple):
    """Windows of one indicator as points, and what followed them.

    Attributes:
        points: (rows, terms) standardised and weighed.
        paths: (rows, horizon) what followed, less the last value, in spreads of the window.
        middle, spread: (terms,) of the terms.
        level: mean and standard deviation of the last values.
    """

    points: FloatArray
    paths: FloatArray
    middle: FloatArray
    spread: FloatArray
    level: tuple[float, float]


class Analogues(Baseline):
    """What followed the past windows most like this one: their whole paths, the nearer the likelier.

    Alike are windows with the same recent changes, level, spread, and time of the day and week. Paths are taken
    relative to the last value and in spreads of the window; indicators are drawn by themselves. Numpy alone: a few
    thousand windows are compared with one product of matrices.
    """

    method = "analogues"

    def __init__(self, *, cap: float | None = None) -> None:
        super().__init__(cap=cap)
        self._floor: FloatArray = np.empty(0)
        self._past: list[_Past | None] = []
        self._clock = (False, False)

    # ---- learning -------------------------------------------------------------------------------------------
    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        longest = max(len(p) for p in panels) * self.step_s
        self._clock = (longest >= DAYS * DAY_S, longest >= WEEKS * 7 * DAY_S)
        windows, targets = thinned(panels, self.lookback, self.horizon, FIT_ROWS)
        self._floor = np.ones(len(self.indicators))
        self._past = [None] * len(self.indicators)
        if windows is None or targets is None:
            return
        self._floor = spread_floor(local_spread(windows.values), FLOOR)
        self._past = [self._gathered(windows, targets[:, :, k], k, None) for k in range(len(self.indicators))]

    def _learn_more(self, panels: Sequence[Panel], past: Sequence[int] | None, rng: np.random.Generator) -> None:
        windows, targets = thinned(panels, self.lookback, self.horizon, FIT_ROWS, past)
        if windows is not None and targets is not None:
            self._past = [self._gathered(windows, targets[:, :, k], k, past) for k, past in enumerate(self._past)]

    def _let_go(self) -> None:
        self._past = [p and _slim(p) for p in self._past]

    def _gathered(self, windows: WindowBatch, targets: FloatArray, column: int, before: _Past | None) -> _Past | None:
        """Windows of one indicator behind those of ``before``, the newest `FIT_ROWS` of them all."""
        last, scale, away = self._relative(windows, column)
        paths = (targets - last[:, None]) / scale[:, None]
        known = ~np.isnan(paths).any(axis=1)
        if not known.any():
            return before
        level = before.level if before else (float(last[known].mean()), float(last[known].std()))
        terms = self._terms(windows, last, scale, away, column, level)[known]
        if before:
            points = np.concatenate([before.points, self._points(terms, before.middle, before.spread)])
            return before._replace(
                points=points[-FIT_ROWS:], paths=np.concatenate([before.paths, paths[known]])[-FIT_ROWS:]
            )
        middle, spread = terms.mean(axis=0), terms.std(axis=0)
        spread = np.where(spread > 1e-9, spread, np.inf)  # what never varied tells nothing apart
        return _Past(self._points(terms, middle, spread), paths[known], middle, spread, level)

    # ---- windows as points ----------------------------------------------------------------------------------
    def _relative(self, windows: WindowBatch, column: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Last values and spreads (batch,), and windows (batch, lookback) less the last value, in spreads."""
        raw = windows.values[:, :, column : column + 1]
        values = fill_forward(raw)[:, :, 0]
        scale = np.maximum(local_spread(raw)[:, 0], self._floor[column])
        return values[:, -1], scale, (values - values[:, -1:]) / scale[:, None]

    def _weights(self) -> FloatArray:
        """(terms,) what each term counts for in the distance."""
        daily, weekly = self._clock
        return np.array([1, 0.7, 1, 0.7, 0.7, 0.5, 0.5, 0.5, 0.5, *[1.0] * 2 * daily, *[0.5] * 2 * weekly])

    def _terms(
        self,
        windows: WindowBatch,
        last: FloatArray,
        scale: FloatArray,
        away: FloatArray,
        column: int,
        level: tuple[float, float],
    ) -> FloatArray:
        floor = self._floor[column]
        terms = [
            away[:, max(-2, -away.shape[1])],
            away[:, max(-3, -away.shape[1])],
            away[:, -4:].mean(axis=1),
            away[:, -8:].mean(axis=1),
            away[:, -24:].mean(axis=1),
            away.mean(axis=1),
            (last - level[0]) / (level[1] or 1.0),
            np.log(scale / floor),
            np.log(away[:, -SHORT:].std(axis=1) * scale / floor + 0.05),
        ]
        turn = 2 * np.pi * windows.end_s / DAY_S
        for there, phase in zip(self._clock, (turn, turn / 7), strict=True):
            terms += [np.sin(phase), np.cos(phase)] if there else []
        return np.stack(terms, axis=1)

    def _points(self, terms: FloatArray, middle: FloatArray, spread: FloatArray) -> FloatArray:
        out: FloatArray = np.clip((terms - middle) / spread, -CLIP, CLIP) * self._weights()
        return out

    # ---- forecasting ----------------------------------------------------------------------------------------
    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        paths = np.full((len(windows), draws.samples, draws.horizon, len(draws.columns)), np.nan)
        at = draws.rng.permutation((np.arange(draws.samples) + draws.rng.random(draws.samples)) / draws.samples)
        for i, k in enumerate(draws.columns):
            past = self._past[k]
            if past is None:
                continue
            last, scale, away = self._relative(windows, k)
            there = ~np.isnan(last)
            terms = self._terms(windows, last, scale, away, k, past.level)[there]
            rows = _alike(self._points(terms, past.middle, past.spread), past.points, at)
            follow = past.paths[rows][:, :, : draws.horizon]
            paths[there, :, :, i] = last[there, None, None] + scale[there, None, None] * follow
        return paths


def _alike(points: FloatArray, past: FloatArray, at: FloatArray) -> IntArray:
    """(batch, samples) row numbers of past points near each point, at levels ``at`` (samples,) of their weights."""
    near = min(len(past), max(NEAREST, round(ALIKE * np.sqrt(len(past)))))
    square = points @ (-2.0 * past.T)  # less the squares of the points themselves
    square += (past**2).sum(axis=1)
    rows = np.argpartition(square, near - 1, axis=1)[:, :near]
    distance = np.maximum(np.take_along_axis(square, rows, axis=1) + (points**2).sum(axis=1)[:, None], 0.0)
    weight = 1 - (1 - EDGE) * distance / np.maximum(distance.max(axis=1, keepdims=True), 1e-12)
    below = np.cumsum(weight, axis=1) / weight.sum(axis=1, keepdims=True)
    # one search for all windows: those of window w lie between w and w + 1
    whole = (below + np.arange(len(points))[:, None]).ravel()
    wanted = (at[None] + np.arange(len(points))[:, None]).ravel()
    place = np.searchsorted(whole, wanted).reshape(len(points), len(at)) - near * np.arange(len(points))[:, None]
    out: IntArray = np.take_along_axis(rows, np.clip(place, 0, near - 1), axis=1)
    return out


def _slim(past: _Past) -> _Past:
    some = np.linspace(0, len(past.points) - 1, min(len(past.points), SLIM_ROWS)).astype(np.int64)
    return past._replace(points=halved(past.points[some]), paths=halved(past.paths[some]))
