"""Paths of methods that state quantiles of each step by itself."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from forecasting.baselines.common import Draws
from forecasting.panel import FloatArray

__all__ = ["paths_of"]


def paths_of(quantiles: FloatArray, known: FloatArray, draws: Draws, *, fitted: tuple[int, int]) -> FloatArray:
    """(batch, samples, horizon, columns) paths of rising quantiles (batch, horizon, columns, known).

    ``known`` (levels,) are the quantiles' levels, symmetric about the median. Steps and columns are drawn by
    themselves, from equal strata; ``fitted``, how many indicators and steps the method was fitted for, keeps a draw the
    same whichever of these are asked for.
    """
    indicators, steps = fitted
    strata = np.tile(np.arange(draws.samples), (indicators * steps, 1))
    place = draws.rng.permuted(strata, axis=1).reshape(indicators, steps, draws.samples)
    out = np.empty((len(quantiles), draws.samples, draws.horizon, len(draws.columns)))
    for i, k in enumerate(draws.columns):
        drawn = (place[k, : draws.horizon] + 0.5) / draws.samples
        for step in range(draws.horizon):
            out[:, :, step, i] = _at(quantiles[:, step, i], known, drawn[step])
    return out


def _at(quantiles: FloatArray, known: FloatArray, levels: FloatArray) -> FloatArray:
    """(batch, levels) quantiles (batch, known) read at other levels: linear between the known, Gaussian beyond."""
    inner = np.clip(levels, known[0], known[-1])
    place = np.interp(inner, known, np.arange(len(known)))
    low = np.minimum(place.astype(np.int64), len(known) - 2)
    part = place - low
    out = quantiles[:, low] * (1 - part) + quantiles[:, low + 1] * part
    middle = len(known) // 2
    for edge, beyond in ((0, levels < known[0]), (-1, levels > known[-1])):
        stretch = (ndtri(levels[beyond]) - ndtri(known[edge])) / ndtri(known[edge])
        half = quantiles[:, edge] - quantiles[:, middle]
        out[:, beyond] += half[:, None] * stretch
    return out
