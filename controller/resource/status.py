"""The status of a GPUAutoscaler as typed models: what the controller writes back.

`Status.to_json` leaves out what is absent; a number that is NaN or infinite is absent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
)
from pydantic.alias_generators import to_camel

from controller.resource.base import ApiModel, map_by, plain_list
from harmony.model.decision import Candidates, Decision
from harmony.schema.fields import About
from harmony.schema.fields import Field as Told
from harmony.schema.models import Types, model_of, row_of
from harmony.schema.surface import Spelling, Surface

__all__ = [
    "CONDITIONS",
    "MAX_CANDIDATES",
    "SHOWN_CANDIDATES",
    "STATUS",
    "CapacityStatus",
    "LeadTimeStatus",
    "QuantileStatus",
    "RiskStatus",
    "ScaleCandidate",
    "ScaleDecision",
    "ShadowStatus",
    "Status",
    "StatusCondition",
    "without_figures",
]

MAX_CANDIDATES = 12
SHOWN_CANDIDATES = 5  # of them, around the choice
MAX_QUANTILES = 16
MAX_HORIZON = 1440
SHOWN_STEPS = 4  # of a forecast
READABLE = 6  # significant digits

# Condition types and what "True" means; documentation is made of this.
CONDITIONS: dict[str, str] = {
    "AbleToScale": "the target was found and its replica count can be read (and written, where we write it)",
    "ScalingActive": "decisions are made from present demand and a forecast; False while paused or without them",
    "ScalingLimited": "the replica count wanted was cut by a bound, a rate limit or a stabilisation window",
    "Ready": "the spec is understood and the service is under control",
    "ForecastCalibrated": "the forecast's 80 % interval holds that share of demand; only violations cost authority",
    "MetricsAvailable": "demand has a reading that is young enough and covers all of it; the message says what lacks",
    "Fallback": "demand stayed away for failureThreshold turns and spec.fallback decides",
    "Paused": "spec.paused or an annotation holds the count",
    "TargetConflict": "something else scales the same target, and so should this; nothing is written until that ends",
}


def _absent(value: object) -> object:
    """None for a number that says nothing."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _readable(value: float | None) -> float | None:
    """Six significant digits: enough for people, and the status is not rewritten for less."""
    return None if value is None else float(f"{value:.{READABLE}g}")


def _to_second(time: datetime) -> str:
    """RFC 3339 in UTC without fractions, as metav1.Time is written."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Number = Annotated[float | None, BeforeValidator(_absent), AfterValidator(_readable)]
Moment = Annotated[AwareDatetime, Field(strict=False), PlainSerializer(_to_second, return_type=str, when_used="json")]
ReplicaCount = Annotated[int, Field(ge=0)] | None
Text = Annotated[str, Field(max_length=1024)]


class StatusModel(ApiModel):
    """A part of the status; later versions may have written fields that this one does not know."""

    model_config = ConfigDict(extra="ignore")


class LeadTimeStatus(StatusModel):
    """What is known of the time from asking for a replica to having it ready."""

    gpu_type: Text | None = Field(default=None, description="GPU that these starts were on; empty if not told apart.")
    p50_seconds: Number = Field(default=None, description="Median of the next start, seconds.")
    p90_seconds: Number = Field(default=None, description="90 % quantile of the next start, seconds: the horizon.")
    starts: int | None = Field(default=None, ge=0, description="Starts that were measured.")
    pending: int | None = Field(default=None, ge=0, description="Replicas that are starting now.")
    failed: int | None = Field(default=None, ge=0, description="Starts that were given up.")


class CapacityStatus(StatusModel):
    """What is known of the demand one ready replica carries, in the demand's unit."""

    per_replica: Number = Field(default=None, description="Median of the capacity of one replica.")
    low: Number = Field(default=None, description="5 % quantile of it.")
    high: Number = Field(default=None, description="95 % quantile of it.")


class RiskStatus(StatusModel):
    """Whether the objective is kept."""

    promised: Number = Field(default=None, description="Tolerated violation probability (epsilon).")
    stated: Number = Field(default=None, description="Mean violation probability that decisions stated.")
    realized: Number = Field(
        default=None,
        description="Share of steps that were violated; by the shadow's replicas while there is no authority.",
    )
    real: Number = Field(default=None, description="Share of steps that the real replicas violated, whoever set them.")
    judgement: Text | None = Field(
        default=None, description="Agrees, Understated or Overstated: whether stated and realised differ beyond chance."
    )
    steps: int | None = Field(default=None, ge=0, description="Steps that these shares are counted over.")


class ShadowStatus(StatusModel):
    """What would have come of the recommendations had they been carried out."""

    since: Moment | None = Field(default=None, description="Since when this is counted.")
    gpu_hours_saved: Number = Field(default=None, description="GPU-hours less than were used; negative means more.")
    gpu_hours_saved_per_hour_at_least: Number = Field(
        default=None, description="95 % lower bound of savings per hour; promote the mode once it is positive."
    )
    misses_avoided_seconds: Number = Field(
        default=None, description="Violated seconds that following HARMONY would have avoided."
    )
    misses_caused_seconds: Number = Field(
        default=None, description="Violated seconds that following HARMONY would have caused."
    )
    seconds: Number = Field(default=None, description="Seconds that this is counted over.")


class QuantileStatus(StatusModel):
    """One quantile of the demand forecast over the horizon."""

    quantile: float = Field(ge=0, le=1, description="Which quantile, 0..1.")
    values: tuple[Annotated[float, AfterValidator(_readable)], ...] = Field(
        strict=False,
        max_length=MAX_HORIZON,
        json_schema_extra=plain_list(),
        description="Demand at each step from now on, in the demand's unit.",
    )


class StatusSurface(Surface):
    """Names in camelCase; few digits, so that noise is not written; what is absent is left out."""

    def key(self, name: str) -> str:
        """In camelCase."""
        return to_camel(name)

    def number(self, digits: int | None) -> Callable[[Any], Any]:
        """Six digits where nothing else is said."""
        return super().number(digits or READABLE)

    def series(self, digits: int | None) -> Callable[[Any], Any]:
        """None where a number is absent, since a list has no place for that."""
        every = super().series(digits)

        def shown(values: Any) -> list[float] | None:  # noqa: ANN401
            told = every(values)
            return None if None in told else told

        return shown

    def curves(self, digits: int | None) -> Callable[[Any], Any]:
        """One object per level, of those without gaps, as far as a person looks."""
        series = self.series(digits)

        def shown(curves: Any) -> list[dict[str, Any]]:  # noqa: ANN401
            told = [{"quantile": level, "values": series(values[:SHOWN_STEPS])} for level, values in curves.items()]
            return [curve for curve in told if curve["values"] is not None]

        return shown

    def values(self, value: Any) -> dict[str, Any]:  # noqa: ANN401
        """All that is told of a value and is not absent."""
        return _known(super().values(value))

    def rows(self, table: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """One object per row."""
        return [_known(row) for row in super().rows(table)]


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class StatusTypes(Types):
    """Types of the custom resource: numbers for people, texts and lists with bounds."""

    sparse = True

    def number(self, about: About) -> Any:  # noqa: ANN401  (all of these are types)
        """See `Number`."""
        return Number

    def whole(self, about: About) -> Any:  # noqa: ANN401
        """With its least, where it has one."""
        return int if about.least is None else Annotated[int, Field(ge=about.least)]

    def word(self, told: Told) -> Any:  # noqa: ANN401
        """Short where it is of a closed set."""
        return Text if told.hint is str else Annotated[str, Field(max_length=256)]

    def series(self, told: Told) -> Any:  # noqa: ANN401
        """As one list."""
        return _list_of(Annotated[float, AfterValidator(_readable)], MAX_HORIZON)

    def curves(self, told: Told) -> Any:  # noqa: ANN401
        """See `QuantileStatus`."""
        return _list_of(QuantileStatus, MAX_QUANTILES)

    def rows(self, told: Told, row: type[BaseModel]) -> Any:  # noqa: ANN401
        """Those around the choice."""
        return _list_of(row, MAX_CANDIDATES)


def _list_of(kind: Any, most: int) -> Any:  # noqa: ANN401
    extra = plain_list()
    return Annotated[tuple[kind, ...], Field(strict=False, max_length=most, json_schema_extra=extra)]


STATUS = StatusSurface(
    {
        Candidates: Spelling(
            "ScaleCandidate",
            "One replica count that was weighed.",
            names={"expected_cost": "expected_cost_per_hour"},
            without=frozenset({"violated_time", "violated_window"}),
            digits={"violation_probability": 3, "expected_cost": 4},
        ),
        Decision: Spelling(
            names={"replicas": "recommended_replicas", "expected_cost": "expected_cost_per_hour"},
            without=frozenset(
                {
                    "current",
                    "unconstrained",
                    "wanted",
                    "held",
                    "stood",
                    "held_for_s",
                    "why",
                    "tried",
                    "budget_least",
                    "budget_most",
                }
            ),
            digits={
                "violation_probability": 2,
                "expected_cost": 3,
                "quantiles": 4,
                "price": 3,
                "budget_left": 2,
                "burn_rate": 2,
            },
        ),
    }
)
TYPES = StatusTypes()
ScaleCandidate: Any = row_of(Candidates, StatusModel, STATUS, TYPES)


class ScaleChange(StatusModel):
    """What was made of a decision."""

    time: Moment = Field(description="When it was made.")
    from_replicas: ReplicaCount = Field(default=None, description="Desired replicas before.")
    to_replicas: ReplicaCount = Field(default=None, description="Desired replicas now.")
    direction: Literal["Up", "Down", "None"] = Field(description="Up, Down or None (no change).")
    message: str | None = Field(default=None, max_length=4096, description="The reason as a sentence.")


class ScaleDecision(model_of(Decision, StatusModel, STATUS, TYPES, required=("reason",)), ScaleChange):  # type: ignore[misc]
    """The last decision and what led to it; candidates are those around the choice."""


class StatusCondition(StatusModel):
    """One condition, in the shape of metav1.Condition."""

    type: str = Field(max_length=316, description="Type of the condition, in CamelCase.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int | None = Field(default=None, ge=0, description="Generation of the spec it speaks of.")
    last_transition_time: Moment = Field(description="When status last changed.")
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="Why, as one word in CamelCase.",
    )
    message: str = Field(max_length=32_768, description="Why, as a sentence; may be empty.")


class Status(StatusModel):
    """What the controller found, decided and did."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="Generation of the spec that all of this speaks of."
    )
    mode: Text | None = Field(default=None, description="Authority that the spec grants.")
    effective_mode: Text | None = Field(
        default=None,
        description="Authority in use: less than mode while realised risk exceeds the objective by far (a step back).",
    )
    current_replicas: ReplicaCount = Field(default=None, description="Replicas of the target as it says itself.")
    ready_replicas: ReplicaCount = Field(default=None, description="Replicas that serve.")
    recommended_replicas: ReplicaCount = Field(default=None, description="Replicas that full authority would set.")
    desired_replicas: ReplicaCount = Field(default=None, description="Replicas that are set within the authority.")
    floor_replicas: ReplicaCount = Field(default=None, description="Minimum that is held in mode Floor.")
    selector: str | None = Field(
        default=None, max_length=8192, description="Label selector of the target's pods, as text."
    )
    writer: Text | None = Field(default=None, description="Who writes the target's replica count.")
    last_scale_time: Moment | None = Field(default=None, description="When the replica count was last changed by us.")
    violation_probability: Number = Field(
        default=None, description="Stated probability of a violation with the desired replicas."
    )
    lead_time: LeadTimeStatus | None = Field(default=None, description="Start-up time as learned.")
    capacity: CapacityStatus | None = Field(default=None, description="Capacity of a replica as learned.")
    risk: RiskStatus | None = Field(default=None, description="Objective, stated risk and realised risk.")
    shadow: ShadowStatus | None = Field(default=None, description="What the recommendations would have brought.")
    last_scale_decision: ScaleDecision | None = Field(default=None, description="The last decision, explained.")
    conditions: tuple[StatusCondition, ...] | None = Field(
        default=None,
        strict=False,
        max_length=32,
        json_schema_extra=map_by("type"),
        description="Conditions in the shape of metav1.Condition.",
    )
    memory: str | None = Field(
        default=None,
        max_length=131_072,
        description="What the controller has learned, packed for itself; it is read back after a restart.",
    )
    learned: dict[str, JsonValue] | None = Field(
        default=None, description="The same as earlier versions wrote it; it is read once and taken away."
    )

    def to_json(self) -> dict[str, Any]:
        """The status as the API server takes it; absent parts are left out, times are RFC 3339 to the second."""
        out = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"learned"})
        return out if self.learned is None else out | {"learned": self.learned}  # its nulls are its own business


def without_figures(status: dict[str, Any]) -> dict[str, Any]:
    """What must be known of a status to compare with it: forecasts and candidates are most of it, and are left out."""
    decision = status.get("lastScaleDecision")
    if not isinstance(decision, dict):
        return status
    return {**status, "lastScaleDecision": {k: decision[k] for k in ("reason", "boundBy") if k in decision}}
