"""Last value plus a margin, held on the way down: the simplest autoscaler that works."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harmony.decision.risk import replicas_needed
from harmony.model.decision import Decision, Reason
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast

__all__ = ["ReactivePolicy"]


@dataclass(frozen=True, slots=True)
class ReactivePolicy(Unforecast):
    """Replicas for the last demand times ``1 + margin``; a scale-down waits ``hold_s`` seconds."""

    margin: float = 0.2
    hold_s: float = 300.0
    name: str = "reactive"

    @property
    def behavior(self) -> Behavior | None:
        """The hold as a scale-down stabilisation window."""
        return Behavior.hold(self.hold_s) if self.hold_s > 0 else None

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Margin and hold."""
        return {"margin": self.margin, "hold_s": self.hold_s}

    def decide(self, observation: Observation) -> Decision:
        """Last demand plus margin; hold when demand is absent."""
        if math.isnan(observation.demand):
            return Decision(observation.ordered, observation.ordered, Reason.ABSENT_DATA, bound_by="absent demand")
        wanted = observation.demand * (1.0 + self.margin)
        count = int(replicas_needed(np.asarray(wanted), observation.capacity.median))
        return Decision(max(1, count), observation.ordered, Reason.MARGIN)

    def ladders(self, past: Past) -> Sequence[Sequence[ReactivePolicy]]:
        """One ladder per hold (none to three hours): margins from nothing to threefold."""
        margins = (
            0.0,
            0.025,
            0.05,
            0.075,
            0.1,
            0.125,
            0.15,
            0.2,
            0.25,
            0.3,
            0.35,
            0.4,
            0.5,
            0.6,
            0.8,
            1.0,
            1.5,
            2.0,
            3.0,
        )
        holds = [0.0, *(h for h in (300.0, 600.0, 1800.0, 3600.0, 10_800.0) if h > past.step_s)]
        return [[replace(self, margin=m, hold_s=h) for m in margins] for h in holds]
