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
from harmony.decision.portfolio import held
from harmony.model.objective import Behavior, ScalingRules, Stages

__all__ = ["Limited", "limited"]

NO_STAGE = -1


class Limited(NamedTuple):
    """What the limits remember of (settings,) columns: the newest counts `wanted` and `set`, oldest first.

    `rows` were limited so far; `began` and `stood` are the row in which a stage began (-1 without one) and the count
    that stood then.
    """

    wanted: npt.NDArray[Any]
    set: npt.NDArray[Any]
    rows: int
    began: npt.NDArray[np.int64]
    stood: FloatArray


def limited(
    counts: FloatArray, behavior: Behavior, row_s: float, bounds: tuple[int, int], before: Limited | None, keep: int
) -> tuple[FloatArray, Limited]:
    """(rows, settings) what is set where ``counts`` are wanted, and what to go on from; at least ``keep`` rows of it.

    Rows are ``row_s`` seconds apart; ``bounds`` are the least and the most replicas. Without anything ``before`` the
    first count stands.
    """
    up, down = behavior.scale_up, behavior.scale_down
    longest = max(_rows_of(up.stabilization_window_s, row_s), _rows_of(down.stabilization_window_s, row_s))
    if before is None:
        first = np.clip(counts[:1], *bounds)
        settings = counts.shape[1]
        before = Limited(counts[:0], first, 0, np.full(settings, NO_STAGE), np.zeros(settings))
    wanted = np.concatenate([before.wanted, counts])
    rows = len(counts)
    most = held(wanted, _rows_of(down.stabilization_window_s, row_s))[len(before.wanted) :]
    least = -held(-wanted, _rows_of(up.stabilization_window_s, row_s))[len(before.wanted) :]
    past = len(before.set)
    out = np.concatenate([before.set, np.empty_like(counts)])
    began, stood = before.began, before.stood
    for i in range(rows):
        at = past + i
        current = out[at - 1]
        stable = np.minimum(np.maximum(current, least[i]), most[i])
        floor, ceiling = _limits(down, out, at, row_s, rising=False), _limits(up, out, at, row_s, rising=True)
        count = np.where(stable < current, np.maximum(stable, floor), np.minimum(stable, ceiling))
        if behavior.stages is not None:
            count, began, stood = _staged(
                behavior.stages, count, current, counts[i], began, stood, before.rows + i, row_s
            )
        out[at] = np.clip(count, *bounds)
    reach = max((_rows_of(p.period_s, row_s) for r in (up, down) for p in r.policies), default=1)
    after = Limited(_newest(wanted, longest - 1), _newest(out, max(reach, keep, 1)), before.rows + rows, began, stood)
    return out[past:], after


def _newest(counts: FloatArray, rows: int) -> npt.NDArray[Any]:
    """A copy of the last ``rows``, whole counts as the shortest numbers that are exact for them."""
    last = counts[len(counts) - min(rows, len(counts)) :]
    return last.astype(np.uint16 if last.max(initial=0.0) <= 0xFFFF else np.float64)


def _rows_of(seconds: float, row_s: float) -> int:
    """Rows, the present one among them, that are less than ``seconds`` old; at least one."""
    return max(1, math.ceil(round(seconds / row_s, 9)))


def _limits(rules: ScalingRules, out: FloatArray, at: int, row_s: float, *, rising: bool) -> FloatArray:
    """(settings,) most (``rising``) or fewest replicas that one direction's policies allow in row ``at``."""
    current: FloatArray = out[at - 1]
    if rules.select == "Disabled":
        return current
    if not rules.policies:
        return np.full_like(current, np.inf if rising else 0.0)
    allowed = []
    for p in rules.policies:
        start = out[max(0, at - _rows_of(p.period_s, row_s))]  # what stood when the period began
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
