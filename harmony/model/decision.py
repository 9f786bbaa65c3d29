"""`Decision`: the record a person reads: how many replicas, why, and what every alternative would have risked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray
from harmony.schema.fields import PRIVATE, About, columns_of
from harmony.schema.surface import plain

__all__ = ["Candidates", "Decision", "Reason", "Tried"]


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
    UNREACHABLE = "ObjectiveUnreachable"  # even the maximum violates more than the objective allows
    TARGET_RATIO = "TargetRatio"  # HPA: usage over target
    WITHIN_TOLERANCE = "WithinTolerance"  # HPA: usage near enough to target
    FIXED = "Fixed"  # static
    MARGIN = "Margin"  # reactive: last value plus margin
    FORESIGHT = "Foresight"  # oracle


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """Every replica count that was weighed, with its risk and cost (arrays of equal length, ascending replicas)."""

    replicas: Annotated[npt.NDArray[np.int64], About("The count.", least=0)]
    violation_probability: Annotated[
        FloatArray,
        About("Stated probability of a violation: in the objective's measure, recalibrated by what came true.", 0, 1),
    ]
    violated_time: Annotated[
        FloatArray, About("Share of the window's steps that the model expects to be violated.", 0, 1)
    ]
    violated_window: Annotated[FloatArray, About("Probability by the model that any step is violated.", 0, 1)]
    expected_cost: Annotated[
        FloatArray,
        About(
            "What the rule weighed, not the bill: expected money per hour for idle replicas (all of them where a price "
            "decides), for missing ones and for switching, at this count."
        ),
    ]
    paths: Annotated[
        int,
        About(
            "Sample paths that probabilities were counted on, so that 0 means less than one in so many; 0: not known.",
            least=0,
        ),
    ] = 0

    def __len__(self) -> int:
        """Number of candidates."""
        return int(self.replicas.size)

    def __getitem__(self, part: slice) -> Candidates:
        """Some of them, in the same order."""
        return replace(self, **{c.name: getattr(self, c.name)[part] for c in columns_of(Candidates)})


@dataclass(frozen=True, eq=False, slots=True)
class Tried:
    """The best setting of every family on the service's own past: what it would have set and violated there.

    A replay of what was, never what is: the service itself ran under one setting at a time. The first row is the one in
    force.
    """

    family: Annotated[npt.NDArray[np.str_], About("Who forecasts and which rule decides; or the rule of thumb.")]
    setting: Annotated[npt.NDArray[np.str_], About("Its best setting, with target, knob and hold.")]
    replicas: Annotated[FloatArray, About("What it would have set in the mean, newer days counting for more.", least=0)]
    violated: Annotated[FloatArray, About("Which share it would have violated, in the objective's measure.", 0, 1)]
    allowed: Annotated[
        float, About("The violated share that settings are chosen for: who is above it breaks the budget.", 0, 1)
    ] = math.nan

    def __len__(self) -> int:
        """Number of families."""
        return int(self.replicas.size)


@dataclass(frozen=True, eq=False, slots=True)
class Decision:
    """What one policy decided at one moment, and everything that led to it.

    A field that is added here is told everywhere: in the API, the journal, JSON lines, an object's status, on the page
    (see `harmony.schema`). `memory` is what this policy wants to see again next time; opaque to all others.
    """

    replicas: Annotated[int, About("Replicas that full authority would set.", least=0)]
    current: Annotated[int, About("Current replicas, before the decision.", least=0)]
    reason: Annotated[Reason, About("Why, from a closed set such as Forecast, ReactiveFloor or AbsentData.")]
    violation_probability: Annotated[
        float, About("Stated probability of a violation at this count; absent when the policy states none.", 0, 1)
    ] = math.nan
    expected_cost: Annotated[
        float,
        About(
            "What the rule weighed, not the bill: expected money per hour for idle replicas (all of them where a price "
            "decides), for missing ones and for switching, at this count."
        ),
    ] = math.nan
    candidates: Annotated[Candidates | None, About("Alternatives that were weighed, with their risk and cost.")] = None
    unconstrained: Annotated[int, About("What the rule asked for before guards; -1 where it was not asked.")] = -1
    bound_by: Annotated[str, About("The limit that bound (epsilon, reactive floor, max_replicas); empty for none.")] = (
        ""
    )
    quantiles: Annotated[dict[float, FloatArray], About("Demand forecast: level of the quantile, value per step.")] = (
        field(default_factory=dict)
    )
    model: Annotated[str, About("Name and version of the forecaster; empty without a forecast.")] = ""
    setting: Annotated[
        str, About("The way of deciding in force, chosen on the service's own past; empty for one fixed risk level.")
    ] = ""
    price: Annotated[
        float, About("Replica-hours that are spent to prevent one violated hour; absent where no price decides.", 0)
    ] = math.nan
    wanted: Annotated[int, About("What was asked for before the hold; -1 where it was not asked.")] = -1
    held: Annotated[int, About("What the hold made of that; -1 where it was not asked.")] = -1
    stood: Annotated[
        int,
        About("What was asked for last, from which the price of a change was weighed; -1 where it was not weighed."),
    ] = -1
    held_for_s: Annotated[
        float,
        About(
            "Seconds for which what was asked for before keeps this count (a hold or a stabilisation window), unless "
            "more is asked for again; absent where it does not, or that is not known.",
            0,
        ),
    ] = math.nan
    budget_left: Annotated[
        float, About("Share of the error budget that is not spent; negative when overspent, absent where none is kept.")
    ] = math.nan
    burn_rate: Annotated[
        float, About("Violated share of the present clock hour over epsilon: 1 spends the budget just in time.", 0)
    ] = math.nan
    budget_least: Annotated[
        float,
        About("What is left of the budget lies above this 97.5 % of the time, where the objective is kept exactly."),
    ] = math.nan
    budget_most: Annotated[
        float,
        About("What is left of the budget lies below this 97.5 % of the time, where the objective is kept exactly."),
    ] = math.nan
    tried: Annotated[
        Tried | None, About("The best of every family of settings on the service's own past; null where none chose.")
    ] = None
    why: Annotated[
        str, About("What the setting would have cost and violated on the service's own past, beside the best others.")
    ] = ""
    memory: Annotated[Any, PRIVATE] = None

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
        """Plain values (absent numbers are null, no candidates are an empty list)."""
        return plain(self)
