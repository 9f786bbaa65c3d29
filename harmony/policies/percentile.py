"""A high percentile of recent demand plus a margin, as Autopilot (EuroSys 2020) and Crane recommend capacity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harmony.decision.risk import replicas_needed
from harmony.model.decision import Decision, Reason
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast

__all__ = ["PercentilePolicy"]

Marks = tuple[tuple[float, float], ...]  # (time in seconds, demand), oldest first


@dataclass(frozen=True, slots=True)
class PercentilePolicy(Unforecast):
    """Replicas for the ``level`` quantile of the known demand of the last ``window_s`` seconds times ``1 + margin``."""

    level: float = 0.95
    window_s: float = 3600.0
    margin: float = 0.15
    name: str = "percentile"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Level, window and margin."""
        return {"level": self.level, "window_s": self.window_s, "margin": self.margin}

    def decide(self, observation: Observation) -> Decision:
        """The window's quantile with a margin; hold when demand is absent."""
        now, seen = observation.now_s, observation.demand
        marks: Marks = tuple(m for m in observation.memory or () if now - self.window_s < m[0] <= now)
        if math.isnan(seen):
            return Decision(
                observation.ordered, observation.ordered, Reason.ABSENT_DATA, bound_by="absent demand", memory=marks
            )
        marks = (*marks, (now, seen))
        high = np.quantile([d for _, d in marks], self.level, method="higher") * (1.0 + self.margin)
        count = int(replicas_needed(high, observation.capacity.median))
        return Decision(max(1, count), observation.ordered, Reason.MARGIN, memory=marks)

    def ladders(self, past: Past) -> Sequence[Sequence[PercentilePolicy]]:
        """One ladder per window (a quarter of an hour to a day) and level: margins from minus a third to eightfold."""
        margins = [round(float(np.exp(x)) - 1.0, 4) for x in np.arange(-0.4, 2.2, 0.05)]
        windows = [w for w in (900.0, 3600.0, 10_800.0, 43_200.0, 86_400.0) if w >= 2 * past.step_s]
        pairs = [(w, q) for w in windows or [2 * past.step_s] for q in (0.5, 0.9, 0.95, 1.0)]
        return [[replace(self, window_s=w, level=q, margin=m) for m in margins] for w, q in pairs]
