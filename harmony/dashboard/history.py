"""`History`: the turns of a service within a part of time, from memory and, for what is older, from the journal."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

from forecasting.errors import HarmonyError
from harmony.api.ports import JournalPort
from harmony.dashboard.trail import Trail
from harmony.serving import Snapshot
from harmony.serving.points import Point

__all__ = ["Course", "History"]

MOST = 1_200  # turns that are drawn as they are; of more, one of every so many seconds
WIDTHS_S = (60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 21_600.0, 43_200.0, 86_400.0)
GRID_S = 300.0
LAG_S = 120.0  # what is younger may not be written yet
KEPT = 64  # answers of the journal


@dataclass(frozen=True, slots=True)
class Course:
    """Turns, oldest first; one of every `every_s` seconds where that is not 0, and what could not be read."""

    points: list[Point]
    every_s: float = 0.0
    trouble: str = ""


class History:
    """Looks turns up; asks the journal once for what has been."""

    def __init__(self, trail: Trail, journal: JournalPort | None) -> None:
        self._trail, self._journal = trail, journal
        self._lock = threading.Lock()
        self._read: OrderedDict[tuple[str, float, float, float], tuple[Point, ...]] = OrderedDict()

    def of(self, snapshot: Snapshot, first_s: float, last_s: float) -> Course:
        """The turns from ``first_s`` to ``last_s``, and the newest one before."""
        every_s = _every_s(snapshot, first_s, min(last_s, snapshot.at_s))
        recent = self._trail.of(snapshot)
        unit = every_s or GRID_S
        begin = max(0.0, math.floor(first_s / unit - 1.0) * unit)
        until = min(last_s, snapshot.at_s - LAG_S) if every_s else min(last_s, recent[0].at_s)
        end = math.floor(until / unit) * unit + (0.0 if every_s else unit)
        older: tuple[Point, ...] = ()
        trouble = ""
        if self._journal is not None and end > begin and recent[0].at_s > begin:
            try:
                older = self._journal_points(snapshot.service, begin, end, every_s)
            except HarmonyError:
                trouble = "The journal cannot be read now: only turns since this server started are shown."
                every_s = 0.0
        if every_s and older:
            recent = [p for p in recent if p.at_s >= end]
        known = {p.at_s: p for p in (*older, *recent)}
        times = sorted(t for t in known if t <= last_s)
        inside = sum(t >= first_s for t in times)
        return Course([known[t] for t in times[max(0, len(times) - inside - 1) :]], every_s if older else 0.0, trouble)

    def _journal_points(self, service: str, begin: float, end: float, every_s: float) -> tuple[Point, ...]:
        key = (service, begin, end, every_s)
        with self._lock:
            if key in self._read:
                self._read.move_to_end(key)
                return self._read[key]
        assert self._journal is not None  # or nobody asks
        found = tuple(self._journal.points(service, begin, end, every_s))
        with self._lock:
            self._read[key] = found
            while len(self._read) > KEPT:
                self._read.popitem(last=False)
        return found


def _every_s(snapshot: Snapshot, first_s: float, last_s: float) -> float:
    """Seconds of which one turn is drawn; 0 for every turn."""
    length_s = last_s - first_s
    if length_s <= MOST * snapshot.record.observation.interval_s:
        return 0.0
    return next((w for w in WIDTHS_S if 2 * length_s <= MOST * w), WIDTHS_S[-1])
