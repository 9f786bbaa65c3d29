"""Giving freed memory back: glibc keeps what thousands of parsed answers left behind unless it is asked to let go."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

__all__ = ["give_back"]


def _trimmer() -> Callable[[int], int] | None:
    """Glibc's malloc_trim; None where there is another allocator."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return trim


_TRIM = _trimmer()


def give_back() -> bool:
    """Return free heap pages to the operating system (some milliseconds); False where that is not known how."""
    return _TRIM is not None and bool(_TRIM(0))
