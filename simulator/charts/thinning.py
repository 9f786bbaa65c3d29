"""Long series reduced to what a picture can show: the least and the greatest value of every pixel column."""

from __future__ import annotations

import numpy as np

from forecasting.panel import BoolArray, FloatArray, IntArray

__all__ = ["bin_edges", "bin_extremes", "bins_with", "extreme_rows"]


def bin_edges(n: int, bins: int) -> IntArray:
    """(used + 1,) row numbers that cut ``n`` rows into at most ``bins`` runs of nearly equal length."""
    used = max(1, min(n, bins))
    return np.linspace(0, n, used + 1).round().astype(np.int64)


def extreme_rows(values: FloatArray, bins: int) -> IntArray:
    """Rows to draw so that every least and greatest value of every bin is seen, ascending.

    ``values`` (n,) with NaN where absent. A bin without any value gives one of its rows, so that the line has a gap
    there. All rows if there are no more than twice as many as ``bins``.
    """
    n = values.size
    if n <= 2 * bins:
        return np.arange(n, dtype=np.int64)
    starts = bin_edges(n, bins)[:-1]
    absent = np.isnan(values)
    which = np.repeat(np.arange(starts.size), np.diff(np.append(starts, n)))
    rows = []
    for filled in (np.where(absent, np.inf, values), np.where(absent, np.inf, -values)):
        order = np.lexsort((filled, which))  # by bin, then value: the first of each bin is its extreme
        rows.append(order[starts])
    return np.unique(np.concatenate([[0], *rows, [n - 1]]))


def bin_extremes(low: FloatArray, high: FloatArray, bins: int) -> tuple[IntArray, FloatArray, FloatArray]:
    """First rows of the bins, least of ``low`` and greatest of ``high`` in each; NaN where a bin has no value."""
    if low.size <= 2 * bins:
        return np.arange(low.size, dtype=np.int64), low, high
    starts = bin_edges(low.size, bins)[:-1]
    least = np.minimum.reduceat(np.where(np.isnan(low), np.inf, low), starts)
    most = np.maximum.reduceat(np.where(np.isnan(high), -np.inf, high), starts)
    none = np.isinf(least) | np.isinf(most)
    return starts, np.where(none, np.nan, least), np.where(none, np.nan, most)


def bins_with(flags: BoolArray, bins: int) -> list[tuple[int, int]]:
    """Runs of rows (start, stop) to mark: whole rows, or whole bins that hold a True, neighbours joined."""
    n = flags.size
    if n == 0:
        return []
    starts = bin_edges(n, 2 * bins)[:-1]
    hit = np.logical_or.reduceat(flags, starts)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hit, [False]]).astype(np.int8)))
    stops = np.append(starts, n)
    return [(int(stops[a]), int(stops[b])) for a, b in edges.reshape(-1, 2)]
