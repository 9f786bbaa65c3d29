"""The Predictive Horizontal Pod Autoscaler: Holt-Winters over what an HPA recommends, the larger of both.

Follows jthomperoo/predictive-horizontal-pod-autoscaler: models see the replica counts that the HPA's own calculation
came to; `decisionType: maximum`; the HPA's stabilisation comes last. Holt-Winters is additive, as in statsmodels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from forecasting.panel import FloatArray
from harmony.decision.guards import GuardMemory
from harmony.decision.risk import MOST_REPLICAS, ROUND
from harmony.model.decision import Decision, Reason
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast
from harmony.policies.hpa import desired_replicas
from harmony.policies.syncs import make_syncs, with_window

__all__ = ["HoltWinters", "PredictiveHpaPolicy"]

DAY_S = 86_400.0
TARGETS = tuple(t / 1000 for t in range(1100, 199, -50))


class HoltWinters(NamedTuple):
    """Additive smoothing of a series that comes in value by value.

    `level`, `trend` and `season` (period,) once two whole seasons are known; before that `first` holds the values.
    `at` is the place in the season of the next value.
    """

    first: tuple[float, ...]
    level: float
    trend: float
    season: FloatArray
    at: int

    @classmethod
    def empty(cls) -> HoltWinters:
        """Nothing seen."""
        return cls((), math.nan, 0.0, np.empty(0), 0)

    def seen(self, value: float, period: int, alpha: float, beta: float, gamma: float) -> HoltWinters:
        """With one more value."""
        if self.season.size:
            return self._smoothed(value, alpha, beta, gamma)
        first = (*self.first, value)
        if len(first) < 2 * period:
            return self._replace(first=first)
        two = np.asarray(first).reshape(2, period)
        means = two.mean(axis=1)
        began = HoltWinters(
            (), float(means[0]), float(means[1] - means[0]) / period, (two - means[:, None]).mean(axis=0), 0
        )
        for known in first:
            began = began._smoothed(known, alpha, beta, gamma)
        return began

    def _smoothed(self, value: float, alpha: float, beta: float, gamma: float) -> HoltWinters:
        seasonal = float(self.season[self.at])
        expected = self.level + self.trend
        level = alpha * (value - seasonal) + (1 - alpha) * expected
        season = self.season.copy()
        season[self.at] = gamma * (value - expected) + (1 - gamma) * seasonal
        trend = beta * (level - self.level) + (1 - beta) * self.trend
        return HoltWinters((), level, trend, season, (self.at + 1) % season.size)

    def ahead(self, steps: int) -> float:
        """The value ``steps`` from now (1 is the next); NaN before two seasons are known."""
        if not self.season.size:
            return math.nan
        return self.level + steps * self.trend + float(self.season[(self.at + steps - 1) % self.season.size])


@dataclass(frozen=True, slots=True)
class PredictiveHpaPolicy(Unforecast):
    """PHPA: Holt-Winters on the counts that an HPA calculates, the larger of both, stabilised like an HPA.

    `alpha`, `beta`, `gamma` smooth level, trend and season (0.9 as in its examples, for seasons of six values, diverges
    over a day of minutes); `period_s` one season; `ahead_s` how far ahead it looks: PHPA itself predicts its next sync;
    negative stands for one lead time, which is what its user would want (filled in by `fitted`). One value of history
    a turn.
    """

    target: float = 0.8
    tolerance: float = 0.1
    alpha: float = 0.5
    beta: float = 0.01
    gamma: float = 0.3
    period_s: float = DAY_S
    ahead_s: float = -1.0
    behavior_: Behavior = field(default_factory=Behavior)
    sync_s: float = 15.0
    name: str = "predictive-hpa"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Target, smoothing, how far ahead and the scale-down window."""
        window = self.behavior_.scale_down.stabilization_window_s
        smoothing = f"{self.alpha:g}/{self.beta:g}/{self.gamma:g}"
        return {"target": self.target, "smoothing": smoothing, "ahead_s": self.ahead_s, "scale_down_window_s": window}

    def decide(self, observation: Observation) -> Decision:
        """The HPA's syncs of one turn, each at the larger of its own and the predicted count."""
        model, guards = observation.memory or (HoltWinters.empty(), GuardMemory())
        ordered, demand = observation.ordered, observation.demand
        if math.isnan(demand):  # no metric, no evaluation: nothing is stored either
            return Decision(ordered, ordered, Reason.ABSENT_DATA, bound_by="absent demand", memory=(model, guards))
        target = self.target * observation.capacity.median
        calculated = desired_replicas(demand, target, ordered, observation.ready, self.tolerance)
        period = max(2, round(self.period_s / observation.interval_s))
        model = model.seen(float(calculated), period, self.alpha, self.beta, self.gamma)
        foreseen = model.ahead(max(1, math.ceil(round(self.ahead_s / observation.interval_s, 9))))
        least = 0 if math.isnan(foreseen) else math.ceil(min(max(foreseen, 0.0), MOST_REPLICAS) - ROUND)

        def recommend(now: int, ready: int) -> int:
            return max(least, desired_replicas(demand, target, now, ready, self.tolerance))

        made = make_syncs(observation, guards, self.behavior_, self.sync_s, recommend)
        reason = Reason.FORECAST if made.replicas == least > calculated else made.reason
        return Decision(made.replicas, ordered, reason, bound_by=made.bound_by, memory=(model, made.memory))

    def fitted(self, past: Past) -> PredictiveHpaPolicy:
        """Looks one lead time ahead, unless told otherwise."""
        return self if self.ahead_s >= 0 else replace(self, ahead_s=past.lead_s)

    def ladders(self, past: Past) -> Sequence[Sequence[PredictiveHpaPolicy]]:
        """One ladder per smoothing, look ahead and scale-down window: targets from 110 % down to 20 %, by 5 points."""
        return [
            [
                replace(
                    self, target=t, alpha=a, beta=b, gamma=g, ahead_s=ahead, behavior_=with_window(self.behavior_, w)
                )
                for t in TARGETS
            ]
            for a, b, g in ((0.9, 0.01, 0.3), (0.5, 0.01, 0.3), (0.1, 0.0, 0.3))
            for ahead in sorted({past.step_s, past.lead_s})
            for w in (300.0, 1800.0)
        ]
