"""What trees see of a window: recent changes, means of older stretches, its shape, the hour of day."""

from __future__ import annotations

import numpy as np

from forecasting.baselines.common import fill_forward, local_spread
from forecasting.panel import FloatArray
from forecasting.windows import DAY_S, WindowBatch

__all__ = ["window_terms"]

SINGLE_LAGS = 24
LAG_BLOCK = 6


def window_terms(
    windows: WindowBatch, column: int, lookback: int, floor: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Last value (batch,), spread (batch,) of at least ``floor``, and terms (batch, terms) of one indicator.

    Changes are relative to the last value, in spreads; an indicator without any reading in a window has NaN.
    """
    raw = windows.values[:, :, column : column + 1]
    values = fill_forward(raw)[:, :, 0]
    spread = local_spread(raw)[:, 0]
    scale = np.maximum(spread, floor)
    last = values[:, -1]
    away = (values - last[:, None]) / scale[:, None]
    single = min(lookback - 1, SINGLE_LAGS)
    blocks = (lookback - 1 - single) // LAG_BLOCK
    stop = lookback - 1 - single
    older = away[:, stop - blocks * LAG_BLOCK : stop].reshape(len(last), blocks, LAG_BLOCK).mean(axis=2)
    shape = [
        away.min(axis=1),
        away.max(axis=1),
        away.mean(axis=1),
        np.median(away, axis=1),
        np.log(np.maximum(spread / floor, 1e-3)),
        np.modf(windows.end_s / DAY_S)[0],
    ]
    return last, scale, np.concatenate([away[:, stop:-1], older, np.stack(shape, axis=1)], axis=1)
