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

from harmony.decision.guards import GuardMemory, apply_behavior
from harmony.decision.risk import MOST_REPLICAS, ROUND
from harmony.model.decision import Decision, Reason
from harmony.model.objective import HPA_DOWN, Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast

__all__ = ["HpaPolicy", "desired_replicas"]


def desired_replicas(load: float, target: float, ordered: int, ready: int, tolerance: float) -> int:
    """Replicas that a Pods metric asks for before stabilisation.

    ``load`` is the metric summed over ready pods, ``target`` the average wanted per pod (same unit); ``ordered -
    ready`` pods are starting and count as idle on the way up and not at all on the way down.
    """
    if ready <= 0:
        return ordered  # no pod reports a metric: HPA does nothing
    ratio = load / (ready * target)
    starting = ordered - ready
    if starting <= 0 or ratio <= 1.0:
        if abs(ratio - 1.0) <= tolerance + ROUND:
            return ordered
        return math.ceil(min(ratio * ready, MOST_REPLICAS) - ROUND)
    ratio = load / (ordered * target)
    if abs(ratio - 1.0) <= tolerance + ROUND or ratio < 1.0:
        return ordered
    return max(ordered, math.ceil(min(ratio * ordered, MOST_REPLICAS) - ROUND))


@dataclass(frozen=True, slots=True)
class HpaPolicy(Unforecast):
    """HPA with a target utilisation of each replica's capacity.

    `target` 0..1 of capacity; `tolerance` as HPA's; `behavior_` its `behavior`; `sync_s` its period. Within one
    turn of the loop it makes all the syncs that fall into it.
    """

    target: float = 0.8
    tolerance: float = 0.1
    behavior_: Behavior = field(default_factory=Behavior)
    sync_s: float = 15.0
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
        memory = observation.memory or GuardMemory()
        target = self.target * observation.capacity.median
        ordered, ready = observation.ordered, observation.ready
        objective = observation.objective
        syncs = max(1, math.ceil(round(observation.interval_s / self.sync_s, 9)))
        bound = ""
        sync = 0
        while sync < syncs:
            now = observation.now_s + sync * self.sync_s
            desired = desired_replicas(observation.demand, target, ordered, ready, self.tolerance)
            desired = min(max(desired, objective.min_replicas), objective.max_replicas)
            guarded = apply_behavior(memory, self.behavior_, now, ordered, desired)
            memory, bound = guarded.memory, guarded.bound_by
            quiet = guarded.replicas == ordered and bound != "behavior"
            ordered, ready = guarded.replicas, min(ready, guarded.replicas)
            sync = self._next(sync, syncs, memory, desired, observation.now_s) if quiet else sync + 1
        reason = Reason.TARGET_RATIO if ordered != observation.ordered else Reason.WITHIN_TOLERANCE
        if bound:
            reason = Reason.STABILIZED if bound == "stabilization" else Reason.RATE_LIMITED
        return Decision(ordered, observation.ordered, reason, bound_by=bound, memory=memory)

    def _next(self, sync: int, syncs: int, memory: GuardMemory, desired: int, began_s: float) -> int:
        """The next sync of the turn that can differ from the quiet one just made.

        Every sync until then sees the same demand, makes the same recommendation and changes nothing; what changes
        is that an older, different recommendation leaves its window.
        """
        last = syncs - 1
        if sync >= last:
            return syncs
        leaves_s = math.inf
        if memory.highs and memory.highs[0][1] != desired:
            leaves_s = memory.highs[0][0] + self.behavior_.scale_down.stabilization_window_s
        if memory.lows and memory.lows[0][1] != desired:
            leaves_s = min(leaves_s, memory.lows[0][0] + self.behavior_.scale_up.stabilization_window_s)
        if math.isinf(leaves_s):
            return last
        return min(last, max(sync + 1, math.ceil((leaves_s - began_s) / self.sync_s - ROUND)))

    def ladders(self, past: Past) -> Sequence[Sequence[HpaPolicy]]:
        """One ladder per scale-down window (none to three hours): targets from 110 % down to 10 %, by 2.5 points."""
        targets = [t / 1000 for t in range(1100, 99, -25)]
        windows = (0.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 10_800.0)
        return [[replace(self, target=t, behavior_=self._with_window(w)) for t in targets] for w in windows]

    def _with_window(self, window_s: float) -> Behavior:
        down = replace(self.behavior_.scale_down or HPA_DOWN, stabilization_window_s=window_s)
        return replace(self.behavior_, scale_down=down)
