"""`QuantileForest`: a forest whose leaves keep what followed, drawn as whole paths (extra ``trees``)."""

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
    fill_forward,
    local_spread,
    spread_floor,
    training_chunks,
)
from forecasting.baselines.extras import library
from forecasting.baselines.window_terms import window_terms
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["QuantileForest"]

FIT_ROWS = 6_000  # windows that the forest of one indicator learns from, evenly thinned


class _Forest(NamedTuple):
    """A forest of one indicator, and what its leaves hold.

    Attributes:
        trees: the fitted regressor; None where there was nothing to tell apart, and one leaf holds all.
        targets: (rows, horizon) what followed, relative to the last value, in spreads of the window.
        order: (trees, rows) row numbers, those of a leaf together.
        first, size: (trees, nodes) where a leaf's rows begin in ``order``, and how many they are.
    """

    trees: Any
    targets: FloatArray
    order: IntArray
    first: IntArray
    size: IntArray


class QuantileForest(Baseline):
    """Quantile regression forest (Meinshausen 2006) of extremely random trees, one for each indicator.

    A path is what followed a training window that shares a leaf with the window to be forecast, taken whole over the
    steps, in a tree drawn at random; over many draws that is the forest's distribution. Inputs and outcomes are taken
    relative to the last value and divided by the window's standard deviation. Indicators are drawn by themselves.

    Args:
        trees: how many.
        leaf: least training windows in a leaf.
        floor: the least standard deviation to divide by, as a share of its root mean square in training.
        cap: see `Baseline`.

    Raises `UsageError` when scikit-learn is not installed.
    """

    method = "quantile_forest"

    def __init__(self, *, trees: int = 100, leaf: int = 10, floor: float = 0.1, cap: float | None = None) -> None:
        super().__init__(cap=cap)
        self._ensemble()
        self.trees = trees
        self.leaf = leaf
        self.floor = floor
        self._floor: FloatArray = np.empty(0)
        self._forests: list[_Forest] = []
        self._panels: list[Panel] = []

    def _ensemble(self) -> Any:  # noqa: ANN401
        return library("sklearn.ensemble", self.method, "scikit-learn", "trees")

    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        self._panels = list(panels)
        spreads = [local_spread(c.windows.values) for c in training_chunks(panels, self.lookback, self.horizon)]
        self._floor = spread_floor(np.concatenate(spreads), self.floor)
        self._forests = []
        for k, indicator in enumerate(self.indicators):
            if progress is not None:
                progress(k, len(self.indicators), f"{self.name}: {indicator.name}")
            self._forests.append(self._grow(panels, k, int(rng.integers(2**31))))

    def _learn_more(self, panels: Sequence[Panel], past: Sequence[int] | None, rng: np.random.Generator) -> None:
        """Trees do not grow on: they are grown again from all panels so far."""
        self._learn([*self._panels, *behind(panels, past, self.lookback)], (), rng, None)

    def _grow(self, panels: Sequence[Panel], column: int, seed: int) -> _Forest:
        designs, targets = [], []
        for chunk in training_chunks(panels, self.lookback, self.horizon):
            number = chunk.first + np.arange(len(chunk.windows))
            last, scale, terms = self._terms(chunk.windows, column)
            after = (chunk.targets[:, :, column] - last[:, None]) / scale[:, None]
            # A step that was not observed is taken for the one before it, so that the path stays whole.
            after = fill_forward(after[:, :, None])[:, :, 0]
            keep = ~np.isnan(after).any(axis=1)
            if chunk.total > FIT_ROWS:
                keep &= (number * FIT_ROWS) // chunk.total != ((number - 1) * FIT_ROWS) // chunk.total
            designs.append(terms[keep])
            targets.append(after[keep])
        design, target = np.concatenate(designs), np.concatenate(targets)
        rows = len(target)
        if rows == 0 or np.ptp(target) == 0:
            kept = target[:1] if rows else np.full((1, self.horizon), np.nan)
            one = np.zeros((1, 1), dtype=np.int64)
            return _Forest(None, kept, one, one, one + 1)
        trees = self._ensemble().ExtraTreesRegressor(
            n_estimators=self.trees, min_samples_leaf=self.leaf, max_features=1 / 3, n_jobs=1, random_state=seed
        )
        trees.fit(design, target if self.horizon > 1 else target[:, 0])
        leaves = trees.apply(design).T
        nodes = int(leaves.max()) + 1
        count = np.stack([np.bincount(one, minlength=nodes) for one in leaves])
        first = np.cumsum(count, axis=1) - count
        return _Forest(trees, target, np.argsort(leaves, axis=1, kind="stable"), first, count)

    def _terms(self, windows: WindowBatch, column: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Last values, spreads, and what trees see of one indicator in each window."""
        return window_terms(windows, column, self.lookback, self._floor[column])

    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        tree = draws.rng.permutation(np.arange(draws.samples) % self.trees)
        share = draws.rng.random((len(self.indicators), draws.samples))
        out = np.empty((len(windows), draws.samples, draws.horizon, len(draws.columns)))
        for i, k in enumerate(draws.columns):
            last, scale, terms = self._terms(windows, k)
            forest = self._forests[k]
            if forest.trees is None:
                rows = np.zeros((len(windows), draws.samples), dtype=np.int64)
            else:
                leaf = forest.trees.apply(np.nan_to_num(terms))[:, tree]
                within = (share[k] * forest.size[tree, leaf]).astype(np.int64)
                rows = forest.order[tree, forest.first[tree, leaf] + within]
            away = forest.targets[rows][:, :, : draws.horizon]
            out[..., i] = last[:, None, None] + scale[:, None, None] * away
        return out
