"""`Ridge`: a penalised linear forecast of each indicator from its own past, with out-of-fold residuals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import (
    Baseline,
    Draws,
    IntArray,
    draw_rows,
    fill_forward,
    join_pools,
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
PENALTIES: FloatArray = np.geomspace(1e-5, 10.0, 13)
# Recent readings count one by one, older ones as means of an equal number: a day of minutes needs no 1,440 terms.
SINGLE_LAGS = 144
LAG_BLOCK = 12
HARMONICS = 3


class _Rows(NamedTuple):
    """Design and targets of one indicator, and in which fold each row lies."""

    column: int
    design: FloatArray
    targets: FloatArray
    folds: IntArray


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
        spreads = self._spreads(panels)
        for seasons in (False, True):
            if progress is not None:
                progress(int(seasons), 2, f"{self.name}: {'with' if seasons else 'without'} seasons")
            folds = self._fold_moments(panels, seasons)
            self._moments[seasons] = whole = [sum(parts[1:], parts[0]) for parts in folds]
            others = [[m - parts[f] for m, parts in zip(whole, folds, strict=True)] for f in range(FOLDS)]
            self._penalties[seasons] = self._choose(panels, validation, whole, others[-1], seasons)
            self._coefficients[seasons] = self._solve_all(whole, seasons)
            by_fold = [self._solve_all(some, seasons) for some in others]
            miss = self._residuals(panels, by_fold, seasons)
            self._scales[seasons] = LocalScale(spreads, miss, floor=self.floor, fixed=None if self.scaled else 0)
            self._pools[seasons] = tidy_pool(miss / self._scales[seasons].of_spreads(spreads)[:, None])

    def _learn_more(self, panels: Sequence[Panel], rng: np.random.Generator) -> None:
        for seasons, pool in self._pools.items():
            miss = self._residuals(panels, [self._coefficients[seasons]] * FOLDS, seasons)
            newer = miss / self._scales[seasons].of_spreads(self._spreads(panels))[:, None]
            self._pools[seasons] = join_pools(pool, newer)
            moments = self._moments[seasons]
            for rows in self._rows(panels, seasons):
                moments[rows.column] = moments[rows.column] + Moments.of(rows.design, rows.targets)
            self._coefficients[seasons] = self._solve_all(moments, seasons)

    def _let_go(self) -> None:
        self._pools = {seasons: slim_pool(pool) for seasons, pool in self._pools.items()}
        # of what was summed, how many rows there were says whether a fit can be used
        self._moments = {seasons: [m.first(1) for m in moments] for seasons, moments in self._moments.items()}

    def _fold_moments(self, panels: Sequence[Panel], seasons: bool) -> list[list[Moments]]:
        """Moments by indicator and fold."""
        blank = Moments.zero(self._width(seasons), self.horizon)
        folds = [[blank] * FOLDS for _ in self.indicators]
        for rows in self._rows(panels, seasons):
            for f in np.unique(rows.folds):
                inside = rows.folds == f
                folds[rows.column][f] = folds[rows.column][f] + Moments.of(rows.design[inside], rows.targets[inside])
        return folds

    def _choose(
        self,
        panels: Sequence[Panel],
        validation: Sequence[Panel],
        whole: Sequence[Moments],
        early: Sequence[Moments],
        seasons: bool,
    ) -> FloatArray:
        """(indicators,) the penalty of the least squared error on validation, without any on the last fold."""
        judged = any(len(p) >= self.lookback + self.horizon for p in validation)
        candidates = [solve(m, PENALTIES) for m in (whole if judged else early)]
        error = np.zeros((len(self.indicators), len(PENALTIES)))
        for rows in self._rows(validation if judged else panels, seasons):
            inside = slice(None) if judged else rows.folds == FOLDS - 1
            miss = rows.design[inside] @ candidates[rows.column] - rows.targets[inside]
            error[rows.column] += np.nansum(miss**2, axis=(1, 2))
        best: FloatArray = PENALTIES[error.argmin(axis=1)]
        return best

    def _solve_all(self, moments: Sequence[Moments], seasons: bool) -> list[FloatArray]:
        """(terms, horizon) coefficients of every indicator under its chosen penalty."""
        chosen = self._penalties[seasons]
        return [solve(m, chosen[k : k + 1])[0] for k, m in enumerate(moments)]

    def _residuals(self, panels: Sequence[Panel], by_fold: list[list[FloatArray]], seasons: bool) -> FloatArray:
        """(windows, horizon, indicators) residuals of each window under the coefficients of its fold."""
        columns: list[list[FloatArray]] = [[] for _ in self.indicators]
        for rows in self._rows(panels, seasons):
            miss = np.empty_like(rows.targets)
            for f in np.unique(rows.folds):
                inside = rows.folds == f
                miss[inside] = rows.targets[inside] - rows.design[inside] @ by_fold[f][rows.column]
            columns[rows.column].append(miss)
        if not columns[0]:
            return np.empty((0, self.horizon, len(self.indicators)))
        return np.stack([np.concatenate(c) for c in columns], axis=2)

    def _rows(self, panels: Sequence[Panel], seasons: bool) -> Iterator[_Rows]:
        """Training rows; with ``seasons``, targets of windows that have no season to read are absent."""
        for chunk in training_chunks(panels, self.lookback, self.horizon):
            number = chunk.first + np.arange(len(chunk.windows))
            for k in range(len(self.indicators)):
                last, design, known = self._design(chunk.windows, k, seasons)
                targets = np.where(known[:, None], chunk.targets[:, :, k] - last[:, None], np.nan)
                yield _Rows(k, design, targets, number * FOLDS // chunk.total)

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
        away = np.nan_to_num(values[:, :-1] - last[:, None])
        single = min(away.shape[1], SINGLE_LAGS)
        blocks = (away.shape[1] - single) // LAG_BLOCK
        older = away[:, away.shape[1] - single - blocks * LAG_BLOCK : away.shape[1] - single]
        phase = 2 * np.pi * windows.end_s[:, None] / DAY_S * np.arange(1, HARMONICS + 1)
        day = np.concatenate([np.sin(phase), np.cos(phase)], axis=1) * float(self._daily)
        terms = [
            np.ones((len(last), 1)),
            away[:, away.shape[1] - single :],
            older.reshape(len(last), blocks, LAG_BLOCK).mean(axis=2),
            day,
        ]
        if seasons and windows.seasonal is not None:
            ago = windows.seasonal[:, :, : self.horizon, column]
            # Where one season is not known (the first week), another one stands in for it.
            ago = np.where(np.isnan(ago), fill_forward(ago), ago)
            known = known & ~np.isnan(ago).any(axis=(1, 2))
            terms.append(np.nan_to_num(ago - last[:, None, None]).reshape(len(last), -1))
        return last, np.concatenate(terms, axis=1), known

    def _spreads(self, panels: Sequence[Panel]) -> FloatArray:
        """(windows, 2, indicators) what `LocalScale` measures, of all training windows."""
        chunks = training_chunks(panels, self.lookback, self.horizon)
        blank = np.empty((0, 2, len(self.indicators)))
        return np.concatenate([blank, *(LocalScale.measure(c.windows.values) for c in chunks)])

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
            for seasons in (False, True):
                if seasons and not (seasonal and self._moments[True][k].terms[0, 0, 0] > 0):
                    continue
                last, design, known = self._design(windows, k, seasons)
                inside = known if seasons else slice(None)
                points = last[:, None] + design @ self._coefficients[seasons][k][:, : draws.horizon]
                spread = widths[seasons][inside, i, None, None] * noises[seasons][:, :, i]
                paths[inside, :, :, i] = points[inside, None] + spread
        return paths
