"""`History`: what was read of one service, on a fixed grid of times.

A row stands for one step and is named by its number: row k, at Unix time k * step, takes the readings of
((k - 1) * step, k * step]. Rows live in rings indexed by their number, so nothing is ever shifted: a gap stays
absent, and a clock that goes back finds its rows where they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError
from forecasting.panel import LARGEST, FloatArray, Indicator, IntArray
from forecasting.windows import WEEK_S

__all__ = ["History", "stored_indicator"]

Float32Array = npt.NDArray[np.float32]

SLACK_ROWS = 8  # rows ahead of the last complete one, so that a new reading does not push out what is still read
LATEST_S = 1e13
ON_GRID = 1e-6  # of a step: how far rounding may put a time beyond its row


def stored_indicator(indicator: Indicator) -> Indicator:
    """How an indicator stands in a history: a counter as its per-second rate, others as they are."""
    if indicator.kind != "counter":
        return indicator
    unit = indicator.unit if indicator.unit.endswith("/s") else f"{indicator.unit or '1'}/s"
    return replace(indicator, kind="rate", unit=unit)


class History:
    """Readings of one service's indicators, the demand first; NaN is absent (a `RowSource` for forecasts).

    Two rings: the newest ``lookback`` rows (and a little slack) of all indicators, and one week of the demand. Both
    are float32 and allocated at the first reading. Raises `DataError` without indicators, for a step outside
    1 s .. 1 h, or a lookback below 1.
    """

    __slots__ = ("_head", "_long", "_newest", "_recent", "indicators", "keeps_past", "lookback", "step_s")

    def __init__(self, indicators: Sequence[Indicator], step_s: float, lookback: int = 144) -> None:
        if not indicators:
            raise DataError("a history needs at least one indicator, the demand")
        if not 1.0 <= step_s <= 3600.0:
            raise DataError(f"history step {step_s} s: expected 1 to 3600 seconds")
        if lookback < 1:
            raise DataError(f"history lookback {lookback}: expected at least 1 row")
        self.indicators = tuple(stored_indicator(i) for i in indicators)
        self.step_s = float(step_s)
        self.lookback = lookback
        self.keeps_past = True  # False: only the newest rows are kept (see `drop_past`)
        self._head: int | None = None  # number of the newest row that the rings reach to
        self._recent: Float32Array | None = None  # (lookback + slack, indicators)
        self._long: Float32Array | None = None  # (week + slack,)
        self._newest: list[tuple[float, float]] = [(-math.inf, math.nan)] * len(self.indicators)

    # ---- sizes ------------------------------------------------------------------------------------------------
    @property
    def recent_rows(self) -> int:
        """Rows that the ring of all indicators holds."""
        return self.lookback + SLACK_ROWS

    @property
    def long_rows(self) -> int:
        """Rows that the ring of the demand holds."""
        return max(round(WEEK_S / self.step_s), self.lookback) + SLACK_ROWS

    @property
    def nbytes(self) -> int:
        """Bytes that the rings take now."""
        return sum(ring.nbytes for ring in (self._recent, self._long) if ring is not None)

    # ---- writing ----------------------------------------------------------------------------------------------
    def write(self, column: int, times_s: FloatArray, values: FloatArray) -> int:
        """Put readings (points,) of one indicator onto the grid; returns how many rows got one.

        Of the readings of one call the newest within a step wins; a later call corrects an earlier one. Absent
        readings (NaN, infinite, beyond float32) and those older than the rings are left out: a value that was read
        stays until it leaves the ring or is overwritten by another.
        """
        known = (np.abs(values) <= LARGEST) & (np.abs(times_s) <= LATEST_S)  # False for NaN
        times, readings = times_s[known], values[known]
        if times.size == 0:
            return 0
        if times.size > 1 and (np.diff(times) < 0).any():
            order = np.argsort(times, kind="stable")
            times, readings = times[order], readings[order]
        rows = self._rows(times)
        last = np.append(rows[1:] != rows[:-1], True)
        rows, kept = rows[last], readings[last]
        head = self._advance(int(rows[-1]))
        assert self._recent is not None
        near = rows > head - self.recent_rows
        self._recent[rows[near] % self.recent_rows, column] = kept[near]
        if column == 0 and self.keeps_past:
            if self._long is None:
                self._long = np.full(self.long_rows, np.nan, dtype=np.float32)
            near = rows > head - self.long_rows
            self._long[rows[near] % self.long_rows] = kept[near]
        if times[-1] >= self._newest[column][0]:
            self._newest[column] = (float(times[-1]), float(readings[-1]))
        return int(near.sum())

    def drop_past(self) -> None:
        """Keep the newest rows only from now on: nobody decides here, and the week is most of the memory."""
        self.keeps_past, self._long = False, None

    def forget_after(self, now_s: float) -> bool:
        """Drop what claims to be later than one step after ``now_s``; True if there was any.

        For a source whose clock was ahead and has been put right: its readings would otherwise stay the newest.
        """
        limit = self.row_at(now_s) + 1
        if self._head is None or self._head <= limit:
            return False
        assert self._recent is not None
        for ring in (self._recent, self._long):
            if ring is not None:
                ring[np.arange(max(limit + 1, self._head - len(ring) + 1), self._head + 1) % len(ring)] = np.nan
        self._head = limit
        for column, (time_s, _) in enumerate(self._newest):
            if time_s > (limit + ON_GRID) * self.step_s:
                self._newest[column] = self._newest_in_ring(column)
        return True

    # ---- reading ----------------------------------------------------------------------------------------------
    def newest(self, column: int) -> tuple[float, float]:
        """(time, value) of the newest reading of an indicator; (-inf, NaN) before the first."""
        return self._newest[column]

    def demand_at(self, now_s: float, stale_after_s: float) -> float:
        """The newest demand, or NaN when it is older than ``stale_after_s`` (or as far in the future)."""
        time_s, value = self._newest[0]
        return value if abs(now_s - time_s) <= stale_after_s else math.nan

    def demand_between(self, after_s: float, until_s: float) -> tuple[FloatArray, FloatArray]:
        """(rows,) times and demand of the complete rows in (after, until], NaN where absent; at most one week."""
        last = self.row_at(until_s)
        first = max(self.row_at(after_s) + 1, last - self.long_rows + 1)
        rows = np.arange(first, last + 1)
        values = np.full(rows.size, np.nan)
        if self._long is not None:
            values[:] = self._long[rows % self.long_rows]
        values[~self._held(rows, self.long_rows)] = np.nan
        times: FloatArray = rows.astype(np.float64) * self.step_s
        return times, values

    def recent_between(self, column: int, after_s: float, until_s: float) -> tuple[FloatArray, FloatArray]:
        """(rows,) times and values of any indicator in (after, until], NaN where absent; at most the lookback."""
        last = self.row_at(until_s)
        first = last - self.lookback + 1
        if after_s > first * self.step_s:
            first = self.row_at(after_s) + 1
        rows = np.arange(first, last + 1)
        values = np.full(rows.size, np.nan)
        if self._recent is not None:
            values[:] = self._recent[rows % self.recent_rows, column]
        values[~self._held(rows, self.recent_rows)] = np.nan
        times: FloatArray = rows.astype(np.float64) * self.step_s
        return times, values

    # ---- windows of forecasts ---------------------------------------------------------------------------------
    @property
    def start_s(self) -> float:
        """Time of row 0: the Unix epoch."""
        return 0.0

    @property
    def calendar(self) -> bool:
        """Times are real ones."""
        return True

    def recent(self, rows: IntArray) -> FloatArray:
        """(..., indicators) readings by row number, NaN where absent or outside the newest rows."""
        if self._recent is None:
            return np.full((*rows.shape, len(self.indicators)), np.nan)
        return self._taken(self._recent, rows)

    def earlier(self, rows: IntArray) -> FloatArray:
        """The same over one week, of the demand alone: NaN for the other indicators."""
        out = np.full((*rows.shape, len(self.indicators)), np.nan)
        if self._long is not None:
            out[..., 0] = self._taken(self._long, rows)
        return out

    # ---- rows -------------------------------------------------------------------------------------------------
    def _rows(self, times_s: FloatArray) -> IntArray:
        """Row of each reading: the end of the step it falls in."""
        rows: IntArray = np.ceil(times_s / self.step_s - ON_GRID).astype(np.int64)
        return rows

    def row_at(self, now_s: float) -> int:
        """The last row that is complete at ``now_s``."""
        return math.floor(now_s / self.step_s + ON_GRID)

    def _taken(self, ring: Float32Array, rows: IntArray) -> FloatArray:
        """What a ring has of these rows, NaN of those that it does not hold."""
        out: FloatArray = ring[rows % len(ring)].astype(np.float64)
        out[~self._held(rows, len(ring))] = np.nan
        return out

    def _held(self, rows: IntArray, size: int) -> npt.NDArray[np.bool_]:
        """Which rows a ring of ``size`` holds now."""
        if self._head is None:
            return np.zeros(rows.shape, dtype=np.bool_)
        return (rows <= self._head) & (rows > self._head - size)

    def _advance(self, row: int) -> int:
        """Let the rings reach to ``row`` at least, the rows between absent; returns the newest row they reach to."""
        if self._recent is None or self._head is None:
            self._recent = np.full((self.recent_rows, len(self.indicators)), np.nan, dtype=np.float32)
            self._head = row
        if row > self._head:
            for ring in (self._recent, self._long):
                if ring is not None:
                    ring[np.arange(max(self._head + 1, row - len(ring) + 1), row + 1) % len(ring)] = np.nan
            self._head = row
        return self._head

    def _newest_in_ring(self, column: int) -> tuple[float, float]:
        ring = self._long if column == 0 and self._long is not None else self._recent
        assert ring is not None
        assert self._head is not None
        rows = np.arange(self._head - len(ring) + 1, self._head + 1)
        values = (ring if ring.ndim == 1 else ring[:, column])[rows % len(ring)]
        known = np.flatnonzero(np.isfinite(values))
        if known.size == 0:
            return -math.inf, math.nan
        return float(rows[known[-1]] * self.step_s), float(values[known[-1]])
