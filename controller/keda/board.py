"""`Board`: what was last decided for each service; the control loop writes it, the scaler reads it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from harmony.metrics import ServiceName

__all__ = ["Board", "Name", "Posting"]

Name = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class Posting:
    """What one tick decided for one service.

    Attributes:
        desired_replicas: the count to be set; None when nothing could be decided.
        reason: why, or why not, in a word or a sentence for people.
        at_s: when it was decided, seconds since the Unix epoch.
        mode: the mode in effect (`harmony.model.authority.Mode`).
        max_replicas: the service's upper bound; None for no bound of our own.
    """

    desired_replicas: int | None
    reason: str
    at_s: float
    mode: str
    max_replicas: int | None = None

    def age_s(self, now_s: float) -> float:
        """Seconds since it was decided; never negative, infinite for a date that is no number."""
        return max(0.0, now_s - self.at_s) if math.isfinite(self.at_s) else math.inf


class Board:
    """Latest posting per service; every method may be called from any thread and never blocks for long.

    ``closed`` says why nobody gets a figure from here at all; empty where they do.
    """

    def __init__(self, closed: str = "") -> None:
        self.closed = closed
        self._postings: dict[Name, Posting] = {}
        self._asked_s: dict[Name, float] = {}
        self._watchers: list[Callable[[Name], None]] = []
        self._lock = threading.Lock()

    def post(self, key: ServiceName, posting: Posting) -> None:
        """Replace a service's posting and wake those who watch it."""
        name = (key.kind, key.namespace, key.name)
        with self._lock:
            self._postings[name] = posting
            for watcher in self._watchers:
                watcher(name)

    def read(self, key: ServiceName) -> Posting | None:
        """A service's posting, or None when there never was one (or it was forgotten)."""
        return self.look((key.kind, key.namespace, key.name))

    def look(self, name: Name) -> Posting | None:
        """The same by plain name."""
        return self._postings.get(name)

    def age_s(self, key: ServiceName, now_s: float) -> float:
        """Age of a service's posting in seconds; infinite without one."""
        posting = self.read(key)
        return math.inf if posting is None else posting.age_s(now_s)

    def forget(self, key: ServiceName) -> None:
        """Drop a service that is gone."""
        name = (key.kind, key.namespace, key.name)
        with self._lock:
            self._postings.pop(name, None)
            self._asked_s.pop(name, None)

    def asked(self, name: Name, at_s: float) -> None:
        """Note that somebody asked for a service's figure; a service without a posting is not noted."""
        with self._lock:
            if name in self._postings:
                self._asked_s[name] = at_s

    def asked_s(self, key: ServiceName) -> float | None:
        """When somebody last asked for a service's figure; None for never."""
        return self._asked_s.get((key.kind, key.namespace, key.name))

    def watch(self, watcher: Callable[[Name], None]) -> Callable[[], None]:
        """Call ``watcher`` after each posting, in the thread that posts; returns what ends it.

        It is called with the board locked, so that it is never called after the end: it must be quick, and must not
        write to the board.
        """
        with self._lock:
            self._watchers.append(watcher)

        def end() -> None:
            with self._lock:
                self._watchers.remove(watcher)

        return end

    def __len__(self) -> int:
        """Number of services with a posting."""
        return len(self._postings)
