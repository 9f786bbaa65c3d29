"""Ten named scenarios: a calm synthetic service of two weeks to which one thing happens, `scenario:NAME` as a trace.

Everything falls into the last 40 %, which replays score; what lies before is for learning. Times are UTC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from forecasting.errors import UsageError, suggest
from forecasting.panel import FloatArray, Panel
from simulator.traces.generate import generate
from simulator.traces.profiles import MONDAY_S, PROFILES
from simulator.traces.surgery import dropout, scale, spike
from simulator.traces.trace import Events, Trace

__all__ = ["PREFIX", "SCENARIOS", "Scenario", "scenario"]

PREFIX = "scenario:"
STEP_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0
DAYS, SEED = 14, 11
ENDS_S = DAYS * DAY_S


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens, in a sentence, and how calm demand becomes it; it begins `first_day` days after a Monday."""

    name: str
    title: str
    happens: Callable[[FloatArray], tuple[FloatArray, Events | None]]
    first_day: int = 0


def _at(day: int, hour: float = 0.0) -> float:
    """Seconds to an hour of a day, counted from 0."""
    return day * DAY_S + hour * HOUR_S


def _flash_crowd(calm: FloatArray) -> tuple[FloatArray, Events | None]:
    out = spike(calm, STEP_S, _at(9, 14), 4.0, 40 * 60, ramp_s=600)
    return spike(out, STEP_S, _at(12, 20), 6.0, 20 * 60, ramp_s=300), None


def _slow_monday(calm: FloatArray) -> tuple[FloatArray, Events | None]:
    return scale(calm, STEP_S, 0.35, _at(10), _at(11)), None


def _weekend(calm: FloatArray) -> tuple[FloatArray, Events | None]:
    out = calm
    for saturday in range(5, DAYS, 7):
        out = scale(out, STEP_S, 0.3, _at(saturday), min(_at(saturday + 2), ENDS_S))
    return out, None


def _regime_change(calm: FloatArray) -> tuple[FloatArray, Events | None]:
    return scale(calm, STEP_S, 2.0, _at(10, 11)), None


def _metric_outage(calm: FloatArray) -> tuple[FloatArray, Events | None]:
    seen = calm
    for day, hour in ((9, 13.0), (11, 9.0), (13, 15.0)):
        seen = dropout(seen, STEP_S, _at(day, hour), _at(day, hour + 0.5))
    return seen, Events(demand=calm)


def _gpu_shortage(calm: FloatArray) -> tuple[FloatArray, Events | None]:
    """Six hours around two peaks in which only three quarters of what the peak needs can be had."""
    free = np.full(calm.size, np.inf)
    for day in (9, 12):
        part = slice(int(_at(day, 9) / STEP_S), int(_at(day, 15) / STEP_S))
        free[part] = 0.75 * float(np.nanmax(calm[part])) / float(np.nanmean(calm))
    return calm, Events(free=free)


def _flapping_noise(calm: FloatArray) -> tuple[FloatArray, Events | None]:
    """Demand flips between 60 and 140 % every 7 minutes, too fast for a replica that takes 5 to start."""
    steps = np.arange(calm.size)
    flips = np.where((steps // 7) % 2 == 0, 0.6, 1.4)
    return np.where(steps >= int(_at(8, 10) / STEP_S), calm * flips, calm), None


def _retry_storm(calm: FloatArray) -> tuple[FloatArray, Events | None]:
    """A spike, and every 5 minutes an echo of it, each 80 % of the one before, until nobody tries again."""
    out = calm
    for day, hour in ((9, 11.0), (12, 15.0)):
        for echo in range(10):
            out = spike(out, STEP_S, _at(day, hour) + echo * 300.0, 1.0 + 2.5 * 0.8**echo, 120.0, ramp_s=60)
    return out, None


def _cold_start_doubling(calm: FloatArray) -> tuple[FloatArray, Events | None]:
    slower = np.ones(calm.size)
    slower[int(_at(10) / STEP_S) :] = 2.0
    return calm, Events(slower=slower)


def _midnight_batch(calm: FloatArray) -> tuple[FloatArray, Events | None]:
    out = calm
    for day in range(DAYS):
        out = scale(out, STEP_S, 5.0, _at(day), _at(day, 1))
    return out, None


SCENARIOS: dict[str, Scenario] = {
    s.name: s
    for s in (
        Scenario("flash-crowd", "two crowds out of nothing: four times the demand, then six times", _flash_crowd),
        Scenario("slow-monday", "a Monday off: 35 % of the usual demand", _slow_monday, first_day=4),
        Scenario("weekend", "weekends at 30 % of the week", _weekend),
        Scenario("regime-change", "from one minute to the next twice the demand, and it stays", _regime_change),
        Scenario("metric-outage", "three times half an hour without a metric, while demand goes on", _metric_outage),
        Scenario("gpu-shortage", "around two peaks there are GPUs for three quarters of them", _gpu_shortage),
        Scenario("flapping-noise", "demand flips between 60 and 140 % every seven minutes", _flapping_noise),
        Scenario("retry-storm", "a spike that clients repeat every five minutes, ever fewer", _retry_storm),
        Scenario("cold-start-doubling", "from day ten on replicas take twice as long to start", _cold_start_doubling),
        Scenario("midnight-batch", "every night at midnight an hour of five times the demand", _midnight_batch),
    )
}  # fmt: skip


def scenario(name: str) -> Trace:
    """The scenario of that name (without the prefix) as a trace; `UsageError` naming the near ones if there is none."""
    if name not in SCENARIOS:
        raise UsageError(f"no scenario {name!r}; {suggest(name, list(SCENARIOS))}")
    chosen = SCENARIOS[name]
    panel = _calm(chosen.first_day)
    seen, events = chosen.happens(panel.values[:, 0].copy())
    panel = dataclasses.replace(panel, values=seen[:, None], name=name)
    return Trace(
        panel, panel.names[0], source=PREFIX + name, format="scenario", licence="Apache-2.0", notes=(chosen.title,),
        events=events,
    )  # fmt: skip


@lru_cache(maxsize=2)
def _calm(first_day: int) -> Panel:
    """The demand of a synthetic chat service without bursts, regimes, trend or holes."""
    calm = dataclasses.replace(
        PROFILES["chat"], bursts_per_day=0.0, regimes_per_week=0.0, growth_per_week=0.0, missing_share=0.0,
        outages_per_week=0.0, slow_cv=0.08, day_cv=0.03, mean=20.0,
    )  # fmt: skip
    made = generate(days=DAYS, step_s=STEP_S, seed=SEED, options=calm, start_s=MONDAY_S + first_day * DAY_S)
    return dataclasses.replace(made, values=made.values[:, :1], indicators=made.indicators[:1])
