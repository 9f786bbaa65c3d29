"""Methods beside each other: ratios of scores over many series, and how sure they are.

Windows of one series overlap and follow each other, so what is drawn again for an interval is whole stretches of them,
the same for both methods (the paired moving-block bootstrap: Künsch 1989).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray

__all__ = ["Ratio", "bootstrap_ratio", "mean_ratio", "or_last"]

RESAMPLES = 1000
INNER = 0.95  # of the resampled ratios, what lies between the ends that are told


@dataclass(frozen=True)
class Ratio:
    """A score over that of another method; `low` and `high` enclose 95 % of the resampled ratios."""

    value: float
    low: float
    high: float


def mean_ratio(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Geometric mean over the series of score over score; NaN where no series has two scores above 0."""
    logs = [
        math.log(one[name] / other[name])
        for name in one
        if name in other and one[name] > 0 and other[name] > 0 and math.isfinite(one[name] / other[name])
    ]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def bootstrap_ratio(
    pairs: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], blocks: Sequence[int], *, seed: int = 0
) -> Ratio:
    """Geometric mean over series of the ratio of mean scores, with an interval over resampled windows.

    Args:
        pairs: of each series, the scores of two methods (windows,) on the same windows in time order; NaN is left out.
        blocks: of each series, the windows that are drawn together.
        seed: of the draws.

    NaN where no series has mean scores above 0.
    """
    rng = np.random.default_rng(seed)
    whole, again = [], []
    for (one, other), block in zip(pairs, blocks, strict=True):
        a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
        known = ~(np.isnan(a) | np.isnan(b))
        a, b = a[known], b[known]
        if a.sum() <= 0 or b.sum() <= 0:
            continue
        whole.append(math.log(a.sum() / b.sum()))
        again.append(_resampled(a, b, min(block, len(a)), rng))
    if not whole:
        return Ratio(math.nan, math.nan, math.nan)
    tail = (1 - INNER) / 2
    low, high = np.quantile(np.mean(again, axis=0), [tail, 1 - tail])
    return Ratio(math.exp(float(np.mean(whole))), math.exp(float(low)), math.exp(float(high)))


def or_last(value: float) -> float:
    """For sorting: what is not a number comes last."""
    return math.inf if math.isnan(value) else value


def _resampled(a: FloatArray, b: FloatArray, block: int, rng: np.random.Generator) -> FloatArray:
    """(RESAMPLES,) logarithms of the ratio of sums over windows drawn again, ``block`` neighbours at a time."""
    draws = -(-len(a) // block)
    starts = rng.integers(0, len(a) - block + 1, size=(RESAMPLES, draws))
    rows = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, : len(a)]
    top, bottom = a[rows].sum(axis=1), b[rows].sum(axis=1)
    some = (top > 0) & (bottom > 0)  # a draw of nothing but constants says nothing
    logs = np.full(RESAMPLES, math.log(a.sum() / b.sum()))
    logs[some] = np.log(top[some] / bottom[some])
    return logs
