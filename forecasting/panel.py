"""The data model of what was observed: `Indicator` and `Panel` (times x indicators, absent values are NaN).

Absent is never zero: a missing reading stays NaN from the reader to the forecaster, and nothing in the project
fills it without saying so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError, suggest

if TYPE_CHECKING:
    from forecasting.frames import Frame

__all__ = ["LARGEST", "BoolArray", "FloatArray", "Indicator", "IntArray", "Kind", "Level", "Panel"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Kind = Literal["gauge", "counter", "rate"]
KINDS: tuple[Kind, ...] = ("gauge", "counter", "rate")
LARGEST = float(np.finfo(np.float32).max)
"""Of a reading that is meant: sums and squares of such are numbers. Larger ones are refused where they enter."""
ON_GRID = 1e-6  # of a step: how far rounding may put a time before its row


class Level(IntEnum):
    """The level of an indicator in the hierarchy (HARMONY, arXiv 2408.01000: information flows 1 -> 2 -> 3)."""

    DEMAND = 1
    RESOURCE = 2
    SYSTEM = 3


@dataclass(frozen=True, slots=True)
class Indicator:
    """One observed quantity of a service.

    `unit` is the physical unit as text ("requests/s", "bytes"); `level` is 1 demand, 2 resource, 3 system detail;
    `kind` says how to read the numbers: a *gauge* is a level, a *rate* is per second already, a *counter* only ever
    grows (and falls on a restart).

    Raises `DataError` for an empty name, a level outside 1..3 or an unknown kind.
    """

    name: str
    unit: str = ""
    level: int = Level.DEMAND
    kind: Kind = "gauge"

    def __post_init__(self) -> None:
        if not self.name:
            raise DataError("an indicator needs a name")
        if self.level not in (1, 2, 3):
            raise DataError(
                f"indicator {self.name!r}: level {self.level} is not one of 1 (demand), 2 (resource), 3 (system)"
            )
        if self.kind not in KINDS:
            raise DataError(f"indicator {self.name!r}: kind {self.kind!r} is not one of {', '.join(KINDS)}")


@dataclass(frozen=True, eq=False)
class Panel:
    """What was observed of one service: a uniform grid of times x indicators.

    Attributes:
        values: (times, indicators) float64, read-only; NaN means *absent*.
        indicators: one per column, names unique.
        start_s: time of the first row, seconds since the Unix epoch (UTC).
        step_s: seconds between rows.
        name: what the panel is called in reports.
        calendar: False when the source gives no date, so that hour and weekday of `start_s` mean nothing.

    Raises `DataError` for a wrong shape, infinite values, repeated names or a step that is not positive.
    """

    values: FloatArray
    indicators: tuple[Indicator, ...]
    start_s: float
    step_s: float
    name: str = "panel"
    calendar: bool = True
    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        values = np.ascontiguousarray(self.values, dtype=np.float64)
        indicators = tuple(self.indicators)
        if values.ndim != 2 or values.shape[1] != len(indicators):
            raise DataError(
                f"panel {self.name!r}: values have shape {values.shape}, expected (times, {len(indicators)} indicators)"
            )
        if np.isinf(values).any():
            row, col = np.argwhere(np.isinf(values))[0]
            raise DataError(
                f"panel {self.name!r}: {indicators[col].name} is infinite at row {row}; give a number or leave it empty"
            )
        if not (math.isfinite(self.step_s) and self.step_s > 0):
            raise DataError(f"panel {self.name!r}: step {self.step_s} s is not a positive number of seconds")
        if not math.isfinite(self.start_s):
            raise DataError(f"panel {self.name!r}: start {self.start_s} is not a time in seconds")
        index = {ind.name: i for i, ind in enumerate(indicators)}
        if len(index) != len(indicators):
            names = [i.name for i in indicators]
            twice = sorted({n for n in names if names.count(n) > 1})
            raise DataError(f"panel {self.name!r}: indicator names must be unique, twice: {', '.join(twice)}")
        if values is self.values:
            values = values.view()
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "indicators", indicators)
        object.__setattr__(self, "start_s", float(self.start_s))
        object.__setattr__(self, "step_s", float(self.step_s))
        object.__setattr__(self, "_index", index)

    @classmethod
    def of(cls, frame: Frame, *, demand: str | None = None, step_s: float | None = None, name: str = "frame") -> Panel:
        """The panel of a pandas or polars frame of one service; see `forecasting.frames.panel_of`."""
        from forecasting.frames import panel_of

        return panel_of(frame, demand=demand, step_s=step_s, name=name)

    # ---- shape and time -------------------------------------------------------------------------------------
    def __len__(self) -> int:
        """Number of rows (times)."""
        return int(self.values.shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Indicator names in column order."""
        return tuple(i.name for i in self.indicators)

    @property
    def times_s(self) -> FloatArray:
        """(times,) seconds since the Unix epoch of every row."""
        return self.start_s + self.step_s * np.arange(len(self), dtype=np.float64)

    @property
    def end_s(self) -> float:
        """Time of the last row, seconds since the Unix epoch."""
        return self.start_s + self.step_s * (len(self) - 1)

    @property
    def start(self) -> datetime:
        """Time of the first row as an aware UTC datetime."""
        return datetime.fromtimestamp(self.start_s, tz=UTC)

    # ---- reading --------------------------------------------------------------------------------------------
    def position(self, name: str) -> int:
        """Column number of an indicator; `DataError` naming the near ones if there is none of that name."""
        try:
            return self._index[name]
        except KeyError:
            raise DataError(f"{self.name}: no indicator {name!r}; {suggest(name, self.names)}") from None

    def column(self, name: str) -> FloatArray:
        """(times,) the values of one indicator, NaN where absent (a read-only view)."""
        return self.values[:, self.position(name)]

    @property
    def absent_share(self) -> FloatArray:
        """(indicators,) share of rows without a value, 0..1."""
        if len(self) == 0:
            return np.ones(len(self.indicators))
        share: FloatArray = np.isnan(self.values).mean(axis=0)
        return share

    def digest(self) -> str:
        """SHA-256 (hex) of the values, grid and indicators: equal data give equal digests."""
        h = hashlib.sha256()
        h.update(repr((self.start_s, self.step_s, self.calendar, self.indicators)).encode())
        h.update(np.where(np.isnan(self.values), np.nan, self.values).tobytes())
        return h.hexdigest()

    def row_at(self, now_s: float) -> int:
        """Number of the last row that is complete at ``now_s`` (below 0 before the first, beyond the end after it)."""
        return math.floor((now_s - self.start_s) / self.step_s + ON_GRID)

    def recent(self, rows: IntArray) -> FloatArray:
        """(..., indicators) values by row number, NaN where there is no such row."""
        absent = (rows < 0) | (rows >= len(self))
        if not absent.any():
            return self.values[rows]
        if len(self) == 0:
            return np.full((*rows.shape, len(self.indicators)), np.nan)
        out: FloatArray = self.values[np.clip(rows, 0, len(self) - 1)]
        out[absent] = np.nan
        return out

    def earlier(self, rows: IntArray) -> FloatArray:
        """The same: a panel keeps all it was given."""
        return self.recent(rows)

    # ---- deriving -------------------------------------------------------------------------------------------
    def replace(self, **changes: object) -> Panel:
        """A copy with some attributes changed (`dataclasses.replace` by another name)."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def rows(self, start: int, stop: int) -> Panel:
        """Rows ``start .. stop-1`` as a panel (a view, no copy); bounds are clipped to what exists."""
        lo, hi, _ = slice(start, stop).indices(len(self))
        return self.replace(values=self.values[lo : max(lo, hi)], start_s=self.start_s + lo * self.step_s)

    def select(self, names: Sequence[str]) -> Panel:
        """Only the named indicators, in the given order; `DataError` for an unknown name."""
        cols = [self.position(n) for n in names]
        return self.replace(values=self.values[:, cols], indicators=tuple(self.indicators[c] for c in cols))

    def with_demand(self, name: str) -> Panel:
        """The same panel with ``name`` first and at level 1: it is what replicas are counted for."""
        order = [name, *(n for n in self.names if n != name)]
        panel = self.select(order)
        head = dataclasses.replace(panel.indicators[0], level=int(Level.DEMAND))
        return panel.replace(indicators=(head, *panel.indicators[1:]))

    def counters_as_rates(self) -> Panel:
        """Counters turned into per-second rates; a fall is a restart, so the new reading itself is the increase.

        The first row of a counter has no rate and becomes absent, as does any step with a missing end.
        """
        if not any(i.kind == "counter" for i in self.indicators):
            return self
        values = self.values.copy()
        indicators = list(self.indicators)
        for c, ind in enumerate(self.indicators):
            if ind.kind != "counter":
                continue
            level = self.values[:, c]
            rise = np.full_like(level, np.nan)
            rise[1:] = np.where(level[1:] >= level[:-1], level[1:] - level[:-1], level[1:])
            rise[1:][np.isnan(level[1:]) | np.isnan(level[:-1])] = np.nan
            values[:, c] = rise / self.step_s
            indicators[c] = dataclasses.replace(ind, kind="rate", unit=f"{ind.unit}/s" if ind.unit else "1/s")
        return self.replace(values=values, indicators=tuple(indicators))

    def coarsened(self, factor: int) -> Panel:
        """Means over ``factor`` rows (absent ones left out; absent where all are); an incomplete tail is dropped."""
        if factor < 1:
            raise DataError(f"coarsening by {factor} rows: expected 1 or more")
        if factor == 1:
            return self
        n = len(self) // factor
        blocks = self.values[: n * factor].reshape(n, factor, len(self.indicators))
        seen = ~np.isnan(blocks)
        count = seen.sum(axis=1)
        total = np.where(seen, blocks, 0.0).sum(axis=1)
        means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return self.replace(values=means, step_s=self.step_s * factor)
