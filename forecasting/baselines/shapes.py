"""`Shape`: what a series usually does in the course of a day and of a week, beside its level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.panel import BoolArray, FloatArray, IntArray
from forecasting.windows import DAY_S

__all__ = ["Shape"]

SLOTS = 144  # of a day, at most
DAYS, WEEKS = 2, 3  # of history from which on a day, and a week, has a shape
WIDTHS = (0.0, 1 / 144, 3 / 144, 6 / 144, 12 / 144, 18 / 144)  # of a day, that a shape is smoothed over to either side
BETTER = 1 - 1e-3  # of the error so far


@dataclass(frozen=True, eq=False)
class Shape:
    """Departures from the level of the day, by time of day and weekday.

    Attributes:
        day: (slots,) on any day; no slots where there is too little history.
        week: (7, slots) beside that, by weekday.
    """

    day: FloatArray
    week: FloatArray

    @classmethod
    def of(cls, parts: Sequence[tuple[FloatArray, float]], step_s: float) -> Shape:
        """The shape of parts of a series: values (rows,), NaN where absent, and the time of the first of each.

        How much a shape is smoothed, and how much of it is believed, is what makes alternate days (weeks) foretell
        each other best.
        """
        rows = max(len(values) for values, _ in parts)
        days, slots = rows * step_s / DAY_S, min(SLOTS, round(DAY_S / step_s))
        if days < DAYS or slots < 3:
            return cls(np.empty(0), np.empty((7, 0)))
        away = np.concatenate([_beside_level(values, round(DAY_S / step_s)) for values, _ in parts])
        times = np.concatenate([start + step_s * np.arange(len(values)) for values, start in parts])
        known = ~np.isnan(away)
        away, times = away[known], times[known]
        slot, turn = _slots(times, slots), (times // DAY_S).astype(np.int64)
        day = _agreed(away, slot, turn % 2 == 0, slots, slots)
        week = np.zeros((7, slots))
        if days >= 7 * WEEKS:
            cell = turn % 7 * slots + slot
            week = _agreed(away - day[slot], cell, turn // 7 % 2 == 0, 7 * slots, slots).reshape(7, slots)
        return cls(day, week)

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self.day.size > 0

    def at(self, times_s: FloatArray) -> FloatArray:
        """What is usual at times, seconds since the Unix epoch: an array of their shape."""
        if not self:
            return np.zeros(times_s.shape)
        slot = _slots(times_s, len(self.day))
        out: FloatArray = self.day[slot] + self.week[(times_s // DAY_S).astype(np.int64) % 7, slot]
        return out


def _slots(times_s: FloatArray, slots: int) -> IntArray:
    out: IntArray = np.minimum((times_s % DAY_S / DAY_S * slots).astype(np.int64), slots - 1)
    return out


def _beside_level(values: FloatArray, day: int) -> FloatArray:
    """Values less their mean over the day around each (the first and the last whole day at the ends)."""
    known = ~np.isnan(values)
    if len(values) < day or not known.any():
        return values - (values[known].mean() if known.any() else 0.0)
    total, count = (np.concatenate([[0.0], np.cumsum(x)]) for x in (np.where(known, values, 0.0), known))
    first = np.clip(np.arange(len(values)) - day // 2, 0, len(values) - day)
    seen = count[first + day] - count[first]
    out: FloatArray = values - (total[first + day] - total[first]) / np.maximum(seen, 1.0)
    return out


def _agreed(values: FloatArray, cell: IntArray, even: BoolArray, cells: int, day: int) -> FloatArray:
    """(cells,) means of values by cell, smoothed and shrunk as far as even and odd turns agree; zero if they do not."""
    halves = [_means(values[half], cell[half], cells) for half in (even, ~even)]
    if not (even.any() and (~even).any()):
        return np.zeros(cells)
    best, width, share = np.inf, 0, 0.0
    for tried in sorted({round(w * day) for w in WIDTHS}):
        smooth = [_smoothed(half, tried) for half in halves]
        power = sum(float(s @ s) for s in smooth)
        part = float(np.clip((smooth[0] @ halves[1] + smooth[1] @ halves[0]) / power, 0.0, 1.0)) if power > 0 else 0.0
        error = sum(float(((other - part * s) ** 2).sum()) for s, other in zip(smooth, reversed(halves), strict=True))
        if error < best * BETTER:
            best, width, share = error, tried, part
    # Both halves together are right more often than either is (Spearman and Brown).
    return 2 * share / (1 + share) * _smoothed(_means(values, cell, cells), width)


def _means(values: FloatArray, cell: IntArray, cells: int) -> FloatArray:
    """(cells,) means by cell, 0 where there is none."""
    count = np.bincount(cell, minlength=cells)
    out: FloatArray = np.bincount(cell, values, cells) / np.maximum(count, 1)
    return out


def _smoothed(shape: FloatArray, width: int) -> FloatArray:
    """A shape that goes round, smoothed by a raised cosine over ``width`` cells to either side."""
    if width == 0:
        return shape
    weights = np.hanning(2 * width + 3)[1:-1]
    out: FloatArray = np.convolve(
        np.concatenate([shape[-width:], shape, shape[:width]]), weights / weights.sum(), "valid"
    )
    return out
