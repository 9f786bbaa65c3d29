"""Perfect foresight, given the lead time: what no policy can beat without missing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harmony.decision.risk import replicas_needed
from harmony.decision.rule import lead_window, reactive_floor
from harmony.model.decision import Decision, Reason
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast

__all__ = ["OraclePolicy"]


@dataclass(frozen=True, slots=True)
class OraclePolicy(Unforecast):
    """The fewest replicas that carry the true demand over the lead window (its forecast is the truth itself)."""

    name: str = "oracle"

    @property
    def forecaster(self) -> str:
        """The truth."""
        return "truth"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """None."""
        return {}

    def decide(self, observation: Observation) -> Decision:
        """Maximum of present and true coming need over the lead window; absent readings need nothing."""
        floor = reactive_floor(observation)
        ahead = 0
        if observation.forecast is not None:
            demand = observation.forecast.paths[0, : lead_window(observation), 0]
            known = demand[~np.isnan(demand)]
            if known.size:
                ahead = int(replicas_needed(known.max(), observation.capacity.median))
        return Decision(max(1, floor, ahead), observation.ordered, Reason.FORESIGHT)

    def ladders(self, past: Past) -> Sequence[Sequence[OraclePolicy]]:
        """Nothing to tune."""
        return [[self]]
