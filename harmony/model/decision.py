"""`Decision`: the record a person reads: how many replicas, why, and what every alternative would have risked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray

__all__ = ["Candidates", "Decision", "Reason"]


class Reason(StrEnum):
    """Why the replica count is what it is (a closed set; users filter and alert on these names)."""

    FORECAST = "Forecast"  # least expected cost among the candidates whose risk is acceptable
    REACTIVE_FLOOR = "ReactiveFloor"  # present demand already needs this many
    WARMING_UP = "WarmingUp"  # no forecast yet: present demand plus a margin
    ABSENT_DATA = "AbsentData"  # demand or forecast is missing: hold, never scale down
    STABILIZED = "Stabilized"  # a recent recommendation was higher (or lower, on the way up)
    RATE_LIMITED = "RateLimited"  # a behavior policy allows no more change at once
    MIN_REPLICAS = "MinReplicas"
    MAX_REPLICAS = "MaxReplicas"
    FALLBACK = "Fallback"  # data have been absent for several turns: at least the fallback's replicas
    PAUSED = "Paused"  # the user has stopped scaling
    MODE_LIMITED = "AuthorityLimited"  # the granted mode allows less
    UNREACHABLE = "ObjectiveUnreachable"  # even the most replicas allowed miss more than was promised
    TARGET_RATIO = "TargetRatio"  # HPA: usage over target
    WITHIN_TOLERANCE = "WithinTolerance"  # HPA: usage near enough to target
    FIXED = "Fixed"  # static
    MARGIN = "Margin"  # reactive: last value plus margin
    FORESIGHT = "Foresight"  # oracle


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """Every replica count that was weighed, with its risk and cost (arrays of equal length, ascending replicas).

    Attributes:
        replicas: (n,) the counts.
        violation_probability: (n,) the stated probability, in the objective's measure and recalibrated by what
            stated probabilities have realised so far.
        violated_time: (n,) the model's expected share of the window's steps that would be missed.
        violated_window: (n,) the model's probability that any step of the window would be missed, per sample path.
        expected_cost: (n,) money per hour: idle, missing and switched replicas.
        paths: sample paths that the probabilities were counted on, so that 0 means less than one in so many; 0 where
            that is not known.
    """

    replicas: npt.NDArray[np.int64]
    violation_probability: FloatArray
    violated_time: FloatArray
    violated_window: FloatArray
    expected_cost: FloatArray
    paths: int = 0

    def __len__(self) -> int:
        """Number of candidates."""
        return int(self.replicas.size)

    def to_json(self) -> list[dict[str, float | int]]:
        """One object per candidate."""
        names = ("replicas", "violation_probability", "violated_time", "violated_window", "expected_cost")
        columns = [getattr(self, n).tolist() for n in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True, eq=False, slots=True)
class Decision:
    """What one policy decided at one moment, and everything that led to it.

    Attributes:
        replicas: the count to order.
        current: the count ordered before.
        reason: why, from the closed set `Reason`.
        violation_probability: stated probability of a miss at `replicas` (NaN when the policy states none).
        expected_cost: money per hour at `replicas` (NaN when the policy weighs none).
        candidates: every alternative considered, None for policies that weigh none.
        unconstrained: what the rule asked for before guards.
        bound_by: the limit that bound ("epsilon", "reactive floor", "max_replicas", ...); empty for none.
        quantiles: demand forecast quantiles for people, level -> (horizon,) values; empty without a forecast.
        model: name and version of the forecaster; empty without a forecast.
        memory: what this policy wants to see again next time; opaque to all others.
    """

    replicas: int
    current: int
    reason: Reason
    violation_probability: float = float("nan")
    expected_cost: float = float("nan")
    candidates: Candidates | None = None
    unconstrained: int = -1
    bound_by: str = ""
    quantiles: dict[float, FloatArray] = field(default_factory=dict)
    model: str = ""
    memory: Any = None

    @property
    def paths(self) -> int:
        """Sample paths that risks were counted on; 0 where none were, or that is not known."""
        return 0 if self.candidates is None else self.candidates.paths

    def with_replicas(self, replicas: int, reason: Reason, bound_by: str) -> Decision:
        """The same decision with another count, its risk and cost read off the candidates (largest one not above)."""
        risk, cost = float("nan"), float("nan")
        if self.candidates is not None:
            at = max(0, int(np.searchsorted(self.candidates.replicas, replicas, side="right")) - 1)
            risk = float(self.candidates.violation_probability[at])
            cost = float(self.candidates.expected_cost[at])
        wanted = self.replicas if self.unconstrained < 0 else self.unconstrained
        return replace(
            self,
            unconstrained=wanted,
            replicas=replicas,
            reason=reason,
            bound_by=bound_by,
            violation_probability=risk,
            expected_cost=cost,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a journal or an API (absent numbers are null)."""

        def number(x: float) -> float | None:
            return None if np.isnan(x) else float(x)

        return {
            "replicas": self.replicas,
            "current": self.current,
            "reason": str(self.reason),
            "violation_probability": number(self.violation_probability),
            "expected_cost": number(self.expected_cost),
            "unconstrained": self.unconstrained,
            "bound_by": self.bound_by,
            "candidates": [] if self.candidates is None else self.candidates.to_json(),
            "quantiles": {f"{q:g}": [number(v) for v in vs] for q, vs in self.quantiles.items()},
            "model": self.model,
        }
