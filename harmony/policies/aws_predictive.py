"""After EC2 Auto Scaling's predictive scaling: an hourly forecast that only raises, beside target tracking.

From its user guide: needs 24 hours of history and uses 14 days; forecasts 48 hours by the hour, anew every 6; sets the
capacity of an hour `SchedulingBufferTime` (300 s) before it begins; never scales in by itself, which target tracking
does after 15 minutes. The forecast itself is not published: here it is the mean of this hour on the same weekday, or
on all days where that weekday is not known yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from forecasting.panel import FloatArray
from harmony.decision.risk import MOST_REPLICAS, ROUND
from harmony.model.decision import Decision, Reason
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast
from harmony.policies.growing_rows import GrowingRows

__all__ = ["AwsPredictivePolicy", "hourly_forecast"]

HOUR_S = 3600.0
LEAST_HOURS, MOST_HOURS, AHEAD, EVERY = 24, 14 * 24, 48, 6
SCALE_IN_S = 900.0
TARGETS = tuple(t / 1000 for t in range(1100, 199, -25))


def hourly_forecast(hours: FloatArray) -> FloatArray:
    """(48,) mean demand of the coming hours from ``hours`` (n,), NaN where nothing was known; NaN before 24 of them."""
    known = hours[-MOST_HOURS:]
    n = known.size
    if n < LEAST_HOURS:
        return np.full(AHEAD, math.nan)
    out = np.empty(AHEAD)
    for ahead in range(AHEAD):
        for period in (7 * 24, 24):
            same = known[(n + ahead) % period :: period]
            same = same[~np.isnan(same)]
            out[ahead] = same.mean() if same.size else math.nan
            if same.size:
                break
    return out


class _Memory(NamedTuple):
    hours: GrowingRows  # mean demand of every whole hour
    first: int  # number of the first of them
    hour: int  # number of the present hour
    total: float
    readings: int
    forecast: FloatArray
    from_hour: int  # what the forecast's first value is of


@dataclass(frozen=True, slots=True)
class AwsPredictivePolicy(Unforecast):
    """EC2's predictive scaling: an hourly forecast set before the hour begins, never below what target tracking wants.

    `target` 0..1 of a replica's capacity, of both; `buffer_s` before the hour that its capacity is set.
    """

    target: float = 0.8
    buffer_s: float = 300.0
    name: str = "aws-predictive"

    @property
    def behavior(self) -> Behavior | None:
        """Target tracking scales in when fifteen minutes have asked for less."""
        return Behavior.hold(SCALE_IN_S)

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Target and buffer."""
        return {"target": self.target, "buffer_s": self.buffer_s}

    def decide(self, observation: Observation) -> Decision:
        """The larger of what this hour (or one that begins within the buffer) and present demand need."""
        now_s, demand, ordered = observation.now_s, observation.demand, observation.ordered
        memory = self._counted(observation)
        per_replica = self.target * observation.capacity.median
        planned = math.nan
        for at_s in (now_s, now_s + self.buffer_s):
            ahead = math.floor(at_s / HOUR_S) - memory.from_hour
            if 0 <= ahead < memory.forecast.size:
                planned = float(np.fmax(planned, memory.forecast[ahead]))
        plan = 0 if math.isnan(planned) else _count(planned / per_replica)
        if math.isnan(demand):
            count = max(ordered, plan)
            return Decision(count, ordered, Reason.ABSENT_DATA, bound_by="absent demand", memory=memory)
        tracked = _count(demand / per_replica)
        reason = Reason.FORECAST if plan > tracked else Reason.TARGET_RATIO
        return Decision(max(1, plan, tracked), ordered, reason, memory=memory)

    def _counted(self, observation: Observation) -> _Memory:
        """The memory with this reading in its hour, whole hours kept, and a forecast that is not older than 6 hours."""
        hour = math.floor(observation.now_s / HOUR_S)
        memory: _Memory | None = observation.memory
        if memory is None or hour < memory.hour:
            memory = _Memory(GrowingRows.empty(1), hour, hour, 0.0, 0, np.empty(0), hour)
        if hour > memory.hour:
            over = np.full((hour - memory.hour, 1), math.nan)
            over[0] = memory.total / memory.readings if memory.readings else math.nan
            memory = memory._replace(hours=memory.hours.extended(over), hour=hour, total=0.0, readings=0)
            if not memory.forecast.size or hour >= memory.from_hour + EVERY:
                forecast = hourly_forecast(memory.hours.rows[:, 0])
                memory = memory._replace(
                    forecast=forecast if not np.isnan(forecast).all() else np.empty(0), from_hour=hour
                )
        if not math.isnan(observation.demand):
            memory = memory._replace(total=memory.total + observation.demand, readings=memory.readings + 1)
        return memory

    def ladders(self, past: Past) -> Sequence[Sequence[AwsPredictivePolicy]]:
        """One ladder per buffer (five minutes, the lead time): targets from 110 % down to 20 %, by 2.5 points."""
        buffers = sorted({300.0, min(3540.0, past.lead_s + past.step_s)})
        return [[replace(self, target=t, buffer_s=b) for t in TARGETS] for b in buffers]


def _count(load: float) -> int:
    return math.ceil(min(load, MOST_REPLICAS) - ROUND)
