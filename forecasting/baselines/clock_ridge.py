"""`ClockRidge`: a linear forecast whose coefficients turn with the clock and whose width follows the window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import Baseline, Draws, draw_rows, fill_forward, join_pools, slim_pool, tidy_pool
from forecasting.baselines.linear import Moments, solve
from forecasting.baselines.log_width import LogWidth, width_terms
from forecasting.baselines.thinned import thinned
from forecasting.panel import BoolArray, FloatArray, Panel
from forecasting.windows import DAY_S, WindowBatch

__all__ = ["ClockRidge"]

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
SINGLE_LAGS, LAG_BLOCK = 12, 6
MEANS = (6, 18, 36, 72, 144)
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
        width: of the windows.
        pool: (rows, horizon, 2) residuals, in widths and as they were.
    """

    middle: FloatArray
    spread: FloatArray
    coefficients: FloatArray
    penalty: float
    moments: Moments
    width: LogWidth
    pool: FloatArray


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
        for k, indicator in enumerate(self.indicators):
            if progress is not None:
                progress(k, len(self.indicators), f"{self.name}: {indicator.name}")
            about = self._about(windows, k)
            for seasons, fits in self._fits.items():
                fits[k] = self._fit_one(windows, targets[:, :, k], about, k, seasons)

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

    def _fit_one(
        self, windows: WindowBatch, targets: FloatArray, about: FloatArray, column: int, seasons: bool
    ) -> _Fit | None:
        last, terms, known = self._terms(windows, column, seasons)
        away = self._to(targets, column) - last[:, None]
        known = known & ~np.isnan(away).any(axis=1)
        if known.sum() < 2 * FOLDS or self._high[column] <= self._low[column]:
            return None
        about, away = about[known], away[known]
        there = ~np.isnan(terms[known])
        count = np.maximum(there.sum(axis=0), 1)
        middle = np.where(there, terms[known], 0.0).sum(axis=0) / count
        spread = np.sqrt((np.where(there, terms[known] - middle, 0.0) ** 2).sum(axis=0) / count)
        design = _bounded(terms[known], middle, spread)
        first = away - design @ _solved(Moments.of(design, away), FIRST_PENALTY)
        root = np.sqrt(_row_weights(LogWidth(about, first).of(about), first))[:, None]
        heavy, pull = design * root, away * root
        fold = np.arange(len(away)) * FOLDS // len(away)
        parts = [Moments.of(heavy[fold == f], pull[fold == f]) for f in range(FOLDS)]
        moments = sum(parts[1:], parts[0])
        best = np.inf
        for tried in PENALTIES:  # from the strongest: where all are as good, that one
            found = np.concatenate(
                [away[fold == f] - design[fold == f] @ _solved(moments - parts[f], tried) for f in range(FOLDS)]
            )
            if (error := float(((found * root) ** 2).sum())) < best * ENOUGH:
                best, penalty, miss = error, float(tried), found
        width = LogWidth(about, miss)
        pool = tidy_pool(_noise(miss, width.of(about)))
        return _Fit(middle, spread, _solved(moments, penalty), penalty, moments, width, pool)

    def _learn_more(self, panels: Sequence[Panel], rng: np.random.Generator) -> None:
        windows, targets = thinned(panels, self.lookback, self.horizon, FIT_ROWS)
        if windows is None or targets is None:
            return
        for seasons, fits in self._fits.items():
            for k, fit in enumerate(fits):
                fits[k] = fit and self._more(fit, windows, targets[:, :, k], k, seasons)

    def _more(self, fit: _Fit, windows: WindowBatch, targets: FloatArray, column: int, seasons: bool) -> _Fit:
        last, terms, known = self._terms(windows, column, seasons)
        away = self._to(targets, column) - last[:, None]
        known = known & ~np.isnan(away).any(axis=1)
        if not known.any():
            return fit
        away, width = away[known], fit.width.of(self._about(windows, column)[known])
        design = _bounded(terms[known], fit.middle, fit.spread)
        miss = away - design @ fit.coefficients
        root = np.sqrt(_row_weights(width, miss))[:, None]
        moments = fit.moments + Moments.of(design * root, away * root)
        pool = join_pools(fit.pool, _noise(miss, width))
        return _Fit(fit.middle, fit.spread, _solved(moments, fit.penalty), fit.penalty, moments, fit.width, pool)

    def _let_go(self) -> None:
        for fits in self._fits.values():
            for k, fit in enumerate(fits):
                if fit is not None:
                    less = slim_pool(fit.pool)
                    none = Moments.zero(1, 1)
                    fits[k] = _Fit(fit.middle, fit.spread, fit.coefficients, fit.penalty, none, fit.width, less)

    # ---- the scale that it is linear on ---------------------------------------------------------------------
    def _to(self, values: FloatArray, column: int) -> FloatArray:
        offset = self._root[column]
        out: FloatArray = values if np.isnan(offset) else np.sqrt(np.maximum(values, 0.0) + offset)
        return out

    def _from(self, values: FloatArray, column: int) -> FloatArray:
        offset = self._root[column]
        return values if np.isnan(offset) else np.maximum(values, 0.0) ** 2 - offset

    # ---- the design -----------------------------------------------------------------------------------------
    def _terms(self, windows: WindowBatch, column: int, seasons: bool) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Last values (batch,), terms (batch, terms) with NaN for what is absent, and for which windows all is known.

        The first term is the constant; all are on the scale of `_to`.
        """
        values = self._to(fill_forward(windows.values[:, :, column : column + 1])[:, :, 0], column)
        last, rows = values[:, -1], values.shape[1]
        away = values - last[:, None]
        single = min(SINGLE_LAGS, rows - 1)
        blocks = (rows - SINGLE_LAGS) // LAG_BLOCK if rows > 2 * SINGLE_LAGS else 0
        stop = rows - SINGLE_LAGS
        day = round(DAY_S / self.step_s)
        terms = [
            np.ones((len(last), 1)),
            away[:, rows - 1 - single : rows - 1],
            *(away[:, -m:].mean(axis=1)[:, None] for m in MEANS if m <= rows),
            away[:, stop - blocks * LAG_BLOCK : stop].reshape(len(last), blocks, LAG_BLOCK).mean(axis=2),
            *(away[:, rows - m - 3 : rows - m + 2] for m in (day, 2 * day) if 2 < m <= rows - 3),
            away[:, -EXTREMES:].max(axis=1)[:, None],
            away[:, -EXTREMES:].min(axis=1)[:, None],
            last[:, None],
        ]
        clock = self._clock(windows.end_s)
        if clock:
            turns = np.concatenate(clock, axis=1)
            newest = [away[:, max(-2, -rows)], away[:, -4:].mean(axis=1), away[:, -24:].mean(axis=1), last]
            newest += [away[:, -1 - day]] if day < rows - 2 else []
            terms += [turns, *(turns * x[:, None] for x in newest)]
            if self._weekly:
                terms.append((clock[0][:, :, None] * clock[1][:, None, :]).reshape(len(last), -1))
        for j in range(len(self.indicators)):
            if j != column:
                other = self._to(fill_forward(windows.values[:, -LAG_BLOCK:, j : j + 1])[:, :, 0], j)
                now = other[:, -1]
                terms.append(np.stack([now, now - other.mean(axis=1), now - other[:, max(-2, -rows)]], axis=1))
        known = ~np.isnan(last)
        if seasons and windows.seasonal is not None:
            ago = windows.seasonal[:, :, : self.horizon, column]
            # Where one season is not known (the first week), another one stands in for it.
            ago = self._to(np.where(np.isnan(ago), fill_forward(ago), ago), column)
            known = known & ~np.isnan(ago).any(axis=(1, 2))
            terms.append((ago - last[:, None, None]).reshape(len(last), -1))
        return last, np.concatenate(terms, axis=1), known

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
        for i, k in enumerate(draws.columns):
            if self._high[k] <= self._low[k]:
                paths[:, :, :, i] = fill_forward(windows.values[:, :, k : k + 1])[:, -1, 0][:, None, None]
            for seasons in (False, True) if seasonal else (False,):
                fit = self._fits[seasons][k]
                if fit is None:
                    continue
                last, terms, known = self._terms(windows, k, seasons)
                if not known.any():
                    continue
                design = _bounded(terms[known], fit.middle, fit.spread)
                points = last[known, None] + design @ fit.coefficients[:, : draws.horizon]
                width = fit.width.of(self._about(windows, k)[known])[:, : draws.horizon]
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


def _bounded(terms: FloatArray, middle: FloatArray, spread: FloatArray) -> FloatArray:
    """Terms within a few standard deviations of their middle, which stands in for absent ones."""
    held = np.clip(np.where(np.isnan(terms), middle, terms), middle - CLIP * spread, middle + CLIP * spread)
    held[:, 0] = 1.0
    out: FloatArray = held
    return out


def _solved(moments: Moments, penalty: float) -> FloatArray:
    """(terms, horizon) coefficients."""
    out: FloatArray = solve(moments, np.array([penalty]))[0]
    return out


def _noise(miss: FloatArray, width: FloatArray) -> FloatArray:
    """(rows, horizon, 2) misses in widths, and as they are."""
    return np.stack([miss / width, miss], axis=2)


def _row_weights(width: FloatArray, miss: FloatArray) -> FloatArray:
    """(rows,) what rows count for, in the mean 1: the less the wider they are, and the farther they were missed."""
    typical = np.exp(np.log(width).mean(axis=1))
    weight = 1 / np.maximum(typical, NARROW * np.median(typical)) ** 2
    far = np.sqrt(((miss / width) ** 2).mean(axis=1))
    weight *= np.minimum(1.0, DOUBT / np.maximum(far, 1e-9))
    out: FloatArray = weight / weight.mean()
    return out
