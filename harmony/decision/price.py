"""THE PRICE RULE: replicas are bought wherever that prevents violated time at less than one price."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecasting.errors import UsageError
from forecasting.panel import FloatArray
from harmony.decision.risk import MAX_CANDIDATES, ROUND, replicas_needed
from harmony.decision.rule import clip, demand_paths, demand_quantiles, hold, reactive_floor, warm_up
from harmony.decision.tails import LEAST, TailKind, UpperTail
from harmony.model.decision import Candidates, Decision, Reason
from harmony.model.objective import Objective
from harmony.model.observation import Observation

__all__ = ["CAP", "PriceRule", "decide_by_price", "weigh_by_price"]

CAP = 5.0  # most risk of one decision, as a multiple of epsilon
FARTHEST = 1e-6  # no count is weighed beyond what is exceeded with less probability than this
UNREACHABLE = (Reason.UNREACHABLE, "max_replicas")
REACH = 2.0  # ... or beyond this multiple of the highest sample path


@dataclass(frozen=True, slots=True)
class PriceRule:
    """What one violated hour is worth, and how much risk one decision may take.

    Attributes:
        price: replica-hours that are spent to prevent one hour of violation (the lambda of the budget), 0 or more.
        cap: most risk of one decision, as a multiple of epsilon.
        tail: how probabilities beyond the highest sample paths are found; "empirical" counts paths only.
    """

    price: float
    cap: float = CAP
    tail: TailKind = "pareto"

    def __post_init__(self) -> None:
        if not self.price >= 0.0:
            raise UsageError(f"price of a violated hour {self.price}: expected 0 or more replica-hours")
        if not self.cap > 0.0:
            raise UsageError(f"risk cap {self.cap}: expected a positive multiple of epsilon, such as {CAP:g}")


def decide_by_price(observation: Observation, rule: PriceRule) -> Decision:
    """Pick the replica count for one service; pure: equal observations give equal decisions.

    ``argmin_n c n + price c R(n) + c_u E[(need - n)+] + c_s |n - ordered|`` over the counts with R(n) <= cap x epsilon
    that carry present demand, within the bounds; R(n) is the risk of the lead-time window in the objective's
    measure, per sample path and draw of the capacity. Absent demand or an absent forecast never lowers the count.
    """
    objective = observation.objective
    paths = demand_paths(observation)
    if paths is None:
        if np.isnan(observation.demand) or observation.forecast is not None:
            return hold(observation)
        return warm_up(observation)
    assert observation.forecast is not None  # demand_paths returned paths of it
    load = paths / observation.capacity.draws(paths.shape[0])[:, None]
    low, high = objective.min_replicas, objective.max_replicas
    floor = reactive_floor(observation)
    always = (floor, clip(observation.ordered, low, high))
    candidates = weigh_by_price(load, objective, observation.ordered, rule, always)
    counts, risk = candidates.replicas, candidates.violation_probability
    pick, reason, bound_by = _choose(candidates, objective, rule, floor)
    if np.isnan(observation.demand) and counts[pick] < observation.ordered <= high:
        pick = int(np.searchsorted(counts, observation.ordered))
        reason, bound_by = Reason.ABSENT_DATA, "absent demand"
    return Decision(
        replicas=int(counts[pick]),
        current=observation.ordered,
        reason=reason,
        violation_probability=float(risk[pick]),
        expected_cost=float(candidates.expected_cost[pick]),
        candidates=candidates,
        unconstrained=int(counts[pick]),
        bound_by=bound_by,
        quantiles=demand_quantiles(paths),
        model=observation.forecast.model,
    )


def _choose(candidates: Candidates, objective: Objective, rule: PriceRule, floor: int) -> tuple[int, Reason, str]:
    """Position of the cheapest count within the cap that carries present demand; the largest when there is none."""
    risk = candidates.violation_probability
    total = candidates.expected_cost + rule.price * objective.replica_price_per_hour * risk
    capped = np.where(risk <= rule.cap * objective.epsilon, total, np.inf)
    allowed = np.where(candidates.replicas >= floor, capped, np.inf)
    if not np.isfinite(allowed).any():
        reached = int(candidates.replicas[-1]) < objective.max_replicas
        return len(candidates) - 1, *((Reason.FORECAST, "forecast's reach") if reached else UNREACHABLE)
    pick = int(np.argmin(allowed))
    if pick != np.argmin(capped):
        return pick, Reason.REACTIVE_FLOOR, "reactive floor"
    return pick, Reason.FORECAST, "" if pick == np.argmin(total) else "risk cap"


def weigh_by_price(
    load: FloatArray, objective: Objective, current: int, rule: PriceRule, always: tuple[int, ...] = ()
) -> Candidates:
    """Risk and money of every count worth weighing; ``load`` (samples, steps) is demand over capacity per path.

    Expected cost per hour is c n + c_u E[(need - n)+] + c_s |n - ``current``|: the bill, what missing replicas lose,
    and the change. Risks below the tail's threshold are counted on the paths, above it the fitted tail states them.
    ``always`` are weighed in any case (within the bounds).
    """
    tail: TailKind = rule.tail if objective.epsilon > 0.0 else "empirical"  # no fitted tail ever reaches 0
    need = replicas_needed(load, 1.0)
    flat, peaks = np.sort(need, axis=None), np.sort(need.max(axis=1))
    by_step, by_path = _Risk(load.reshape(-1), tail), _Risk(load.max(axis=1), tail)
    counts = _counts(flat, by_path, objective, always)
    above = flat.size - np.searchsorted(flat, counts, side="right")
    total = np.concatenate([[0.0], np.cumsum(flat)])
    missing = (total[-1] - total[flat.size - above] - above * counts) / flat.size
    cost = (
        objective.replica_price_per_hour * counts
        + objective.miss_price_per_replica_hour * missing
        + objective.switch_price * np.abs(counts - current)
    )
    by_time, by_window = by_step.above(counts), by_path.above(counts)
    return Candidates(
        replicas=counts,
        violation_probability=by_window if objective.measure == "window" else by_time,
        violated_time=by_time,
        violated_window=by_window,
        expected_cost=np.asarray(cost),
        paths=peaks.size,
    )


class _Risk:
    """P(load > n): counted below the tail's threshold, fitted above it."""

    __slots__ = ("_ordered", "tail")

    def __init__(self, load: FloatArray, kind: TailKind) -> None:
        self._ordered = np.sort(load)
        fitted = kind != "empirical" and load.size >= 2 * LEAST
        self.tail = UpperTail.fit(self._ordered, kind) if fitted else None

    @property
    def farthest(self) -> float:
        """The load beyond which no count needs to be weighed."""
        top = float(self._ordered[-1])
        if self.tail is None or self.tail.scale <= 0.0:
            return top
        return min(float(self.tail.value_at(np.array(FARTHEST))), REACH * top)

    def above(self, counts: npt.NDArray[np.int64]) -> FloatArray:
        """(n,) probability that the load exceeds what each count carries."""
        n = self._ordered.size
        counted = (n - np.searchsorted(self._ordered, counts + ROUND, side="right")) / n
        if self.tail is None:
            return np.asarray(counted)
        return np.where(counts + ROUND >= self.tail.start, self.tail.survival(counts.astype(np.float64)), counted)


def _counts(need: FloatArray, peaks: _Risk, objective: Objective, always: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """All counts from the minimum to the farthest worth weighing, thinned if there are very many.

    ``need`` ascending (n,); the largest count is the sample maximum where tails are counted only.
    """
    low, high = objective.min_replicas, objective.max_replicas
    far = max(float(need[-1]), float(replicas_needed(np.asarray(peaks.farthest), 1.0)))
    top = int(min(high, max(low, far, *always)))
    if top - low < MAX_CANDIDATES:
        return np.arange(low, top + 1, dtype=np.int64)
    half = MAX_CANDIDATES // 2
    levels = np.quantile(need, np.linspace(0.0, 1.0, half), method="higher")
    beyond = np.linspace(min(float(need[int(0.9 * need.size)]), top), top, half)
    kept = np.concatenate([levels, np.ceil(beyond), np.asarray(always, dtype=np.float64), [low, top]])
    return np.unique(np.clip(kept, low, top).astype(np.int64))
