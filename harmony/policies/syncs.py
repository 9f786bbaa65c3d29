"""The control loop of the HorizontalPodAutoscaler within one turn: what HPA, KEDA and PHPA have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from harmony.decision.guards import GuardMemory, apply_behavior
from harmony.decision.risk import MOST_REPLICAS, ROUND
from harmony.model.decision import Reason
from harmony.model.objective import HPA_DOWN, Behavior
from harmony.model.observation import Observation

__all__ = ["Synced", "external_replicas", "make_syncs", "sync_count", "with_window"]


@dataclass(frozen=True, slots=True)
class Synced:
    """What the turn's syncs came to: the count, why, what bound it and what to remember."""

    replicas: int
    reason: Reason
    bound_by: str
    memory: GuardMemory


def sync_count(interval_s: float, sync_s: float) -> int:
    """Syncs that fall into one turn, at least one."""
    return max(1, math.ceil(round(interval_s / sync_s, 9)))


def with_window(behavior: Behavior, window_s: float) -> Behavior:
    """The behavior with another stabilisation window on the way down."""
    return replace(behavior, scale_down=replace(behavior.scale_down or HPA_DOWN, stabilization_window_s=window_s))


def external_replicas(metric: float, target: float, ordered: int, tolerance: float) -> int:
    """Replicas that an External metric with an AverageValue asks for before stabilisation.

    ``metric`` and ``target`` (per replica) in one unit. It looks at the current replicas, ready or not.
    """
    if ordered > 0 and abs(metric / (target * ordered) - 1.0) <= tolerance + ROUND:
        return ordered
    return math.ceil(min(metric / target, MOST_REPLICAS) - ROUND)


def make_syncs(
    observation: Observation,
    memory: GuardMemory,
    behavior: Behavior,
    sync_s: float,
    recommend: Callable[[int, int], int],
    least: int | None = None,
) -> Synced:
    """All syncs of one turn, each seeing the same metric: recommend, bound, stabilise, limit the rate.

    ``recommend(ordered, ready)`` depends on nothing else. ``least`` stands in for the objective's minimum.
    """
    ordered, ready = observation.ordered, observation.ready
    objective = observation.objective
    low = objective.min_replicas if least is None else least
    syncs = sync_count(observation.interval_s, sync_s)
    bound = ""
    sync = 0
    while sync < syncs:
        now = observation.now_s + sync * sync_s
        desired = min(max(recommend(ordered, ready), low), objective.max_replicas)
        guarded = apply_behavior(memory, behavior, now, ordered, desired)
        memory, bound = guarded.memory, guarded.bound_by
        quiet = guarded.replicas == ordered and bound != "behavior"
        ordered, ready = guarded.replicas, min(ready, guarded.replicas)
        sync = _next(sync, syncs, memory, desired, observation.now_s, behavior, sync_s) if quiet else sync + 1
    reason = Reason.TARGET_RATIO if ordered != observation.ordered else Reason.WITHIN_TOLERANCE
    if bound:
        reason = Reason.STABILIZED if bound == "stabilization" else Reason.RATE_LIMITED
    return Synced(ordered, reason, bound, memory)


def _next(
    sync: int, syncs: int, memory: GuardMemory, desired: int, began_s: float, behavior: Behavior, sync_s: float
) -> int:
    """The next sync of the turn that can differ from the quiet one just made.

    Every sync until then sees the same metric, makes the same recommendation and changes nothing; what changes is that
    an older, different recommendation leaves its window.
    """
    last = syncs - 1
    if sync >= last:
        return syncs
    leaves_s = math.inf
    if memory.highs and memory.highs[0][1] != desired:
        leaves_s = memory.highs[0][0] + behavior.scale_down.stabilization_window_s
    if memory.lows and memory.lows[0][1] != desired:
        leaves_s = min(leaves_s, memory.lows[0][0] + behavior.scale_up.stabilization_window_s)
    if math.isinf(leaves_s):
        return last
    return min(last, max(sync + 1, math.ceil((leaves_s - began_s) / sync_s - ROUND)))
