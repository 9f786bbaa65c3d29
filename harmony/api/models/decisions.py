"""Decisions with every alternative, explanations, and what would be decided instead."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from harmony.api.models.base import Model, Number, Probability, Request
from harmony.model import decision as model
from harmony.schema.fields import About
from harmony.schema.models import Types, model_of, row_of
from harmony.schema.surface import Spelling, Surface
from harmony.serving.views import TOLD

__all__ = ["LARGE", "SIDE", "Candidate", "Decision", "DecisionPage", "Explanation", "Side", "WhatIf", "WhatIfRequest"]


class ApiTypes(Types):
    """Numbers and probabilities as all messages have them."""

    def number(self, about: About) -> Any:  # noqa: ANN401  (a type)
        """A probability where it has the bounds of one."""
        return Probability if (about.least, about.most) == (0, 1) else Number


TYPES = ApiTypes()
SIDE = Surface(  # what may differ between two decisions about the same moment
    {
        model.Candidates: TOLD.spelling(model.Candidates),
        model.Decision: Spelling(without=frozenset({"current", "unconstrained", "held_for_s", "quantiles", "model"})),
    }
)
LARGE = tuple(name for name, told, _ in TOLD.told(model.Decision) if told.is_large)  # null in lists
ALWAYS_SENT = ConfigDict(json_schema_serialization_defaults_required=True)

Candidate: Any = row_of(model.Candidates, Model, TOLD, TYPES)


class Capacity(Model):
    """What one ready replica carries: median and central 90 % interval."""

    median: Number
    low: Number
    high: Number


class LeadTime(Model):
    """From asking for a replica to its being ready."""

    p50_s: Number
    p90_s: Number


class Outcome(Model):
    """What came of the decisions since the turn before."""

    steps: int = Field(description="Steps that decisions answer for; the shadow's while there is no authority.")
    violated: int = Field(description="Of these, the violated ones.")
    real_steps: int = Field(0, description="Steps with known demand, whoever set the replicas.")
    real_violated: int = Field(0, description="Of these, those that the real replicas violated.")


class Decision(model_of(model.Decision, Model, TOLD, TYPES)):  # type: ignore[misc] # its fields are the model's own
    """What was decided, of what, and why. In lists, what is large (candidates, quantiles) is null."""

    model_config = ALWAYS_SENT

    id: str | None = Field(None, description="Its id in the journal; null where there is none.")
    service: str
    at: str | None
    desired: int
    held_by: str
    sentence: str = Field(description="The decision in words.")
    epsilon: float
    risk_level: Number
    measure: str
    currency: str
    demand: Number
    unit: str
    ordered: int = Field(description="Current replicas of the real target.")
    ready: int = Field(description="Of these, those that serve.")
    shadow_ordered: int | None = Field(None, description="The shadow's current replicas; null without a shadow.")
    shadow_ready: int | None = Field(None, description="Of these, those that would serve.")
    bill_per_hour: Number = Field(None, description="Money per hour for the real target's current replicas.")
    idle_per_hour: Number = Field(None, description="The part of it for replicas that present demand does not need.")
    min_replicas: int
    max_replicas: int
    capacity: Capacity
    lead_time: LeadTime
    window_s: float = Field(description="How far ahead this decision answers for.")
    outcome: Outcome


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
    ordered: int | None = Field(None, ge=0, le=100_000, description="As if so many were the current replicas.")
    measure: Literal["time", "window", "requests"] | None = None
    guards: bool = Field(False, description="Also apply stabilisation and rate limits, as the loop does.")


class Side(model_of(model.Decision, Model, SIDE, TYPES)):  # type: ignore[misc]
    """A decision as one side of a comparison."""

    model_config = ALWAYS_SENT

    epsilon: float
    min_replicas: int
    max_replicas: int


class WhatIf(Model):
    """The decision as it is and as it would be; nothing was changed."""

    service: str
    at: str | None
    current: int
    currency: str
    old: Side
    new: Side
