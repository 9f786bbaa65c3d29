"""`LiveClock`: the controller's time, which a step of the machine's wall clock cannot move."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["LiveClock", "rfc3339"]


class LiveClock:
    """Seconds since the Unix epoch: the wall clock at start, advanced by a monotonic clock from then on.

    Cooldowns, histories and decisions measure with it. `follow` lets it drift towards Prometheus's clock, to which all
    readings belong, in steps too small to skip or repeat a reading of the grid. A large difference is believed only
    when it is seen `PATIENCE` times in a row: a suspended machine wakes into it, a glitch does not last.
    """

    __slots__ = ("_anchor_s", "_far", "_monotonic", "_started")

    MAX_CORRECTION_S = 1.0
    FAR_S = 30.0
    PATIENCE = 3

    def __init__(self, wall: Callable[[], float] | None = None, monotonic: Callable[[], float] | None = None) -> None:
        wall = wall or time.time  # noqa: TID251  (the live world's one look at the wall clock)
        self._monotonic = monotonic or time.monotonic
        self._started = self._monotonic()
        self._anchor_s = wall()
        self._far = 0

    def now_s(self) -> float:
        """Seconds since the Unix epoch."""
        return self._anchor_s + (self._monotonic() - self._started)

    def monotonic_s(self) -> float:
        """Seconds that only ever grow; for durations."""
        return self._monotonic()

    def begin_at(self, now_s: float) -> None:
        """Start from a better clock than the machine's own (Prometheus's), before anything was decided."""
        self._anchor_s += now_s - self.now_s()

    def follow(self, now_s: float) -> float:
        """Move towards another clock; returns how far apart the two were, seconds (positive: the other is ahead)."""
        apart = now_s - self.now_s()
        self._far = self._far + 1 if abs(apart) > self.FAR_S else 0
        if self._far >= self.PATIENCE:
            self._far = 0
            self._anchor_s += apart
            return apart
        self._anchor_s += max(-self.MAX_CORRECTION_S, min(self.MAX_CORRECTION_S, apart))
        return apart


def rfc3339(seconds: float) -> str:
    """A time as Kubernetes writes it, whole seconds, UTC."""
    return datetime.fromtimestamp(int(seconds), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
