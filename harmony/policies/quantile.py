"""One fixed risk level on a joint forecast, a reactive floor, and a hold on the way down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harmony.decision.rule import decide
from harmony.model.decision import Decision
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, WithoutPast

__all__ = ["QuantilePolicy"]


@dataclass(frozen=True, slots=True)
class QuantilePolicy(WithoutPast):
    """Least expected cost subject to one fixed risk level, from a named forecaster.

    `hold_s`: a scale-down waits until nothing in that many seconds asked for more; negative stands for one lead time
    (filled in by `fitted`): ready replicas are the minimum of what was set over the lead, so counts that flicker
    would be paid for and not serve. `risk_scale`: the model's
    probability to start deciding with, as a multiple of epsilon; feedback moves it from there. `limits`: the user's
    own rate limits and windows, which then stand in for the hold.
    """

    forecaster: str = "base"
    hold_s: float = -1.0
    risk_scale: float = 1.0
    name: str = "quantile"
    limits: Behavior | None = None

    @property
    def behavior(self) -> Behavior | None:
        """The user's limits, or the hold as a scale-down stabilisation window."""
        if self.limits is not None:
            return self.limits
        return Behavior.hold(self.hold_s) if self.hold_s > 0 else None

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Forecaster, hold and starting risk."""
        hold_s = self.hold_s if self.limits is None else self.limits.scale_down.stabilization_window_s
        return {"forecaster": self.forecaster, "hold_s": hold_s, "risk_scale": self.risk_scale}

    def decide(self, observation: Observation) -> Decision:
        """See `harmony.decision.rule.decide`."""
        return decide(observation)

    def fitted(self, past: Past) -> QuantilePolicy:
        """A hold of one lead time, unless another was given."""
        return self if self.hold_s >= 0 else replace(self, hold_s=past.lead_s)

    def ladders(self, past: Past) -> Sequence[Sequence[QuantilePolicy]]:
        """One ladder per hold (one lead time, one hour): starting risks from 20 times epsilon to a twentieth."""
        holds = sorted({past.lead_s, max(past.lead_s, 3600.0)})
        scales = (20.0, 10.0, 7.0, 5.0, 3.5, 2.5, 1.8, 1.4, 1.0, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05)
        return [[replace(self, hold_s=h, risk_scale=s) for s in scales] for h in holds]
