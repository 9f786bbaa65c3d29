"""Demand that is measured where it is served: a saturated service shows what it carries, not what is asked of it.

Such a reading is a lower bound (censored): taken for demand, it asks for exactly the replicas there are, and the
queue grows for ever. What is in the system tells the rest: everything that arrives is served, or is there longer than
before.

    offered = served + (in the system now - in the system before) / step
"""

from __future__ import annotations

import math

import numpy as np

from forecasting.errors import UsageError
from forecasting.panel import BoolArray, FloatArray

__all__ = ["MEMORY", "asked_for", "offered_demand", "offered_now", "saturated_steps", "uncensored"]

MEMORY = 1_440  # readings of the past that say what more may mean
SATURATED = 0.95  # of what is carried: beyond it, what is served says little about what is asked


def offered_now(served: float, in_system: float, before: float, step_s: float) -> float:
    """Demand offered in one step, in the unit of ``served`` (per second); NaN where any part of it is absent.

    ``in_system`` and ``before``: work that waits or is under way at the end and at the start of the step, in that unit
    times seconds. Never negative: what leaves without being served (cancelled, lost) is no negative demand.
    """
    offered = served + (in_system - before) / step_s
    return offered if math.isnan(offered) else max(0.0, offered)


def offered_demand(served: FloatArray, in_system: FloatArray, step_s: float) -> FloatArray:
    """(steps,) demand offered in each step; the first one is ``served``, as nothing is known of what was there before.

    NaN where a part is absent. Raises `UsageError` for columns of unequal length or a step that is not positive.
    """
    if served.shape != in_system.shape or served.ndim != 1 or not step_s > 0:
        raise UsageError("offered demand: expected two columns of equal length and a positive step")
    growth = np.diff(in_system, prepend=in_system[:1]) / step_s
    return np.asarray(np.where(np.isnan(served + growth), np.nan, np.maximum(0.0, served + growth)))


def saturated_steps(served: FloatArray, carried: FloatArray, waiting: FloatArray | None = None) -> BoolArray:
    """(steps,) steps whose reading is only a lower bound: as much was served as could be, or requests waited.

    ``carried``: demand that the ready replicas carry. Where a part is absent the other one decides.
    """
    with np.errstate(invalid="ignore"):
        full = served >= SATURATED * carried
        return np.asarray(full | (waiting > 0) if waiting is not None else full)


def asked_for(reading: float, past: FloatArray) -> float:
    """What a saturated ``reading`` stands for: the mean of the (n,) known ``past`` readings that are larger.

    The expectation given "more than that"; without any larger one the reading itself.
    """
    larger = past[past > reading]
    return float(larger.mean()) if larger.size else reading


def uncensored(demand: FloatArray, censored: BoolArray) -> FloatArray:
    """(steps,) demand with censored steps as what they say: at least so much.

    A censored step stands for the mean of the known, uncensored readings among the last 1,440 that are
    larger (the expectation given "more than that", as Kaplan and Meier would have it, of the service's own past);
    without any larger one for itself. Only the past is used. NaN stays NaN.
    """
    out = demand.copy()
    past: list[float] = []
    for i, (value, is_censored) in enumerate(zip(demand.tolist(), censored.tolist(), strict=True)):
        if math.isnan(value):
            continue
        if not is_censored:
            past.append(value)
            continue
        out[i] = asked_for(value, np.array(past[-MEMORY:]))
    return out
