"""Building blocks of synthetic demand: day and week shape, slow noise, bursts, regimes, holes.

Every function is vectorised, takes its own `numpy.random.Generator` and returns one value per row, so that a change
to one component leaves the random draws of the others alone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from forecasting.panel import FloatArray
from forecasting.windows import DAY_S, WEEK_S

__all__ = [
    "ar_noise",
    "burst_lift",
    "cycle",
    "day_shape",
    "holes",
    "low_pass",
    "on_off",
    "pulses",
    "regime_levels",
    "round_significant",
    "weekly_levels",
]

_HOUR_S = 3600.0
_MINUTES: FloatArray = (np.arange(1440, dtype=np.float64) + 0.5) / 60.0  # hours of day, one a minute


@lru_cache(maxsize=256)
def _harmonic_strength(half_range: float, second: float) -> float:
    """Strength s for which exp(s * harmonics) has the given (max - min) / 2 / mean over its 24 hourly means."""
    wave = _harmonics(_MINUTES, 15.5, second)

    def reached(strength: float) -> float:
        hourly = np.exp(strength * wave).reshape(24, 60).mean(axis=1)
        return float((hourly.max() - hourly.min()) / 2.0 / hourly.mean())

    low, high = 0.0, 8.0
    for _ in range(48):
        middle = (low + high) / 2.0
        low, high = (middle, high) if reached(middle) < half_range else (low, middle)
    return (low + high) / 2.0


def _harmonics(hours: FloatArray, peak_hour: float, second: float) -> FloatArray:
    """A 24 h wave with its crest at ``peak_hour`` and a 12 h wave that adds a late morning and an evening shoulder."""
    first = np.cos(2.0 * np.pi * (hours - peak_hour) / 24.0)
    return np.asarray(first + second * np.cos(4.0 * np.pi * (hours - peak_hour + 5.5) / 24.0))


def day_shape(times_s: FloatArray, *, half_range: float, peak_hour: float = 15.5, second: float = 0.3) -> FloatArray:
    """(times,) daily profile with mean 1; ``half_range`` is (max - min) / 2 / mean of its hourly means."""
    if half_range <= 0:
        return np.ones_like(times_s)
    strength = _harmonic_strength(round(half_range, 6), round(second, 6))
    grid = np.exp(strength * _harmonics(_MINUTES, peak_hour, second))
    hours = (times_s % DAY_S) / _HOUR_S
    return np.asarray(np.exp(strength * _harmonics(hours, peak_hour, second)) / grid.mean())


def cycle(times_s: FloatArray, *, period_s: float, half_range: float, phase: float, sharpness: float) -> FloatArray:
    """(times,) a cycle of any period with mean near 1, from a sine (sharpness 1) to a spike train (sharpness 20)."""
    angle = 2.0 * np.pi * (times_s / period_s + phase)
    crest = np.exp(sharpness * (np.cos(angle) - 1.0))
    mean = float(np.exp(sharpness * (np.cos(np.linspace(0.0, 2.0 * np.pi, 720, endpoint=False)) - 1.0)).mean())
    return np.asarray(np.maximum(1.0 + half_range * (crest / mean - 1.0), 0.0))


def weekly_levels(
    rng: np.random.Generator, times_s: FloatArray, *, weekday_over_weekend: float, day_cv: float
) -> FloatArray:
    """(times,) level of each day: Saturday and Sunday lower, every day its own; passes over four hours at midnight."""
    first = int(times_s[0] // DAY_S) - 1
    count = int(times_s[-1] // DAY_S) - first + 2
    days = first + np.arange(count)
    weekday = (days + 3) % 7  # day 0 of the Unix epoch was a Thursday; 0 = Monday
    mean = (5.0 * weekday_over_weekend + 2.0) / 7.0
    level = np.where(weekday < 5, weekday_over_weekend, 1.0) / mean
    level = level * np.exp(rng.normal(-(day_cv**2) / 2.0, day_cv, size=count))
    knots = (days[:, None] * DAY_S + np.array([2.0, 22.0]) * _HOUR_S).ravel()
    return np.asarray(np.interp(times_s, knots, np.repeat(level, 2)))


def ar_noise(rng: np.random.Generator, rows: int, *, cv: float, scale_s: float, step_s: float) -> FloatArray:
    """(rows,) positive noise with mean 1: the exponential of a stationary AR(1) with correlation time ``scale_s``."""
    if cv <= 0:
        return np.ones(rows)
    sigma = float(np.sqrt(np.log1p(cv**2)))
    keep = float(np.exp(-step_s / scale_s))
    shocks = rng.normal(0.0, sigma * np.sqrt(1.0 - keep**2), size=rows)
    shocks[0] = rng.normal(0.0, sigma)
    return np.asarray(np.exp(lfilter([1.0], [1.0, -keep], shocks) - sigma**2 / 2.0))


def low_pass(series: FloatArray, *, scale_s: float, step_s: float) -> FloatArray:
    """(rows,) exponential smoothing with the given time constant, started at the first value."""
    keep = float(np.exp(-step_s / scale_s)) if scale_s > 0 else 0.0
    smooth, _ = lfilter([1.0 - keep], [1.0, -keep], series, zi=[keep * series[0]])
    return np.asarray(smooth)


def pulses(edges_s: FloatArray, start_s: FloatArray, stop_s: FloatArray, height: FloatArray) -> FloatArray:
    """(len(edges) - 1,) mean over each step of the sum of rectangular pulses, exactly, however short they are."""
    at = np.concatenate([start_s, stop_s])
    change = np.concatenate([height, -height])
    order = np.argsort(at, kind="stable")
    at, change = at[order] - edges_s[0], change[order]
    level = np.concatenate([[0.0], np.cumsum(change)])
    moment = np.concatenate([[0.0], np.cumsum(change * at)])
    edges = edges_s - edges_s[0]
    seen = np.searchsorted(at, edges, side="right")
    mean = np.diff(level[seen] * edges - moment[seen]) / np.diff(edges)
    tiny = 1e-9 * float(np.abs(height).sum() + 1.0)
    return np.where(mean > tiny, mean, 0.0)


def burst_lift(
    rng: np.random.Generator,
    edges_s: FloatArray,
    *,
    per_day: float,
    height_median: float,
    tail_index: float,
    mean_s: float,
    cap: float,
) -> FloatArray:
    """(rows,) relative lift by bursts, 0 = none: Poisson arrivals, Pareto heights, exponential durations.

    ``height_median`` is the median of peak over baseline; each burst falls off in three stairs.
    """
    span = float(edges_s[-1] - edges_s[0])
    count = int(rng.poisson(per_day * span / DAY_S))
    begin = edges_s[0] + rng.uniform(0.0, span, size=count)
    smallest = max(height_median - 1.0, 0.0) / 2.0 ** (1.0 / tail_index)
    lift = np.minimum(smallest * (1.0 + rng.pareto(tail_index, size=count)), max(cap - 1.0, 0.0))
    lasts = rng.exponential(mean_s, size=count)
    if count == 0:
        return np.zeros(len(edges_s) - 1)
    stairs = [(0.5, 0.6), (0.3, 1.2), (0.2, 2.0)]  # (share of the height, duration over the mean one)
    return np.asarray(sum(pulses(edges_s, begin, begin + lasts * longer, lift * share) for share, longer in stairs))


def regime_levels(
    rng: np.random.Generator, times_s: FloatArray, *, per_week: float, sigma: float, ramp_s: float = 900.0
) -> FloatArray:
    """(times,) level that jumps at Poisson times to a new lognormal value around 1 and ramps there in 15 minutes."""
    span = float(times_s[-1] - times_s[0])
    count = int(rng.poisson(per_week * span / WEEK_S))
    level = np.exp(rng.normal(0.0, sigma, size=count + 1))
    level[0] = 1.0
    if count == 0:
        return np.ones_like(times_s)
    jumps = np.sort(times_s[0] + rng.uniform(0.0, span, size=count))
    which = np.searchsorted(jumps, times_s, side="right")
    since = np.where(which > 0, times_s - jumps[np.maximum(which - 1, 0)], np.inf)
    before = level[np.maximum(which - 1, 0)]
    done = np.clip(since / ramp_s, 0.0, 1.0)
    return np.asarray(before + (level[which] - before) * done)


def on_off(rng: np.random.Generator, rows: int, *, share: float, mean_on_rows: float) -> FloatArray:
    """(rows,) 1 while on, 0 while off: alternating geometric runs with the given long-run share of on."""
    if share >= 1:
        return np.ones(rows)
    mean_off = mean_on_rows * (1.0 - share) / share
    pairs = int(rows / (mean_on_rows + mean_off) * 2) + 16
    runs = np.empty(2 * pairs, dtype=np.int64)
    first_on = bool(rng.random() < share)
    on, off = (rng.geometric(min(1.0, 1.0 / max(m, 1.0)), size=pairs) for m in (mean_on_rows, mean_off))
    runs[0::2], runs[1::2] = (on, off) if first_on else (off, on)
    state = np.repeat(np.tile([float(first_on), float(not first_on)], pairs), runs)
    return np.asarray(np.resize(state, rows))


def holes(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    step_s: float,
    share: float,
    outages_per_week: float,
    outage_mean_s: float,
) -> npt.NDArray[np.bool_]:
    """(rows, indicators) True where absent: single lost readings, and outages that take whole rows."""
    rows = shape[0]
    lost = rng.random(shape) < share
    count = int(rng.poisson(outages_per_week * rows * step_s / WEEK_S))
    begin = rng.integers(0, rows, size=count)
    lasts = np.maximum(1, np.round(rng.exponential(outage_mean_s, size=count) / step_s).astype(np.int64))
    for lo, length in zip(begin, lasts, strict=True):
        lost[lo : lo + length] = True
    return lost


def round_significant(values: FloatArray, digits: int) -> FloatArray:
    """The values rounded to so many significant digits (NaN stays; below 1e-100 is zero)."""
    values = np.where(np.abs(values) < 1e-100, 0.0, values)
    size = np.abs(values)
    usable = np.isfinite(size) & (size > 0)
    power = np.floor(np.log10(np.where(usable, size, 1.0)))
    factor = 10.0 ** np.abs(digits - 1 - power)
    big = power > digits - 1
    rounded = np.where(big, np.round(values / factor) * factor, np.round(values * factor) / factor)
    return np.where(usable, rounded, values)
