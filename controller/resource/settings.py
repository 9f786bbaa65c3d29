"""`ServiceSettings`: everything a person said about one service, in the terms of the control loop."""

from __future__ import annotations

from dataclasses import dataclass

from controller.prometheus.coverage import Reporting
from controller.prometheus.families import Kin
from controller.resource.outputs import ACTUATIONS
from forecasting.panel import Indicator
from harmony.model.authority import Mode, Pause
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective

__all__ = ["IndicatorQuery", "ServiceKey", "ServiceSettings", "TargetRef"]


@dataclass(frozen=True, slots=True, order=True)
class ServiceKey:
    """Who speaks for a service: a GPUAutoscaler, or an annotated HorizontalPodAutoscaler or ScaledObject."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class TargetRef:
    """What is scaled, in the namespace of the object that names it."""

    api_version: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.api_version})"


@dataclass(frozen=True, slots=True)
class IndicatorQuery:
    """An indicator, the PromQL that reads it, and with whom it can be asked (None: alone).

    `reporting` counts the pods that report it; None where it is not the pods' own, or no demand.
    """

    indicator: Indicator
    promql: str
    kin: Kin | None = None
    reporting: Reporting | None = None


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What was asked for one service.

    Attributes:
        key, uid, generation: the object, and which version of its spec this is.
        target: what is scaled.
        mode, pause: what the user lets us do, and what is stopped for now.
        actuation: how the count reaches the target, one of `controller.resource.outputs.ACTUATIONS`.
        queries: the indicators, the demand first.
        prometheus_url: base URL; empty for the controller's own.
        objective: epsilon, prices, bounds, behavior, schedules, fallback.
        capacity: known, or what learning starts from when a service level is bounded.
        lead_time: known, or what learning starts from.
        gpu_type, currency: names for reports; `gpu_type` may be empty.
        step_s: grid of the history, seconds.
        buffer_quantile: demand quantile that nodes should be there for; None when no CapacityBuffer is wanted.
        warnings: what was understood otherwise than it was written, for people.
    """

    key: ServiceKey
    uid: str
    generation: int
    target: TargetRef
    mode: Mode
    pause: Pause
    actuation: str
    queries: tuple[IndicatorQuery, ...]
    prometheus_url: str
    objective: Objective
    capacity: Capacity
    lead_time: LeadTime
    gpu_type: str
    currency: str
    step_s: float
    buffer_quantile: float | None
    warnings: tuple[str, ...] = ()

    @property
    def writes_count(self) -> bool:
        """Whether we write the target's count ourselves where the mode lets us, so that nobody else may."""
        return ACTUATIONS[self.actuation].writes_count
