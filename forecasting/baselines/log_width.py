"""`LogWidth`: how far a forecast will miss, as a log-linear function of what the window looks like."""

from __future__ import annotations

import numpy as np

from forecasting.panel import FloatArray

__all__ = ["LogWidth", "width_terms"]

SPANS = (6, 24, 72)  # rows, and the whole window
PENALTY = 0.1
STEPS = 12
SETTLED = 1e-5  # a step that changes widths by no more is the last
STRIDE = 0.7  # the most that a coefficient changes in a step
OUTLIER = 5.0  # widths: a miss beyond counts as that
LEAST = 1e-3  # of the mean miss: less than that counts as that
CLIP = 4.0  # standard deviations
FARTHEST = (-4.0, 3.0)  # from the typical width, in logarithms


def width_terms(values: FloatArray, floor: float) -> FloatArray:
    """(batch, terms) logarithms of the spread and the roughness of (batch, rows) windows over several spans."""
    terms = []
    squares = np.diff(values, axis=1) ** 2
    for span in sorted({min(s, values.shape[1]) for s in (*SPANS, values.shape[1])}):
        part = values[:, -span:]
        rough = np.sqrt(squares[:, 1 - span :].mean(axis=1)) if span > 1 else np.zeros(len(part))
        terms += [part.std(axis=1), rough]
    terms.append(np.abs(values[:, -1] - values[:, max(-2, -values.shape[1])]))
    out: FloatArray = np.log(np.maximum(np.stack(terms, axis=1), floor))
    return out


class LogWidth:
    """Widths exp(terms @ coefficients), one for each step: those of the highest Laplace likelihood, penalised.

    Found by Fisher scoring, of which every step is one product with a matrix that stays the same.

    Args:
        terms: (rows, terms) of training windows.
        misses: (rows, horizon) what they were missed by.
    """

    def __init__(self, terms: FloatArray, misses: FloatArray) -> None:
        self._middle, self._spread = terms.mean(axis=0), terms.std(axis=0) + 1e-9
        own = self._own(terms)
        mean = np.maximum(np.abs(misses).mean(axis=0), 1e-300)
        size = np.maximum(np.abs(misses) / mean, LEAST)
        penalty = np.full((own.shape[1], 1), PENALTY)
        penalty[0] = 1e-9
        scoring = np.linalg.inv(own.T @ own / len(own) + np.diag(penalty[:, 0]))
        found = np.zeros((own.shape[1], misses.shape[1]))
        for _ in range(STEPS):
            off = own @ found
            np.clip(off, *FARTHEST, out=off)
            np.exp(np.negative(off, out=off), out=off)
            off *= size
            np.subtract(1, np.minimum(off, OUTLIER, out=off), out=off)
            step = np.clip(scoring @ (own.T @ off / len(own) + penalty * found), -STRIDE, STRIDE)
            found -= step
            if np.abs(step).max() < SETTLED:
                break
        self._typical: FloatArray = np.log(mean)
        self._coefficients: FloatArray = found

    def _own(self, terms: FloatArray) -> FloatArray:
        inside = np.clip((terms - self._middle) / self._spread, -CLIP, CLIP)
        return np.concatenate([np.ones((len(terms), 1)), inside], axis=1)

    def of(self, terms: FloatArray) -> FloatArray:
        """(batch, horizon) widths."""
        away = np.clip(self._own(terms) @ self._coefficients, *FARTHEST)
        out: FloatArray = np.exp(self._typical + away)
        return out
