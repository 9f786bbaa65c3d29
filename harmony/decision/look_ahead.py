"""`look_ahead`: a whole course of counts over lead time and beyond: when to drop, when to pre-warm, when to sleep.

The rule of one window (`rule.py`, `price.py`) asks what is needed within one lead time. That is all there is to know
where changes are free: ordered(t) = the most that any step of its window needs is then the cheapest course, and
looking further changes nothing. Further steps count where a change has a price (a start, a wake-up from zero):
whether a trough is long enough to be worth a drop depends on when it ends.

    minimise over n(0..T-1)   sum of  n(t) + price R(t, n(t)) + switch |n(t) - n(t-1)| + wake [n(t-1) = 0 < n(t)]

in replica-steps; R(t, n) is the share of path-steps in the window of t (the next lead time, seen from t) that n
replicas do not carry. Solved exactly by dynamic programming over the candidates; only the first count is acted on,
the next turn plans anew. `ordered` counts what is starting, so nothing pending is ordered twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from forecasting.errors import UsageError
from forecasting.panel import FloatArray, IntArray

__all__ = ["Course", "break_even_steps", "look_ahead"]


@dataclass(frozen=True, eq=False, slots=True)
class Course:
    """The cheapest course: `counts` (steps,) to order at each coming step, `cost` in replica-steps."""

    counts: IntArray
    ordered: int
    cost: float

    @property
    def now(self) -> int:
        """What to order now."""
        return int(self.counts[0])

    @property
    def drop_in(self) -> int | None:
        """Steps until fewer are ordered than there are; None for not within sight."""
        return _first(self.counts < self.ordered)

    @property
    def pre_warm_in(self) -> int | None:
        """Steps until more are ordered than there are, so that they serve in time; None for not within sight."""
        return _first(self.counts > self.ordered)


def look_ahead(
    need: FloatArray,
    lead_steps: int,
    ordered: int,
    *,
    price: float,
    switch: float = 0.0,
    wake: float = 0.0,
    least: int = 0,
    most: int = 1_000_000,
    floor: int = 0,
) -> Course:
    """The cheapest course for ``need`` (samples, steps) replicas, over ``steps - lead_steps + 1`` turns.

    ``price``: replica-steps that a violated step is worth; ``switch``: per replica added or removed; ``wake``: for
    coming back from none. ``floor`` holds for the first turn only (what present demand needs). Where any need is absent
    (NaN) the course stays at ``ordered`` or more. Raises `UsageError` for a forecast that is shorter than the lead.
    """
    if need.ndim != 2 or need.shape[0] < 1 or lead_steps < 1 or need.shape[1] < lead_steps:
        raise UsageError(f"look-ahead: expected (samples, {max(1, lead_steps)} steps or more), got {need.shape}")
    if not all(math.isfinite(v) and v >= 0 for v in (price, switch, wake)) or not 0 <= least <= most:
        raise UsageError("look-ahead: prices must be finite and 0 or more, bounds in order")
    absent = bool(np.isnan(need).any())
    counts = _candidates(np.nan_to_num(need), ordered, least, most, floor)
    if absent:
        counts = counts[counts >= min(max(ordered, least), most)]
    turns = need.shape[1] - lead_steps + 1
    with np.errstate(invalid="ignore"):
        missed = (need[:, :, None] > counts[None, None, :] + 1e-9).mean(axis=0)  # (steps, candidates)
    summed = np.concatenate([np.zeros((1, counts.size)), np.cumsum(missed, axis=0)])
    risk = (summed[lead_steps:] - summed[:-lead_steps]) / lead_steps  # (turns, candidates)
    here = counts + price * risk
    change = switch * np.abs(counts[:, None] - counts[None, :]) + wake * (
        (counts[:, None] == 0) & (counts[None, :] > 0)
    )
    ahead = np.zeros(counts.size)
    choice = np.zeros((turns, counts.size), dtype=np.int64)
    for t in range(turns - 1, 0, -1):  # from each candidate at t-1, the best at t
        total = change + (here[t] + ahead)[None, :]
        choice[t] = total.argmin(axis=1)
        ahead = total.min(axis=1)
    first = switch * np.abs(counts - ordered) + (wake if ordered == 0 else 0.0) * (counts > 0) + here[0] + ahead
    first = np.where(counts >= min(max(floor, least), most), first, math.inf)
    at = int(first.argmin())
    course = [at]
    for t in range(1, turns):
        course.append(int(choice[t, course[-1]]))
    return Course(counts[course], ordered, float(first[at]))


def break_even_steps(lead_steps: int, replicas: int, *, switch: float = 0.0, wake: float = 0.0) -> float:
    """Steps that a trough must last before dropping ``replicas`` and taking them back pays.

    What is ordered in its last ``lead_steps - 1`` steps must be there for what follows, so these save nothing; then
    every step saves ``replicas``, against one drop, one start and, from zero, a wake-up. Infinite for none.
    """
    return lead_steps - 1 + 2 * switch + wake / replicas if replicas > 0 else math.inf


def _candidates(need: FloatArray, ordered: int, least: int, most: int, floor: int) -> IntArray:
    """Counts worth weighing: every distinct need, up to 64 of them, and what there is."""
    known = np.unique(np.ceil(need - 1e-9))
    if known.size > 64:
        known = np.unique(np.quantile(known, np.linspace(0, 1, 64), method="higher"))
    always = (ordered, least, floor, 0)
    return np.unique(np.clip(np.concatenate([known, always]), least, most)).astype(np.int64)


def _first(true: np.ndarray) -> int | None:
    return int(true.argmax()) if true.any() else None
