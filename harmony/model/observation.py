"""`Observation`: everything a policy may look at; nothing else reaches it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forecasting.distribution import ForecastDistribution
from forecasting.panel import FloatArray
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective

__all__ = ["Observation", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the decisions since the last look.

    Attributes:
        steps: steps with known demand.
        violated: how many of them were violated.
        bound_samples: what steps showed about capacity, where it is learned: (demand per serving replica, whether the
            indicator bound held); only steps that may teach (see `harmony.decision.learning.LearningGate`).
        failed_s: ages (seconds since they were asked for) at which starts failed.
        real_steps, real_violated: steps with known demand, and those that the real replicas violated, whoever set
            them; `steps` are only those that say something about decisions.
        shadow_steps, shadow_violated: the same of the shadow's replicas; 0 without a shadow.
    """

    steps: int = 0
    violated: int = 0
    bound_samples: tuple[tuple[float, bool], ...] = ()
    failed_s: tuple[float, ...] = ()
    real_steps: int = 0
    real_violated: int = 0
    shadow_steps: int = 0
    shadow_violated: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at one service at one moment.

    Attributes:
        now_s: the moment, seconds since the Unix epoch.
        step_s: seconds that one reading of demand stands for.
        interval_s: seconds until the policy is asked again.
        demand: newest demand in its own unit; NaN when absent.
        ordered, ready: replicas asked for, and of those the ones that serve.
        objective, capacity, lead_time: the objective and what has been learned.
        forecast: joint sample paths from ``now_s`` on, or None when there is none (yet).
        risk_level: the model's own violation probability that has been found to realise `objective.epsilon`
            (see `harmony.decision.feedback`); equal to epsilon until something was learned.
        memory: what the same policy put into its last `Decision.memory`; None at first.
        indicators: newest values of what else was measured (queue, cache, retries), by name; NaN or missing where
            absent. None in worlds that measure nothing else; the journal does not keep them.
        past: (rows,) demand before this moment, oldest first, NaN where absent: every `interval_s` (`step_s` where
            that is longer), the newest so long ago. None where it is not (yet) known, or was given before.
        may_review: False where long work that can wait should wait for a later turn.
        missed: violated share of the known steps since the last turn, 0..1, as far as decisions answer for them; NaN
            where none is known, and where every step has a turn of its own (`interval_s` up to `step_s`). The journal
            does not keep it.
    """

    now_s: float
    step_s: float
    interval_s: float
    demand: float
    ordered: int
    ready: int
    objective: Objective
    capacity: Capacity
    lead_time: LeadTime
    forecast: ForecastDistribution | None = None
    risk_level: float = 0.01
    memory: Any = None
    indicators: Mapping[str, float] | None = None
    past: FloatArray | None = None
    may_review: bool = True
    missed: float = math.nan
