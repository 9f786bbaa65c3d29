"""`PeakMemory`: how much memory a piece of work took at its fullest, where the system tells."""

from __future__ import annotations

import gc
import math
import re
from pathlib import Path
from types import TracebackType

__all__ = ["PeakMemory"]

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")  # "5" sets the most that was held back to what is held now


class PeakMemory:
    """Around every stretch of a piece of work; `mib` is the most that any of them held beyond what was held at first.

    Linux tells it of the whole process, so libraries' own memory is in it; elsewhere `mib` stays NaN.
    """

    def __init__(self) -> None:
        gc.collect()  # else what an earlier piece of work left behind goes during this one, and hides what it takes
        self._first = _held("VmRSS")
        self.mib = math.nan

    def __enter__(self) -> PeakMemory:
        """Begin a stretch."""
        try:
            _RESET.write_text("5")
        except OSError:
            self._first = math.nan
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """End it."""
        here = _held("VmHWM") - self._first
        if not math.isnan(here):
            self.mib = max(0.0, here) if math.isnan(self.mib) else max(self.mib, here)


def _held(name: str) -> float:
    """MiB by their name in the process's status; NaN where there is none."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return math.nan
    return int(found[1]) / 1024 if found else math.nan
