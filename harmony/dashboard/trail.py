"""`Trail`: recent replica counts of every service, kept while the dashboard runs, for the charts over time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from harmony.serving import Hub, Snapshot
from harmony.serving.points import Point

__all__ = ["Trail"]

SIMULATED = "Demo"  # kind of service
POINTS = 600  # per service: five hours of turns every 30 s, about 100 kB


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
