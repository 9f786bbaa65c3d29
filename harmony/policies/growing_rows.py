"""`GrowingRows`: rows that only ever grow, as a value: a longer series leaves the one that it came from as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["GrowingRows"]

FIRST = 256
ROOM = 1.25  # how much more room is made than is needed

Rows = npt.NDArray[np.floating[Any]]


class _Store:
    """The memory behind series that share their beginnings."""

    __slots__ = ("filled", "rows")

    def __init__(self, rows: Rows, filled: int) -> None:
        self.rows, self.filled = rows, filled


@dataclass(frozen=True, eq=False, slots=True)
class GrowingRows:
    """The first ``size`` rows of a store. The newest series of a store grows in place, an older one copies first."""

    _store: _Store
    size: int

    @classmethod
    def empty(cls, width: int, dtype: type[np.floating[Any]] = np.float64) -> GrowingRows:
        """No rows of ``width`` numbers."""
        return cls(_Store(np.empty((FIRST, width), dtype=dtype), 0), 0)

    @property
    def rows(self) -> Any:  # noqa: ANN401 (an array of the store's own type of floats)
        """(size, width) all rows; not to be written to."""
        return self._store.rows[: self.size]

    def __len__(self) -> int:
        """Number of rows."""
        return self.size

    def newest(self, rows: int) -> GrowingRows:
        """The last ``rows`` of them (all if there are fewer), in a store of their own."""
        kept = self.rows[max(0, self.size - rows) :]
        return GrowingRows.empty(kept.shape[1], kept.dtype.type).extended(kept)

    def extended(self, more: Rows) -> GrowingRows:
        """With the rows ``more`` (n, width) at the end."""
        store, size = self._store, self.size + len(more)
        if store.filled != self.size or size > len(store.rows):
            room = np.empty((max(FIRST, round(ROOM * size)), store.rows.shape[1]), dtype=store.rows.dtype)
            room[: self.size] = self.rows
            store = _Store(room, self.size)
        store.rows[self.size : size] = more
        store.filled = size
        return GrowingRows(store, size)
