"""`BoostedQuantiles`: gradient-boosted quantile trees, joined into paths by an empirical copula (extra ``trees``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import (
    Baseline,
    Draws,
    IntArray,
    behind,
    draw_rows,
    local_spread,
    spread_floor,
    tidy_pool,
    training_chunks,
)
from forecasting.baselines.extras import library
from forecasting.baselines.window_terms import window_terms
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["BoostedQuantiles"]

LEVELS: FloatArray = np.arange(1, 20) / 20
# Rows (window and step) that the trees of one indicator learn from; windows that the copula and the tails come from.
FIT_ROWS = 30_000
COPULA_ROWS = 1_500


class _Tails(NamedTuple):
    """Sorted distances of training outcomes beyond the outermost quantiles, in window spreads."""

    below: FloatArray
    above: FloatArray


class BoostedQuantiles(Baseline):
    """LightGBM quantile regression (19 levels) of each indicator on its own window, one model for all steps.

    Inputs and targets are taken relative to the last value and divided by the window's standard deviation; they are
    recent changes, means of older stretches, the window's shape, the hour of day and the number of the step. Beyond the
    5 % and 95 % quantiles, training exceedances give the tails. Paths come from an empirical copula: whole vectors of
    training ranks over steps and indicators are drawn and put through each window's quantiles.

    Args:
        trees: boosting rounds a quantile.
        leaves: most leaves of a tree.
        rate: learning rate.
        floor: the least standard deviation to divide by, as a share of its root mean square in training.
        cap: see `Baseline`.

    Raises `UsageError` when LightGBM is not installed.
    """

    method = "boosted_quantiles"

    def __init__(
        self, *, trees: int = 100, leaves: int = 15, rate: float = 0.05, floor: float = 0.1, cap: float | None = None
    ) -> None:
        super().__init__(cap=cap)
        _lightgbm()
        self.trees = trees
        self.leaves = leaves
        self.rate = rate
        self.floor = floor
        self._floor: FloatArray = np.empty(0)
        self._models: list[list[Any]] = []
        self._ranks: FloatArray = np.empty((0, 0, 0))
        self._tails: list[_Tails] = []
        self._panels: list[Panel] = []

    # ---- learning -------------------------------------------------------------------------------------------
    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        self._panels = list(panels)
        spreads = [local_spread(c.windows.values) for c in training_chunks(panels, self.lookback, self.horizon)]
        self._floor = spread_floor(np.concatenate(spreads), self.floor)
        self._models, self._tails = [], []
        ranks = []
        for k, indicator in enumerate(self.indicators):
            if progress is not None:
                progress(k, len(self.indicators), f"{self.name}: {indicator.name}")
            design, targets = self._training_rows(panels, k, rng)
            self._models.append(self._grow(design, targets, int(rng.integers(2**31))))
            rank, tails = self._ranks_of(panels, k)
            ranks.append(rank)
            self._tails.append(tails)
        self._ranks = tidy_pool(np.stack(ranks, axis=2))

    def _learn_more(self, panels: Sequence[Panel], past: Sequence[int] | None, rng: np.random.Generator) -> None:
        """Trees do not grow on: they are grown again from all panels so far."""
        self._learn([*self._panels, *behind(panels, past, self.lookback)], (), rng, None)

    def _training_rows(
        self, panels: Sequence[Panel], column: int, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray]:
        """Design (rows, terms) and scaled targets (rows,) of one indicator; of many windows, a few steps each."""
        designs, targets = [], []
        for chunk in training_chunks(panels, self.lookback, self.horizon):
            rows = len(chunk.windows)
            keep = int(np.clip(-(-FIT_ROWS // chunk.total), 1, self.horizon))
            steps = np.argsort(rng.random((rows, self.horizon)), axis=1)[:, :keep]
            windows = np.repeat(np.arange(rows), keep)
            thin = max(1, chunk.total * keep // FIT_ROWS)
            windows, flat = windows[::thin], steps.reshape(-1)[::thin]
            last, scale, terms = self._terms(chunk.windows, column)
            designs.append(_with_steps(terms[windows], flat))
            targets.append((chunk.targets[windows, flat, column] - last[windows]) / scale[windows])
        design, target = np.concatenate(designs), np.concatenate(targets)
        seen = ~np.isnan(target)
        return design[seen], target[seen]

    def _grow(self, design: FloatArray, targets: FloatArray, seed: int) -> list[Any]:
        """One booster a level; none where there is nothing to learn (no rows, or a target that never varies)."""
        if len(targets) == 0 or np.ptp(targets) == 0:
            return []
        lightgbm = _lightgbm()
        data = lightgbm.Dataset(design, label=targets, free_raw_data=False)
        shared = {
            "objective": "quantile",
            "learning_rate": self.rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": 20,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        return [lightgbm.train({**shared, "alpha": float(a)}, data, num_boost_round=self.trees) for a in LEVELS]

    def _ranks_of(self, panels: Sequence[Panel], column: int) -> tuple[FloatArray, _Tails]:
        """Where training outcomes (windows, horizon) lay among their quantiles, 0..1, and how far outside them."""
        ranks, below, above = [], [np.zeros(1)], [np.zeros(1)]
        for chunk in training_chunks(panels, self.lookback, self.horizon):
            rows = np.arange(0, len(chunk.windows), max(1, chunk.total // COPULA_ROWS))
            last, scale, terms = self._terms(chunk.windows, column)
            outcome = (chunk.targets[rows, :, column] - last[rows, None]) / scale[rows, None]
            quantiles = self._quantiles(terms[rows], column, self.horizon)
            higher = (outcome[:, None] > quantiles).mean(axis=1)
            level = (higher + (outcome[:, None] >= quantiles).mean(axis=1)) / 2
            ranks.append(np.where(np.isnan(outcome) | np.isnan(quantiles[:, 0]), np.nan, level))
            below.append(_positive(quantiles[:, 0] - outcome))
            above.append(_positive(outcome - quantiles[:, -1]))
        return np.concatenate(ranks), _Tails(np.sort(np.concatenate(below)), np.sort(np.concatenate(above)))

    def _terms(self, windows: WindowBatch, column: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Last value (batch,), spread (batch,) and terms (batch, terms) of one indicator."""
        return window_terms(windows, column, self.lookback, self._floor[column])

    # ---- forecasting ----------------------------------------------------------------------------------------
    def _quantiles(self, terms: FloatArray, column: int, horizon: int) -> FloatArray:
        """(windows, levels, horizon) rising quantiles of one indicator, relative to the last value, in spreads."""
        models = self._models[column]
        if not models:
            return np.zeros((len(terms), len(LEVELS), horizon))
        steps = np.tile(np.arange(horizon), len(terms))
        design = _with_steps(np.repeat(terms, horizon, axis=0), steps)
        flat = np.stack([m.predict(design, num_threads=1) for m in models])
        return np.sort(flat.reshape(len(LEVELS), len(terms), horizon).swapaxes(0, 1), axis=1)

    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        rows = draw_rows(len(self._ranks), draws.samples, draws.rng)
        drawn = self._ranks[rows][:, : draws.horizon]
        # Ranks among the draws: every marginal then spreads evenly over 0..1 while the order, the copula, stays.
        jitter = draws.rng.random(drawn.shape)
        order = np.lexsort((jitter, drawn), axis=0)
        place = np.empty(drawn.shape)
        np.put_along_axis(place, order, np.arange(draws.samples, dtype=np.float64)[:, None, None], axis=0)
        levels = (place + 0.5) / draws.samples
        out = np.empty((len(windows), draws.samples, draws.horizon, len(draws.columns)))
        for i, k in enumerate(draws.columns):
            last, scale, terms = self._terms(windows, k)
            quantiles = self._quantiles(terms, k, draws.horizon)
            away = _at(quantiles, levels[:, :, k]) + self._beyond(levels[:, :, k], k)
            out[..., i] = last[:, None, None] + scale[:, None, None] * away
            if np.isnan(drawn[:, :, k]).any():
                out[..., i] = np.nan
        return out

    def _beyond(self, levels: FloatArray, column: int) -> FloatArray:
        """(samples, horizon) how far draws beyond the outermost levels lie outside, in spreads; 0 for the others."""
        edge = LEVELS[0]
        tails = self._tails[column]
        down = np.quantile(tails.below, np.clip((edge - levels) / edge, 0.0, 1.0))
        up = np.quantile(tails.above, np.clip((levels - (1 - edge)) / edge, 0.0, 1.0))
        out: FloatArray = np.where(levels < edge, -down, 0.0) + np.where(levels > 1 - edge, up, 0.0)
        return out


def _lightgbm() -> Any:  # noqa: ANN401
    return library("lightgbm", BoostedQuantiles.method, "LightGBM", "trees")


def _with_steps(terms: FloatArray, steps: IntArray) -> FloatArray:
    return np.concatenate([terms, steps[:, None].astype(np.float64)], axis=1)


def _positive(values: FloatArray) -> FloatArray:
    out: FloatArray = values[values > 0]
    return out


def _at(quantiles: FloatArray, levels: FloatArray) -> FloatArray:
    """(windows, samples, horizon): quantiles (windows, knots, horizon) at (samples, horizon) levels, linear between."""
    place = np.clip((levels - LEVELS[0]) / (LEVELS[1] - LEVELS[0]), 0, len(LEVELS) - 1)
    knot = np.minimum(place.astype(np.int64), len(LEVELS) - 2)
    part = place - knot
    step = np.arange(levels.shape[1])
    out: FloatArray = quantiles[:, knot, step] * (1 - part) + quantiles[:, knot + 1, step] * part
    return out
