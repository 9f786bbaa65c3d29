"""Windows and panels rearranged for the forecaster: columns by level, one row of a batch, a coarser grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from forecasting.errors import DataError
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["coarsened", "columns", "ordered", "rows"]


def ordered(panel: Panel) -> Panel:
    """Columns by level (demand first), as the flow orders its cells."""
    ranked = sorted(range(len(panel.indicators)), key=lambda i: (int(panel.indicators[i].level), i))
    return panel.select([panel.names[i] for i in ranked])


def columns(windows: WindowBatch, order: Sequence[int]) -> WindowBatch:
    """Only some columns, in the given order."""
    at = list(order)
    return dataclasses.replace(
        windows,
        values=windows.values[:, :, at],
        indicators=tuple(windows.indicators[i] for i in at),
        seasonal=None if windows.seasonal is None else windows.seasonal[..., at],
    )


def rows(windows: WindowBatch, i: int) -> WindowBatch:
    """Window ``i`` as a batch of one."""
    one = slice(i, i + 1)
    return dataclasses.replace(
        windows,
        values=windows.values[one],
        end_s=windows.end_s[one],
        seasonal=None if windows.seasonal is None else windows.seasonal[one],
    )


def coarsened(windows: WindowBatch, factor: int) -> WindowBatch:
    """Means over ``factor`` rows, counted back from the newest; steps are ``factor`` times as long."""
    count = windows.lookback // factor
    if count < 1:
        raise DataError(
            f"a window of {windows.lookback} rows is too short for a forecast {factor:,} times as long as the model "
            f"was trained for; expected at most {windows.lookback:,} times"
        )

    def blocks(x: FloatArray) -> FloatArray:
        seen = ~np.isnan(x)
        known = seen.sum(axis=2)
        mean: FloatArray = np.where(seen, x, 0.0).sum(axis=2) / np.maximum(known, 1)
        return np.where(known > 0, mean, np.nan)

    b, _, n = windows.values.shape
    values = blocks(windows.values[:, windows.lookback - count * factor :].reshape(b, count, factor, n))
    seasonal = windows.seasonal
    if seasonal is not None:
        s = seasonal.shape[1]
        pad = -seasonal.shape[2] % factor
        padded = np.concatenate([seasonal, np.full((b, s, pad, n), np.nan)], axis=2)
        seasonal = blocks(padded.reshape(b * s, -1, factor, n)).reshape(b, s, -1, n)
    return dataclasses.replace(windows, values=values, step_s=windows.step_s * factor, seasonal=seasonal)
