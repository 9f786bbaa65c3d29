"""Clocks and times as the API server writes them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["boot_s", "micro_time"]


def boot_s() -> float:
    """Seconds that only ever grow, and that go on while the machine is suspended where the system can tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def micro_time(seconds: float) -> str:
    """Seconds since the Unix epoch as a metav1.MicroTime."""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
