"""The user's rate limits on a whole past at once: what `apply_behavior` makes of many settings' counts, row by row.

On a grid of rows the marks that `GuardMemory` keeps need not be kept: what was added less what was removed within a
period is the difference of two counts that were set.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray
from harmony.decision.past.packed import Packed
from harmony.decision.past.portfolio import held, ready_of
from harmony.model.objective import Behavior, ScalingRules, Stages

__all__ = ["Limited", "limited"]

NO_STAGE = -1


class Limited(NamedTuple):
    """What the limits remember of (settings,) columns: the newest counts `wanted` and `set`, oldest first, packed.

    `rows` were limited so far; `began` and `stood` are the row in which a stage began (-1 without one) and the count
    that stood then.
    """

    wanted: Packed
    set: Packed
    rows: int
    began: Packed
    stood: Packed


def limited(
    counts: npt.NDArray[Any],
    behavior: Behavior,
    row_s: float,
    bounds: tuple[int, int],
    before: Limited | None,
    keep: int,
) -> tuple[npt.NDArray[Any], Limited]:
    """(rows, settings) what is set where ``counts`` are wanted, and what to go on from; at least ``keep`` rows of it.

    ``counts`` are floats of any type, and what is set is of the same. Rows are ``row_s`` seconds apart; ``bounds`` are
    the least and the most replicas. Without anything ``before`` the first count stands.
    """
    up, down = behavior.scale_up, behavior.scale_down
    longest = max(_rows_of(up.stabilization_window_s, row_s), _rows_of(down.stabilization_window_s, row_s))
    settings, rows = counts.shape[1], len(counts)
    old, stands, done = counts[:0], np.clip(counts[:1], *bounds), 0
    began, stood = np.full(settings, NO_STAGE), np.zeros(settings)
    if before is not None:
        old, stands, done = before.wanted.array, before.set.array, before.rows
        began, stood = before.began.array, before.stood.array
    wanted = np.concatenate([old, counts], dtype=counts.dtype)
    most = held(wanted, _rows_of(down.stabilization_window_s, row_s))[len(old) :]
    least = ready_of(wanted, _rows_of(up.stabilization_window_s, row_s) - 1)[len(old) :]
    past = len(stands)
    out = np.concatenate([stands, np.empty_like(counts)], dtype=counts.dtype)
    reach = max((_rows_of(p.period_s, row_s) for r in (up, down) for p in r.policies), default=1)
    free, breaks = _free(behavior, stands, wanted[-rows:], most, bounds, row_s)
    i = 0
    while i < rows:
        at = past + i
        if i < breaks.size and np.array_equal(out[max(0, at - reach) : at], free[max(0, at - reach) : at]):
            ahead = np.flatnonzero(breaks[i:])
            until = i + int(ahead[0]) if ahead.size else rows
            out[at : past + until] = free[at : past + until]
            if until > i:
                i = until
                continue
        current = out[at - 1]
        stable = np.minimum(np.maximum(current, least[i]), most[i])
        floor, ceiling = _limits(down, out, at, row_s, rising=False), _limits(up, out, at, row_s, rising=True)
        count = np.where(stable < current, np.maximum(stable, floor), np.minimum(stable, ceiling))
        if behavior.stages is not None:
            count, began, stood = _staged(behavior.stages, count, current, counts[i], began, stood, done + i, row_s)
        out[at] = np.clip(count, *bounds)
        i += 1
    wants, sets = Packed.of(_newest(wanted, longest - 1)), Packed.of(_newest(out, max(reach, keep, 1)))
    return out[past:], Limited(wants, sets, done + rows, Packed.of(began), Packed.of(stood))


def _free(
    behavior: Behavior, before: FloatArray, wanted: FloatArray, most: FloatArray, bounds: tuple[int, int], row_s: float
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """What is set where no rate limit binds, after the rows ``before``; and the new rows in which one then binds.

    That is what the window on the way down leaves (`most`), which needs no walk row by row. No rows at all where
    limits also depend on what stood long ago: stages, and a window on the way up.
    """
    up, down = behavior.scale_up, behavior.scale_down
    if behavior.stages is not None or _rows_of(up.stabilization_window_s, row_s) > 1:
        return before, np.zeros(0, dtype=bool)
    free = np.concatenate([before, np.clip(most, *bounds)], dtype=most.dtype)
    past = len(before)
    breaks = np.zeros(len(most), dtype=bool)
    breaks[0] = bool(((free[past - 1] < free[past]) & (wanted[0] < most[0])).any())  # what stands was not all wanted
    now, then = free[past:], free[past - 1 : -1]
    for rules, sign in ((up, 1), (down, -1)):
        if not _may_bind(rules, rising=sign > 0):
            continue
        row, column = np.nonzero(now > then if sign > 0 else now < then)
        limit = _limits(rules, free, row + past, row_s, rising=sign > 0, columns=column)
        breaks[row[sign * free[row + past, column] > sign * limit]] = True
    return free, breaks


def _may_bind(rules: ScalingRules, *, rising: bool) -> bool:
    """Whether one direction's policies can limit any change: to fall by all that stands is no limit, as HPA begins."""
    if rules.select == "Disabled":
        return True
    free = [not rising and p.type == "Percent" and p.value >= 100 for p in rules.policies]
    return not (any(free) if rules.select == "Max" else all(free)) if free else False


def _newest(counts: FloatArray, rows: int) -> npt.NDArray[Any]:
    """A copy of the last ``rows``, whole counts as the shortest numbers that are exact for them."""
    last = counts[len(counts) - min(rows, len(counts)) :]
    most = last.max(initial=0.0)
    return last.astype(np.uint8 if most <= 0xFF else np.uint16 if most <= 0xFFFF else np.float64)


def _rows_of(seconds: float, row_s: float) -> int:
    """Rows, the present one among them, that are less than ``seconds`` old; at least one."""
    return max(1, math.ceil(round(seconds / row_s, 9)))


def _limits(
    rules: ScalingRules,
    out: FloatArray,
    at: int | npt.NDArray[np.int_],
    row_s: float,
    *,
    rising: bool,
    columns: npt.NDArray[np.int_] | slice = slice(None),
) -> FloatArray:
    """Most (``rising``) or fewest replicas that one direction's policies allow in row ``at`` of these ``columns``.

    ``at`` and ``columns`` may be of equal length: then of each such pair.
    """
    current = np.asarray(out[at - 1, columns], dtype=np.float64)
    if rules.select == "Disabled":
        return current
    if not rules.policies:
        return np.full_like(current, np.inf if rising else 0.0)
    allowed = []
    for p in rules.policies:
        stood = out[np.maximum(0, at - _rows_of(p.period_s, row_s)), columns]  # when the period began
        start = np.asarray(stood, dtype=np.float64)
        if p.type == "Pods":
            allowed.append(start + p.value if rising else start - p.value)
        elif rising:
            allowed.append(np.ceil(np.round(start * (1 + p.value / 100), 9)))
        else:
            allowed.append(np.floor(np.round(start * (1 - p.value / 100), 9)))
    pick = np.maximum if rising == (rules.select == "Max") else np.minimum
    found = pick.reduce(allowed)
    return np.asarray(np.maximum(found, current) if rising else np.minimum(found, current))


def _staged(
    rule: Stages,
    count: FloatArray,
    current: FloatArray,
    wanted: FloatArray,
    began: npt.NDArray[np.int64],
    stood: FloatArray,
    row: int,
    row_s: float,
) -> tuple[FloatArray, npt.NDArray[np.int64], FloatArray]:
    """The counts after the limit in stages, and the stages, as `harmony.decision.guards` has them."""
    over = wanted >= current
    began = np.where(over, NO_STAGE, began)
    falls = ~over & (count < current)
    fresh = falls & ((began == NO_STAGE) | ((row - began) * row_s >= rule.interval_s))
    began, stood = np.where(fresh, row, began), np.where(fresh, current, stood)
    fewest = stood - np.maximum(1.0, np.floor(np.round(stood * rule.percent / 100, 9)))
    return np.where(falls, np.minimum(current, np.maximum(count, fewest)), count), began, stood
