"""What demand is made of: seasons by the clock, trends, impulses, spike trains, regimes, plateaus, quiet stretches.

Every function is vectorised over rows, takes its own `numpy.random.Generator` and returns (rows,) values.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.signal import lfilter

from forecasting.panel import BoolArray, FloatArray, IntArray
from forecasting.windows import DAY_S

__all__ = [
    "backlog",
    "blocks_lost",
    "counted",
    "day_and_week",
    "impulses",
    "log_uniform",
    "plateaus",
    "regimes",
    "scheduled",
    "smoothed",
    "spells",
]

_HARMONICS = 5


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two positive ones whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(max(high, low)))))


def _profile(rng: np.random.Generator, phase: FloatArray, crest: float) -> FloatArray:
    """(rows,) a smooth shape of one period with spread 1, highest near ``crest`` (a share of the period)."""
    k = np.arange(1, _HARMONICS + 1)
    size = rng.normal(size=_HARMONICS) * k**-1.5
    size[0] = 1.0
    shift = np.where(k == 1, crest, rng.random(_HARMONICS))
    wave = (size * np.cos(2 * np.pi * k * (phase[:, None] - shift))).sum(axis=1)
    return np.asarray(wave / np.sqrt(0.5 * (size**2).sum()))


def day_and_week(rng: np.random.Generator, times_s: FloatArray, *, day: float, week: float) -> FloatArray:
    """(rows,) log level by the clock: a day's shape of spread ``day``, and weekends lower (or higher) by ``week``.

    Most services are busiest in the afternoon; some whose clock is another are busiest anywhere. On weekends the shape
    of the day may be another one, and every day has a level of its own.
    """
    phase = (times_s % DAY_S) / DAY_S
    crest = rng.normal(15.0, 3.0) / 24.0 if rng.random() < 0.7 else rng.random()
    usual = _profile(rng, phase, float(crest))
    sharp = log_uniform(rng, 0.5, 3.0)  # flat nights and short peaks, or the other way round
    usual = np.expm1(sharp * usual / 2.0) / sharp
    number = np.floor(times_s / DAY_S).astype(np.int64)
    weekend = (number + 3) % 7 >= 5  # day 0 of the epoch was a Thursday; 0 is Monday
    shape = usual
    if rng.random() < 0.3:
        shape = np.where(weekend, 0.5 * _profile(rng, phase, float(crest) + 0.1), usual)
    own = rng.normal(0.0, 0.3 * day * rng.random(), size=int(number[-1] - number[0]) + 1)
    spread = max(float(np.std(usual)), 1e-9)
    return np.asarray(day * shape / spread - week * weekend + own[number - number[0]])


def impulses(rng: np.random.Generator, rows: int, *, count: int, height: float, decay_rows: float) -> FloatArray:
    """(rows,) sudden rises at random rows that die away; heights are heavy-tailed, ``height`` in median."""
    kicks = np.zeros(rows)
    np.add.at(kicks, rng.integers(0, rows, size=count), height * (1.0 + rng.pareto(2.5, size=count)) / 1.32)
    return np.asarray(lfilter([1.0], [1.0, -np.exp(-1.0 / max(decay_rows, 1e-3))], kicks))


def scheduled(
    rng: np.random.Generator, times_s: FloatArray, *, period_s: float, width_s: float, step_s: float
) -> FloatArray:
    """(rows,) a spike train by the clock: about 1 for ``width_s`` in every ``period_s``, else 0."""
    shift = float(rng.random()) * period_s
    number = np.floor((times_s + shift) / period_s).astype(np.int64)
    number -= number[0]
    since = (times_s + shift) % period_s
    heights = np.exp(rng.normal(0.0, 0.4 * rng.random(), size=int(number[-1]) + 1))
    missed = rng.random(int(number[-1]) + 1) < 0.2 * rng.random()
    return np.asarray(np.where(since < max(width_s, step_s), (heights * ~missed)[number], 0.0))


def _runs(rng: np.random.Generator, rows: int, mean_rows: float) -> IntArray:
    """(rows,) number of the run that each row belongs to; runs are geometric."""
    change = rng.random(rows) < 1.0 / max(mean_rows, 1.0)
    change[0] = False
    return np.asarray(np.cumsum(change))


def regimes(rng: np.random.Generator, rows: int, *, kinds: int, mean_rows: float) -> FloatArray:
    """(rows,) an Ornstein-Uhlenbeck process whose mean, pull and noise switch between ``kinds`` regimes."""
    run = _runs(rng, rows, mean_rows)
    mean = rng.normal(0.0, 1.0, size=kinds)
    keep = np.exp(-1.0 / np.exp(rng.uniform(0.0, np.log(60.0), size=kinds)))
    noise = np.exp(rng.uniform(np.log(0.02), np.log(0.7), size=kinds))
    kind = rng.integers(0, kinds, size=int(run[-1]) + 1)
    shocks = rng.standard_normal(rows)
    out = np.empty(rows)
    edges = np.flatnonzero(np.diff(run, prepend=-1, append=run[-1] + 1))
    last = mean[kind[0]]
    for number, (start, stop) in enumerate(pairwise(edges)):
        k = kind[number]
        drive = (1 - keep[k]) * mean[k] + noise[k] * np.sqrt(1 - keep[k] ** 2) * shocks[start:stop]
        out[start:stop], _ = lfilter([1.0], [1.0, -keep[k]], drive, zi=[keep[k] * last])
        last = out[stop - 1]
    return out


def plateaus(rng: np.random.Generator, rows: int, *, mean_rows: float, levels: int) -> FloatArray:
    """(rows,) a level that jumps and stays: to one of ``levels`` fixed ones, or with 0 by a step of any size."""
    run = _runs(rng, rows, mean_rows)
    count = int(run[-1]) + 1
    if levels:
        return np.asarray(rng.normal(0.0, 1.0, size=levels)[rng.integers(0, levels, size=count)][run])
    walk = np.cumsum(rng.standard_t(3, size=count) * 0.4)
    pulled = walk - lfilter([0.05], [1.0, -0.95], walk)  # it wanders, but not away
    return np.asarray(pulled[run])


def spells(rng: np.random.Generator, rows: int, *, share: float, mean_rows: float) -> BoolArray:
    """(rows,) whether it is awake: alternating geometric runs with that long-run share of waking."""
    quiet_rows = mean_rows * (1.0 - share) / share
    pairs = int(2 * rows / (mean_rows + quiet_rows)) + 16
    lengths = np.empty(2 * pairs, dtype=np.int64)
    lengths[0::2] = rng.geometric(1.0 / max(mean_rows, 1.0), size=pairs)
    lengths[1::2] = rng.geometric(1.0 / max(quiet_rows, 1.0), size=pairs)
    state = np.repeat(np.tile([True, False], pairs), lengths)
    start = int(rng.integers(0, max(1, min(len(state) - rows, round(mean_rows + quiet_rows)))))
    return np.resize(state[start:], rows)


def counted(rng: np.random.Generator, mean: FloatArray, *, dispersion: float) -> FloatArray:
    """(rows,) counts of that mean: Poisson, or negative binomial with variance mean + dispersion * mean^2."""
    mean = np.minimum(mean, 1e12)
    rate = mean if dispersion <= 0.0 else mean * rng.gamma(1.0 / dispersion, dispersion, size=mean.shape)
    return rng.poisson(rate).astype(np.float64)


def smoothed(values: FloatArray, rows: float) -> FloatArray:
    """(rows,) exponential smoothing with a time constant in rows, begun at the first value; 0 leaves values alone."""
    if rows <= 0.0:
        return values
    keep = float(np.exp(-1.0 / rows))
    out, _ = lfilter([1.0 - keep], [1.0, -keep], values, zi=[keep * values[0]])
    return np.asarray(out)


def backlog(arrivals: FloatArray, served: float) -> FloatArray:
    """(rows,) what waits when ``served`` can be done a row: Lindley's recursion, as a running minimum."""
    level = np.cumsum(arrivals - served)
    return np.asarray(level - np.minimum(np.minimum.accumulate(level), 0.0))


def blocks_lost(rng: np.random.Generator, rows: int, *, share: float, mean_rows: float) -> BoolArray:
    """(rows,) True where a reading is absent: blocks of geometric lengths that take about ``share`` of the rows."""
    lost = np.zeros(rows + 1)
    count = int(rng.poisson(share * rows / max(mean_rows, 1.0)))
    begin = rng.integers(0, rows, size=count)
    end = np.minimum(begin + rng.geometric(1.0 / max(mean_rows, 1.0), size=count), rows)
    np.add.at(lost, begin, 1.0)
    np.add.at(lost, end, -1.0)
    return np.asarray(np.cumsum(lost)[:rows] > 0.5)
