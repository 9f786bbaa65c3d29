"""What else is read of a synthetic service: streams ahead of the demand, resources behind it, system detail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forecasting.panel import FloatArray, Indicator, Level
from forecasting.synthetic import curves
from forecasting.synthetic.processes import draw_kernel, sample

__all__ = ["KINDS", "Follower", "draw_followers"]

_MOST_LAG = 8


@dataclass(frozen=True, slots=True)
class Follower:
    """An indicator, its (rows,) values, and how many rows it is behind the demand; None where it does not follow it."""

    indicator: Indicator
    values: FloatArray
    lag: int | None


@dataclass(frozen=True, slots=True)
class Driver:
    """The demand's level with some rows before and after those that are wanted."""

    level: FloatArray
    margin: int
    rows: int
    step_s: float

    def behind(self, lag: int) -> FloatArray:
        """(rows,) the level that many rows earlier."""
        start = self.margin - lag
        return self.level[start : start + self.rows]


Drawn = tuple[FloatArray, int | None]
"""Values, and the lag."""


def draw_followers(
    rng: np.random.Generator, level: FloatArray, margin: int, rows: int, step_s: float, count: int
) -> list[Follower]:
    """``count`` indicators beside a demand whose ``level`` has ``margin`` rows more at either end (at least 24)."""
    names = tuple(KINDS)
    chance = np.array([KINDS[n].chance for n in names])
    picked = rng.choice(len(names), size=count, p=chance / chance.sum())
    driver = Driver(level, margin, rows, step_s)
    delay = int(rng.integers(0, _MOST_LAG // 2 + 1))
    out = []
    for number, (which, own) in enumerate(zip(picked, rng.spawn(count), strict=True)):
        kind = KINDS[names[which]]
        values, lag = kind.draw(own, driver, delay)
        name = f"{names[which]}_{number + 1}"
        out.append(Follower(Indicator(name, unit=kind.unit, level=int(kind.level)), values, lag))
    return out


def _noisy(rng: np.random.Generator, values: FloatArray, low: float, high: float) -> FloatArray:
    """(rows,) the values with a relative noise of a spread between the two."""
    spread = curves.log_uniform(rng, low, high)
    return np.asarray(values * np.exp(spread * rng.standard_normal(len(values)) - spread**2 / 2))


def _size(rng: np.random.Generator) -> float:
    return curves.log_uniform(rng, 0.01, 1e6)


def _upstream(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    """What asks: the demand some rows before it arrives."""
    lead = int(rng.integers(1, _MOST_LAG + 1))
    return _size(rng) * _noisy(rng, d.behind(-lead), 0.01, 0.3), -lead


def _volume(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    """Demand in another unit (tokens, bytes): so much a request, which changes slowly."""
    kernel = draw_kernel(rng, rows=d.rows, step_s=d.step_s)
    each = np.exp(curves.log_uniform(rng, 0.02, 0.5) * sample(rng, kernel, rows=d.rows, step_s=d.step_s)[0])
    return _size(rng) * _noisy(rng, d.behind(0) * each, 0.01, 0.3), 0


def _load(rng: np.random.Generator, d: Driver, lag: int) -> FloatArray:
    """(rows,) share of a capacity in use, 0 to 1, saturating."""
    smooth = curves.smoothed(d.behind(lag), rng.choice([0.0, curves.log_uniform(rng, 0.5, 6.0)]))
    capacity = curves.log_uniform(rng, 0.7, 5.0)
    return np.asarray(-np.expm1(-smooth / capacity))


def _utilisation(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    used = _noisy(rng, _load(rng, d, delay), 0.005, 0.1)
    idle = float(rng.uniform(0.0, 0.2))
    return np.clip(100.0 * (idle + (1 - idle) * used), 0.0, 100.0), delay


def _memory(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    """A base and what work holds, given back late; steps where something else is loaded."""
    held = curves.smoothed(d.behind(delay), curves.log_uniform(rng, 1.0, 12.0))
    steps = curves.plateaus(rng, d.rows, mean_rows=d.rows / 3, levels=0) if rng.random() < 0.3 else 0.0
    base = curves.log_uniform(rng, 0.3, 10.0)
    return _size(rng) * np.maximum(base + held + 0.1 * base * steps, 0.0), delay


def _queue(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    """What waits where so much is served a row and no more."""
    asked = d.behind(delay)
    served = float(np.quantile(asked, rng.uniform(0.6, 0.98)))
    waiting = curves.backlog(asked, max(served, 1.02 * float(asked.mean())))
    return np.round(curves.log_uniform(rng, 1.0, 500.0) * waiting), delay


def _latency(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    """Time to answer, which rises without measure as the load nears its bound."""
    lag = delay + int(rng.integers(0, _MOST_LAG // 2 + 1))
    load = np.minimum(_load(rng, d, lag), 0.97)
    return curves.log_uniform(rng, 1e-3, 10.0) * _noisy(rng, 1.0 + load / (1.0 - load), 0.01, 0.4), lag


def _warmth(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    """A temperature or a power: it follows the load late and smoothly."""
    lag = delay + int(rng.integers(0, _MOST_LAG // 2 + 1))
    smooth = curves.smoothed(_load(rng, d, lag), curves.log_uniform(rng, 1.0, 8.0))
    return 30.0 + curves.log_uniform(rng, 5.0, 60.0) * smooth + 0.3 * rng.standard_normal(d.rows), lag


def _errors(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    """Counts of what failed: few at all times, many where the load is high."""
    load = _load(rng, d, delay)
    over = np.maximum(load - np.quantile(load, 0.9), 0.0)
    return curves.counted(rng, curves.log_uniform(rng, 0.01, 5.0) * (0.2 + 30.0 * over), dispersion=0.5), None


def _background(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    """Something else altogether."""
    kernel = draw_kernel(rng, rows=d.rows, step_s=d.step_s)
    path = sample(rng, kernel, rows=d.rows, step_s=d.step_s)[0]
    return _size(rng) * np.exp(curves.log_uniform(rng, 0.05, 1.0) * path), None


def _flips(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    """Between two or three plateaus, at random."""
    levels = int(rng.integers(2, 4))
    path = curves.plateaus(rng, d.rows, mean_rows=curves.log_uniform(rng, 1.0, 30.0), levels=levels)
    return _size(rng) * (path - path.min()), None


def _limit(rng: np.random.Generator, d: Driver, delay: int) -> Drawn:
    """A constant, such as a limit."""
    return np.full(d.rows, _size(rng)), None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of indicator: its level, unit, how often it is drawn, and how."""

    level: Level
    unit: str
    chance: float
    draw: Callable[[np.random.Generator, Driver, int], Drawn]


KINDS: dict[str, Kind] = {
    "upstream": Kind(Level.DEMAND, "requests/s", 1.0, _upstream),
    "volume": Kind(Level.DEMAND, "tokens", 2.0, _volume),
    "utilisation": Kind(Level.RESOURCE, "percent", 3.0, _utilisation),
    "memory": Kind(Level.RESOURCE, "bytes", 2.0, _memory),
    "queue": Kind(Level.RESOURCE, "requests", 1.5, _queue),
    "latency": Kind(Level.SYSTEM, "s", 1.5, _latency),
    "warmth": Kind(Level.SYSTEM, "degrees", 1.0, _warmth),
    "errors": Kind(Level.SYSTEM, "1", 1.0, _errors),
    "background": Kind(Level.SYSTEM, "", 1.0, _background),
    "flips": Kind(Level.SYSTEM, "", 0.7, _flips),
    "limit": Kind(Level.RESOURCE, "bytes", 0.4, _limit),
}
"""Kinds of indicators beside the demand, by name."""
