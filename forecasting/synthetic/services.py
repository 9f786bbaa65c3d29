"""Services drawn at random: a demand, what it takes of resources a little later, and what the system shows of that.

`synthetic_service(seed)` is a function of its arguments alone. Demand, readings, other indicators and losses have
random streams of their own, so that what is absent changes nothing of what is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from forecasting.errors import UsageError, suggest
from forecasting.panel import BoolArray, FloatArray, Indicator, Level, Panel
from forecasting.synthetic import curves
from forecasting.synthetic.demand import DEMANDS, Demand, draw_demand
from forecasting.synthetic.indicators import Follower, draw_followers
from forecasting.windows import DAY_S

__all__ = ["FAMILIES", "STEPS_S", "Story", "SyntheticService", "synthetic_service", "synthetic_services"]

FAMILIES: tuple[str, ...] = tuple(DEMANDS)
"""Kinds of demand."""
STEPS_S: tuple[float, ...] = (60.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)
"""Seconds a row."""
LEAST_ROWS, MOST_ROWS = 64, 1_000_000
_ROWS = (1200, 4500)
_MARGIN = 24  # rows before and after, so that what lags or leads has something to show
_MONDAY_S = 1_735_516_800.0  # 2024-12-30T00:00Z
_MOST_INDICATORS = 12


@dataclass(frozen=True, slots=True)
class Story:
    """What was drawn of a service, beside its numbers.

    Attributes:
        family: of `FAMILIES`.
        readings: "counts", "rate", "gauge" or "integers": how demand is read.
        periods_s: seasons of the demand in seconds, those that hold a share worth speaking of.
        lags: by indicator, how many rows it is behind the demand (below 0: ahead of it); others do not follow it.
    """

    family: str
    readings: str
    periods_s: tuple[float, ...]
    lags: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SyntheticService:
    """A panel, demand first, and its story."""

    panel: Panel
    story: Story


def synthetic_services(seed: int, count: int) -> Iterator[SyntheticService]:
    """``count`` services, each of a seed of its own drawn from ``seed``: the first ones are those of any longer run."""
    for child in range(count):
        yield synthetic_service((seed, child))


def synthetic_service(
    seed: int | tuple[int, ...],
    *,
    family: str | None = None,
    step_s: float | None = None,
    rows: int | None = None,
    indicators: int | None = None,
) -> SyntheticService:
    """A service drawn at random; what is not given is drawn too.

    Args:
        seed: of everything that is drawn, at least 0; several numbers are one seed.
        family: kind of demand, of `FAMILIES`.
        step_s: seconds a row, 1 to a day; else one of `STEPS_S`.
        rows: 64 to a million; else 1,200 to 4,500.
        indicators: 1 to 12, the demand among them; else 1 to 8.

    Raises:
        UsageError: an unknown family, or a number out of bounds.
    """
    seeds = (seed,) if isinstance(seed, int) else seed
    if min(seeds, default=-1) < 0:
        raise UsageError(f"seed={seed}: expected whole numbers of at least 0")
    if family is not None and family not in DEMANDS:
        raise UsageError(f"no family of demand {family!r}; {suggest(family, FAMILIES)}")
    if step_s is not None and not 1.0 <= step_s <= DAY_S:
        raise UsageError(f"step_s={step_s}: expected 1 to {DAY_S:.0f} seconds")
    if rows is not None and not LEAST_ROWS <= rows <= MOST_ROWS:
        raise UsageError(f"rows={rows}: expected {LEAST_ROWS} to {MOST_ROWS:,}")
    if indicators is not None and not 1 <= indicators <= _MOST_INDICATORS:
        raise UsageError(f"indicators={indicators}: expected 1 to {_MOST_INDICATORS}")
    streams = [
        np.random.default_rng(s) for s in np.random.SeedSequence((0x53594E54, seeds[0]), spawn_key=seeds[1:]).spawn(5)
    ]
    frame, shape, reading, others, absent = streams
    step = float(frame.choice(STEPS_S, p=[0.3, 0.2, 0.2, 0.08, 0.12, 0.1]))
    drawn = round(curves.log_uniform(frame, *_ROWS))
    wanted = min(int(frame.geometric(0.3)), 8)
    start = float(frame.integers(0, 520 * 7 * 24 * 60)) * 60.0
    calendar = bool(frame.random() < 0.75)
    step = step if step_s is None else step_s
    count = drawn if rows is None else rows
    start = _MONDAY_S - 520 * 7 * DAY_S + math.floor(start / step) * step
    times = start + step * np.arange(-_MARGIN, count + _MARGIN, dtype=np.float64)
    demand = draw_demand(shape, times, step, family)
    readings, values = _read(reading, demand, slice(_MARGIN, _MARGIN + count))
    followers = draw_followers(
        others, demand.level, _MARGIN, count, step, (wanted if indicators is None else indicators) - 1
    )
    panel = _assembled(absent, values, readings, followers, start, step).replace(
        name="synthetic-" + "-".join(str(s) for s in seeds), calendar=calendar
    )
    lags = {f.indicator.name: f.lag for f in followers if f.lag is not None}
    return SyntheticService(panel, Story(demand.family, readings, demand.periods_s, lags))


def _read(rng: np.random.Generator, demand: Demand, kept: slice) -> tuple[str, FloatArray]:
    """(How it is read, the readings of demand), of a size from a hundredth to millions."""
    level = demand.level[kept]
    kinds = ("counts", "rate", "gauge", "integers")
    kind = str(rng.choice(kinds, p=[0.15, 0.1, 0.1, 0.65] if demand.whole else [0.4, 0.35, 0.2, 0.05]))
    if kind == "counts":
        mean = curves.log_uniform(rng, 0.3, 3000.0)
        dispersion = curves.log_uniform(rng, 1e-3, 1.0) if rng.random() < 0.5 else 0.0
        return kind, curves.counted(rng, mean * level, dispersion=dispersion)
    if kind == "integers":
        return kind, np.round(level * curves.log_uniform(rng, 2.0, 500.0))
    noise = curves.log_uniform(rng, 1e-3, 0.3) if rng.random() < 0.7 else 0.0
    size = curves.log_uniform(rng, 0.01, 1e6)
    shocks = np.exp(noise * rng.standard_normal(len(level)) - noise**2 / 2)
    floor = curves.log_uniform(rng, 0.1, 10.0) if kind == "gauge" else 0.0
    return kind, size * (floor + level * shocks)


def _assembled(
    rng: np.random.Generator,
    values: FloatArray,
    readings: str,
    followers: list[Follower],
    start_s: float,
    step_s: float,
) -> Panel:
    """All columns as a panel, demand first and levels in order, with readings lost."""
    kind = "gauge" if readings in ("gauge", "integers") else "rate"
    unit = {"counts": "requests", "rate": "requests/s"}.get(readings, "")
    demand = Indicator("demand", unit=unit, level=int(Level.DEMAND), kind="rate" if kind == "rate" else "gauge")
    ordered = sorted(followers, key=lambda f: f.indicator.level)
    table = np.column_stack([values, *(f.values for f in ordered)])
    table[_lost(rng, table.shape)] = np.nan
    return Panel(table, (demand, *(f.indicator for f in ordered)), start_s, step_s)


def _lost(rng: np.random.Generator, shape: tuple[int, ...]) -> BoolArray:
    """(rows, indicators) True where absent: single readings, outages of all, gaps of one, and some that fall silent."""
    rows, columns = shape[0], shape[1]
    single, outage, own, silent = rng.random(4) < np.array([0.5, 0.35, 0.3, 0.1])
    share, outages, gaps = (curves.log_uniform(rng, *r) for r in ((3e-4, 0.15), (2e-3, 0.08), (2e-3, 0.15)))
    lasts = curves.log_uniform(rng, 2.0, 60.0)
    lost = (rng.random((rows, columns)) < share) & single
    lost |= (curves.blocks_lost(rng, rows, share=outages, mean_rows=lasts) & outage)[:, None]
    for column in range(columns):
        lost[:, column] |= curves.blocks_lost(rng, rows, share=gaps, mean_rows=lasts) & own
    if silent and columns > 1:
        lost[int(rows * rng.uniform(0.3, 0.95)) :, int(rng.integers(1, columns))] = True
    return np.asarray(lost)
