"""`Blocks`: rows of numbers that come at one end and go at the other, as a value, in little memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray

__all__ = ["Blocks"]

Rows = npt.NDArray[np.floating[Any]]


class _Open:
    """The block that rows are added to, behind all series that share it."""

    __slots__ = ("filled", "rows")

    def __init__(self, rows: Rows, filled: int) -> None:
        self.rows, self.filled = rows, filled


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Blocks:
    """Rows of equal width. A longer series shares its blocks with the one that it came from, which stays as it was.

    Full blocks are shared by all; the newest series grows in the open one, an older one copies that block first. No
    row is moved when others come or go, and a block of equal rows holds one of them.

    Attributes:
        size: number of rows.
    """

    _full: tuple[Rows, ...]
    _open: _Open
    _gone: int  # rows of the first block that went
    size: int

    @classmethod
    def empty(cls, width: int, dtype: type[np.floating[Any]] = np.float64, block: int = 512) -> Blocks:
        """No rows of ``width`` numbers yet, in blocks of ``block`` rows."""
        return cls((), _Open(np.empty((block, width), dtype=dtype), 0), 0, 0)

    @property
    def rows(self) -> Any:  # noqa: ANN401 (an array of the series' own type of floats)
        """(size, width) a copy of all rows."""
        every = [*self._full, self._open.rows[: self._used]]
        return np.concatenate(every)[self._gone :]

    def __len__(self) -> int:
        """Number of rows."""
        return self.size

    def __repr__(self) -> str:
        return f"Blocks({self.rows.tolist()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blocks) and np.array_equal(self.rows, other.rows, equal_nan=True)

    __hash__ = None  # type: ignore[assignment]

    def column(self, at: int, start: int = 0, stop: int | None = None) -> FloatArray:
        """One column of the rows ``start..stop-1``, computed with in full; not to be written to."""
        block = len(self._open.rows)
        first = self._gone + min(start, self.size)
        last = self._gone + (self.size if stop is None else min(stop, self.size))
        if last <= first:
            return np.empty(0)
        parts = []
        for b in range(first // block, (last - 1) // block + 1):
            rows = self._full[b] if b < len(self._full) else self._open.rows
            parts.append(rows[max(0, first - b * block) : last - b * block, at])
        if len(parts) == 1:
            return np.asarray(parts[0], dtype=np.float64)
        return np.concatenate(parts, dtype=np.float64)

    def extended(self, more: Rows) -> Blocks:
        """With the rows ``more`` (n, width) at the end."""
        opened, used = self._open, self._used
        block, at = len(opened.rows), 0
        if opened.filled != used:  # another series went on from here
            opened = _Open(np.empty_like(opened.rows), used)
            opened.rows[:used] = self._open.rows[:used]
        full = self._full
        while at < len(more):
            count = min(block - used, len(more) - at)
            opened.rows[used : used + count] = more[at : at + count]
            used, at = used + count, at + count
            opened.filled = used
            if used == block:
                full = (*full, _short(opened.rows, full[-1:]))
                opened, used = _Open(np.empty_like(opened.rows), 0), 0
        return Blocks(full, opened, self._gone, self.size + len(more))

    def newest(self, rows: int) -> Blocks:
        """The last ``rows`` of them (all if there are fewer)."""
        gone = self._gone + max(0, self.size - rows)
        whole = min(gone // len(self._open.rows), len(self._full))
        return Blocks(self._full[whole:], self._open, gone - whole * len(self._open.rows), min(rows, self.size))

    def blank_before(self, row: int) -> Blocks:
        """With NaN in the full blocks before ``row``, which then take no memory."""
        block = len(self._open.rows)
        whole = min((self._gone + max(0, row)) // block, len(self._full))
        if not any(rows.strides[0] for rows in self._full[:whole]):
            return self
        blank = np.broadcast_to(np.full_like(self._open.rows[:1], np.nan), self._open.rows.shape)
        return Blocks((blank,) * whole + self._full[whole:], self._open, self._gone, self.size)

    @property
    def _used(self) -> int:
        """Rows of the open block that are this series'."""
        return self._gone + self.size - len(self._full) * len(self._open.rows)


def _short(rows: Rows, before: tuple[Rows, ...]) -> Rows:
    """The same rows; where all are equal to the bit, as one that stands for all: that of ``before``, if it can."""
    if not (rows.view(np.uint8) == rows[:1].view(np.uint8)).all():
        return rows
    for block in before:
        if block.strides[0] == 0 and block[:1].tobytes() == rows[:1].tobytes():
            return block
    return np.broadcast_to(rows[:1].copy(), rows.shape)
