"""A fixed replica count, set once from the past: what a service without an autoscaler does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harmony.model.decision import Decision, Reason
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast

__all__ = ["StaticPolicy"]


@dataclass(frozen=True, slots=True)
class StaticPolicy(Unforecast):
    """Always ``replicas``; 0 stands for "the most that the past needed", filled in by `fitted`."""

    replicas: int = 0
    name: str = "static"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """The count."""
        return {"replicas": self.replicas}

    def decide(self, observation: Observation) -> Decision:
        """The fixed count."""
        return Decision(self.replicas, observation.ordered, Reason.FIXED)

    def fitted(self, past: Past) -> StaticPolicy:
        """Provisioned for the peak of the past, unless a count was given."""
        seen = past.need[~np.isnan(past.need)]
        return self if self.replicas or not seen.size else replace(self, replicas=max(1, int(seen.max())))

    def ladders(self, past: Past) -> Sequence[Sequence[StaticPolicy]]:
        """Counts between what half of the past needed and its peak."""
        seen = past.need[~np.isnan(past.need)]
        if not seen.size:
            return [[self]]
        levels = np.linspace(0.5, 1.0, 501)
        counts = np.unique(np.quantile(seen, levels, method="higher").astype(int))
        return [[replace(self, replicas=max(1, int(c))) for c in counts]]
