"""Upper tails: what 200 sample paths or a few thousand residuals cannot count, from a fitted excess distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from forecasting.panel import FloatArray

__all__ = ["SHARE", "TailKind", "UpperTail", "quantiles"]

TailKind = Literal["empirical", "exponential", "pareto"]

SHARE = 0.05  # the part of the values that the tail is fitted to
LEAST = 10  # values that a tail needs; with fewer there is none, only what was counted
SHAPE_MAX = 0.3  # heavier shapes than this have no finite third moment, and are noise at these counts
SHRINK = 20.0  # values that the prior "exponential" (shape 0) weighs as much as


@dataclass(frozen=True, slots=True)
class UpperTail:
    """Survival function above a threshold: P(x > v) = `share` (1 + `shape` (v - `start`) / `scale`)^(-1 / `shape`).

    A generalised Pareto distribution of the excess (Pickands 1975); shape 0 is the exponential one. Its survival
    function is convex, so what one more replica buys shrinks with every replica. `share` is the part of all values
    above `start`; a `scale` of 0 says that there are none.
    """

    start: float
    share: float
    scale: float
    shape: float = 0.0

    @classmethod
    def fit(cls, ordered: FloatArray, kind: TailKind = "pareto", share: float = SHARE) -> UpperTail:
        """The tail of ascending values (n,), n >= 1, above their quantile 1 - ``share``.

        Shape and scale come from probability-weighted moments (Hosking and Wallis 1987, eq. 8), the shape drawn
        towards 0 by as much evidence as `SHRINK` values hold and kept within +-`SHAPE_MAX`.
        """
        n = ordered.size
        start = float(ordered[n - min(n, max(LEAST, int(share * n)))])
        excess = ordered[np.searchsorted(ordered, start, side="right") :] - start
        k = excess.size
        mean = float(excess.mean()) if k else 0.0
        if kind == "exponential" or not mean > 0.0:
            return cls(start, k / n, mean)
        # the mean of excess times the share of excesses above it, by plotting positions
        weighted = float((excess * (1.0 - (np.arange(k) + 0.65) / k)).mean())
        raw = 2.0 - mean / (mean - 2.0 * weighted) if mean > 2.0 * weighted else 0.0
        shape = float(np.clip(raw * k / (k + SHRINK), -SHAPE_MAX, SHAPE_MAX))
        return cls(start, k / n, mean * (1.0 - shape), shape)

    def survival(self, values: FloatArray) -> FloatArray:
        """P(x > value) for values at or above `start` (elsewhere: `share`, an answer too small)."""
        beyond = np.maximum(np.asarray(values, dtype=np.float64) - self.start, 0.0)
        if self.scale <= 0.0:
            return np.zeros_like(beyond)
        z = beyond / self.scale
        if self.shape == 0.0:
            return np.asarray(self.share * np.exp(-z))
        base = np.maximum(1.0 + self.shape * z, 0.0)
        with np.errstate(divide="ignore", over="ignore"):
            return np.asarray(self.share * base ** (-1.0 / self.shape))

    def value_at(self, survival: FloatArray) -> FloatArray:
        """The value exceeded with each of these probabilities, all in 0 < p <= `share`."""
        log_ratio = np.log(self.share / np.asarray(survival, dtype=np.float64))
        if self.shape == 0.0:
            return np.asarray(self.start + self.scale * log_ratio)
        return np.asarray(self.start + self.scale * np.expm1(self.shape * log_ratio) / self.shape)


def quantiles(ordered: FloatArray, levels: FloatArray, kind: TailKind = "pareto") -> FloatArray:
    """Quantiles of ascending values (n,) at ``levels`` in 0 < level < 1: counted below the tail, fitted in it."""
    counted = np.quantile(ordered, levels)
    if kind == "empirical" or ordered.size < LEAST:
        return np.asarray(counted)
    tail = UpperTail.fit(ordered, kind)
    far = 1.0 - levels
    inside = far < tail.share
    out = np.array(counted)
    out[inside] = tail.value_at(far[inside])
    return out
