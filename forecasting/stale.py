"""Windows whose newest rows are absent: these rows are lead, so they are forecast too, from what was seen last.

A forecaster that is shown k absent newest rows as if they were any absent rows is as sure of the next step as one that
has just read the newest row. What it is asked is what comes k + 1 steps after the last reading.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from forecasting.panel import BoolArray, FloatArray, IntArray
from forecasting.pooling import arranged
from forecasting.windows import WindowBatch

__all__ = ["Made", "Unseen", "groups", "later", "moved_back", "replaced", "unseen"]


def unseen(windows: WindowBatch, columns: Sequence[int]) -> IntArray:
    """(batch, columns) newest rows that lack an indicator; 0 where it is absent all through, of which nothing is known.

    Each indicator for itself, so that a forecast of some of them is that of all.
    """
    seen = ~np.isnan(windows.values[:, ::-1][:, :, list(columns)])
    out: IntArray = np.where(seen.any(axis=1), seen.argmax(axis=1), 0)
    return out


def moved_back(windows: WindowBatch, rows: int) -> WindowBatch:
    """The windows as they were ``rows`` rows ago, absent before their first row.

    Seasonal values then begin with those of the skipped steps, taken from the windows where they hold them.
    """
    if rows == 0:
        return windows
    values = np.full_like(windows.values, np.nan)
    values[:, rows:] = windows.values[:, : windows.lookback - rows]
    seasonal = windows.seasonal
    if seasonal is not None:
        skipped = np.full((len(windows), seasonal.shape[1], rows, seasonal.shape[3]), np.nan)
        for s, season_s in enumerate(windows.seasons_s):
            at = windows.lookback - rows + np.arange(rows) - max(1, round(season_s / windows.step_s))
            skipped[:, s, at >= 0] = windows.values[:, at[at >= 0]]
        seasonal = np.concatenate([skipped, seasonal], axis=2)
    end_s = windows.end_s - rows * windows.step_s
    return dataclasses.replace(windows, values=values, seasonal=seasonal, end_s=end_s)


class Unseen(NamedTuple):
    """Windows that lack as many newest rows in some indicator.

    Attributes:
        rows: how many rows.
        windows: (n,) which windows.
        columns: which of the columns asked for lack so many in any of them.
        cells: (n, len(columns)) where they do.
    """

    rows: int
    windows: IntArray
    columns: list[int]
    cells: BoolArray


def groups(stale: IntArray) -> Iterator[Unseen]:
    """The windows and columns of `unseen` that lack any rows, by how many."""
    for rows in np.unique(stale[stale > 0]).tolist():
        here = stale == rows
        windows, columns = np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))
        yield Unseen(rows, windows, columns.tolist(), here[np.ix_(windows, columns)])


def _some(windows: WindowBatch, at: IntArray) -> WindowBatch:
    """The windows of these numbers."""
    seasonal = None if windows.seasonal is None else windows.seasonal[at]
    return dataclasses.replace(windows, values=windows.values[at], end_s=windows.end_s[at], seasonal=seasonal)


Made = tuple[FloatArray, Mapping[str, FloatArray]]
"""Paths (batch, samples, horizon, columns), and weights by name, without the samples."""


def replaced(
    paths: FloatArray,
    experts: Mapping[str, FloatArray],
    windows: WindowBatch,
    stale: IntArray,
    forecast: Callable[[WindowBatch, Unseen], Made],
) -> Made:
    """Paths (batch, samples, horizon, columns) and weights, of stale windows those that ``forecast`` makes.

    ``forecast`` gets the stale windows as they are, one group at a time, and returns paths (n, samples, horizon,
    len(columns)) and weights without the samples.
    """
    out, shares = paths.copy(), {name: w.copy() for name, w in experts.items()}
    for group in groups(stale):
        made, weights = forecast(_some(windows, group.windows), group)
        n, c = np.nonzero(group.cells)
        at, column = group.windows[n], np.asarray(group.columns)[c]
        out[at, :, :, column] = made[n, :, :, c]
        for name, share in shares.items():
            share[at, :, column] = weights[name][n, :, c] if name in weights else 0.0
    return out, shares


def later(made: Callable[[WindowBatch, int], Made], windows: WindowBatch, rows: int, horizon: int, most: int) -> Made:
    """The last ``horizon`` steps of a forecast from ``rows`` rows ago on, by a model trained for ``most`` steps.

    ``made`` forecasts farther on a coarser grid, so steps up to ``most`` after the last reading are forecast as such,
    and the others on that grid, in the order of the last step before them.
    """
    moved, end = moved_back(windows, rows), rows + horizon
    fine = 0 if horizon > most else max(0, min(end, most) - rows)
    if fine == horizon:
        paths, weights = made(moved, end)
        return paths[:, :, rows:], {name: w[:, rows:] for name, w in weights.items()}
    within = min(end, most * windows.lookback)  # a coarser grid than the whole window has no row
    coarse, shares = made(moved, within)
    at = np.minimum(np.arange(rows + fine, end), within - 1)
    beyond, shares = coarse[:, :, at], {name: w[:, at] for name, w in shares.items()}
    if not fine:
        return beyond, shares
    near, weights = made(moved, most)
    last = np.repeat(near[:, :, -1:], len(at), axis=2)
    paths = np.concatenate([near[:, :, rows:], arranged(np.sort(beyond, axis=1), last)], axis=2)
    return paths, {n: np.concatenate([w[:, rows:], shares[n]], axis=1) for n, w in weights.items()}
