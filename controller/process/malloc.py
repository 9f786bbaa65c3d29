"""Memory of a long-running process: what is freed is given back, and what stays is not looked through again and again.

glibc keeps what thousands of parsed answers left behind unless it is asked to let go. Python's search for cycles goes
through all that lives, modules and model included, whenever a quarter as much has been made anew: twice in every tick.
What a tick makes lives until its end, so looking through that meanwhile finds nothing, again and again.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["give_back", "settle", "uninterrupted"]

ARENA_MAX = -8  # glibc's M_ARENA_MAX
YOUNG = 50_000  # objects made until the young are looked through; a tick makes some hundred per service


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc's allocator; None where there is another one."""
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return found


_TRIM, _SET = _of_glibc("malloc_trim"), _of_glibc("mallopt")


def give_back() -> bool:
    """Return free heap pages to the operating system (some milliseconds); False where that is not known how."""
    return _TRIM is not None and bool(_TRIM(0))


def settle() -> None:
    """Say, once in the life of a process, that what is there now stays: modules and the model. Changes the process.

    Threads that come later share one heap: one works at a time, and what it frees is then there for the next.
    """
    if _SET is not None:
        _SET(ARENA_MAX, 1)
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Search for no cycles meanwhile, and among what is young once at the end; where it was off already it stays so."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()
            gc.collect(0)
