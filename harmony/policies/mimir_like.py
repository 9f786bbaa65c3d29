"""Grafana Mimir's predictive trigger: the demand of the same time in past periods, beside the present demand.

Follows the trigger of grafana/mimir (`sum(max_over_time(metric[30m] offset 6d23h30m))`, pull requests 7775 and 16529):
KEDA hands both triggers to one HPA, which takes the larger, so the past can only raise the count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from forecasting.panel import FloatArray
from harmony.decision.guards import GuardMemory
from harmony.model.decision import Decision, Reason
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast
from harmony.policies.growing_rows import GrowingRows
from harmony.policies.syncs import external_replicas, make_syncs, with_window

__all__ = ["MimirLikePolicy", "same_time_of_past_periods"]

DAY_S = 86_400.0
TARGETS = tuple(t / 1000 for t in range(1100, 199, -25))


class _Memory(NamedTuple):
    rows: GrowingRows  # (time, demand) of every reading
    guards: GuardMemory


def same_time_of_past_periods(
    rows: FloatArray, now_s: float, period_s: float, periods: int, lookback_s: float
) -> float:
    """Most demand in (t, t + ``lookback_s``] for t = now - 1, 2, ... ``periods`` periods; NaN where none is known.

    ``rows`` (n, 2) times in ascending order and demand.
    """
    times, most = rows[:, 0], math.nan
    for back in range(1, periods + 1):
        since = now_s - back * period_s
        low, high = np.searchsorted(times, (since, since + lookback_s), side="right")
        if high > low:
            most = float(np.fmax(most, rows[low:high, 1].max()))
    return most


@dataclass(frozen=True, slots=True)
class MimirLikePolicy(Unforecast):
    """Mimir's predictive KEDA trigger: the most demand at the same time of past days, or present demand if more.

    `target` 0..1 of a replica's capacity is the threshold of both triggers; `periods` of `period_s` are looked back, at
    `lookback_s` from this time of each on.
    """

    target: float = 0.8
    tolerance: float = 0.1
    period_s: float = DAY_S
    periods: int = 7
    lookback_s: float = 1800.0
    behavior_: Behavior = field(default_factory=Behavior)
    sync_s: float = 15.0
    name: str = "mimir-like"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Threshold, periods and scale-down window."""
        window = self.behavior_.scale_down.stabilization_window_s
        return {
            "target": self.target,
            "period_s": self.period_s,
            "periods": self.periods,
            "lookback_s": self.lookback_s,
            "scale_down_window_s": window,
        }

    def decide(self, observation: Observation) -> Decision:
        """One turn of the HPA with two triggers; one that fails leaves the other, but nothing is lowered then."""
        now_s, demand, ordered = observation.now_s, observation.demand, observation.ordered
        rows, guards = observation.memory or _Memory(GrowingRows.empty(2), GuardMemory())
        before = same_time_of_past_periods(rows.rows, now_s, self.period_s, self.periods, self.lookback_s)
        if not math.isnan(demand):
            rows = rows.extended(np.array([[now_s, demand]]))
        target = self.target * observation.capacity.median

        def recommend(now: int, _: int) -> int:
            asked = [external_replicas(m, target, now, self.tolerance) for m in (demand, before) if m == m]
            floor = now if math.isnan(demand) else 0
            return max([floor, *asked])

        if math.isnan(demand) and math.isnan(before):
            memory = _Memory(rows, guards)
            return Decision(ordered, ordered, Reason.ABSENT_DATA, bound_by="absent demand", memory=memory)
        made = make_syncs(observation, guards, self.behavior_, self.sync_s, recommend)
        reason = Reason.FORECAST if before > demand and made.replicas != ordered else made.reason
        return Decision(made.replicas, ordered, reason, bound_by=made.bound_by, memory=_Memory(rows, made.memory))

    def ladders(self, past: Past) -> Sequence[Sequence[MimirLikePolicy]]:
        """One ladder per periods (seven days, yesterday, last week) and scale-down window: targets by 2.5 points."""
        shapes = ((DAY_S, 7), (DAY_S, 1), (7 * DAY_S, 1))
        return [
            [replace(self, target=t, period_s=p, periods=n, behavior_=with_window(self.behavior_, w)) for t in TARGETS]
            for p, n in shapes
            for w in (300.0, 1800.0)
        ]
