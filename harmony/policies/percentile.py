"""A high percentile of recent demand plus a margin, as Autopilot (EuroSys 2020) and Crane recommend capacity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from forecasting.panel import FloatArray
from harmony.decision.risk import replicas_needed
from harmony.model.decision import Decision, Reason
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast
from harmony.policies.growing_rows import GrowingRows

__all__ = ["BUCKETS", "PercentilePolicy"]

# Upper ends of the histogram's buckets in replicas: the first a hundredth, each 5 % wider, as in VPA and Crane.
BUCKETS: FloatArray = 0.01 * np.cumsum(1.05 ** np.arange(340))


class _Window(NamedTuple):
    rows: GrowingRows  # (time, demand), oldest first


class _Histogram(NamedTuple):
    weights: FloatArray
    at_s: float


@dataclass(frozen=True, slots=True)
class PercentilePolicy(Unforecast):
    """Replicas for the ``level`` quantile of the known demand of the last ``window_s`` seconds times ``1 + margin``.

    With a `half_life_s` above zero it is Autopilot's and Crane's histogram instead: all of the past, each reading's
    weight halved every `half_life_s`, in buckets that widen by 5 %.
    """

    level: float = 0.95
    window_s: float = 3600.0
    margin: float = 0.15
    half_life_s: float = 0.0
    name: str = "percentile"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Level, window (or half-life) and margin."""
        over: dict[str, SettingValue] = {"window_s": self.window_s}
        if self.half_life_s > 0:
            over = {"half_life_s": self.half_life_s}
        return {"level": self.level, **over, "margin": self.margin}

    def decide(self, observation: Observation) -> Decision:
        """The quantile with a margin; hold when demand is absent."""
        ordered, memory = observation.ordered, observation.memory
        if math.isnan(observation.demand):
            return Decision(ordered, ordered, Reason.ABSENT_DATA, bound_by="absent demand", memory=memory)
        quantile = self._by_histogram if self.half_life_s > 0 else self._by_window
        high, memory = quantile(observation)
        count = int(replicas_needed(np.asarray(high * (1.0 + self.margin)), observation.capacity.median))
        return Decision(max(1, count), ordered, Reason.MARGIN, memory=memory)

    def _by_window(self, observation: Observation) -> tuple[float, _Window]:
        now = observation.now_s
        rows = (observation.memory or _Window(GrowingRows.empty(2))).rows
        rows = rows.extended(np.array([[now, observation.demand]]))
        times = rows.rows[:, 0]
        window = rows.rows[int(np.searchsorted(times, now - self.window_s, side="right")) :, 1]
        rank = min(window.size - 1, math.ceil(self.level * (window.size - 1) - 1e-9))
        return float(np.partition(window, rank)[rank]), _Window(rows)

    def _by_histogram(self, observation: Observation) -> tuple[float, _Histogram]:
        now, per_replica = observation.now_s, observation.capacity.median
        memory: _Histogram = observation.memory or _Histogram(np.zeros(BUCKETS.size), now)
        weights = memory.weights * 0.5 ** (max(0.0, now - memory.at_s) / self.half_life_s)
        weights[min(BUCKETS.size - 1, int(np.searchsorted(BUCKETS, observation.demand / per_replica)))] += 1.0
        reached = np.cumsum(weights)
        at = int(np.searchsorted(reached, self.level * reached[-1] * (1 - 1e-12)))
        return float(BUCKETS[at]) * per_replica, _Histogram(weights, now)

    def ladders(self, past: Past) -> Sequence[Sequence[PercentilePolicy]]:
        """One ladder per window (15 minutes to a day) or half-life, and level: margins from -33 % to eightfold."""
        margins = [round(float(np.exp(x)) - 1.0, 4) for x in np.arange(-0.4, 2.2, 0.05)]
        windows = [w for w in (900.0, 3600.0, 10_800.0, 43_200.0, 86_400.0) if w >= 2 * past.step_s]
        pairs = [(w, q) for w in windows or [2 * past.step_s] for q in (0.5, 0.9, 0.95, 1.0)]
        sliding = [[replace(self, window_s=w, level=q, margin=m) for m in margins] for w, q in pairs]
        decaying = [
            [replace(self, half_life_s=h, level=q, margin=m) for m in margins]
            for h in (43_200.0, 172_800.0)
            for q in (0.9, 0.98)
        ]
        return sliding + decaying
