"""After NVIDIA Dynamo's planner: a point forecast of the next interval times a correction factor.

From its design page: every adjustment interval it measures, predicts one interval ahead (constant, or a Kalman filter
of a local linear trend, among others), corrects the profile by what was measured over what was expected, rounds up, and
waits while the last change is still under way. There is no latency in a rate-level world, so what is measured against
what was expected here is demand itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harmony.decision.risk import MOST_REPLICAS, ROUND
from harmony.model.decision import Decision, Reason
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast

__all__ = ["DynamoLikePolicy", "LinearTrend"]

LIMITS = (0.5, 2.0)  # of the correction
TARGETS = tuple(round(1.25 * 0.93**i, 4) for i in range(36))


class LinearTrend(NamedTuple):
    """A Kalman filter of level and trend (their covariance `a` `b` `c`), from observations with noise."""

    level: float = math.nan
    trend: float = 0.0
    a: float = 1.0
    b: float = 0.0
    c: float = 1.0

    def seen(self, value: float, q_level: float, q_trend: float, noise: float) -> LinearTrend:
        """With one more observation, one interval after the last."""
        if math.isnan(self.level):
            return LinearTrend(value, 0.0, noise, 0.0, q_trend)
        level, trend = self.level + self.trend, self.trend
        a = self.a + 2 * self.b + self.c + q_level
        b, c = self.b + self.c, self.c + q_trend
        gain, gain_trend = a / (a + noise), b / (a + noise)
        missed = value - level
        return LinearTrend(
            level + gain * missed, trend + gain_trend * missed, (1 - gain) * a, (1 - gain) * b, c - gain_trend * b
        )

    @property
    def next(self) -> float:
        """What the next interval is expected to bring, never negative."""
        return max(0.0, self.level + self.trend)


class _Memory(NamedTuple):
    trend: LinearTrend
    correction: float
    total: float  # of the readings of the interval so far
    readings: int
    ends_s: float


@dataclass(frozen=True, slots=True)
class DynamoLikePolicy(Unforecast):
    """Dynamo's planner: a point forecast one adjustment interval ahead, times what was measured over what was expected.

    `target` 0..1 of a replica's capacity it may use; `adjust_s` between changes; `predictor` "constant" or "kalman"
    (`q_level`, `q_trend`, `noise`); `weight` of the newest interval in the correction; `waits` while replicas start.
    """

    target: float = 0.8
    adjust_s: float = 180.0
    predictor: str = "kalman"
    q_level: float = 1.0
    q_trend: float = 0.1
    noise: float = 10.0
    weight: float = 0.3
    waits: bool = True
    name: str = "dynamo-like"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Target, interval and predictor."""
        return {"target": self.target, "adjust_s": self.adjust_s, "predictor": self.predictor}

    def decide(self, observation: Observation) -> Decision:
        """Count into the interval; at its end predict the next one and set what that needs."""
        now_s, demand, ordered = observation.now_s, observation.demand, observation.ordered
        memory: _Memory = observation.memory or _Memory(LinearTrend(), 1.0, 0.0, 0, now_s)
        if not math.isnan(demand):
            memory = memory._replace(total=memory.total + demand, readings=memory.readings + 1)
        if now_s < memory.ends_s - ROUND:
            return Decision(ordered, ordered, Reason.RATE_LIMITED, bound_by="interval", memory=memory)
        ends_s = now_s + self.adjust_s
        if not memory.readings:
            memory = memory._replace(ends_s=ends_s)
            return Decision(ordered, ordered, Reason.ABSENT_DATA, bound_by="absent demand", memory=memory)
        measured = memory.total / memory.readings
        correction, expected = memory.correction, memory.trend.next
        if expected > 0 and not math.isnan(memory.trend.level):
            ratio = min(max(measured / expected, LIMITS[0]), LIMITS[1])
            correction += self.weight * (ratio - correction)
        trend = LinearTrend(level=measured)
        if self.predictor == "kalman":
            trend = memory.trend.seen(measured, self.q_level, self.q_trend, self.noise)
        memory = _Memory(trend, correction, 0.0, 0, ends_s)
        if self.waits and observation.ready < ordered:
            return Decision(ordered, ordered, Reason.RATE_LIMITED, bound_by="starting", memory=memory)
        load = trend.next * correction / (self.target * observation.capacity.median)
        count = math.ceil(min(load, MOST_REPLICAS) - ROUND)
        return Decision(max(1, count), ordered, Reason.FORECAST, memory=memory)

    def ladders(self, past: Past) -> Sequence[Sequence[DynamoLikePolicy]]:
        """One ladder per predictor and interval: targets from 125 % down to 10 % by steps of 7 %."""
        intervals = sorted({max(180.0, past.step_s), max(past.lead_s, past.step_s), max(900.0, past.step_s)})
        return [
            [replace(self, target=t, predictor=p, adjust_s=i) for t in TARGETS]
            for p in ("constant", "kalman")
            for i in intervals
        ]
