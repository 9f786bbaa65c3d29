"""What all messages have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Health", "Model", "Number", "Probability", "ProblemDetails", "Request"]

Number = float | None  # None: absent
Probability = Annotated[float, Field(ge=0, le=1)] | None


class Model(BaseModel):
    """An answer: clients take fields that they do not know yet for granted."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Request(BaseModel):
    """A request: a field that does not exist is a mistake, and numbers are numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class ProblemDetails(Model):
    """RFC 9457. Act on `type`: it is stable, all texts may change."""

    type: str = Field(examples=["urn:harmony:problem:not-found"])
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = Field(default=None, description='What is wrong where: {"at", "message"}.')


class Health(Model):
    """Whether the process answers, and whether the loop behind it moves.

    "degraded": the loop goes on without something that a restart would not bring back, such as room on the disk.
    """

    status: Literal["ok", "degraded", "failing"]
    version: str
    problem: str = Field("", description="What is wrong; empty for nothing.")
