"""One turn's decision from observation to final count, as a pure function: the loop makes it, a journal repeats it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from harmony.decision.guards import apply_behavior, held_until_s
from harmony.decision.rule import with_bounds
from harmony.model.decision import Decision, Reason
from harmony.model.memory import TurnMemory
from harmony.model.objective import Behavior
from harmony.model.observation import Observation

__all__ = ["decide_turn"]


def decide_turn(
    observation: Observation,
    decide: Callable[[Observation], Decision],
    behavior: Behavior | None,
    before: TurnMemory,
) -> tuple[Decision, TurnMemory]:
    """What ``decide`` (a policy) wants, after fallback, guards (``behavior``; None for none) and bounds.

    Returns the decision and what to remember for the next turn; equal arguments give equal results, bit for bit. A
    demand that is not finite is absent, whatever the policy.
    """
    if math.isinf(observation.demand):
        observation = replace(observation, demand=math.nan)
    decision, after = _without_data(decide(observation), observation, before)
    if behavior is not None:
        decision, after = _guarded(decision, observation, behavior, after)
    return with_bounds(decision, observation), after


def _without_data(decision: Decision, observation: Observation, before: TurnMemory) -> tuple[Decision, TurnMemory]:
    """Count turns without data; a lost forecast never lowers the count, the fallback may raise it.

    Before any replica was ready they are not counted: what a service's own pods measure cannot be there yet.
    """
    served = observation.ready > 0 or (before.served and observation.ordered > 0)
    if served is not before.served:
        before = replace(before, served=served)
    lost = before.expects_forecast and observation.forecast is None and before.forecast_seen
    if not (math.isnan(observation.demand) or lost or decision.reason is Reason.ABSENT_DATA):
        seen = before.forecast_seen or observation.forecast is not None
        if before.absent_turns == 0 and before.forecast_seen == seen:
            return decision, before  # as nearly always: most of a replay's turns come by here
        return decision, TurnMemory(before.guards, 0, seen, before.expects_forecast, served, before.cap)
    after = replace(before, absent_turns=before.absent_turns + 1 if served else 0)
    if decision.reason is Reason.WARMING_UP and decision.replicas < observation.ordered:
        decision = decision.with_replicas(observation.ordered, Reason.ABSENT_DATA, "absent forecast")
    fallback = observation.objective.fallback
    if (
        fallback is None
        or fallback.behavior != "currentReplicasIfHigher"
        or after.absent_turns < fallback.failure_threshold
        or fallback.replicas < decision.replicas
    ):
        return decision, after
    return decision.with_replicas(fallback.replicas, Reason.FALLBACK, "fallback"), after


def _guarded(
    decision: Decision, observation: Observation, behavior: Behavior, before: TurnMemory
) -> tuple[Decision, TurnMemory]:
    """Stabilise and rate-limit the decision, and say so in it."""
    guarded = apply_behavior(before.guards, behavior, observation.now_s, observation.ordered, decision.replicas)
    after = TurnMemory(
        guarded.memory, before.absent_turns, before.forecast_seen, before.expects_forecast, before.served, before.cap
    )
    if guarded.replicas == decision.replicas:
        return decision, after
    if guarded.bound_by != "stabilization":
        return decision.with_replicas(guarded.replicas, Reason.RATE_LIMITED, guarded.bound_by), after
    now_s, count = observation.now_s, guarded.replicas
    until_s = held_until_s(before.guards, behavior, now_s, decision.replicas, count)
    return replace(
        decision.with_replicas(count, Reason.STABILIZED, guarded.bound_by), held_for_s=until_s - now_s
    ), after
