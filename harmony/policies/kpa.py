"""The Knative Pod Autoscaler: the mean of a stable window, and a panic window that never scales down.

Follows knative/serving, pkg/autoscaler/scaling/autoscaler.go, with the defaults of the ConfigMap config-autoscaler.
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

__all__ = ["KpaMemory", "KpaPolicy", "window_mean"]

Marks = tuple[tuple[float, float], ...]  # (when a reading ended, in seconds; its value), oldest first
TARGETS = tuple(t / 1000 for t in range(1100, 99, -50))
STABLE_S = (60.0, 300.0, 900.0, 3600.0)
DELAYS_S = (0.0, 900.0, 3600.0)


class KpaMemory(NamedTuple):
    """Readings of the stable window, since when it panics (NaN: it does not), the most it asked for, and counts."""

    marks: Marks
    panic_s: float
    most: int
    counts: Marks


def window_mean(marks: Marks, now_s: float, window_s: float, step_s: float) -> float:
    """Mean over (now - window, now] of readings that each stand for the ``step_s`` seconds before their time."""
    total = weight = 0.0
    for at_s, value in marks:
        overlap = min(at_s, now_s) - max(at_s - step_s, now_s - window_s)
        if overlap > 0:
            total += overlap * value
            weight += overlap
    return total / weight if weight else math.nan


@dataclass(frozen=True, slots=True)
class KpaPolicy(Unforecast):
    """Knative's autoscaler: a stable and a panic window, rate limits on both sides, an optional scale-down delay.

    `target` 0..1 of a replica's capacity; the panic window is `panic_percent` of `stable_s`, and panic begins where it
    asks for `panic_threshold` times the ready replicas. A tick every `tick_s`, as many as fall into a turn.
    """

    target: float = 0.7
    stable_s: float = 60.0
    panic_percent: float = 10.0
    panic_threshold: float = 2.0
    max_up_rate: float = 1000.0
    max_down_rate: float = 2.0
    delay_s: float = 0.0
    tick_s: float = 2.0
    name: str = "kpa"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Target, stable window and scale-down delay."""
        return {"target": self.target, "stable_s": self.stable_s, "delay_s": self.delay_s}

    def decide(self, observation: Observation) -> Decision:
        """The ticks of one turn; absent demand is "no data", which changes nothing."""
        now_s, ordered, demand = observation.now_s, observation.ordered, observation.demand
        memory: KpaMemory = observation.memory or KpaMemory((), math.nan, 0, ())
        if math.isnan(demand):
            return Decision(ordered, ordered, Reason.ABSENT_DATA, bound_by="absent demand", memory=memory)
        kept = tuple(m for m in memory.marks if now_s - self.stable_s < m[0] < now_s)
        memory = memory._replace(marks=(*kept, (now_s, demand)))
        step_s, target = observation.step_s, self.target * observation.capacity.median
        stable = _count(window_mean(memory.marks, now_s, self.stable_s, step_s) / target)
        panic = _count(window_mean(memory.marks, now_s, self.stable_s * self.panic_percent / 100, step_s) / target)
        objective = observation.objective
        ready, count = observation.ready, ordered
        for tick in range(max(1, math.ceil(round(observation.interval_s / self.tick_s, 9)))):
            count, memory = self._tick(memory, now_s, stable, panic, max(1, ready))
            count = min(max(count, objective.min_replicas), objective.max_replicas)
            if count >= ready and tick:  # what follows sees the same and changes nothing
                break
            ready = min(ready, count)
        panics = not math.isnan(memory.panic_s)
        reason = Reason.RATE_LIMITED if panics and count > stable else Reason.TARGET_RATIO
        return Decision(count, ordered, reason, bound_by="panic" if panics else "", memory=memory)

    def _tick(self, memory: KpaMemory, now_s: float, stable: int, panic: int, ready: int) -> tuple[int, KpaMemory]:
        """One tick: the count that is asked for, and what to remember."""
        most, least = math.ceil(self.max_up_rate * ready), math.floor(ready / self.max_down_rate)
        wanted = min(max(stable, least), most)
        panicked = min(max(panic, least), most)
        panic_s, highest = memory.panic_s, memory.most
        if panic / ready >= self.panic_threshold:
            panic_s = now_s
        elif not math.isnan(panic_s) and panic_s + self.stable_s < now_s:
            panic_s, highest = math.nan, 0
        if not math.isnan(panic_s):
            wanted = highest = max(wanted, panicked, highest)
        counts = memory.counts
        if self.delay_s > 0:
            counts = (*(m for m in counts if m[0] > now_s - self.delay_s), (now_s, float(wanted)))
            wanted = int(max(c for _, c in counts))
            counts = tuple(m for i, m in enumerate(counts) if all(m[1] > later[1] for later in counts[i + 1 :]))
        return wanted, KpaMemory(memory.marks, panic_s, highest, counts)

    def ladders(self, past: Past) -> Sequence[Sequence[KpaPolicy]]:
        """One ladder per stable window and scale-down delay: targets from 110 % down to 10 %, by 5 points."""
        return [[replace(self, target=t, stable_s=w, delay_s=d) for t in TARGETS] for w in STABLE_S for d in DELAYS_S]


def _count(load: float) -> int:
    return math.ceil(min(load, MOST_REPLICAS) - ROUND)
