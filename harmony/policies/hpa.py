"""The HorizontalPodAutoscaler's algorithm: tolerance, readiness, stabilisation and rate limits, every 15 seconds.

Follows kubernetes/pkg/controller/podautoscaler: replica_calculator.go (calcPlainMetricReplicas, for a Pods metric
such as requests per second) and horizontal.go (normalizeDesiredReplicasWithBehaviors), with the defaults of
config/v1alpha1/defaults.go. It is given the *offered* load, not a utilisation that saturates at 100 %: the kindest
metric a user can give it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from harmony.decision.guards import GuardMemory
from harmony.decision.risk import MOST_REPLICAS, ROUND
from harmony.model.decision import Decision, Reason
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast
from harmony.policies.syncs import make_syncs, with_window

__all__ = ["TARGETS", "WINDOWS_S", "HpaPolicy", "Starting", "desired_replicas"]

Starting = Literal["unready", "missing"]
TARGETS = tuple(t / 1000 for t in range(1100, 99, -25))
WINDOWS_S = (0.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 10_800.0)


def desired_replicas(
    load: float, target: float, ordered: int, ready: int, tolerance: float, starting: Starting = "unready"
) -> int:
    """Replicas that a Pods metric asks for before stabilisation.

    ``load`` is the metric summed over ready pods, ``target`` the average wanted per pod (same unit); ``ordered -
    ready`` pods are starting. On the way up they count as idle. On the way down they do not count while they are
    pending, or (for a CPU metric) have not been ready yet: "unready"; containers that run but report no metric, as a
    server that loads its model, count as using exactly the target: "missing".
    """
    if ready <= 0:
        return ordered  # no pod reports a metric: HPA does nothing
    ratio = load / (ready * target)
    pending = ordered - ready
    if pending <= 0 or (ratio <= 1.0 and starting == "unready"):
        if abs(ratio - 1.0) <= tolerance + ROUND:
            return ordered
        return math.ceil(min(ratio * ready, MOST_REPLICAS) - ROUND)
    upwards = ratio >= 1.0
    ratio = (load if upwards else load + pending * target) / (ordered * target)
    if abs(ratio - 1.0) <= tolerance + ROUND or (ratio < 1.0) == upwards:
        return ordered
    wanted = math.ceil(min(ratio * ordered, MOST_REPLICAS) - ROUND)
    return max(ordered, wanted) if upwards else min(ordered, wanted)


@dataclass(frozen=True, slots=True)
class HpaPolicy(Unforecast):
    """HPA with a target utilisation of each replica's capacity.

    `target` 0..1 of capacity; `tolerance` as HPA's; `behavior_` its `behavior`; `sync_s` its period; `starting` what
    replicas that start are to it (see `desired_replicas`). Within one turn of the loop it makes all the syncs that fall
    into it.
    """

    target: float = 0.8
    tolerance: float = 0.1
    behavior_: Behavior = field(default_factory=Behavior)
    sync_s: float = 15.0
    starting: Starting = "unready"
    name: str = "hpa"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Target, tolerance and scale-down window."""
        window = self.behavior_.scale_down.stabilization_window_s
        return {"target": self.target, "tolerance": self.tolerance, "scale_down_window_s": window}

    def decide(self, observation: Observation) -> Decision:
        """All syncs of one turn, each seeing the newest demand; a failed metric means no scaling."""
        if math.isnan(observation.demand):
            memory = observation.memory
            return Decision(observation.ordered, observation.ordered, Reason.ABSENT_DATA, memory=memory)
        target, demand = self.target * observation.capacity.median, observation.demand

        def recommend(ordered: int, ready: int) -> int:
            return desired_replicas(demand, target, ordered, ready, self.tolerance, self.starting)

        memory = observation.memory or GuardMemory()
        made = make_syncs(observation, memory, self.behavior_, self.sync_s, recommend)
        return Decision(made.replicas, observation.ordered, made.reason, bound_by=made.bound_by, memory=made.memory)

    def ladders(self, past: Past) -> Sequence[Sequence[HpaPolicy]]:
        """One ladder per scale-down window (none to three hours): targets from 110 % down to 10 %, by 2.5 points."""
        return [[replace(self, target=t, behavior_=with_window(self.behavior_, w)) for t in TARGETS] for w in WINDOWS_S]
