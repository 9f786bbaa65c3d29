"""KEDA: a trigger's value through the HorizontalPodAutoscaler, from and to zero by itself, and its fallback.

Follows the ScaledObject reference (keda.sh/docs, 2.20) and kedacore/keda: the value goes to the HPA as an External
metric with an AverageValue; `pollingInterval` and `cooldownPeriod` concern only the steps between zero and one replica.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from harmony.decision.guards import GuardMemory
from harmony.model.decision import Decision, Reason
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast
from harmony.policies.hpa import TARGETS, WINDOWS_S
from harmony.policies.syncs import external_replicas, make_syncs, sync_count, with_window

__all__ = ["KedaMemory", "KedaPolicy"]

FallbackBehavior = Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


class KedaMemory(NamedTuple):
    """The HPA's marks, failures of the trigger in a row, and when it was last active and last polled."""

    guards: GuardMemory
    failures: int
    active_s: float
    polled_s: float


@dataclass(frozen=True, slots=True)
class KedaPolicy(Unforecast):
    """KEDA: a trigger's threshold per replica through the HPA, to zero after a cooldown, a fallback when it fails.

    `target` 0..1 of a replica's capacity is the trigger's threshold; it is active while the demand exceeds
    `activation`. Only where the objective allows zero replicas do `polling_s` and `cooldown_s` matter. Without
    `fallback_replicas` (0) a failing trigger changes nothing; with them they are reported once more than
    `failure_threshold` queries in a row have failed, as `fallback_behavior` says.
    """

    target: float = 0.8
    tolerance: float = 0.1
    behavior_: Behavior = field(default_factory=Behavior)
    sync_s: float = 15.0
    polling_s: float = 30.0
    cooldown_s: float = 300.0
    activation: float = 0.0
    fallback_replicas: int = 0
    failure_threshold: int = 3
    fallback_behavior: FallbackBehavior = "static"
    name: str = "keda"

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Threshold, scale-down window, cooldown and fallback."""
        window = self.behavior_.scale_down.stabilization_window_s
        return {
            "target": self.target,
            "scale_down_window_s": window,
            "cooldown_s": self.cooldown_s,
            "fallback_replicas": self.fallback_replicas,
        }

    def decide(self, observation: Observation) -> Decision:
        """One turn: poll, then the HPA's syncs."""
        now_s, demand, ordered = observation.now_s, observation.demand, observation.ordered
        memory: KedaMemory = observation.memory or KedaMemory(GuardMemory(), 0, now_s, -math.inf)
        if math.isnan(demand):
            return self._failed(observation, memory)
        if demand > self.activation:
            memory = memory._replace(active_s=now_s)
        memory = memory._replace(failures=0)
        if observation.objective.min_replicas == 0:
            polls = now_s - memory.polled_s >= self.polling_s
            if polls:
                memory = memory._replace(polled_s=now_s)
            if ordered == 0:
                wakes = polls and demand > self.activation
                return Decision(int(wakes), 0, Reason.TARGET_RATIO if wakes else Reason.MIN_REPLICAS, memory=memory)
            if polls and now_s - memory.active_s > self.cooldown_s:
                return Decision(0, ordered, Reason.TARGET_RATIO, memory=memory._replace(guards=GuardMemory()))
        return self._through_hpa(observation, memory, demand, None)

    def _through_hpa(
        self, observation: Observation, memory: KedaMemory, metric: float, reason: Reason | None
    ) -> Decision:
        target = self.target * observation.capacity.median

        def recommend(ordered: int, _: int) -> int:
            return external_replicas(metric, target, ordered, self.tolerance)

        least = max(1, observation.objective.min_replicas)  # the HPA that KEDA makes never has a minimum of zero
        made = make_syncs(observation, memory.guards, self.behavior_, self.sync_s, recommend, least)
        return Decision(
            made.replicas, observation.ordered, reason or made.reason, bound_by=made.bound_by,
            memory=memory._replace(guards=made.memory),
        )  # fmt: skip

    def _failed(self, observation: Observation, memory: KedaMemory) -> Decision:
        """Every sync asks in vain; beyond the threshold it is told what the fallback asks for."""
        failures = memory.failures + sync_count(observation.interval_s, self.sync_s)
        memory = memory._replace(failures=failures)
        ordered = observation.ordered
        if not self.fallback_replicas or failures <= self.failure_threshold:
            return Decision(ordered, ordered, Reason.ABSENT_DATA, bound_by="absent demand", memory=memory)
        wanted = self._fallback(ordered)
        if ordered == 0:
            return Decision(wanted, 0, Reason.FALLBACK, memory=memory)
        told = wanted * self.target * observation.capacity.median
        return self._through_hpa(observation, memory, told, Reason.FALLBACK)

    def _fallback(self, ordered: int) -> int:
        if self.fallback_behavior == "currentReplicas":
            return ordered
        if self.fallback_behavior == "currentReplicasIfHigher":
            return max(ordered, self.fallback_replicas)
        if self.fallback_behavior == "currentReplicasIfLower":
            return min(ordered, self.fallback_replicas)
        return self.fallback_replicas

    def ladders(self, past: Past) -> Sequence[Sequence[KedaPolicy]]:
        """As HPA's: one ladder per scale-down window, thresholds from 110 % down to 10 %."""
        return [[replace(self, target=t, behavior_=with_window(self.behavior_, w)) for t in TARGETS] for w in WINDOWS_S]
