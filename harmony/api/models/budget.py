"""The budget of GPUs that all services share."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from harmony.api.models.base import Model, Request

__all__ = ["GpuBudget", "GpuBudgetRequest"]


class GpuBudgetRequest(Request):
    """Another budget, from the next turn on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"gpus": 40}]})

    gpus: int = Field(ge=0, le=1_000_000, description="GPUs in all. Below what is in use it stops growth only.")


class GpuBudget(Model):
    """The budget in force: what was set last, or what the server was started with."""

    gpus: int
    set_by: str | None = Field(description="Who set it; null for what the server was started with.")
    at: str | None = Field(description="When; null for what the server was started with.")
    given: int = Field(description="What the server was started with.")
