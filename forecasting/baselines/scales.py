"""`LocalScale`: how wide a window's forecast should be, by a rule chosen from training residuals."""

from __future__ import annotations

import numpy as np

from forecasting.baselines.common import fill_forward, local_spread, spread_floor
from forecasting.panel import FloatArray

__all__ = ["LocalScale", "roughness"]

# Powers of (standard deviation of the window, root mean square of its steps): one width for all windows, the level's
# spread (for noise around a level), the steps' size (for a walk), and between.
RULES: FloatArray = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])


def roughness(values: FloatArray) -> FloatArray:
    """(batch, indicators) root mean square of the changes from row to row; 0 where fewer than two rows were seen."""
    if values.shape[1] < 2:
        return np.zeros((values.shape[0], values.shape[2]))
    out = np.empty((values.shape[0], values.shape[2]))
    for k in range(values.shape[2]):  # one after the other each is at hand in full
        steps = np.nan_to_num(np.diff(fill_forward(values[:, :, k : k + 1])[:, :, 0], axis=1))
        out[:, k] = np.sqrt(np.einsum("bt,bt->b", steps, steps) / steps.shape[1])
    return out


class LocalScale:
    """The width of each window by a product of powers of its spread and its roughness, one rule for each indicator.

    Args:
        spreads: (rows, 2, indicators) spread and roughness of training windows, see `measure`.
        residuals: (rows, horizon, indicators) training residuals of those windows; NaN is absent.
        floor: least spread or roughness, as a share of its root mean square over the rows.
        fixed: the number of the rule in `RULES` instead of the one that fits best.

    A rule fits best when its widths, times one constant, give the residuals the highest Laplace likelihood.
    """

    def __init__(self, spreads: FloatArray, residuals: FloatArray, *, floor: float, fixed: int | None = None) -> None:
        self.floors = np.stack([spread_floor(spreads[:, i], floor) for i in range(2)])
        logs = np.log(np.maximum(spreads, self.floors))
        seen = ~np.isnan(residuals)
        size, count = np.where(seen, np.abs(residuals), 0.0).sum(axis=1), np.maximum(seen.sum(axis=(0, 1)), 1)
        loss = np.empty((len(RULES), residuals.shape[2]))
        for i, powers in enumerate(RULES):
            widths = np.einsum("p,bpk->bk", powers, logs)
            mean = (size * np.exp(-widths)).sum(axis=0) / count
            loss[i] = widths.mean(axis=0) + np.log(np.maximum(mean, 1e-300))
        best = np.argmin(np.nan_to_num(loss, nan=np.inf), axis=0) if fixed is None else np.full(loss.shape[1], fixed)
        self.powers: FloatArray = RULES[best]

    @staticmethod
    def measure(values: FloatArray) -> FloatArray:
        """(batch, 2, indicators) spread and roughness of (batch, time, indicators) windows."""
        return np.stack([local_spread(values), roughness(values)], axis=1)

    def of(self, values: FloatArray, columns: list[int]) -> FloatArray:
        """(batch, len(columns)) widths of (batch, time, len(columns)) windows."""
        return self.of_spreads(self.measure(values), columns)

    def of_spreads(self, spreads: FloatArray, columns: list[int] | None = None) -> FloatArray:
        """(batch, columns) widths from (batch, 2, columns) measures; all columns by default."""
        which = slice(None) if columns is None else columns
        logs = np.log(np.maximum(spreads, self.floors[:, which]))
        out: FloatArray = np.exp(np.einsum("kp,bpk->bk", self.powers[which], logs))
        return out
