"""The spec of a GPUAutoscaler as typed models: what a person writes. Descriptions end up in the CRD and the docs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from controller.resource.base import (
    ApiModel,
    Count,
    DnsLabel,
    IndicatorName,
    MetricUnit,
    ObjectName,
    PromQL,
    map_by,
    plain_list,
    whole_default,
)
from controller.resource.outputs import ACTUATIONS
from controller.resource.presets import PresetName

__all__ = [
    "AutoscalerSpec",
    "BehaviorSpec",
    "BoundSpec",
    "CapacityBufferSpec",
    "CostSpec",
    "FallbackSpec",
    "IndicatorSpec",
    "LeadTimeSpec",
    "ObjectiveSpec",
    "PrometheusSpec",
    "ScaleTargetRef",
    "ScalingPolicySpec",
    "ScalingRulesSpec",
    "ScheduleSpec",
    "StagesSpec",
]

if TYPE_CHECKING:
    Actuation = str
else:
    Actuation = Literal[tuple(ACTUATIONS)]

Money = Annotated[float, Field(ge=0, le=1e9)]
TimeOfDay = Annotated[str, Field(max_length=5, pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
EndOfDay = Annotated[str, Field(max_length=5, pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")]
Day = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def _each_once(days: tuple[Day, ...] | None) -> tuple[Day, ...] | None:
    """As a list that is a set."""
    twice = next((day for day in days or () if days and days.count(day) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is named twice")
    return days


_QUANTITY = re.compile(r"([0-9]{1,9}(?:[.][0-9]{1,9})?)([mun]?)")
_SUFFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def _from_quantity(given: object) -> object:
    """The number of a Kubernetes quantity such as 50m; anything else as it is."""
    found = _QUANTITY.fullmatch(given) if isinstance(given, str) else None
    return given if found is None else float(found[1]) * _SUFFIXES[found[2]]


# People write 0.05, the API server gives it back as "50m"; no schema type covers both.
Tolerance = Annotated[
    float,
    Field(ge=0),
    BeforeValidator(_from_quantity),
    WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True}),
]

# name="value" pairs as they stand inside the braces of a PromQL selector; nothing that could close the braces.
MATCHERS = r'^(\s*[a-zA-Z_][a-zA-Z0-9_]*\s*(=|!=|=~|!~)\s*"([^"\\]|\\.)*"\s*(,|$))*\s*$'


class ScaleTargetRef(ApiModel):
    """What is scaled: any object of the same namespace that has a /scale subresource."""

    api_version: str = Field(
        min_length=1, max_length=253, description="API version of the target, such as apps/v1; cannot be changed later."
    )
    kind: str = Field(
        min_length=1, max_length=63, description="Kind of the target, such as Deployment; cannot be changed later."
    )
    name: ObjectName = Field(description="Name of the target in the same namespace; cannot be changed later.")


class PrometheusSpec(ApiModel):
    """Where the indicators of this service are read."""

    url: str = Field(
        min_length=1,
        max_length=2048,
        pattern=r"^https?://[^\s/?#]+[^\s]*$",
        description="Base URL of the Prometheus API, such as http://prometheus.monitoring:9090.",
    )


class IndicatorSpec(ApiModel):
    """One watched quantity of the service; all of them are forecast together."""

    name: IndicatorName = Field(description="Name of the indicator, such as requests; unique in the list.")
    query: PromQL = Field(
        description="PromQL that gives one number for the whole service, such as sum(rate(http_requests_total[1m]))."
    )
    level: int = Field(
        default=1,
        ge=1,
        le=3,
        description="Place in the hierarchy: 1 demand, 2 resource, 3 system detail; 1 is what most indicators are.",
    )
    kind: Literal["Gauge", "Counter", "Rate"] = Field(
        default="Gauge",
        description="How to read the numbers: Gauge is a level, Rate is per second already, Counter only grows and is "
        "turned into a rate; Gauge because PromQL usually has done the rest.",
    )
    unit: MetricUnit = Field(
        default="", description="Unit of the numbers as text, such as requests/s; for people only."
    )


class BoundSpec(ApiModel):
    """A service level: this indicator stays at or below a value."""

    indicator: IndicatorName = Field(description="Name of the indicator that is bounded, such as ttft_p95.")
    at_most: float = Field(
        ge=-1e15,
        le=1e15,
        description="Highest value that keeps the service level, in the indicator's unit, such as 0.5.",
    )


class ObjectiveSpec(ApiModel):
    """The objective: a capacity rule (perReplica), a service level (bound), or both."""

    demand: IndicatorName | None = Field(
        default=None,
        description="Name of the indicator that replicas are counted for; default is the first of level 1.",
    )
    per_replica: float | None = Field(
        default=None,
        gt=0,
        le=1e15,
        description="Demand that one ready replica carries, in the demand's unit, such as 25; with a bound only the "
        "first guess of it, because it is then learned.",
    )
    bound: BoundSpec | None = Field(
        default=None, description="Service level to keep; the capacity of a replica is learned."
    )
    epsilon: float = Field(
        default=0.01,
        gt=0,
        le=0.5,
        description="A tolerated violation probability, such as 0.01 (default: 0.01, at most 1 % of the time).",
    )
    measure: Literal["Time", "Window", "Requests"] = Field(
        default="Time",
        description="What epsilon counts: Time is the share of time violated (what reports count, hence the default), "
        "Window the probability of any violation within one lead time (stricter), Requests the share of the demand "
        "that is not carried.",
    )


class CostSpec(ApiModel):
    """What replicas and violations cost; the cheapest count whose risk is acceptable is chosen."""

    price_per_gpu_hour: Money = Field(
        default=1.0,
        alias="pricePerGPUHour",
        description="Price of one GPU for one hour; 1 makes costs read as GPU-hours.",
    )
    gpus_per_replica: int = Field(
        default=1, ge=1, le=1024, description="GPUs that one replica occupies; 1 is most common."
    )
    gpu_type: str = Field(
        default="",
        max_length=63,
        description="Name of the GPU for lead times and reports, such as H100; empty if all alike.",
    )
    currency: str = Field(
        default="USD",
        pattern=r"^[A-Z]{3}$",
        max_length=3,
        description="Currency of all prices, ISO 4217; USD by custom.",
    )
    miss_price_per_replica_hour: Money = Field(
        default=0.0, description="Money lost per hour and missing replica; 0 lets epsilon alone decide."
    )
    switch_price: Money = Field(
        default=0.0,
        description="Money per replica added or removed (a cold start, a lost cache); 0 if starts cost nothing.",
    )


class ScalingPolicySpec(ApiModel):
    """One rate limit, in the shape of autoscaling/v2."""

    type: Literal["Pods", "Percent"] = Field(description="Pods counts replicas, Percent a share of the present count.")
    value: int = Field(ge=1, le=100_000, description="Most change in one period, in replicas or percent.")
    period_seconds: int = Field(ge=1, le=1800, description="Length of the period in seconds, such as 60.")


class ScalingRulesSpec(ApiModel):
    """Limits of one direction, in the shape and with the defaults of autoscaling/v2."""

    stabilization_window_seconds: int | None = Field(
        default=None,
        ge=0,
        le=86_400,
        description="Seconds of past recommendations that must agree; default 0 upward and max(300, lead time) "
        "downward, because a replica that is given up takes one lead time to get back.",
    )
    policies: tuple[ScalingPolicySpec, ...] | None = Field(
        default=None,
        strict=False,
        min_length=1,
        max_length=16,
        json_schema_extra=plain_list(),
        description="Rate limits; default as in autoscaling/v2: up 4 pods or 100 % in 15 s, down 100 % in 15 s.",
    )
    select_policy: Literal["Max", "Min", "Disabled"] = Field(
        default="Max",
        description="Which of the policies counts: the one that allows Max or Min change; Disabled forbids any.",
    )
    tolerance: Tolerance | None = Field(
        default=None,
        description="A quantity such as 0.05 or 50m; accepted so that an HPA's behavior can be pasted, and without "
        "effect, because decisions follow risk and not a ratio to a target.",
    )


class BehaviorSpec(ApiModel):
    """How fast replicas may move, in the shape of autoscaling/v2."""

    scale_up: ScalingRulesSpec | None = Field(default=None, description="Limits on the way up.")
    scale_down: ScalingRulesSpec | None = Field(default=None, description="Limits on the way down.")


class LeadTimeSpec(ApiModel):
    """Time from asking for a replica to having it ready: the horizon of the forecast."""

    source: Literal["Measured", "Fixed"] = Field(
        default="Measured",
        description="Measured learns it from the starts of this service (default: nobody knows it exactly), Fixed "
        "takes seconds as it stands.",
    )
    seconds: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="First guess, or the fixed value, in seconds; 300 is usual for GPU servers.",
    )


class FallbackSpec(ApiModel):
    """What to hold when indicators stay away; nothing here can lower the count."""

    failure_threshold: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="Failed readings in a row before the fallback holds; 3 rides out a restart.",
    )
    replicas: Count | None = Field(default=None, description="Replicas to go up to with currentReplicasIfHigher.")
    behavior: Literal["currentReplicas", "currentReplicasIfHigher"] = Field(
        default="currentReplicasIfHigher",
        description="currentReplicas keeps what runs; currentReplicasIfHigher (default) keeps it or goes up to "
        "replicas, whichever is more.",
    )


class ScheduleSpec(ApiModel):
    """Narrower replica bounds during certain hours."""

    name: DnsLabel = Field(description="Name of the schedule, such as nights; unique in the list.")
    timezone: str = Field(
        default="UTC",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_+\-/]+$",
        description="IANA time zone of the times, such as Europe/Berlin; UTC because clusters run on it.",
    )
    days_of_week: Annotated[tuple[Day, ...] | None, AfterValidator(_each_once)] = Field(
        default=None,
        strict=False,
        min_length=1,
        max_length=7,
        json_schema_extra=plain_list("set"),
        description="Days on which the schedule starts; default is every day.",
    )
    start_time: TimeOfDay = Field(description="Start as HH:MM.")
    end_time: EndOfDay = Field(description="End as HH:MM up to 24:00; not after startTime means the next day.")
    min_replicas: Count | None = Field(default=None, description="Fewest replicas meanwhile; by default the spec's.")
    max_replicas: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Most replicas meanwhile; by default the spec's."
    )


class StagesSpec(ApiModel):
    """Staged scale-down: a little at a time, given up at once when the forecast rises."""

    stage_percent: int = Field(
        default=25,
        ge=1,
        le=100,
        description="Most of the present replicas, in percent, that one stage removes; 25 by default.",
    )
    stage_seconds: int = Field(
        default=300, ge=1, le=86_400, description="Seconds between stages; 300 is the scale-down patience of HPA."
    )


class CapacityBufferSpec(ApiModel):
    """Ask the node autoscaler for nodes ahead of the pods (autoscaling.x-k8s.io CapacityBuffer)."""

    enabled: bool = Field(
        default=False, description="Keep a CapacityBuffer for this service; off because nodes cost money."
    )
    quantile: float = Field(
        default=0.99, ge=0.5, lt=1, description="Demand quantile that the nodes should be there for; 0.99 by default."
    )


class AutoscalerSpec(ApiModel):
    """What to scale, between which bounds, and the objective."""

    scale_target_ref: ScaleTargetRef = Field(description="What is scaled; cannot be changed later.")
    mode: Literal["Observe", "Recommend", "Floor", "UpOnly", "Full"] = Field(
        default="Recommend",
        description="Authority: Observe only learns, Recommend (default) also says what it would do, Floor only keeps "
        "a minimum, UpOnly only adds, Full does both.",
    )
    actuation: Actuation = Field(
        default=next(iter(ACTUATIONS)), description="; ".join(way.says for way in ACTUATIONS.values()) + "."
    )
    paused: bool = Field(default=False, description="Hold the replica count as it is until this is false again.")
    min_replicas: Count = Field(
        default=1, description="Fewest replicas, never gone below; 1 because a cold start takes long."
    )
    max_replicas: int = Field(ge=1, le=100_000, description="Most replicas, never exceeded; at least minReplicas.")
    preset: PresetName | None = Field(default=None, description="Adds the usual indicators of this server or exporter.")
    preset_matchers: str | None = Field(
        default=None,
        max_length=1024,
        pattern=MATCHERS,
        description='PromQL label matchers put into every query of the preset, such as service="chat"; default is '
        "the namespace and the pods of the target.",
    )
    prometheus: PrometheusSpec | None = Field(
        default=None, description="Prometheus to ask; default is the controller's."
    )
    indicators: tuple[IndicatorSpec, ...] | None = Field(
        default=None,
        strict=False,
        max_length=32,
        json_schema_extra=map_by("name"),
        description="Own indicators; they come before those of the preset and win where names are equal.",
    )
    objective: ObjectiveSpec = Field(description="The objective.")
    cost: CostSpec = Field(
        default_factory=CostSpec,
        json_schema_extra=whole_default(),
        description="Prices; by default every GPU-hour costs 1.",
    )
    behavior: BehaviorSpec | None = Field(
        default=None, description="How fast replicas may move; defaults of autoscaling/v2."
    )
    lead_time: LeadTimeSpec = Field(
        default_factory=LeadTimeSpec, json_schema_extra=whole_default(), description="Start-up time of a replica."
    )
    step_seconds: int = Field(
        default=60, ge=5, le=3600, description="Grid of the history in seconds; 60 suits starts that take minutes."
    )
    fallback: FallbackSpec | None = Field(
        default=None, description="What to hold when indicators stay away; by default the present count."
    )
    schedules: tuple[ScheduleSpec, ...] | None = Field(
        default=None,
        strict=False,
        max_length=32,
        json_schema_extra=map_by("name"),
        description="Narrower bounds during certain hours; of several the highest minimum and lowest maximum hold.",
    )
    scale_down: StagesSpec | None = Field(
        default=None, description="Staged scale-down; by default there are no stages."
    )
    capacity_buffer: CapacityBufferSpec = Field(
        default_factory=CapacityBufferSpec,
        json_schema_extra=whole_default(),
        description="Nodes ahead of pods; off by default.",
    )
