"""HARMONY's own policy: the decision rule on a joint forecast, a reactive floor, and a hold on the way down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harmony.decision.rule import decide
from harmony.model.decision import Decision
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, Setting

__all__ = ["HarmonyPolicy"]


@dataclass(frozen=True, slots=True)
class HarmonyPolicy:
    """Least expected cost subject to the stated risk, from a named forecaster.

    `hold_s`: a scale-down waits until nothing in that many seconds asked for more. `risk_scale`: the model's
    probability to start deciding with, as a multiple of epsilon; feedback moves it from there.
    """

    forecaster: str = "base"
    hold_s: float = 0.0
    risk_scale: float = 1.0
    name: str = "harmony"

    @property
    def behavior(self) -> Behavior | None:
        """The hold as a scale-down stabilisation window."""
        return Behavior.hold(self.hold_s) if self.hold_s > 0 else None

    @property
    def settings(self) -> dict[str, Setting]:
        """Forecaster, hold and starting risk."""
        return {"forecaster": self.forecaster, "hold_s": self.hold_s, "risk_scale": self.risk_scale}

    def decide(self, observation: Observation) -> Decision:
        """See `harmony.decision.rule.decide`."""
        return decide(observation)

    def fitted(self, past: Past) -> HarmonyPolicy:
        """Nothing to fill in."""
        return self

    def ladders(self, past: Past) -> Sequence[Sequence[HarmonyPolicy]]:
        """One ladder per hold (none to three hours): starting risks from thirty times epsilon to a quarter of it."""
        holds = [0.0, *(h for h in (600.0, 1800.0, 3600.0, 10_800.0) if h > past.step_s)]
        scales = (30.0, 10.0, 4.0, 2.0, 1.0, 0.5, 0.25)
        return [[replace(self, hold_s=h, risk_scale=s) for s in scales] for h in holds]
