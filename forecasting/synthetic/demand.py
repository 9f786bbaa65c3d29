"""Demand drawn at random, of seven families: a level around 1, never below 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forecasting.panel import FloatArray
from forecasting.synthetic import curves
from forecasting.synthetic.processes import CALENDAR_S, draw_kernel, sample
from forecasting.windows import DAY_S, WEEK_S

__all__ = ["DEMANDS", "Demand", "draw_demand"]

_STATED = 0.25  # of the variance (of a kernel), or of a log spread: a season below it is not worth speaking of
_MOST_LOG = 6.0


@dataclass(frozen=True, slots=True)
class Demand:
    """(rows,) level around 1 and never below 0, its family, its seasons in seconds, and whether it comes in units."""

    level: FloatArray
    family: str
    periods_s: tuple[float, ...]
    whole: bool = False


Drawn = tuple[FloatArray, tuple[float, ...]]
"""A level, and the seasons in seconds that it has."""


def draw_demand(rng: np.random.Generator, times_s: FloatArray, step_s: float, family: str | None = None) -> Demand:
    """A demand at these times; where no family is asked for, one in three is the product of two."""
    draw, again = rng.spawn(2)
    names = tuple(DEMANDS)
    name = str(draw.choice(names, p=[0.24, 0.26, 0.1, 0.12, 0.08, 0.12, 0.08]))
    mixed = bool(draw.random() < 0.35) and family is None
    name = name if family is None else family
    level, periods = DEMANDS[name](draw, times_s, step_s)
    if mixed:
        other, more = DEMANDS[str(again.choice(names[:4]))](again, times_s, step_s)
        weight = float(again.uniform(0.3, 1.0))
        level, periods = level * (1 - weight + weight * other), tuple(sorted({*periods, *more}))
    mean = float(level.mean())
    level = level / mean if mean > 0 else np.ones_like(level)
    return Demand(level, name, periods, whole=name == "jobs")


def _raised(log_level: FloatArray) -> FloatArray:
    """exp, with what is far from the middle bounded: real demand does not grow by e^6."""
    centred = log_level - np.median(log_level)
    return np.asarray(np.exp(_MOST_LOG * np.tanh(centred / _MOST_LOG)))


def _process(rng: np.random.Generator, times_s: FloatArray, step_s: float) -> Drawn:
    """A Gaussian process over a composed kernel, through an exponential or a floor at 0."""
    rows = len(times_s)
    kernel = draw_kernel(rng, rows=rows, step_s=step_s, calendar=CALENDAR_S)
    path = sample(rng, kernel, rows=rows, step_s=step_s)[0]
    spread = curves.log_uniform(rng, 0.05, 1.2)
    if rng.random() < 0.2:
        path = path + rng.normal(0.0, 1.5) * np.linspace(-1.0, 1.0, rows)
    level = _raised(spread * path) if rng.random() < 0.6 else np.maximum(1.0 + min(spread, 0.6) * path, 0.0)
    return level, kernel.periods_s(_STATED)


def _season(rng: np.random.Generator, times_s: FloatArray, step_s: float) -> Drawn:
    """Trend, seasons by the clock, impulses, and noise of two paces."""
    rows = len(times_s)
    span = rows * step_s
    day, week = curves.log_uniform(rng, 0.1, 1.0), float(rng.choice([0.0, rng.uniform(-0.1, 0.9)]))
    log_level = curves.day_and_week(rng, times_s, day=day, week=week)
    periods = [p for p, size in ((DAY_S, day), (WEEK_S, week)) if size >= _STATED and 4 * step_s <= p <= span / 2]
    log_level = log_level + rng.normal(0.0, 0.4) * np.linspace(-1.0, 1.0, rows)
    slow, fast = curves.log_uniform(rng, 0.01, 0.25), curves.log_uniform(rng, 0.005, 0.2)
    kernel = draw_kernel(rng, rows=rows, step_s=step_s)
    log_level = log_level + slow * sample(rng, kernel, rows=rows, step_s=step_s)[0] + fast * rng.standard_normal(rows)
    level = _raised(log_level)
    if rng.random() < 0.5:
        count = int(rng.poisson(curves.log_uniform(rng, 1.0, rows / 60.0)))
        lift = curves.impulses(
            rng,
            rows,
            count=count,
            height=curves.log_uniform(rng, 0.2, 4.0),
            decay_rows=curves.log_uniform(rng, 0.3, 30.0),
        )
        level = level * (1.0 + lift)
    return level, tuple(periods)


def _spikes(rng: np.random.Generator, times_s: FloatArray, step_s: float) -> Drawn:
    """A quiet floor with spikes: by schedule, at random, or both."""
    rows = len(times_s)
    kernel = draw_kernel(rng, rows=rows, step_s=step_s)
    level = _raised(curves.log_uniform(rng, 0.02, 0.6) * sample(rng, kernel, rows=rows, step_s=step_s)[0])
    periods: list[float] = []
    choices = [p for p in (600.0, 900.0, 1800.0, 3600.0, 4 * 3600.0, DAY_S) if 4 * step_s <= p <= rows * step_s / 4]
    if choices and rng.random() < 0.6:
        period = float(rng.choice(choices))
        width = curves.log_uniform(rng, step_s, max(period / 6, step_s))
        height = curves.log_uniform(rng, 1.0, 20.0)
        level = level + height * curves.scheduled(rng, times_s, period_s=period, width_s=width, step_s=step_s)
        periods.append(period)
    if rng.random() < 0.6 or not periods:
        count = int(rng.poisson(rows / curves.log_uniform(rng, 20.0, 600.0)))
        decay = curves.log_uniform(rng, 0.3, 20.0)
        level = level + curves.impulses(
            rng, rows, count=count, height=curves.log_uniform(rng, 0.5, 8.0), decay_rows=decay
        )
    return level, tuple(periods)


def _regimes(rng: np.random.Generator, times_s: FloatArray, step_s: float) -> Drawn:
    """Two to four regimes of an Ornstein-Uhlenbeck process."""
    rows = len(times_s)
    mean_rows = curves.log_uniform(rng, 40.0, rows / 2)
    path = curves.regimes(rng, rows, kinds=int(rng.integers(2, 5)), mean_rows=mean_rows)
    return _raised(curves.log_uniform(rng, 0.1, 1.0) * path), ()


def _plateaus(rng: np.random.Generator, times_s: FloatArray, step_s: float) -> Drawn:
    """Levels that stay, with little noise or none."""
    rows = len(times_s)
    levels = int(rng.integers(2, 6)) if rng.random() < 0.5 else 0
    path = curves.plateaus(rng, rows, mean_rows=curves.log_uniform(rng, 6.0, rows / 4), levels=levels)
    noise = curves.log_uniform(rng, 1e-3, 0.1) if rng.random() < 0.6 else 0.0
    spread = curves.log_uniform(rng, 0.1, 1.0)
    return _raised(spread * path + noise * rng.standard_normal(rows)), ()


def _jobs(rng: np.random.Generator, times_s: FloatArray, step_s: float) -> Drawn:
    """Units held by jobs in progress: they arrive by the clock, hold one or several, and last for long or not."""
    rows = len(times_s)
    log_rate = curves.day_and_week(rng, times_s, day=curves.log_uniform(rng, 0.02, 0.5), week=0.2 * float(rng.random()))
    lasts = curves.log_uniform(rng, 2.0, rows / 8)
    early = round(4 * lasts)  # those that began before the first row
    rate = curves.log_uniform(rng, 0.5, 100.0) / lasts * _raised(log_rate)
    starts = rng.poisson(np.concatenate([np.full(early, rate[0]), rate]))
    begin = np.repeat(np.arange(-early, rows), starts)
    sigma = float(rng.uniform(0.3, 1.8))
    duration = lasts * np.exp(sigma * rng.standard_normal(len(begin)) - sigma**2 / 2)
    sizes = 2.0 ** rng.choice(4, size=len(begin), p=rng.dirichlet([4.0, 1.0, 1.0, 1.0]))
    change = np.zeros(rows + 1)
    np.add.at(change, np.clip(begin, 0, rows), sizes)
    end = begin + np.ceil(np.minimum(duration, 4.0 * rows)).astype(np.int64)
    np.add.at(change, np.clip(end, 0, rows), -sizes)
    return np.asarray(np.maximum(np.cumsum(change)[:rows], 0.0)), ()


def _quiet(rng: np.random.Generator, times_s: FloatArray, step_s: float) -> Drawn:
    """Long stretches of nothing, or of next to nothing, between spells of a process."""
    rows = len(times_s)
    level, _ = _process(rng, times_s, step_s)
    awake = curves.spells(
        rng, rows, share=float(rng.uniform(0.05, 0.6)), mean_rows=curves.log_uniform(rng, 1.0, rows / 12)
    )
    floor = curves.log_uniform(rng, 1e-3, 0.1) if rng.random() < 0.3 else 0.0
    return np.where(awake, level, floor), ()


DEMANDS: dict[str, Callable[[np.random.Generator, FloatArray, float], Drawn]] = {
    "process": _process,
    "season": _season,
    "spikes": _spikes,
    "regimes": _regimes,
    "plateaus": _plateaus,
    "jobs": _jobs,
    "quiet": _quiet,
}
"""By family: (generator, times in seconds, step in seconds) to the level and its seasons."""
