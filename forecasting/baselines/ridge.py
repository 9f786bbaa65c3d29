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
    local_spread,
    spread_floor,
    tidy_pool,
    training_chunks,
)
from forecasting.baselines.linear import Moments, solve
from forecasting.panel import FloatArray, Panel
from forecasting.windows import DAY_S, SEASONS_S, WindowBatch

__all__ = ["Ridge"]

FOLDS = 5
PENALTIES: FloatArray = np.geomspace(1e-5, 10.0, 13)
# Recent readings count one by one, older ones as means of an equal number: a day of minutes needs no 1,440 terms.
SINGLE_LAGS = 144
LAG_BLOCK = 12
HARMONICS = 3


class _Rows(NamedTuple):
    """Design and targets of one indicator, and where they lie among all training windows."""

    column: int
    design: FloatArray
    targets: FloatArray
    folds: IntArray
    windows: WindowBatch


class Ridge(Baseline):
    """Ridge regression of the coming change on own lags (less the last value), the hour of day and the seasons.

    Every step has its own coefficients (direct multi-step). Two fits stand side by side: one reads the lookback and
    the clock alone, the other also `WindowBatch.seasonal` less the last value; a window gets the one it has the inputs
    for. The penalty of each indicator is the best on the validation panels (without any: on the last fifth of the
    training windows). Paths add residuals of five-fold cross-validation in contiguous folds, as whole vectors over
    steps and indicators.

    Args:
        scaled: scale residuals by the standard deviation of the window, as `LastValue` does.
        floor: the least standard deviation to divide by, as a share of its root mean square in training.
        cap: see `Baseline`.
    """

    method = "ridge"

    def __init__(self, *, scaled: bool = True, floor: float = 0.1, cap: float | None = 2.0) -> None:
        super().__init__(cap=cap)
        self.scaled = scaled
        self.floor = floor
        self._floor: FloatArray = np.empty(0)
        self._daily = False
        self._moments: list[Moments] = []
        self._penalties: dict[bool, FloatArray] = {}
        self._coefficients: dict[bool, list[FloatArray]] = {}
        self._pools: dict[bool, FloatArray] = {}

    # ---- learning -------------------------------------------------------------------------------------------
    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        self._daily = max(len(p) for p in panels) * self.step_s >= 2 * DAY_S
        spreads = [local_spread(c.windows.values) for c in training_chunks(panels, self.lookback, self.horizon)]
        self._floor = spread_floor(np.concatenate(spreads), self.floor)
        folds = self._fold_moments(panels, progress)
        self._moments = [sum(parts[1:], parts[0]) for parts in folds]
        judged = validation if any(len(p) >= self.lookback + self.horizon for p in validation) else ()
        for seasons in (False, True):
            self._penalties[seasons] = self._choose(panels, judged, folds, seasons)
            self._coefficients[seasons] = self._solve_all(self._moments, seasons)
            without = [
                self._solve_all([m - parts[f] for m, parts in self._by_column(folds)], seasons) for f in range(FOLDS)
            ]
            self._pools[seasons] = tidy_pool(self._residuals(panels, without, seasons))

    def _by_column(self, folds: list[list[Moments]]) -> Iterator[tuple[Moments, list[Moments]]]:
        return zip(self._moments, folds, strict=True)

    def _learn_more(self, panels: Sequence[Panel], rng: np.random.Generator) -> None:
        for seasons, pool in self._pools.items():
            newer = self._residuals(panels, [self._coefficients[seasons]] * FOLDS, seasons)
            self._pools[seasons] = join_pools(pool, newer)
        for rows in self._rows(panels):
            self._moments[rows.column] = self._moments[rows.column] + Moments.of(rows.design, rows.targets)
        for seasons in self._coefficients:
            self._coefficients[seasons] = self._solve_all(self._moments, seasons)

    def _fold_moments(self, panels: Sequence[Panel], progress: Progress | None) -> list[list[Moments]]:
        """Moments by indicator and fold."""
        width = self._width(seasons=True)
        folds = [[Moments.zero(width, self.horizon) for _ in range(FOLDS)] for _ in self.indicators]
        for rows in self._rows(panels):
            for f in np.unique(rows.folds).astype(int):
                inside = rows.folds == f
                folds[rows.column][f] = folds[rows.column][f] + Moments.of(rows.design[inside], rows.targets[inside])
            if progress is not None:
                progress(int(rows.folds[-1]) + 1, FOLDS, f"{self.name}: {self.indicators[rows.column].name}")
        return folds

    def _choose(
        self, panels: Sequence[Panel], judged: Sequence[Panel], folds: list[list[Moments]], seasons: bool
    ) -> FloatArray:
        """(indicators,) the penalty of the least squared error on ``judged``, without any on the last fold."""
        width = self._width(seasons)
        known = self._moments if judged else [m - parts[-1] for m, parts in self._by_column(folds)]
        candidates = [solve(m.first(width), PENALTIES) for m in known]
        error = np.zeros((len(self.indicators), len(PENALTIES)))
        for rows in self._rows(judged or panels):
            inside = slice(None) if judged else rows.folds == FOLDS - 1
            design, targets = rows.design[inside, :width], rows.targets[inside]
            miss = design @ candidates[rows.column] - targets
            error[rows.column] += np.nansum(miss**2, axis=(1, 2))
        best: FloatArray = PENALTIES[error.argmin(axis=1)]
        return best

    def _solve_all(self, moments: Sequence[Moments], seasons: bool) -> list[FloatArray]:
        """(terms, horizon) coefficients of every indicator under its chosen penalty."""
        width = self._width(seasons)
        chosen = self._penalties[seasons]
        return [solve(m.first(width), chosen[k : k + 1])[0] for k, m in enumerate(moments)]

    def _residuals(self, panels: Sequence[Panel], by_fold: list[list[FloatArray]], seasons: bool) -> FloatArray:
        """(windows, horizon, indicators) scaled residuals of each window under the coefficients of its fold."""
        width = self._width(seasons)
        columns: list[list[FloatArray]] = [[] for _ in self.indicators]
        for rows in self._rows(panels):
            miss = np.empty_like(rows.targets)
            for f in np.unique(rows.folds).astype(int):
                inside = rows.folds == f
                miss[inside] = rows.targets[inside] - rows.design[inside, :width] @ by_fold[f][rows.column]
            columns[rows.column].append(miss / self._scale(rows.windows, [rows.column]))
        if not columns[0]:
            return np.empty((0, self.horizon, len(self.indicators)))
        return np.stack([np.concatenate(c) for c in columns], axis=2)

    def _rows(self, panels: Sequence[Panel]) -> Iterator[_Rows]:
        for chunk in training_chunks(panels, self.lookback, self.horizon):
            number = chunk.first + np.arange(len(chunk.windows))
            for k in range(len(self.indicators)):
                last, design = self._design(chunk.windows, k, seasons=True)
                targets = chunk.targets[:, :, k] - last[:, None]
                yield _Rows(k, design, targets, number * FOLDS // chunk.total, chunk.windows)

    # ---- the design -----------------------------------------------------------------------------------------
    def _width(self, seasons: bool) -> int:
        """Number of terms, the constant among them."""
        single = min(self.lookback - 1, SINGLE_LAGS)
        blocks = (self.lookback - 1 - single) // LAG_BLOCK
        return 1 + single + blocks + 2 * HARMONICS + (len(SEASONS_S) * (self.horizon + 1) if seasons else 0)

    def _design(self, windows: WindowBatch, column: int, *, seasons: bool) -> tuple[FloatArray, FloatArray]:
        """The last value (batch,) and the terms (batch, width) of one indicator; absent terms are 0 (no change)."""
        values = fill_forward(windows.values[:, :, column : column + 1])[:, :, 0]
        last = values[:, -1]
        away = np.nan_to_num(values[:, :-1] - last[:, None])
        single = min(away.shape[1], SINGLE_LAGS)
        blocks = (away.shape[1] - single) // LAG_BLOCK
        older = away[:, away.shape[1] - single - blocks * LAG_BLOCK : away.shape[1] - single]
        phase = 2 * np.pi * windows.end_s[:, None] / DAY_S * np.arange(1, HARMONICS + 1)
        day = (
            np.concatenate([np.sin(phase), np.cos(phase)], axis=1)
            if self._daily
            else np.zeros((len(last), 2 * HARMONICS))
        )
        terms = [
            np.ones((len(last), 1)),
            away[:, away.shape[1] - single :],
            older.reshape(len(last), blocks, LAG_BLOCK).mean(axis=2),
            day,
        ]
        if seasons and windows.seasonal is not None:
            ago = windows.seasonal[:, :, : self.horizon, column]
            change = np.nan_to_num(ago - last[:, None, None])
            known = 1.0 - np.isnan(ago).all(axis=2)
            terms += [change.reshape(len(last), -1), known]
        return last, np.concatenate(terms, axis=1)

    def _scale(self, windows: WindowBatch, columns: list[int]) -> FloatArray:
        """(batch, columns) what residuals are multiplied by."""
        if not self.scaled:
            return np.ones((len(windows), len(columns)))
        return np.maximum(local_spread(windows.values[:, :, columns]), self._floor[columns])

    # ---- forecasting ----------------------------------------------------------------------------------------
    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        # A caller who asks for fewer steps may carry fewer seasonal values than the seasonal fit reads.
        seasons = windows.seasonal is not None and windows.seasonal.shape[2] >= self.horizon
        pool = self._pools[seasons]
        noise = pool[draw_rows(len(pool), draws.samples, draws.rng)][:, : draws.horizon, draws.columns]
        points = np.empty((len(windows), draws.horizon, len(draws.columns)))
        for i, k in enumerate(draws.columns):
            last, design = self._design(windows, k, seasons=seasons)
            points[:, :, i] = last[:, None] + design @ self._coefficients[seasons][k][:, : draws.horizon]
        scale = self._scale(windows, draws.columns)
        paths = scale[:, None, None] * noise
        paths += points[:, None]
        return paths
