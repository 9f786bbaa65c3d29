"""THE DECISION RULE: least expected cost among the replica counts whose stated risk is acceptable."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from forecasting.distribution import ForecastDistribution
from forecasting.panel import FloatArray
from harmony.decision.risk import candidate_counts, replicas_needed, weigh
from harmony.model.decision import Candidates, Decision, Reason
from harmony.model.lead_time import LeadTime
from harmony.model.observation import Observation

__all__ = [
    "clip",
    "decide",
    "demand_paths",
    "demand_quantiles",
    "hold",
    "lead_window",
    "reactive_floor",
    "warm_up",
    "window_steps",
    "with_bounds",
]

QUANTILES = (0.05, 0.5, 0.95, 0.99)
WARM_UP_MARGIN = 0.25  # headroom over the last demand while there is no forecast yet
ABSENT = float("nan")


def window_steps(lead_time: LeadTime, step_s: float, interval_s: float) -> int:
    """Steps ahead that a decision answers for: the lead time plus the wait for the next decision.

    What is asked for now is ready after the lead; what is left out now can be asked for at the next decision at the
    earliest, and is ready one lead after that.
    """
    wait = max(1, math.ceil(round(interval_s / step_s, 9)))
    return lead_time.steps(step_s) + wait - 1


def lead_window(observation: Observation) -> int:
    """`window_steps` of a decision that is made on this observation."""
    return window_steps(observation.lead_time, observation.step_s, observation.interval_s)


def reactive_floor(observation: Observation) -> int:
    """Replicas that present demand already needs, within the bounds; the minimum when demand is absent."""
    objective = observation.objective
    if math.isnan(observation.demand):
        return objective.min_replicas
    need = float(replicas_needed(np.asarray(observation.demand), observation.capacity.median))
    return int(min(max(need, objective.min_replicas), objective.max_replicas))


def decide(observation: Observation) -> Decision:
    """Pick the replica count for one service; pure: equal observations give equal decisions.

    ``max(reactive floor, least expected cost subject to P(violation) <= risk level)`` over the lead-time window, per
    sample path. Absent demand or an absent forecast never lowers the count below the current replicas (or the maximum,
    if that has come to be less). A demand that is no finite number is absent, and so is a forecast with such a path.
    """
    if math.isinf(observation.demand):
        observation = dataclasses.replace(observation, demand=ABSENT)
    objective = observation.objective
    demand_absent = math.isnan(observation.demand)
    paths = demand_paths(observation)
    if paths is None:
        if demand_absent or observation.forecast is not None:
            return hold(observation)
        return warm_up(observation)
    forecast = observation.forecast
    assert forecast is not None  # demand_paths returned paths of it
    need = replicas_needed(paths, observation.capacity.draws(paths.shape[0])[:, None])
    floor = reactive_floor(observation)
    low, high = objective.min_replicas, objective.max_replicas
    counts = candidate_counts(need, low, high, always=(floor, clip(observation.ordered, low, high)))
    candidates = weigh(need, counts, objective, observation.ordered)
    pick, reason, bound_by = _choose(candidates, observation)
    if floor > candidates.replicas[pick]:
        pick, reason, bound_by = _at(candidates, floor), Reason.REACTIVE_FLOOR, "reactive floor"
    kept = min(observation.ordered, high)
    if demand_absent and candidates.replicas[pick] < kept:
        pick, reason, bound_by = _at(candidates, kept), Reason.ABSENT_DATA, "absent demand"
    candidates = _calibrated(candidates, observation)
    return Decision(
        replicas=int(candidates.replicas[pick]),
        current=observation.ordered,
        reason=reason,
        violation_probability=float(candidates.violation_probability[pick]),
        expected_cost=float(candidates.expected_cost[pick]),
        candidates=candidates,
        unconstrained=int(candidates.replicas[pick]),
        bound_by=bound_by,
        quantiles=demand_quantiles(paths),
        model=forecast.model,
    )


def demand_paths(observation: Observation) -> FloatArray | None:
    """(samples, steps) demand over the lead window, or None without a usable forecast."""
    forecast: ForecastDistribution | None = observation.forecast
    if forecast is None:
        return None
    name = observation.objective.demand or forecast.names[0]
    paths = forecast.of(name)[:, : lead_window(observation)]
    if paths.shape[1] == 0 or not bool(np.isfinite(paths).all()):
        return None
    return np.maximum(paths, 0.0)


def _choose(candidates: Candidates, observation: Observation) -> tuple[int, Reason, str]:
    """Position of the cheapest acceptable candidate; the largest when none is acceptable."""
    acceptable = candidates.violation_probability <= observation.risk_level
    if not acceptable.any():
        return len(candidates) - 1, Reason.UNREACHABLE, "max_replicas"
    cost = np.where(acceptable, candidates.expected_cost, np.inf)
    pick = int(np.argmin(cost))
    cheapest = int(np.argmin(candidates.expected_cost))
    return pick, Reason.FORECAST, "epsilon" if pick != cheapest else ""


def _calibrated(candidates: Candidates, observation: Observation) -> Candidates:
    """The candidates with probabilities on the scale on which `risk_level` has been found to mean epsilon."""
    if observation.risk_level <= 0.0:
        return candidates
    scale = observation.objective.epsilon / observation.risk_level
    stated = np.minimum(1.0, candidates.violation_probability * scale)
    return dataclasses.replace(candidates, violation_probability=stated)


def hold(observation: Observation) -> Decision:
    """Keep the current replicas (within the bounds) because data are absent; more only if demand already needs it."""
    objective = observation.objective
    kept = max(observation.ordered, reactive_floor(observation))
    replicas = clip(kept, objective.min_replicas, objective.max_replicas)
    return Decision(replicas, observation.ordered, Reason.ABSENT_DATA, unconstrained=kept, bound_by="absent data")


def warm_up(observation: Observation) -> Decision:
    """Present demand plus a margin, until there is history enough to forecast from."""
    objective = observation.objective
    wanted = observation.demand * (1.0 + WARM_UP_MARGIN)
    need = int(replicas_needed(np.asarray(wanted), observation.capacity.median))
    replicas = clip(need, objective.min_replicas, objective.max_replicas)
    return Decision(replicas, observation.ordered, Reason.WARMING_UP, unconstrained=need)


def demand_quantiles(paths: FloatArray) -> dict[float, FloatArray]:
    """Demand quantiles per step, for people."""
    rows = np.sort(paths, axis=0)
    last = rows.shape[0] - 1
    return {q: rows[min(last, math.ceil(q * last))].copy() for q in QUANTILES}  # or they would keep all of the paths


def _at(candidates: Candidates, count: int) -> int:
    """Position of a count that is known to be among the candidates."""
    return int(np.searchsorted(candidates.replicas, count))


def clip(value: int, low: int, high: int) -> int:
    """``value`` within ``low``..``high``."""
    return min(max(value, low), high)


def with_bounds(decision: Decision, observation: Observation) -> Decision:
    """The decision within min and max replicas, whatever policy made it."""
    objective = observation.objective
    replicas = clip(decision.replicas, objective.min_replicas, objective.max_replicas)
    if replicas == decision.replicas:
        return decision
    if replicas > decision.replicas:
        return decision.with_replicas(replicas, Reason.MIN_REPLICAS, "min_replicas")
    return decision.with_replicas(replicas, Reason.MAX_REPLICAS, "max_replicas")
