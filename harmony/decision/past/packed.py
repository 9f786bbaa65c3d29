"""`Packed`: an array that is read seldom, in as few bytes as it can be told in."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Packed", "shortest"]

LEVEL = 1  # the fastest: a millisecond a review in all; the densest takes half the bytes and three times as long


@dataclass(frozen=True, slots=True)
class Packed:
    """An array as a value, compressed: the same to the bit once it is unpacked.

    Counts of neighbouring settings are equal in most rows, so they take a tenth of the memory.
    """

    _bytes: bytes
    _type: np.dtype[Any]
    _shape: tuple[int, ...]

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> Packed:
        """``array`` of any shape."""
        return cls(zlib.compress(array.tobytes(), LEVEL), array.dtype, array.shape)

    @property
    def array(self) -> npt.NDArray[Any]:
        """All of it; not to be written to."""
        return np.ndarray(self._shape, self._type, zlib.decompress(self._bytes))

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return len(self._bytes)


def shortest(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy of whole ``counts``, in the shortest type that holds them."""
    most = counts.max(initial=0.0)
    kind = np.uint8 if most <= 0xFF else np.uint16 if most <= 0xFFFF else np.float32
    return counts.astype(kind)
