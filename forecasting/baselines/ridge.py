"""`Ridge`: a penalised linear forecast of each indicator from its own past, with out-of-fold residuals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

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
from forecasting.baselines.linear import Moments, solve
from forecasting.baselines.scales import LocalScale
from forecasting.panel import BoolArray, FloatArray, Panel
from forecasting.windows import DAY_S, SEASONS_S, WindowBatch

__all__ = ["Ridge"]


FOLDS = 5
HELD_ROWS = 20_000  # whose terms are held while an indicator is learned
PENALTIES: FloatArray = np.geomspace(1e-5, 10.0, 13)
# Recent readings count one by one, older ones as means of an equal number: a day of minutes needs no 1,440 terms.
SINGLE_LAGS = 144
LAG_BLOCK = 12
HARMONICS = 3


class _Rows(NamedTuple):
    """Training rows of one indicator.

    Attributes:
        design: (rows, terms) with the terms of the seasons last.
        targets: (rows, horizon) changes from the last value; NaN is absent.
        seasonal: (rows,) of which the seasons are known.
        folds: (rows,) rising.
        spreads: (rows, 2) what `LocalScale` measures.
    """

    design: FloatArray
    targets: FloatArray
    seasonal: BoolArray
    folds: IntArray
    spreads: FloatArray

    def of(self, seasons: bool) -> FloatArray:
        """Targets; with ``seasons``, those of rows that have no season to read are absent."""
        return np.where(self.seasonal[:, None], self.targets, np.nan) if seasons else self.targets


class Ridge(Baseline):
    """Ridge regression of the coming change on own lags (less the last value), the hour of day and the seasons.

    Every step has its own coefficients (direct multi-step). Two fits stand side by side: one reads the lookback and
    the clock alone, the other also `WindowBatch.seasonal` less the last value; a window gets the one that it has the
    inputs for. The penalty of each indicator is the best on the validation panels (without any: on the last fifth of
    the training windows). Paths add residuals of five-fold cross-validation in contiguous folds, as whole vectors
    over steps and indicators.

    Args:
        scaled: scale residuals by the window's width, by the rule that fits each indicator best (`LocalScale`).
        floor: the least spread to divide by, as a share of its root mean square in training.
        cap: see `Baseline`.
    """

    method = "ridge"

    def __init__(self, *, scaled: bool = True, floor: float = 0.1, cap: float | None = 2.0) -> None:
        super().__init__(cap=cap)
        self.scaled = scaled
        self.floor = floor
        self._daily = False
        # By whether seasons are read, then by indicator.
        self._moments: dict[bool, list[Moments]] = {}
        self._penalties: dict[bool, FloatArray] = {}
        self._coefficients: dict[bool, list[FloatArray]] = {}
        self._scales: dict[bool, LocalScale] = {}
        self._pools: dict[bool, FloatArray] = {}

    # ---- learning -------------------------------------------------------------------------------------------
    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        self._daily = max(len(p) for p in panels) * self.step_s >= 2 * DAY_S
        self._moments = {seasons: [] for seasons in (False, True)}
        self._coefficients = {seasons: [] for seasons in (False, True)}
        penalties: dict[bool, list[float]] = {seasons: [] for seasons in (False, True)}
        misses: dict[bool, list[FloatArray]] = {seasons: [] for seasons in (False, True)}
        spreads = []
        for k, indicator in enumerate(self.indicators):
            if progress is not None:
                progress(k, len(self.indicators), f"{self.name}: {indicator.name}")
            kept = self._kept(panels, k)
            folds = self._fold_moments(kept)
            judged = list(self._rows(validation, k)) if validation else []
            for seasons, parts in folds.items():
                whole = sum(parts[1:], parts[0])
                others = [whole - part for part in parts]
                penalty = self._choose(kept, judged, whole, others[-1], seasons)
                penalties[seasons].append(penalty)
                self._moments[seasons].append(whole)
                self._coefficients[seasons].append(_solved(whole, penalty))
                misses[seasons].append(self._residuals(kept, [_solved(m, penalty) for m in others], seasons))
            spreads.append(np.concatenate([np.empty((0, 2)), *(rows.spreads for rows in kept)]))
        measured = np.stack(spreads, axis=2)
        for seasons, found in misses.items():
            miss = np.stack(found, axis=2)
            self._penalties[seasons] = np.array(penalties[seasons])
            self._scales[seasons] = LocalScale(measured, miss, floor=self.floor, fixed=None if self.scaled else 0)
            self._pools[seasons] = tidy_pool(miss / self._scales[seasons].of_spreads(measured)[:, None])

    def _learn_more(self, panels: Sequence[Panel], past: Sequence[int] | None, rng: np.random.Generator) -> None:
        every = pool_every(past, self.lookback, self.horizon)
        misses: dict[bool, list[FloatArray]] = {seasons: [] for seasons in (False, True)}
        spreads = []
        for k in range(len(self.indicators)):
            kept = self._kept(panels, k, past)
            for seasons, parts in self._fold_moments(kept).items():
                now = self._coefficients[seasons][k]
                misses[seasons].append(self._residuals(kept, [now] * FOLDS, seasons))
                self._moments[seasons][k] = sum(parts, self._moments[seasons][k])
                self._coefficients[seasons][k] = _solved(self._moments[seasons][k], self._penalties[seasons][k])
            spreads.append(np.concatenate([np.empty((0, 2)), *(rows.spreads for rows in kept)]))
        measured = np.stack(spreads, axis=2)
        for seasons, pool in self._pools.items():
            newer = np.stack(misses[seasons], axis=2) / self._scales[seasons].of_spreads(measured)[:, None]
            self._pools[seasons] = join_pools(pool, newer, every=every)

    def _let_go(self) -> None:
        self._pools = {seasons: slim_pool(pool) for seasons, pool in self._pools.items()}
        # of what was summed, how many rows there were says whether a fit can be used
        self._moments = {seasons: [m.first(1) for m in moments] for seasons, moments in self._moments.items()}

    def _fold_moments(self, kept: Iterable[_Rows]) -> dict[bool, list[Moments]]:
        """Moments by whether seasons are read, and fold. Those without are a part of those with."""
        few = self._width(False)
        folds = {seasons: [Moments.zero(self._width(seasons), self.horizon)] * FOLDS for seasons in (False, True)}
        for rows in kept:
            for f, part in _by_fold(rows.folds):
                design, targets, known = rows.design[part], rows.targets[part], rows.seasonal[part]
                both = Moments.of(design[known], targets[known])
                folds[True][f] = folds[True][f] + both
                folds[False][f] = folds[False][f] + both.first(few)
                if not known.all():
                    folds[False][f] = folds[False][f] + Moments.of(design[~known, :few], targets[~known])
        return folds

    def _choose(
        self, kept: Iterable[_Rows], judged: Sequence[_Rows], whole: Moments, early: Moments, seasons: bool
    ) -> float:
        """The penalty of the least squared error on validation, without any on the last fold."""
        tried = solve(whole if judged else early, PENALTIES)
        flat = np.moveaxis(tried, 0, 1).reshape(tried.shape[1], -1)  # (terms, penalties x horizon)
        error = np.zeros(len(PENALTIES))
        for rows in judged or kept:
            late = slice(None) if judged else slice(int(np.searchsorted(rows.folds, FOLDS - 1)), None)
            found = (rows.design[late, : len(flat)] @ flat).reshape(-1, len(PENALTIES), self.horizon)
            error += np.nansum((found - rows.of(seasons)[late][:, None]) ** 2, axis=(0, 2))
        return float(PENALTIES[error.argmin()])

    def _residuals(self, kept: Iterable[_Rows], by_fold: Sequence[FloatArray], seasons: bool) -> FloatArray:
        """(windows, horizon) residuals of each window under the coefficients of its fold."""
        out = [np.empty((0, self.horizon))]
        for rows in kept:
            miss = rows.of(seasons).copy()
            for f, part in _by_fold(rows.folds):
                miss[part] -= rows.design[part, : len(by_fold[f])] @ by_fold[f]
            out.append(miss)
        return np.concatenate(out)

    def _kept(self, panels: Sequence[Panel], column: int, past: Sequence[int] | None = None) -> Iterable[_Rows]:
        """Training rows of one indicator, to be gone through several times: few are held, many are made again."""
        if sum(map(len, panels)) <= HELD_ROWS:
            return list(self._rows(panels, column, past))
        return _Again(lambda: self._rows(panels, column, past))

    def _rows(self, panels: Sequence[Panel], column: int, past: Sequence[int] | None = None) -> Iterator[_Rows]:
        alone = [p.select([p.names[column]]) for p in panels]
        for chunk in training_chunks(alone, self.lookback, self.horizon, past=past, size=PART_ROWS):
            number = chunk.first + np.arange(len(chunk.windows))
            last, design, known = self._design(chunk.windows, 0, seasons=True)
            targets = chunk.targets[:, :, 0] - last[:, None]
            measured = LocalScale.measure(chunk.windows.values)[:, :, 0]
            yield _Rows(design, targets, known, number * FOLDS // chunk.total, measured)

    # ---- the design -----------------------------------------------------------------------------------------
    def _width(self, seasons: bool) -> int:
        """Number of terms, the constant among them."""
        single = min(self.lookback - 1, SINGLE_LAGS)
        blocks = (self.lookback - 1 - single) // LAG_BLOCK
        return 1 + single + blocks + 2 * HARMONICS + (len(SEASONS_S) * self.horizon if seasons else 0)

    def _design(self, windows: WindowBatch, column: int, seasons: bool) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Last value (batch,), terms (batch, width) of one indicator, and for which windows (batch,) they are known."""
        values = fill_forward(windows.values[:, :, column : column + 1])[:, :, 0]
        last = values[:, -1]
        known = ~np.isnan(last)
        seasons = seasons and windows.seasonal is not None
        newest = values.shape[1] - 1
        single = min(newest, SINGLE_LAGS)
        blocks = (newest - single) // LAG_BLOCK
        design = np.empty((len(last), self._width(seasons)))
        design[:, 0] = 1.0
        lags, older = design[:, 1 : 1 + single], design[:, 1 + single : 1 + single + blocks]
        np.subtract(values[:, newest - single : newest], last[:, None], out=lags)
        if blocks:
            stop = newest - single
            before = values[:, stop - blocks * LAG_BLOCK : stop].reshape(len(last), blocks, LAG_BLOCK)
            older[:] = before.mean(axis=2) - last[:, None]
        if not known.all():
            design[~known] = 0.0
        at = 1 + single + blocks
        if self._daily:
            phase = 2 * np.pi * windows.end_s[:, None] / DAY_S * np.arange(1, HARMONICS + 1)
            np.sin(phase, out=design[:, at : at + HARMONICS])
            np.cos(phase, out=design[:, at + HARMONICS : at + 2 * HARMONICS])
        else:
            design[:, at : at + 2 * HARMONICS] = 0.0
        if seasons and windows.seasonal is not None:
            ago = windows.seasonal[:, :, : self.horizon, column]
            # Where one season is not known (the first week), another one stands in for it.
            ago = fill_forward(ago)
            away = (ago - last[:, None, None]).reshape(len(last), -1)
            absent = np.isnan(away).any(axis=1)
            design[:, at + 2 * HARMONICS :] = np.nan_to_num(away) if absent.any() else away
            known = known & ~absent
        return last, design, known

    # ---- forecasting ----------------------------------------------------------------------------------------
    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        noises = {}
        for seasons, pool in self._pools.items():
            rows = draw_rows(len(pool), draws.samples, draws.rng)
            noises[seasons] = pool[rows][:, : draws.horizon, draws.columns]
        values = windows.values[:, :, draws.columns]
        widths = {seasons: scale.of(values, draws.columns) for seasons, scale in self._scales.items()}
        paths = np.empty((len(windows), draws.samples, draws.horizon, len(draws.columns)))
        # A caller who asks for fewer steps may carry fewer seasonal values than the seasonal fit reads.
        seasonal = windows.seasonal is not None and windows.seasonal.shape[2] >= self.horizon
        for i, k in enumerate(draws.columns):
            read = seasonal and bool(self._moments[True][k].terms[0, 0, 0] > 0)
            last, design, known = self._design(windows, k, read)
            for seasons, inside in ((False, ~known), (True, known)) if read else ((False, np.ones_like(known)),):
                if not inside.any():
                    continue
                coefficients = self._coefficients[seasons][k][:, : draws.horizon]
                points = last[inside, None] + design[inside, : len(coefficients)] @ coefficients
                spread = widths[seasons][inside, i, None, None] * noises[seasons][:, :, i]
                paths[inside, :, :, i] = points[:, None] + spread
        return paths


class _Again:
    """Rows that are made anew each time."""

    def __init__(self, make: Callable[[], Iterator[_Rows]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[_Rows]:
        return self._make()


def _by_fold(folds: IntArray) -> Iterator[tuple[int, slice]]:
    """Folds of rising numbers, and where each is."""
    for f in np.unique(folds).tolist():
        yield f, slice(int(np.searchsorted(folds, f)), int(np.searchsorted(folds, f, side="right")))


def _solved(moments: Moments, penalty: float) -> FloatArray:
    """(terms, horizon) coefficients under one penalty."""
    found: FloatArray = solve(moments, np.array([penalty]))[0]
    return found
