"""`ClockRidge`: a linear forecast whose coefficients turn with the clock and whose width follows the window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import Baseline, Draws, draw_rows, fill_forward, join_pools, slim_pool, tidy_pool
from forecasting.baselines.linear import Moments, solve
from forecasting.baselines.log_width import LogWidth, width_terms
from forecasting.baselines.thinned import thinned
from forecasting.panel import BoolArray, FloatArray, Panel
from forecasting.windows import DAY_S, WindowBatch

__all__ = ["ClockRidge", "Terms"]

FIT_ROWS = 12_000
FOLDS = 5
PENALTIES: FloatArray = np.geomspace(3.0, 1e-4, 5)
ENOUGH = 1 - 1e-6  # of the error so far
FIRST_PENALTY = 0.01  # of the fit whose misses say which windows count for less
OFFSET = 0.05  # of the mean is added before roots
CLIP = 5.0  # standard deviations
JUMP = 6.0  # widths
DOUBT = 3.0  # a window that is missed by more than this many widths counts for less
NARROW = 0.2  # of the median width: windows are not counted for more than those of this width
SEASON_ROWS = 2  # windows per term, at least, for a fit that reads the seasons
SINGLE_LAGS, LAG_BLOCK = 12, 6
MEANS = (6, 18, 36, 72, 144)
CLOCK_MEANS = 2  # means that turn with the clock: over 4 and 24 rows
EXTREMES = 24  # rows
HOURS, WEEKS = 4, 3  # harmonics of the day and the week
DAYS_KNOWN, WEEKS_KNOWN = 2, 15  # days of history from which on the day, and the week, are read


@dataclass(frozen=True, eq=False)
class _Fit:
    """One indicator, with seasons or without.

    Attributes:
        middle, spread: (terms,) of the terms in training; absent terms are taken for the middle.
        coefficients: (terms, horizon).
        penalty: of all but the constant.
        moments: of rows weighed by how narrow their windows are.
        usual: width of the windows, and mean of what they counted for, before that was made 1.
        width: of the windows.
        pool: (rows, horizon, 2) residuals, in widths and as they were.
    """

    middle: FloatArray
    spread: FloatArray
    coefficients: FloatArray
    penalty: float
    moments: Moments
    usual: tuple[float, float]
    width: LogWidth
    pool: FloatArray


class Terms(NamedTuple):
    """What is read of the windows of one indicator.

    Attributes:
        last: (batch,) newest values.
        values: (batch, terms) the constant first, those of the seasons last; NaN for what is absent.
        known: (batch,) for which windows all is known, without seasons and, where these were asked for, with them.
        plain: number of terms without those of the seasons.
    """

    last: FloatArray
    values: FloatArray
    known: dict[bool, BoolArray]
    plain: int


class ClockRidge(Baseline):
    """Ridge regression on square roots, with coefficients that turn with the hour and the weekday.

    What was never negative is forecast as its square root, in which the noise of counts is even. Terms are own lags,
    means over several spans, the clock, lags of a day inside the lookback, the newest changes of the other indicators,
    the seasons, and the clock times the newest changes and the level. The width of a window is learned from its
    spread and roughness at several scales, its level, and the hour (`LogWidth`); windows count for more the narrower
    they are. Paths add residuals of five-fold cross-validation, whole over the steps.
    """

    method = "clock_ridge"
    REVISION = 2

    def __init__(self, *, cap: float | None = 2.0) -> None:
        super().__init__(cap=cap)
        self._daily = self._weekly = False
        self._root: FloatArray = np.empty(0)  # by indicator: what is added before the root; NaN for no root
        self._floor: FloatArray = np.empty(0)
        self._range: tuple[FloatArray, FloatArray] = (np.empty(0), np.empty(0))
        self._fits: dict[bool, list[_Fit | None]] = {}

    # ---- learning -------------------------------------------------------------------------------------------
    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        self._prepare(panels)
        windows, targets = thinned(panels, self.lookback, self.horizon, FIT_ROWS)
        self._fits = {seasons: [None] * len(self.indicators) for seasons in (False, True)}
        if windows is None or targets is None:
            return
        others = self._others(windows)
        for k, indicator in enumerate(self.indicators):
            if progress is not None:
                progress(k, len(self.indicators), f"{self.name}: {indicator.name}")
            terms, about = self._terms(windows, k, others, seasons=True), self._about(windows, k)
            away = self._to(targets[:, :, k], k) - terms.last[:, None]
            for seasons, fits in self._fits.items():
                fits[k] = self._fit_one(terms, away, about, k, seasons)

    def _prepare(self, panels: Sequence[Panel]) -> None:
        """What is read of the clock, and the scale of each indicator."""
        days = max(len(p) for p in panels) * self.step_s / DAY_S
        self._daily, self._weekly = days >= DAYS_KNOWN, days >= WEEKS_KNOWN
        values = np.concatenate([p.values for p in panels])
        seen = ~np.isnan(values)
        mean = np.where(seen, values, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        steps = np.concatenate([np.diff(p.values, axis=0) for p in panels])
        both = ~np.isnan(steps)
        rough = np.sqrt((np.where(both, steps, 0.0) ** 2).sum(axis=0) / np.maximum(both.sum(axis=0), 1))
        self._floor = np.where(rough > 0, OFFSET * rough, 1.0)
        self._root = np.where((self._low >= 0) & (self._high > self._low), OFFSET * mean, np.nan)

    def _fit_one(self, terms: Terms, away: FloatArray, about: FloatArray, column: int, seasons: bool) -> _Fit | None:
        known = terms.known[seasons] & ~np.isnan(away).any(axis=1)
        if known.sum() < 2 * FOLDS or self._high[column] <= self._low[column]:
            return None
        values = terms.values[known, : None if seasons else terms.plain]
        if seasons and len(values) < SEASON_ROWS * values.shape[1]:
            return None  # the hours just after the first day say nothing of other hours: better without seasons
        about, away = about[known], away[known]
        middle, spread = _middle_and_spread(values)
        design = _bounded(values, middle, spread)
        first = away - design @ _solved(Moments.of(design, away), FIRST_PENALTY)
        weight, usual = _row_weights(LogWidth(about, first).of(about), first)
        root = np.sqrt(weight)[:, None]
        heavy, pull = design * root, away * root
        edges = -(-np.arange(FOLDS + 1) * len(away) // FOLDS)
        folds = [slice(*edges[f : f + 2]) for f in range(FOLDS)]
        parts = [Moments.of(heavy[fold], pull[fold]) for fold in folds]
        moments = sum(parts[1:], parts[0])
        misses = np.empty((len(PENALTIES), *away.shape))
        for fold, part in zip(folds, parts, strict=True):
            tried = solve(moments - part, PENALTIES)
            misses[:, fold] = away[fold] - design[fold] @ tried
        errors = (misses**2).sum(axis=2) @ root[:, 0] ** 2
        best = 0
        for i in range(1, len(PENALTIES)):  # from the strongest: where all are as good, that one
            if errors[i] < errors[best] * ENOUGH:
                best = i
        penalty, miss = float(PENALTIES[best]), misses[best]
        width = LogWidth(about, miss)
        pool = tidy_pool(_noise(miss, width.of(about)))
        return _Fit(middle, spread, _solved(moments, penalty), penalty, moments, usual, width, pool)

    def _learn_more(self, panels: Sequence[Panel], past: Sequence[int] | None, rng: np.random.Generator) -> None:
        windows, targets = thinned(panels, self.lookback, self.horizon, FIT_ROWS, past)
        if windows is None or targets is None:
            return
        others = self._others(windows)
        for k in range(len(self.indicators)):
            terms, about = self._terms(windows, k, others, seasons=True), self._about(windows, k)
            away = self._to(targets[:, :, k], k) - terms.last[:, None]
            for seasons, fits in self._fits.items():
                fit = fits[k]
                fits[k] = fit and _more(fit, terms, away, about, seasons)

    def _let_go(self) -> None:
        for fits in self._fits.values():
            for k, fit in enumerate(fits):
                if fit is not None:
                    fits[k] = replace(fit, moments=Moments.zero(1, 1), pool=slim_pool(fit.pool))

    # ---- the scale that it is linear on ---------------------------------------------------------------------
    def _to(self, values: FloatArray, column: int) -> FloatArray:
        offset = self._root[column]
        out: FloatArray = values if np.isnan(offset) else np.sqrt(np.maximum(values, 0.0) + offset)
        return out

    def _from(self, values: FloatArray, column: int) -> FloatArray:
        offset = self._root[column]
        return values if np.isnan(offset) else np.maximum(values, 0.0) ** 2 - offset

    # ---- the design -----------------------------------------------------------------------------------------
    def _terms(self, windows: WindowBatch, column: int, others: FloatArray, *, seasons: bool) -> Terms:
        """The terms of one indicator, on the scale of `_to`; ``others``: see `_others`."""
        values = self._to(fill_forward(windows.values[:, :, column : column + 1])[:, :, 0], column)
        last, rows = values[:, -1], values.shape[1]
        away = values - last[:, None]
        single = min(SINGLE_LAGS, rows - 1)
        day = round(DAY_S / self.step_s)
        known = {False: ~np.isnan(last)}
        means = away @ _spans(rows)
        terms = [
            np.ones((len(last), 1)),
            away[:, rows - 1 - single : rows - 1],
            means[:, CLOCK_MEANS:],
            *(away[:, rows - m - 3 : rows - m + 2] for m in (day, 2 * day) if 2 < m <= rows - 3),
            away[:, -EXTREMES:].max(axis=1)[:, None],
            away[:, -EXTREMES:].min(axis=1)[:, None],
            last[:, None],
        ]
        clock = self._clock(windows.end_s)
        if clock:
            turns = np.concatenate(clock, axis=1)
            newest = [away[:, max(-2, -rows)], *means[:, :CLOCK_MEANS].T, last]
            newest += [away[:, -1 - day]] if day < rows - 2 else []
            terms += [turns, *(turns * x[:, None] for x in newest)]
            if self._weekly:
                terms.append((clock[0][:, :, None] * clock[1][:, None, :]).reshape(len(last), -1))
        terms += [others[:, j] for j in range(len(self.indicators)) if j != column]
        plain = sum(part.shape[1] for part in terms)
        if seasons and windows.seasonal is not None:
            ago = self._ago(windows.seasonal, column)
            known[True] = known[False] & ~np.isnan(ago).any(axis=(1, 2))
            terms.append((ago - last[:, None, None]).reshape(len(last), -1))
        return Terms(last, np.concatenate(terms, axis=1), known, plain)

    def _ago(self, seasonal: FloatArray, column: int) -> FloatArray:
        """(batch, seasons, horizon) values of a day and a week before; where one is not known the other stands in."""
        return self._to(fill_forward(seasonal[:, :, : self.horizon, column]), column)

    def _others(self, windows: WindowBatch) -> FloatArray:
        """(batch, indicators, 3) what the other indicators' forecasts read of each: its newest value and changes."""
        out = np.empty((len(windows), len(self.indicators), 3))
        for j in range(len(self.indicators) if len(self.indicators) > 1 else 0):
            newest = self._to(fill_forward(windows.values[:, -LAG_BLOCK:, j : j + 1])[:, :, 0], j)
            now = newest[:, -1]
            out[:, j, 0] = now
            out[:, j, 1] = now - newest.mean(axis=1)
            out[:, j, 2] = now - newest[:, max(-2, -newest.shape[1])]
        return out

    def _clock(self, end_s: FloatArray) -> list[FloatArray]:
        """Waves of the day, and of the week (batch, waves), where there is history enough."""
        phase = 2 * np.pi * end_s[:, None] / DAY_S
        out = []
        if self._daily:
            turn = phase * np.arange(1, HOURS + 1)
            out.append(np.concatenate([np.sin(turn), np.cos(turn)], axis=1))
        if self._weekly:
            turn = phase / 7 * np.arange(1, WEEKS + 1)
            out.append(np.concatenate([np.sin(turn), np.cos(turn)], axis=1))
        return out

    def _about(self, windows: WindowBatch, column: int) -> FloatArray:
        """(batch, terms) what the width of a window depends on."""
        values = fill_forward(windows.values[:, :, column : column + 1])[:, :, 0]
        turn = 2 * np.pi * windows.end_s[:, None] / DAY_S * np.array([1, 2])
        offset = self._root[column]
        level = np.stack([values[:, -SINGLE_LAGS:].mean(axis=1), values[:, -1]], axis=1)
        return np.concatenate(
            [
                width_terms(values, self._floor[column]),
                level / self._floor[column] if np.isnan(offset) else np.log(np.maximum(level, 0.0) + offset),
                *((np.sin(turn), np.cos(turn)) if self._daily else ()),
            ],
            axis=1,
        )

    # ---- forecasting ----------------------------------------------------------------------------------------
    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        paths = np.full((len(windows), draws.samples, draws.horizon, len(draws.columns)), np.nan)
        wide = self._high - self._low
        pools = {False: draws.rng.integers(2**31), True: draws.rng.integers(2**31)}
        # A caller who asks for fewer steps may carry fewer seasonal values than the seasonal fit reads.
        seasonal = windows.seasonal is not None and windows.seasonal.shape[2] >= self.horizon
        others = self._others(windows)
        for i, k in enumerate(draws.columns):
            if self._high[k] <= self._low[k]:
                paths[:, :, :, i] = fill_forward(windows.values[:, :, k : k + 1])[:, -1, 0][:, None, None]
                continue
            read = seasonal and self._fits[True][k] is not None
            terms, about = self._terms(windows, k, others, seasons=read), self._about(windows, k)
            last = terms.last
            for seasons, able in terms.known.items():
                fit = self._fits[seasons][k]
                known = able & ~terms.known[True] if read and not seasons else able
                if fit is None or not known.any():
                    continue
                design = _bounded(terms.values[known, : len(fit.middle)], fit.middle, fit.spread)
                points = last[known, None] + design @ fit.coefficients[:, : draws.horizon]
                width = fit.width.of(about[known])[:, : draws.horizon]
                rows = draw_rows(len(fit.pool), draws.samples, np.random.default_rng(pools[seasons]))
                noise = fit.pool[rows][:, : draws.horizon]
                # A jump is a jump: what was missed by many widths is as large in a window of any width.
                jump = np.abs(noise[..., 0]) > JUMP
                found = points[:, None] + np.where(jump, noise[..., 1], width[:, None] * noise[..., 0])
                # Bounds move with an indicator that has left all that was learned, so that it is followed there.
                now = self._from(last[known], k)[:, None, None]
                low, high = np.minimum(self._low[k], now) - wide[k], np.maximum(self._high[k], now) + wide[k]
                paths[known, :, :, i] = np.clip(self._from(found, k), low, high)
        return paths


def _more(fit: _Fit, terms: Terms, away: FloatArray, about: FloatArray, seasons: bool) -> _Fit:
    """A fit that has learned newer rows too."""
    known = terms.known[seasons] & ~np.isnan(away).any(axis=1)
    if not known.any():
        return fit
    away, width = away[known], fit.width.of(about[known])
    design = _bounded(terms.values[known, : len(fit.middle)], fit.middle, fit.spread)
    miss = away - design @ fit.coefficients
    root = np.sqrt(_row_weights(width, miss, fit.usual)[0])[:, None]
    moments = fit.moments + Moments.of(design * root, away * root)
    pool = join_pools(fit.pool, _noise(miss, width))
    return replace(fit, coefficients=_solved(moments, fit.penalty), moments=moments, pool=pool)


def _blocks(rows: int) -> int:
    """Number of stretches of older rows."""
    return (rows - SINGLE_LAGS) // LAG_BLOCK if rows > 2 * SINGLE_LAGS else 0


@lru_cache(maxsize=8)
def _spans(rows: int) -> FloatArray:
    """(rows, spans), read-only: a window times this is its means over 4 and 24 rows, over `MEANS`, and of blocks."""
    spans = [(rows - min(m, rows), rows) for m in (4, 24, *(m for m in MEANS if m <= rows))]
    stop, blocks = rows - SINGLE_LAGS, _blocks(rows)
    spans += [(stop - b * LAG_BLOCK, stop - (b - 1) * LAG_BLOCK) for b in range(blocks, 0, -1)]
    out = np.zeros((rows, len(spans)))
    for k, (first, end) in enumerate(spans):
        out[first:end, k] = 1 / (end - first)
    out.flags.writeable = False  # shared by all who ask alike
    return out


def _middle_and_spread(terms: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(terms,) means and standard deviations of what is there."""
    absent = np.isnan(terms)
    if not absent.any():
        middle: FloatArray = terms.mean(axis=0)
        away = terms - middle
        return middle, np.sqrt(np.einsum("rt,rt->t", away, away) / len(terms))
    count = np.maximum((~absent).sum(axis=0), 1)
    middle = np.where(absent, 0.0, terms).sum(axis=0) / count
    return middle, np.sqrt((np.where(absent, 0.0, terms - middle) ** 2).sum(axis=0) / count)


def _bounded(terms: FloatArray, middle: FloatArray, spread: FloatArray) -> FloatArray:
    """Terms within a few standard deviations of their middle, which stands in for absent ones."""
    held: FloatArray = np.clip(terms, middle - CLIP * spread, middle + CLIP * spread)
    absent = np.isnan(held)
    if absent.any():
        held = np.where(absent, middle, held)
    held[:, 0] = 1.0
    return held


def _solved(moments: Moments, penalty: float) -> FloatArray:
    """(terms, horizon) coefficients."""
    out: FloatArray = solve(moments, np.array([penalty]))[0]
    return out


def _noise(miss: FloatArray, width: FloatArray) -> FloatArray:
    """(rows, horizon, 2) misses in widths, and as they are."""
    return np.stack([miss / width, miss], axis=2)


def _row_weights(
    width: FloatArray, miss: FloatArray, usual: tuple[float, float] | None = None
) -> tuple[FloatArray, tuple[float, float]]:
    """(rows,) what rows count for, in the mean 1: the less the wider they are, and the farther they were missed.

    Newer rows are measured by what was ``usual`` of older ones (the median width, and the mean before it was made 1).
    """
    typical = np.exp(np.log(width).mean(axis=1))
    median = usual[0] if usual else float(np.median(typical))
    weight = 1 / np.maximum(typical, NARROW * median) ** 2
    far = np.sqrt(((miss / width) ** 2).mean(axis=1))
    weight *= np.minimum(1.0, DOUBT / np.maximum(far, 1e-9))
    mean = usual[1] if usual else float(weight.mean())
    return weight / mean, (median, mean)
