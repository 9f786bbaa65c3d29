"""What becomes of the count that the setting in force asks for, and the same decision made again from its record."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from harmony.decision.price import CAP
from harmony.decision.rule import clip, decide, demand_paths, demand_quantiles, reactive_floor
from harmony.model.decision import Candidates, Decision, Reason
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


def again(observation: Observation, decision: Decision, *, expects_forecast: bool = True) -> Decision:
    """The same decision made again from its own table, price and hold, under what the observation says now.

    For journals and questions: of the past that the setting was chosen from, only what it came to is kept.
    """
    said = {name: getattr(decision, name) for name in CARRIED}
    if not decision.setting:
        return dataclasses.replace(decide(observation), **said)
    objective, table = observation.objective, decision.candidates
    wanted, held = decision.wanted, decision.held
    if table is not None and not math.isnan(decision.price):
        cap = max(CAP * objective.epsilon * NEARLY, float(table.violated_time.min()))
        total = np.where(table.violated_time <= cap, table.replicas + decision.price * table.violated_time, np.inf)
        need = reactive_floor(observation)
        picked = clip(max(int(table.replicas[np.argmin(total)]), need), objective.min_replicas, objective.max_replicas)
        held = max(picked, held) if held > wanted else picked
        wanted = picked
    lost = expects_forecast and observation.forecast is None
    made = in_force(observation, Wish(wanted, held, table, decision.reason is Reason.UNREACHABLE, lost))
    paths = demand_paths(observation)
    return dataclasses.replace(made, quantiles={} if paths is None else demand_quantiles(paths), **said)


# What a decision says of its setting and budget, which are not found again from one observation.
CARRIED = (
    "setting", "price", "wanted", "held", "budget_left", "burn_rate", "budget_least", "budget_most", "tried", "why",
)  # fmt: skip
