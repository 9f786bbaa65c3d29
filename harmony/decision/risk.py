"""Risk and cost of every candidate replica count, from sample paths of the replicas that demand will need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray
from harmony.model.decision import Candidates
from harmony.model.objective import Objective

__all__ = ["candidate_counts", "replicas_needed", "weigh"]

MAX_CANDIDATES = 256
ROUND = 1e-9  # demand that exceeds a whole number of replicas by rounding error alone needs no further replica
MOST_REPLICAS = 1e9  # absurd demand needs no more than this: counts stay whole numbers, costs stay finite


def replicas_needed(demand: FloatArray, per_replica: FloatArray | float) -> FloatArray:
    """Least whole replicas that carry ``demand``: ceil(demand / capacity), NaN where demand is absent.

    Never more than `MOST_REPLICAS`, whatever the demand.
    """
    with np.errstate(over="ignore"):
        need: FloatArray = np.ceil(np.asarray(demand) / per_replica - ROUND)
    return np.clip(need, 0.0, MOST_REPLICAS)


def candidate_counts(need: FloatArray, low: int, high: int, always: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """The counts worth weighing: all of ``low..high`` up to what any path needs, thinned if there are very many.

    ``need`` (samples, steps) replicas per path; ``always`` are weighed in any case (clipped to the bounds).
    """
    top = int(min(high, max(low, need.max(), *always)))
    if top - low < MAX_CANDIDATES:
        return np.arange(low, top + 1, dtype=np.int64)
    grid = np.quantile(need, np.linspace(0.0, 1.0, MAX_CANDIDATES - len(always)), method="higher")
    kept = np.concatenate([grid, np.asarray(always, dtype=np.float64), [low, top]])
    return np.unique(np.clip(kept, low, top).astype(np.int64))


def weigh(need: FloatArray, counts: npt.NDArray[np.int64], objective: Objective, current: int) -> Candidates:
    """Violation probabilities and expected cost of every count (mechanism: Bayes rule with a chance constraint).

    ``need`` (samples, steps) replicas that each path needs; ``counts`` (n,) ascending. Expected cost per hour is
    c_o E[(r - need)+] + c_u E[(need - r)+] + c_s |r - current|; all expectations are over paths and steps, and the
    window probability is over whole paths: a path is violated if any of its steps is.
    """
    flat = np.sort(need, axis=None)
    above = flat.size - np.searchsorted(flat, counts, side="right")
    total = np.concatenate([[0.0], np.cumsum(flat)])
    missing = (total[-1] - total[flat.size - above] - above * counts) / flat.size
    idle = counts - flat.mean() + missing
    idle = np.where(idle > ROUND * counts, idle, 0.0)  # what is left of equal sums is no idle replica
    peaks = np.sort(need.max(axis=1))
    missed_paths = peaks.size - np.searchsorted(peaks, counts, side="right")
    cost = (
        objective.replica_price_per_hour * idle
        + objective.miss_price_per_replica_hour * missing
        + objective.switch_price * np.abs(counts - current)
    )
    by_time, by_window = above / flat.size, missed_paths / peaks.size
    return Candidates(
        replicas=counts,
        violation_probability=by_window if objective.measure == "window" else by_time,
        violated_time=by_time,
        violated_window=by_window,
        expected_cost=cost,
        paths=peaks.size,
    )
