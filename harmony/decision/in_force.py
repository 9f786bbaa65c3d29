"""What becomes of the count that the setting in force asks for, and the same decision made again from its record."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from harmony.decision.rule import clip, decide, demand_paths, demand_quantiles, hold, reactive_floor
from harmony.decision.switching import price_edges, weight_under
from harmony.model.decision import Candidates, Decision, Reason
from harmony.model.memory import TurnMemory
from harmony.model.observation import Observation

__all__ = ["Wish", "again", "in_force"]

NEARLY = 1 + 1e-9


class Wish(NamedTuple):
    """What the setting in force asks for: the count before and after its hold, and the table that it was read off.

    `unreachable`: no count within the bounds keeps the objective; `lost`: a forecast should be there and is not.
    """

    wanted: int
    held: int
    table: Candidates | None
    unreachable: bool
    lost: bool


def in_force(observation: Observation, wish: Wish) -> Decision:
    """The decision that a wish becomes: never below present demand, nor lower for absent data."""
    objective = observation.objective
    low, high = objective.min_replicas, objective.max_replicas
    count, reason, bound = wish.held, Reason.FORECAST, ""
    if wish.held > wish.wanted:
        reason, bound = Reason.STABILIZED, "hold"
    count = clip(count, low, high)
    floor = reactive_floor(observation)
    if count <= floor and wish.wanted == count:
        count, reason, bound = floor, Reason.REACTIVE_FLOOR, "reactive floor"
    if wish.unreachable:
        reason, bound = Reason.UNREACHABLE, "max_replicas"
    lost = math.isnan(observation.demand) or wish.lost
    if lost and count < observation.ordered <= high:
        count, reason, bound = observation.ordered, Reason.ABSENT_DATA, "absent data"
    decision = Decision(
        count,
        observation.ordered,
        reason,
        candidates=wish.table,
        unconstrained=max(clip(wish.wanted, low, high), floor) if reason is Reason.STABILIZED else count,
        bound_by=bound,
        model="" if observation.forecast is None else observation.forecast.model,
    )
    return decision.with_replicas(count, reason, bound) if wish.table is not None else decision


def again(observation: Observation, decision: Decision, before: TurnMemory) -> Decision:
    """The same decision made again from its own table, price and hold, under what the observation says now.

    For journals and questions: of the past that the setting was chosen from, only what it came to is kept. ``before``
    is what was remembered of the policy then: whether it forecasts, and its cap.
    """
    if not decision.setting:
        made = _without_setting(observation, decision, before)
    elif decision.held < 0:  # it had no forecast then
        made = hold(observation)
    else:
        made = _by_setting(observation, decision, before)
    paths = None if made.quantiles else demand_paths(observation)
    if paths is not None:
        made = dataclasses.replace(made, quantiles=demand_quantiles(paths))
    return dataclasses.replace(made, **{name: getattr(decision, name) for name in CARRIED})


def _without_setting(observation: Observation, decision: Decision, before: TurnMemory) -> Decision:
    """What was decided before a setting was chosen, and the hold on it."""
    if not before.expects_forecast and observation.forecast is None and decision.wanted >= 0:
        if math.isnan(observation.demand):
            return hold(observation)
        low, high = observation.objective.min_replicas, observation.objective.max_replicas
        count = clip(decision.wanted, low, high)
        return Decision(count, observation.ordered, Reason.WARMING_UP, unconstrained=count)
    made = decide(observation)
    if made.candidates is not None and decision.candidates is None:  # as older records tell of a setting without one
        return hold(observation)
    if decision.held > decision.wanted and decision.held > made.replicas:
        made = made.with_replicas(decision.held, Reason.STABILIZED, "hold")
    return made


def _by_setting(observation: Observation, decision: Decision, before: TurnMemory) -> Decision:
    """What a setting that had a forecast asked for."""
    objective, table = observation.objective, decision.candidates
    low, high = objective.min_replicas, objective.max_replicas
    wanted, held = decision.wanted, decision.held
    if table is not None and not math.isnan(decision.price):
        cap = max(before.cap * objective.epsilon * NEARLY, float(table.violated_time.min()))
        counts = np.where(table.violated_time <= cap, table.replicas, np.inf)
        weight = 0.0 if decision.stood < 0 else weight_under(objective)
        least, most = (
            int(table.replicas[np.argmin(counts + price * table.violated_time)])
            for price in price_edges(decision.price, weight)
        )
        need = wanted if math.isnan(observation.demand) else reactive_floor(observation)  # it knew the last demand
        picked = clip(max(clip(decision.stood, least, most), need), low, high)
        held = max(picked, held) if held > wanted else picked
        wanted = picked
    lost = before.expects_forecast and observation.forecast is None
    return in_force(observation, Wish(wanted, held, table, _was_unreachable(decision, low, high), lost))


def _was_unreachable(decision: Decision, low: int, high: int) -> bool:
    """Whether the objective was out of reach, also where a guard or the fallback had the last word on the reason."""
    if decision.reason in (Reason.RATE_LIMITED, Reason.FALLBACK) or decision.bound_by == "stabilization":
        held = clip(decision.held, low, high)
        return decision.held > decision.wanted and decision.unconstrained == held > clip(decision.wanted, low, high)
    return decision.reason is Reason.UNREACHABLE


# What a decision says of its setting and budget, which are not found again from one observation.
CARRIED = (
    "setting", "price", "wanted", "held", "stood", "held_for_s", "budget_left", "burn_rate", "budget_least",
    "budget_most", "tried", "why",
)  # fmt: skip
