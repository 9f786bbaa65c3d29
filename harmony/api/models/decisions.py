"""Decisions with every alternative, explanations, and what would be decided instead."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from harmony.api.models.base import Model, Number, Probability, Request

__all__ = ["Candidate", "Decision", "DecisionPage", "Explanation", "Side", "WhatIf", "WhatIfRequest"]


class Candidate(Model):
    """One replica count that was weighed."""

    replicas: int
    violation_probability: Probability
    violated_time: Probability
    violated_window: Probability
    expected_cost: Number


class Capacity(Model):
    """What one ready replica carries: median and central 90 % interval."""

    median: Number
    low: Number
    high: Number


class LeadTime(Model):
    """Order to ready."""

    p50_s: Number
    p90_s: Number


class Outcome(Model):
    """What came of the decisions since the turn before."""

    steps: int
    violated: int


class Decision(Model):
    """What was decided, of what, and why."""

    id: str | None = Field(None, description="Its id in the journal; null where there is none.")
    service: str
    at: str | None
    replicas: int
    current: int
    unconstrained: int
    desired: int
    held_by: str
    reason: str
    bound_by: str
    sentence: str = Field(description="The decision in words.")
    violation_probability: Probability
    paths: int = Field(0, description="Sample paths it was counted on, of which 0 is less than one; 0 for none.")
    epsilon: float
    risk_level: Number
    measure: str
    expected_cost: Number = Field(description="Per hour.")
    currency: str
    demand: Number
    unit: str
    ordered: int
    ready: int
    min_replicas: int
    max_replicas: int
    capacity: Capacity
    lead_time: LeadTime
    window_s: float = Field(description="How far ahead this decision answers for.")
    outcome: Outcome
    model: str
    candidates: list[Candidate] | None = Field(None, description="Every alternative; null in lists.")
    quantiles: dict[str, list[Number]] | None = Field(None, description="Demand per step; null in lists.")


class DecisionPage(Model):
    """Decisions, newest first."""

    items: list[Decision]
    next_cursor: str | None


class Difference(Model):
    """A field in which the recomputed decision differs."""

    field: str
    stored: str
    recomputed: str


class Explanation(Model):
    """The decision recomputed from the journal."""

    id: str
    same: bool | None = Field(description="Whether it came out the same; null where it cannot be recomputed.")
    problem: str = Field(description="Why it cannot; empty where it can.")
    differences: list[Difference]
    text: list[str] = Field(description="The explanation in words.")
    decision: Decision


class WhatIfRequest(Request):
    """Changes to the newest turn; what is left out stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"epsilon": 0.001}, {"max_replicas": 12, "price_per_gpu_hour": 2.5}]}
    )

    epsilon: float | None = Field(None, gt=0, le=0.5, description="Tolerated violation probability.")
    price_per_gpu_hour: float | None = Field(None, ge=0, le=1e6)
    miss_price_per_replica_hour: float | None = Field(None, ge=0, le=1e9)
    min_replicas: int | None = Field(None, ge=0, le=100_000)
    max_replicas: int | None = Field(None, ge=1, le=100_000)
    ordered: int | None = Field(None, ge=0, le=100_000, description="As if so many were ordered now.")
    measure: Literal["time", "window"] | None = None
    guards: bool = Field(False, description="Also apply stabilisation and rate limits, as the loop does.")


class Side(Model):
    """A decision as one side of a comparison."""

    replicas: int
    reason: str
    bound_by: str
    violation_probability: Probability
    paths: int = Field(0, description="Sample paths it was counted on, of which 0 is less than one; 0 for none.")
    expected_cost: Number
    epsilon: float
    min_replicas: int
    max_replicas: int
    candidates: list[Candidate]


class WhatIf(Model):
    """The decision as it is and as it would be; nothing was changed."""

    service: str
    at: str | None
    current: int
    currency: str
    old: Side
    new: Side
