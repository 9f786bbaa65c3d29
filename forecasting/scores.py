"""Scores of probabilistic forecasts given as sample paths: CRPS, energy score, pinball, errors, coverage, PIT.

Plain array functions: ``paths`` are (windows, samples, horizon, indicators), ``observed`` (windows, horizon,
indicators). A score is NaN where the observation or a path is absent; nothing is filled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError
from forecasting.panel import FloatArray

__all__ = [
    "above",
    "coverage",
    "crps",
    "energy_score",
    "mean_absolute_error",
    "mean_squared_error",
    "pinball",
    "pit",
    "randomised_coverage",
]

# Elements that one step of a blockwise score may hold (8 MiB of float64, which stays near the cache).
BLOCK = 1_048_576
# Relative: interpolating between equal samples may be off by a rounding step.
ROUNDING = 1e-12


def crps(paths: FloatArray, observed: FloatArray) -> FloatArray:
    """(windows, horizon, indicators) continuous ranked probability score of the sample distribution, in data units.

    Exact for the empirical distribution of the samples: the mean absolute error less half the mean absolute
    difference over all M^2 pairs (Gneiting and Raftery 2007, eq. 21).
    """
    import scoringrules  # here and below: it compiles for seconds when it is imported

    _check(paths, observed)
    out = np.full(observed.shape, np.nan)
    for s in _blocks(paths):
        score = scoringrules.crps_ensemble(observed[s], paths[s], m_axis=1)
        out[s] = np.where(_absent(paths[s]) | np.isnan(observed[s]), np.nan, score)
    return out


def energy_score(paths: FloatArray, observed: FloatArray) -> FloatArray:
    """(windows,) energy score of whole paths over all steps and indicators at once: the CRPS of joint forecasts.

    Components that are absent (in the outcome or in a path) are left out of a window's norm; NaN where all are.
    Costs O(samples^2); put indicators on one scale first (Gneiting and Raftery 2007, eq. 22).
    """
    import scoringrules

    _check(paths, observed)
    windows, samples = paths.shape[:2]
    flat = paths.reshape(windows, samples, -1)
    outcome = observed.reshape(windows, -1)
    absent = np.isnan(flat).any(axis=1) | np.isnan(outcome)
    flat = np.where(absent[:, None], 0.0, flat)
    outcome = np.where(absent, 0.0, outcome)
    out = np.full(windows, np.nan)
    size = max(1, BLOCK // max(1, samples * samples * flat.shape[2]))
    for lo in range(0, windows, size):
        s = slice(lo, lo + size)
        out[s] = scoringrules.es_ensemble(outcome[s], flat[s], m_axis=1, v_axis=2)
    out[absent.all(axis=1)] = np.nan
    return out


def pinball(paths: FloatArray, observed: FloatArray, levels: npt.ArrayLike) -> FloatArray:
    """(levels, windows, horizon, indicators) quantile (pinball) loss of the paths' sample quantiles."""
    import scoringrules

    _check(paths, observed)
    taus = _levels(levels)
    out = np.full((len(taus), *observed.shape), np.nan)
    for s in _blocks(paths):
        quantiles = np.quantile(paths[s], taus, axis=1)
        out[:, s] = scoringrules.quantile_score(observed[s][None], quantiles, taus[:, None, None, None])
    return out


def mean_squared_error(paths: FloatArray, observed: FloatArray) -> FloatArray:
    """(windows, horizon, indicators) squared error of the paths' mean, in squared data units."""
    _check(paths, observed)
    out: FloatArray = (paths.mean(axis=1) - observed) ** 2
    return out


def mean_absolute_error(paths: FloatArray, observed: FloatArray) -> FloatArray:
    """(windows, horizon, indicators) absolute error of the paths' median, the point that it is least for."""
    _check(paths, observed)
    out = np.full(observed.shape, np.nan)
    for s in _blocks(paths):
        out[s] = np.abs(np.median(paths[s], axis=1) - observed[s])
    return out


def above(paths: FloatArray, observed: FloatArray, levels: npt.ArrayLike) -> FloatArray:
    """(levels, windows, horizon, indicators) 1 where the outcome lies above the sample quantile of that level.

    Averaged it is 1 - level where the forecast is right. An outcome equal to the quantile is not above it.
    """
    _check(paths, observed)
    taus = _levels(levels)
    out = np.full((len(taus), *observed.shape), np.nan)
    for s in _blocks(paths):
        at = np.quantile(paths[s], taus, axis=1)
        out[:, s] = np.where(np.isnan(at) | np.isnan(observed[s]), np.nan, observed[s] > at + ROUNDING * np.abs(at))
    return out


def coverage(paths: FloatArray, observed: FloatArray, levels: npt.ArrayLike) -> FloatArray:
    """(levels, windows, horizon, indicators) 1 where the central interval of that probability holds the outcome.

    Averaged it is the coverage, to be compared with the level. Interval ends belong to the interval, so a constant
    that is forecast exactly is covered.
    """
    _check(paths, observed)
    probs = _probabilities(levels)
    tails = np.concatenate([(1 - probs) / 2, (1 + probs) / 2])
    out = np.full((len(probs), *observed.shape), np.nan)
    for s in _blocks(paths):
        low, high = np.split(np.quantile(paths[s], tails, axis=1), 2)
        slack = ROUNDING * np.maximum(np.abs(low), np.abs(high))
        inside = (observed[s] >= low - slack) & (observed[s] <= high + slack)
        out[:, s] = np.where(np.isnan(low) | np.isnan(observed[s]), np.nan, inside)
    return out


def randomised_coverage(paths: FloatArray, observed: FloatArray, levels: npt.ArrayLike) -> FloatArray:
    """(levels, windows, horizon, indicators) the part of the outcome's levels inside the central level of probability.

    An outcome between two samples has one level, the share of samples below it. One on a plateau of the forecast has
    all levels from the share of samples below to that of samples up to it, and counts by the part of these that lies
    between (1 - p) / 2 and (1 + p) / 2: what a level drawn evenly from them would give in the mean. Averaged it is p
    where the forecast is right, with plateaus or without, which `coverage` is not: there an interval holds the whole
    of a plateau that it ends on. The randomised probability integral transform (Brockwell 2007; Czado, Gneiting and
    Held 2009).
    """
    _check(paths, observed)
    probs = _probabilities(levels)
    out = np.full((len(probs), *observed.shape), np.nan)
    for s in _blocks(paths):
        y = observed[s][:, None]
        slack = ROUNDING * np.abs(y)
        below, upto = (paths[s] < y - slack).mean(axis=1), (paths[s] <= y + slack).mean(axis=1)
        wide = upto - below
        gone = _absent(paths[s]) | np.isnan(observed[s])
        for k, p in enumerate(probs):
            first, last = (1 - p) / 2, (1 + p) / 2
            part = (np.clip(upto, first, last) - np.clip(below, first, last)) / np.where(wide > 0, wide, 1.0)
            inside = np.where(wide > 0, part, (below >= first) & (below <= last))
            out[k, s] = np.where(gone, np.nan, inside)
    return out


def pit(paths: FloatArray, observed: FloatArray, rng: np.random.Generator | None = None) -> FloatArray:
    """(windows, horizon, indicators) probability integral transform: the share of samples below the outcome.

    Samples equal to the outcome count half, or a random share each when a generator is given, which makes the PIT of
    a right forecast uniform even where the distribution has atoms (Czado, Gneiting and Held 2009).
    """
    _check(paths, observed)
    share = 0.5 if rng is None else rng.random(observed.shape)
    below = np.full(observed.shape, np.nan)
    equal = np.full(observed.shape, np.nan)
    for s in _blocks(paths):
        gone = _absent(paths[s]) | np.isnan(observed[s])
        below[s] = np.where(gone, np.nan, (paths[s] < observed[s][:, None]).mean(axis=1))
        equal[s] = np.where(gone, np.nan, (paths[s] == observed[s][:, None]).mean(axis=1))
    out: FloatArray = below + share * equal
    return out


def _check(paths: FloatArray, observed: FloatArray) -> None:
    expected = (paths.shape[0], *paths.shape[2:]) if paths.ndim == 4 else None
    if expected is None or observed.shape != expected or paths.shape[1] == 0:
        raise DataError(
            f"paths {paths.shape} and outcomes {observed.shape} do not belong together: expected (windows, samples >= "
            "1, horizon, indicators) and (windows, horizon, indicators)"
        )


def _levels(levels: npt.ArrayLike) -> FloatArray:
    """(levels,) quantile levels; `DataError` unless all lie between 0 and 1."""
    taus = np.atleast_1d(np.asarray(levels, dtype=np.float64))
    if taus.size == 0 or not bool(((taus > 0) & (taus < 1)).all()):
        raise DataError(f"quantile levels must lie between 0 and 1, got {levels!r}")
    return taus


def _probabilities(levels: npt.ArrayLike) -> FloatArray:
    """(levels,) of central intervals; `DataError` unless all lie between 0 and 1."""
    probs = np.atleast_1d(np.asarray(levels, dtype=np.float64))
    if probs.size == 0 or not bool(((probs > 0) & (probs < 1)).all()):
        raise DataError(f"interval probabilities must lie between 0 and 1, got {levels!r}")
    return probs


def _absent(paths: FloatArray) -> npt.NDArray[np.bool_]:
    """(windows, horizon, indicators) True where any sample is absent."""
    return np.asarray(np.isnan(paths).any(axis=1))


def _blocks(paths: FloatArray) -> list[slice]:
    """Slices over windows that keep temporary copies of the paths small."""
    size = max(1, BLOCK // max(1, int(np.prod(paths.shape[1:]))))
    return [slice(lo, lo + size) for lo in range(0, len(paths), size)]
