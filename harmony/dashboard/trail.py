"""`Trail`: recent replica counts of every service, kept while the dashboard runs, for the charts over time."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harmony.serving import Hub, Snapshot

__all__ = ["Point", "Trail"]

SIMULATED = "Demo"  # kind of service
POINTS = 600  # per service: five hours of turns every 30 s, about 100 kB


@dataclass(frozen=True, slots=True)
class Point:
    """One turn: its time (seconds since the epoch), counts of the real target, and what a ready replica carries.

    `budget_left` is the share of the error budget that is not spent, NaN where none is kept; `budget_band` the least
    and the most that chance would have left of it.
    """

    at_s: float
    ordered: int
    ready: int
    recommended: int
    per_replica: float
    budget_left: float = math.nan
    budget_band: tuple[float, float] = (math.nan, math.nan)

    @classmethod
    def of(cls, snapshot: Snapshot) -> Point:
        """What the charts need of one snapshot."""
        record = snapshot.record
        per_replica, decision = record.observation.capacity.median, record.decision
        return cls(
            snapshot.at_s, snapshot.ordered, snapshot.ready, snapshot.recommended, per_replica,
            decision.budget_left, (decision.budget_least, decision.budget_most),
        )  # fmt: skip


class Trail:
    """Points by service, oldest first; filled by the hub from its own thread, read by any."""

    def __init__(self, hub: Hub, monotonic_s: Callable[[], float], points: int = POINTS) -> None:
        self._hub = hub
        self._monotonic_s = monotonic_s
        self._newest = (0.0, monotonic_s())  # time of the newest turn, and when it was seen
        self.is_simulated = False  # a demo: its time is not ours
        self._points = points
        self._lock = threading.Lock()
        self._of: dict[str, deque[Point]] = {}
        self._saw(hub.all())
        self.close = hub.subscribe(self._saw)

    def of(self, snapshot: Snapshot) -> list[Point]:
        """The points up to and with this snapshot (it may be newer than what the hub has delivered)."""
        with self._lock:
            points = [p for p in self._of.get(snapshot.service, ()) if p.at_s < snapshot.at_s]
        return [*points, Point.of(snapshot)]

    def now_s(self, speed: float) -> float:
        """The present on the snapshots' scale, counted on from the newest one at ``speed``."""
        at_s, seen_s = self._newest
        return at_s + (self._monotonic_s() - seen_s) * speed

    def _saw(self, snapshots: Sequence[Snapshot]) -> None:
        newest = max((s.at_s for s in snapshots), default=0.0)
        self.is_simulated = any(s.kind == SIMULATED for s in snapshots) or (self.is_simulated and not snapshots)
        if newest > self._newest[0]:
            self._newest = (newest, self._monotonic_s())
        with self._lock:
            for snapshot in snapshots:
                points = self._of.setdefault(snapshot.service, deque(maxlen=self._points))
                if points and points[-1].at_s >= snapshot.at_s:
                    continue
                points.append(Point.of(snapshot))
            if len(self._of) > 2 * len(self._hub.all()) + 16:  # services that are gone
                present = {s.service for s in self._hub.all()}
                self._of = {name: points for name, points in self._of.items() if name in present}
