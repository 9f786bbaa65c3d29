"""Hours at equal violation: the rules of thumb, tuned in hindsight on the scored part, that a policy is measured by.

The figure of a policy is its replica-hours over the fewest that any setting of any rule of thumb needs for the violated
share that the policy itself realised. The rules: the HorizontalPodAutoscaler with its default and with a tuned
scale-down window, last value plus a margin with a hold, sliding percentiles, a fixed count: about 3,000 settings. They
live in the rate-level world: ready replicas are the minimum of what was set over the lead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.panel import BoolArray, FloatArray, IntArray
from forecasting.specialists import LeadGrid
from harmony.decision.past.portfolio import held, ready_of, replicas
from harmony.decision.risk import ROUND

__all__ = ["KINDS", "RULES", "Curve", "Yardstick", "at_level", "day_sums", "filled", "foresight", "rules", "yardstick"]

MARGINS: FloatArray = np.concatenate(
    [np.exp(np.arange(math.log(0.7), math.log(2), 0.025)), np.exp(np.arange(math.log(2), math.log(9), 0.09))]
)
HPA_WINDOWS_S = (1.0, 300.0, 600.0, 1800.0, 3600.0, 10_800.0)
HOLDS_S = (1.0, 300.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0)
SLIDING_S = (900.0, 3600.0, 10_800.0, 43_200.0, 86_400.0)
LEVELS = (0.5, 0.9, 0.95, 0.98, 1.0)
STATIC_LEVELS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0)
STATIC_FACTORS = (1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0, 5.0)
RULES = ("hpa_window", "reactive", "percentile", "static")  # of these the best is "the best rule of thumb"
KINDS = ("rival", "hpa", "hpa_window")  # what hours are set beside


# ---- the rules -----------------------------------------------------------------------------------------------------
def rules(load: FloatArray, grid: LeadGrid, scored_from: int) -> Iterator[tuple[str, FloatArray]]:
    """(kind, counts (steps, settings)) of every configuration: hpa, hpa_window, reactive, percentile, static.

    ``load`` (steps,) is demand over what a replica carries, without gaps; fixed counts are read off what lies before
    ``scored_from``.
    """
    for window in sorted({grid.steps(s) for s in HPA_WINDOWS_S}):
        counts = _hpa(load, window)
        if window == grid.steps(300.0):
            yield "hpa", counts
        yield "hpa_window", counts
    for hold in sorted({grid.steps(s) for s in HOLDS_S}):
        yield "reactive", held(replicas(load[:, None] * MARGINS), hold)
    for seconds in SLIDING_S:
        window = max(4, grid.steps(seconds))
        if window * 4 <= load.size:
            for high in _sliding(load, window).T:
                yield "percentile", replicas(high[:, None] * MARGINS)
    past = load[:scored_from]
    counts = np.concatenate([np.quantile(past, STATIC_LEVELS), past.max() * np.array(STATIC_FACTORS)])
    yield "static", np.broadcast_to(replicas(counts), (load.size, counts.size))


def _hpa(load: FloatArray, window: int) -> FloatArray:
    """The HorizontalPodAutoscaler: tolerance 0.1, at once up, down to the window's highest recommendation."""
    recommended = np.empty((load.size, MARGINS.size))
    out = np.empty_like(recommended)
    now = replicas(load[0] * MARGINS)
    for t in range(load.size):
        recommended[t] = np.where(np.abs(load[t] / now * MARGINS - 1.0) <= 0.1, now, replicas(load[t] * MARGINS))
        now = out[t] = recommended[max(0, t - window + 1) : t + 1].max(axis=0)
    return out


def _sliding(load: FloatArray, window: int) -> FloatArray:
    """(steps, levels) quantiles of the last ``window`` values (fewer at the beginning), interpolated between ranks."""
    levels = np.array(LEVELS)
    out = np.empty((load.size, levels.size))
    for t in range(min(window - 1, load.size)):
        out[t] = np.quantile(load[: t + 1], levels)
    if load.size < window:
        return out
    at = levels * (window - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, window - 1)
    windows = np.lib.stride_tricks.sliding_window_view(load, window)
    ranks = np.unique(np.concatenate([low, high]))
    for i in range(0, len(windows), 1024):
        part = np.partition(windows[i : i + 1024], ranks, axis=1)
        below, above = part[:, low], part[:, high]
        out[window - 1 + i : window - 1 + i + len(part)] = below + (above - below) * (at - low)
    return out


def foresight(load: FloatArray, lead_steps: int) -> FloatArray:
    """(steps,) the fewest replicas that carry ``load`` from now to the end of the lead: what cannot be undercut."""
    padded = np.concatenate([load, np.repeat(load[-1:], lead_steps)])
    return replicas(np.lib.stride_tricks.sliding_window_view(padded, lead_steps + 1).max(axis=1))


# ---- curves --------------------------------------------------------------------------------------------------------
class Curve:
    """Of one configuration's settings the fewest hours at every violated share."""

    __slots__ = ("_hours", "_shares")

    def __init__(self, hours: FloatArray, shares: FloatArray) -> None:
        order = np.lexsort((hours, shares))
        self._shares = shares[order]
        self._hours = np.minimum.accumulate(hours[order])

    def at(self, shares: FloatArray) -> FloatArray:
        """Fewest hours at each of ``shares``, interpolated between near neighbours; infinite below the least."""
        v, h = self._shares, self._hours
        i = np.searchsorted(v, shares, side="right") - 1
        here, after = np.maximum(i, 0), np.minimum(i + 1, v.size - 1)
        near = (i + 1 < v.size) & (v[after] > v[here]) & (v[after] < v[here] + shares)
        width = np.where(near, v[after] - v[here], 1.0)
        found = h[here] + np.where(near, (h[after] - h[here]) * (shares - v[here]) / width, 0.0)
        return np.where(i < 0, math.inf, found)


def at_level(curves: Sequence[Curve], share: float) -> float:
    """Least hours of any configuration at a violated share; NaN where none keeps it."""
    least = min((float(c.at(np.array([share]))[0]) for c in curves), default=math.inf)
    return least if math.isfinite(least) else math.nan


@dataclass(frozen=True, eq=False, slots=True)
class Yardstick:
    """What every rule of thumb would have ordered and violated in the scored part, day by day.

    `ordered` and `missed` hold by kind, for every configuration, (days, settings) replica-steps and violated steps;
    `known` (days,) judged steps; `foresight` (days,) replica-steps of perfect foresight.
    """

    ordered: dict[str, tuple[FloatArray, ...]]
    missed: dict[str, tuple[FloatArray, ...]]
    known: FloatArray
    foresight: FloatArray

    def curves(self, weights: FloatArray | None = None) -> dict[str, tuple[Curve, ...]]:
        """By kind (of `KINDS`) the curves of its configurations; ``weights`` (days,) count days otherwise than once."""
        w = np.ones(self.known.size) if weights is None else weights
        known = max(1.0, float(w @ self.known))
        made = {
            kind: tuple(
                Curve(w @ o, (w @ m) / known) for o, m in zip(self.ordered[kind], self.missed[kind], strict=True)
            )
            for kind in self.ordered
        }
        return {**made, "rival": tuple(c for kind in RULES for c in made[kind])}


def day_sums(values: FloatArray | IntArray | BoolArray, steps_a_day: int) -> FloatArray:
    """(days, ...) sums of (steps, ...) over days counted from the first step; what is left over joins the last day."""
    days = max(1, len(values) // steps_a_day)
    starts = np.arange(days) * steps_a_day
    return np.asarray(np.add.reduceat(np.asarray(values, dtype=np.float64), starts, axis=0))


def yardstick(demand: FloatArray, capacity: float, grid: LeadGrid, scored_from: int) -> Yardstick:
    """The rules of thumb over ``demand`` (steps,), NaN where absent: there they go on with the last value, unjudged."""
    known = ~np.isnan(demand)
    load = filled(demand) / capacity
    scored = slice(scored_from, None)
    ordered: dict[str, list[FloatArray]] = {}
    missed: dict[str, list[FloatArray]] = {}
    for kind, counts in rules(load, grid, scored_from):
        ready = ready_of(counts, grid.lead_steps)[scored]
        violated = (load[scored, None] - ready > ROUND) & known[scored, None]
        ordered.setdefault(kind, []).append(day_sums(counts[scored], grid.day))
        missed.setdefault(kind, []).append(day_sums(violated, grid.day))
    return Yardstick(
        {k: tuple(v) for k, v in ordered.items()},
        {k: tuple(v) for k, v in missed.items()},
        day_sums(known[scored], grid.day),
        day_sums(foresight(load, grid.lead_steps)[scored], grid.day),
    )


def filled(demand: FloatArray) -> FloatArray:
    """``demand`` with the last known value in its gaps (the first one before there is any); zeros if none is known."""
    known = ~np.isnan(demand)
    if not known.any():
        return np.zeros(demand.size)
    newest = np.maximum.accumulate(np.where(known, np.arange(demand.size), -1))
    return np.asarray(demand[np.where(newest < 0, int(np.argmax(known)), newest)])
