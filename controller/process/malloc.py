"""Memory of a long-running process: what is freed is given back, and what stays is not looked through again and again.

glibc keeps what thousands of parsed answers left behind unless it is asked to let go. Python's search for cycles goes
through all that lives, modules and model included, whenever a quarter as much has been made anew: twice in every tick.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

__all__ = ["give_back", "settle"]

YOUNG = 50_000  # objects made until the young are looked through; a tick makes some hundred per service


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


def settle() -> None:
    """Say, once in the life of a process, that what is there now stays: modules and the model. Changes the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
