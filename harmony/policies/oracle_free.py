"""Perfect service without any lead time: what scaling at once would cost, so what the lead itself costs can be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harmony.decision.rule import reactive_floor
from harmony.model.decision import Decision, Reason
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast

__all__ = ["OracleFreePolicy"]


@dataclass(frozen=True, slots=True)
class OracleFreePolicy(Unforecast):
    """Exactly what present demand needs, in a world where replicas are ready at once (its own: no lead time)."""

    name: str = "oracle-free"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """None."""
        return {}

    def decide(self, observation: Observation) -> Decision:
        """What demand needs now; nothing where it is absent."""
        need = 0 if math.isnan(observation.demand) else reactive_floor(observation)
        return Decision(max(1, need), observation.ordered, Reason.FORESIGHT)

    def ladders(self, past: Past) -> Sequence[Sequence[OracleFreePolicy]]:
        """Nothing to tune."""
        return [[self]]
