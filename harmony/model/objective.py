"""`Objective`: the bound on violations, what it may cost, and how fast replicas may move (`Behavior`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from forecasting.errors import UsageError
from harmony.model.schedule import Schedule, bounds_in_force

__all__ = ["Behavior", "Fallback", "IndicatorBound", "Objective", "ScalingPolicy", "ScalingRules", "Stages"]


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """One rate limit in the shape of HPA's: at most ``value`` pods (or percent) in any ``period_s`` seconds."""

    type: Literal["Pods", "Percent"]
    value: int
    period_s: float

    def __post_init__(self) -> None:
        if self.type not in ("Pods", "Percent"):
            raise UsageError(f"behavior policy type {self.type!r}: expected Pods or Percent")
        if self.value <= 0 or self.period_s <= 0:
            raise UsageError(f"behavior policy {self.type}: value and period must be positive, got {self}")


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """HPA's rules for one direction.

    `stabilization_window_s`: for scale-down the highest recommendation of that many seconds is used, for scale-up
    the lowest. `select` is Max (the policy that allows most), Min, or Disabled.
    """

    stabilization_window_s: float = 0.0
    policies: tuple[ScalingPolicy, ...] = ()
    select: Literal["Max", "Min", "Disabled"] = "Max"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.stabilization_window_s) and self.stabilization_window_s >= 0):
            raise UsageError(f"stabilization window {self.stabilization_window_s} s: expected 0 or more seconds")
        if self.select not in ("Max", "Min", "Disabled"):
            raise UsageError(f"selectPolicy {self.select!r}: expected Max, Min or Disabled")


# kubernetes/pkg/apis/autoscaling/v2/defaults.go: up by max(4 pods, 100 %) in 15 s, down by 100 % in 15 s after the
# highest recommendation of 5 minutes (the sync period is 15 s as well).
HPA_UP = ScalingRules(0.0, (ScalingPolicy("Pods", 4, 15.0), ScalingPolicy("Percent", 100, 15.0)))
HPA_DOWN = ScalingRules(300.0, (ScalingPolicy("Percent", 100, 15.0),))


@dataclass(frozen=True, slots=True)
class Stages:
    """Scale-down in stages: each removes at most ``percent`` of the replicas there were when it began.

    The next stage begins ``interval_s`` seconds after the last one; a wish for no fewer replicas than there are ends
    the staging at once. A stage may always remove one replica.
    """

    percent: int
    interval_s: float

    def __post_init__(self) -> None:
        if not 1 <= self.percent <= 100:
            raise UsageError(f"stage percent {self.percent}: expected 1 to 100")
        if not (math.isfinite(self.interval_s) and self.interval_s > 0):
            raise UsageError(f"stage interval {self.interval_s} s: expected a positive number of seconds")


@dataclass(frozen=True, slots=True)
class Fallback:
    """What to set while demand or forecast are absent (KEDA's names; none of these ever lowers the count).

    After ``failure_threshold`` turns without them in a row, `currentReplicas` keeps the count and
    `currentReplicasIfHigher` raises it to ``replicas`` if it is below.
    """

    failure_threshold: int
    replicas: int
    behavior: Literal["currentReplicas", "currentReplicasIfHigher"] = "currentReplicasIfHigher"

    def __post_init__(self) -> None:
        if self.failure_threshold < 1:
            raise UsageError(f"fallback failure threshold {self.failure_threshold}: expected 1 or more")
        if self.replicas < 0:
            raise UsageError(f"fallback replicas {self.replicas}: expected 0 or more")
        if self.behavior not in ("currentReplicas", "currentReplicasIfHigher"):
            raise UsageError(
                f"fallback behavior {self.behavior!r}: expected currentReplicas or currentReplicasIfHigher"
            )


@dataclass(frozen=True, slots=True)
class IndicatorBound:
    """A service level on an indicator: it stays at or below ``at_most`` (its own unit); capacity is then learned."""

    indicator: str
    at_most: float

    def __post_init__(self) -> None:
        if not self.indicator:
            raise UsageError("indicator bound: expected the name of an indicator")
        if not math.isfinite(self.at_most):
            raise UsageError(f"bound of {self.indicator!r} {self.at_most}: expected a finite number")


@dataclass(frozen=True, slots=True)
class Behavior:
    """How fast replicas may move, in the shape and with the defaults of the HorizontalPodAutoscaler's `behavior`.

    `stages` (None: none) is a further limit on the way down.
    """

    scale_up: ScalingRules = HPA_UP
    scale_down: ScalingRules = HPA_DOWN
    stages: Stages | None = None

    @classmethod
    def hold(cls, window_s: float) -> Behavior:
        """No rate limits; a scale-down waits until nothing in the last ``window_s`` seconds asked for more."""
        return cls(scale_up=ScalingRules(), scale_down=ScalingRules(window_s))


@dataclass(frozen=True, slots=True)
class Objective:
    """The bound on violations, and what replicas and violations cost.

    The objective is a *capacity rule*: demand stays within what the ready replicas carry, except with probability
    `epsilon`. `measure` says of what: ``"time"``, the share of steps that are violated (what a report counts), or
    ``"window"``, the probability that any step of the lead-time window is violated (stricter), or ``"requests"``, the
    share of the demand that is not carried.

    Attributes:
        epsilon: tolerated violation probability, 0..1.
        demand: name of the indicator that replicas are counted for; empty for the panel's first.
        price_per_gpu_hour, gpus_per_replica: money per idle or busy replica-hour is their product.
        miss_price_per_replica_hour: money lost per hour and missing replica (c_u of the Bayes rule); 0 lets the
            objective alone decide.
        switch_price: money per replica added or removed (c_s of the Bayes rule).
        min_replicas, max_replicas: bounds that nothing overrides.
        behavior: rate limits and stabilisation applied to the decision.
        schedules: narrower bounds for hours of the week (see `at`).
        fallback: what to do while data are absent; None keeps the count.
        bound: the indicator that capacity is learned from; None where capacity is given.
    """

    epsilon: float = 0.01
    demand: str = ""
    measure: Literal["time", "window", "requests"] = "time"
    price_per_gpu_hour: float = 1.0
    gpus_per_replica: int = 1
    miss_price_per_replica_hour: float = 0.0
    switch_price: float = 0.0
    min_replicas: int = 1
    max_replicas: int = 100_000
    behavior: Behavior = field(default_factory=lambda: Behavior.hold(0.0))
    schedules: tuple[Schedule, ...] = ()
    fallback: Fallback | None = None
    bound: IndicatorBound | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon < 1.0:
            raise UsageError(f"epsilon {self.epsilon}: a tolerated violation probability lies in 0 <= epsilon < 1")
        if self.measure not in ("time", "window", "requests"):
            raise UsageError(f"measure {self.measure!r}: expected 'time', 'window' or 'requests'")
        if self.min_replicas < 0 or self.max_replicas < max(1, self.min_replicas):
            raise UsageError(
                f"replica bounds {self.min_replicas}..{self.max_replicas}: expected 0 <= min <= max and max >= 1"
            )
        if self.gpus_per_replica < 1:
            raise UsageError(f"gpus per replica {self.gpus_per_replica}: expected 1 or more")
        for name in ("price_per_gpu_hour", "miss_price_per_replica_hour", "switch_price"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name.replace('_', ' ')} {value}: expected a finite amount, 0 or more")

    @property
    def replica_price_per_hour(self) -> float:
        """Money per replica-hour."""
        return self.price_per_gpu_hour * self.gpus_per_replica

    def at(self, now_s: float) -> Objective:
        """The objective with the bounds in force at ``now_s`` (seconds since the epoch); itself where they are its own.

        See `harmony.model.schedule.bounds_in_force` for the rule.
        """
        if not self.schedules:
            return self
        low, high = bounds_in_force(self.schedules, self.min_replicas, self.max_replicas, now_s)
        if (low, high) == (self.min_replicas, self.max_replicas):
            return self
        return replace(self, min_replicas=low, max_replicas=high)
