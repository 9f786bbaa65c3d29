"""Surgery on demand: pure functions from (steps,) demand to (steps,) demand, NaN where absent staying absent.

Times are seconds from the first row; a stretch is the steps whose time lies in [since, until).
"""

from __future__ import annotations

import math

import numpy as np

from forecasting.errors import UsageError
from forecasting.panel import FloatArray

__all__ = ["dropout", "mix", "scale", "shift", "spike", "splice", "stretch"]


def stretch(steps: int, step_s: float, since_s: float, until_s: float) -> slice:
    """The steps of [``since_s``, ``until_s``); `UsageError` where that holds none of them."""
    first = max(0, math.ceil(round(since_s / step_s, 9)))
    last = steps if math.isinf(until_s) else min(steps, math.ceil(round(until_s / step_s, 9)))
    if first >= last:
        raise UsageError(
            f"from {since_s:g} s to {until_s:g} s lies no step of a trace of {steps} steps of {step_s:g} s"
        )
    return slice(first, last)


def scale(
    demand: FloatArray, step_s: float, factor: float, since_s: float = 0.0, until_s: float = math.inf
) -> FloatArray:
    """``factor`` times the demand within a stretch."""
    if not (math.isfinite(factor) and factor >= 0):
        raise UsageError(f"scale by {factor}: expected a factor of 0 or more")
    out = demand.copy()
    out[stretch(demand.size, step_s, since_s, until_s)] *= factor
    return out


def spike(
    demand: FloatArray, step_s: float, at_s: float, height: float, length_s: float, ramp_s: float = 0.0
) -> FloatArray:
    """``height`` times the demand for ``length_s`` from ``at_s`` on, with a ramp of ``ramp_s`` on either side."""
    if not (math.isfinite(height) and height >= 0 and length_s > 0 and ramp_s >= 0):
        raise UsageError(f"spike of height {height}, length {length_s} s and ramp {ramp_s} s: expected 0 or more")
    times = np.arange(demand.size) * step_s
    outside = np.maximum(np.maximum(at_s - times, times - (at_s + length_s - step_s)), 0.0)
    shape = np.where(outside <= 0, 1.0, 0.0)
    if ramp_s > 0:
        shape = np.clip(1.0 - outside / ramp_s, 0.0, 1.0)
    if not shape.any():
        raise UsageError(f"a spike at {at_s:g} s touches no step of a trace of {demand.size} steps of {step_s:g} s")
    return np.asarray(demand * (1.0 + (height - 1.0) * shape))


def dropout(demand: FloatArray, step_s: float, since_s: float, until_s: float = math.inf) -> FloatArray:
    """The demand with a stretch absent."""
    out = demand.copy()
    out[stretch(demand.size, step_s, since_s, until_s)] = math.nan
    return out


def shift(demand: FloatArray, step_s: float, by_s: float) -> FloatArray:
    """The same demand ``by_s`` later (earlier if negative); what leaves at one end comes in at the other."""
    return np.roll(demand, round(by_s / step_s))


def mix(demand: FloatArray, other: FloatArray, weight: float) -> FloatArray:
    """``1 - weight`` of the demand and ``weight`` of another that is brought to the same mean, repeated if shorter."""
    if not 0.0 <= weight <= 1.0:
        raise UsageError(f"mix with a weight of {weight}: expected 0 to 1")
    return np.asarray((1.0 - weight) * demand + weight * _alike(other, demand))


def splice(demand: FloatArray, other: FloatArray, step_s: float, at_s: float) -> FloatArray:
    """The demand until ``at_s``, and another that is brought to the same mean from there on."""
    part = stretch(demand.size, step_s, at_s, math.inf)
    out = demand.copy()
    out[part] = _alike(other, demand)[part]
    return out


def _alike(other: FloatArray, demand: FloatArray) -> FloatArray:
    """``other`` as long as ``demand``, with its mean."""
    means = [float(np.nanmean(x)) if np.isfinite(x).any() else 0.0 for x in (demand, other)]
    if not all(m > 0 for m in means):
        raise UsageError("two traces can only be joined where both have demand above zero")
    return np.asarray(np.resize(other, demand.size) * (means[0] / means[1]))
