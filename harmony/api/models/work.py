"""Messages about jobs (backtests) and about the models there are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from harmony.api.models.base import Model, Number, Request
from harmony.api.models.forecasts import Reading
from harmony.policies.registry import policy_names

__all__ = ["BacktestRequest", "Job", "JobPage", "ModelCard", "ModelPage"]

LEAST_ROWS = 288
MOST_POLICIES = 16


def _known(name: str) -> str:
    """The name of a policy of the registry."""
    if name not in policy_names(further=True):
        raise ValueError(f"no such policy; known: {', '.join(policy_names(further=True))}")
    return name


def _listed(schema: JsonDict) -> None:
    """Say in the document which policies there are."""
    schema["enum"] = list(policy_names(further=True))


PolicyName = Annotated[str, AfterValidator(_known), Field(json_schema_extra=_listed)]


class BacktestRequest(Request):
    """Replay a history of demand under each policy: what would it have cost, and how much would have been violated?"""

    demand: list[Reading | None] = Field(
        min_length=LEAST_ROWS, max_length=50_000, description="Demand per step, oldest first; null is absent."
    )
    step_seconds: float = Field(60, ge=1, le=3600)
    per_replica: float | None = Field(None, gt=0, le=1e15, description="What a replica carries; null: mean needs 20.")
    lead_time_s: float = Field(300, gt=0, le=86_400)
    epsilon: float = Field(0.01, gt=0, le=0.5)
    price_per_gpu_hour: float = Field(1.0, ge=0, le=1e6)
    gpus_per_replica: int = Field(1, ge=1, le=1024)
    min_replicas: int = Field(1, ge=0, le=100_000)
    max_replicas: int = Field(100_000, ge=1, le=100_000)
    policies: list[PolicyName] = Field(["harmony", "hpa"], min_length=1, max_length=MOST_POLICIES)
    seed: int = Field(0, ge=0, le=2**31)

    @model_validator(mode="after")
    def _fits(self) -> BacktestRequest:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas must not be below min_replicas")
        if sum(v is not None for v in self.demand) < LEAST_ROWS // 2:
            raise ValueError(f"at least {LEAST_ROWS // 2} rows of demand must be present")
        return self


class Job(Model):
    """Work under way, or done."""

    id: str
    kind: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    by: str = Field(description="Who started it.")
    created: str | None
    started: str | None = None
    ended: str | None = None
    progress: float = Field(0.0, ge=0, le=1)
    note: str = ""
    error: str = Field("", description="Why it failed.")
    result: dict[str, Any] | None = None


class JobPage(Model):
    """Jobs, newest first, without their results."""

    items: list[Job]


class ModelCard(Model):
    """A forecaster that this server can use."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    version: str
    kind: str = Field(description="flow (joint, pre-trained) or baseline (fitted on each history).")
    in_use: bool
    description: str = ""
    lookback: int | None = None
    horizon: int | None = None
    parameters: int | None = None
    validation: dict[str, Number] | None = None


class ModelPage(Model):
    """All of them."""

    items: list[ModelCard]
