"""Ridge regression from second moments: one pass over the data, then any number of penalties and folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from forecasting.panel import FloatArray

__all__ = ["Moments", "solve"]

FEW = 5  # penalties


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows of products of terms and targets; they add up over folds and newer data.

    Attributes:
        terms: (1 or targets, terms, terms) sums of term products; one for all targets, or one each when rows lack
            some of the targets. Term 0 is the constant 1.
        cross: (terms, targets) sums of term times target.
    """

    terms: FloatArray
    cross: FloatArray

    @classmethod
    def zero(cls, terms: int, targets: int) -> Self:
        """Moments of no rows."""
        return cls(np.zeros((1, terms, terms)), np.zeros((terms, targets)))

    @classmethod
    def of(cls, design: FloatArray, targets: FloatArray) -> Self:
        """Moments of (rows, terms) and (rows, targets); an absent target (NaN) leaves its row out for that target."""
        seen = ~np.isnan(targets)
        whole = seen.all(axis=1)
        if (whole | ~seen.any(axis=1)).all():
            x, y = design[whole], targets[whole]
            return cls((x.T @ x)[None], x.T @ y)
        terms = np.stack([design[s].T @ design[s] for s in seen.T])
        return cls(terms, design.T @ np.where(seen, targets, 0.0))

    def __add__(self, other: Moments) -> Moments:
        """Moments of the rows of both."""
        return Moments(self.terms + other.terms, self.cross + other.cross)

    def __sub__(self, other: Moments) -> Moments:
        """Moments without the rows of ``other``."""
        return Moments(self.terms - other.terms, self.cross - other.cross)

    def first(self, terms: int) -> Moments:
        """Moments of the first ``terms`` terms alone."""
        return Moments(self.terms[:, :terms, :terms].copy(), self.cross[:terms].copy())


def solve(moments: Moments, penalties: FloatArray) -> FloatArray:
    """(penalties, terms, targets) ridge coefficients; the constant is free, other terms are standardised first.

    A penalty is relative to the number of rows: it adds to the diagonal of the terms' correlation matrix. Terms that
    never varied, and targets without rows, get coefficients of 0.
    """
    rows = np.maximum(moments.terms[:, 0, 0], 1.0)
    groups, targets = len(rows), moments.cross.shape[1]
    mean = moments.terms[:, 0, 1:] / rows[:, None]
    second = moments.terms[:, 1:, 1:] / rows[:, None, None]
    covariance = second - mean[:, :, None] * mean[:, None, :]
    variance = np.einsum("gpp->gp", covariance)
    varied = variance > 1e-12 * np.einsum("gpp->gp", second)
    sd = np.sqrt(np.where(varied, variance, 1.0))
    keep = varied / sd
    correlation = covariance * keep[:, :, None] * keep[:, None, :]
    # (groups, terms, targets a group): all targets share one group, or each has its own.
    cross = np.moveaxis(moments.cross.reshape(-1, groups, targets // groups), 1, 0) / rows[:, None, None]
    level = cross[:, :1]
    joint = (cross[:, 1:] - mean[:, :, None] * level) * keep[:, :, None]
    slopes = _penalised(correlation, joint, penalties) * keep[:, :, None]
    constant = level - (mean[:, :, None] * slopes).sum(axis=2, keepdims=True)
    both = np.concatenate([constant, slopes], axis=2)
    out: FloatArray = np.moveaxis(both, 1, 2).reshape(len(penalties), -1, targets)
    return out


def _penalised(correlation: FloatArray, joint: FloatArray, penalties: FloatArray) -> FloatArray:
    """(penalties, groups, terms, targets) solutions: a factorisation each for few penalties, a shared one for many."""
    if len(penalties) <= FEW:
        loaded = correlation + penalties[:, None, None, None] * np.eye(correlation.shape[1])
        each: FloatArray = np.linalg.solve(loaded, joint[None]).astype(np.float64, copy=False)
        return each
    values, vectors = np.linalg.eigh(correlation)
    turned = np.swapaxes(vectors, 1, 2) @ joint
    weights = np.maximum(values, 0.0)[None, :, :, None] + penalties[:, None, None, None]
    many: FloatArray = vectors @ (turned / weights)
    return many
