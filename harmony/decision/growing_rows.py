"""`GrowingRows`: rows that only ever grow, as a value: a longer series leaves the one that it came from as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecasting.panel import FloatArray

__all__ = ["GrowingRows"]

FIRST = 256


class _Store:
    """The memory behind series that share their beginnings."""

    __slots__ = ("filled", "rows")

    def __init__(self, rows: FloatArray, filled: int) -> None:
        self.rows, self.filled = rows, filled


@dataclass(frozen=True, eq=False, slots=True)
class GrowingRows:
    """The first ``size`` rows of a store. The newest series of a store grows in place, an older one copies first."""

    _store: _Store
    size: int

    @classmethod
    def empty(cls, width: int) -> GrowingRows:
        """No rows of ``width`` numbers."""
        return cls(_Store(np.empty((FIRST, width)), 0), 0)

    @property
    def rows(self) -> FloatArray:
        """(size, width) all rows; not to be written to."""
        return self._store.rows[: self.size]

    def __len__(self) -> int:
        """Number of rows."""
        return self.size

    def newest(self, rows: int) -> GrowingRows:
        """The last ``rows`` of them (all if there are fewer), in a store of their own."""
        kept = self.rows[max(0, self.size - rows) :]
        return GrowingRows.empty(kept.shape[1]).extended(kept)

    def extended(self, more: FloatArray) -> GrowingRows:
        """With the rows ``more`` (n, width) at the end."""
        store, size = self._store, self.size + len(more)
        if store.filled != self.size or size > len(store.rows):
            room = np.empty((max(FIRST, 2 * size), store.rows.shape[1]))
            room[: self.size] = self.rows
            store = _Store(room, self.size)
        store.rows[self.size : size] = more
        store.filled = size
        return GrowingRows(store, size)
