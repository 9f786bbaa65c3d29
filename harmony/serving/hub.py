"""`Hub`: the newest snapshot of every service: one publisher (the loop), any number of readers in any thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from harmony.serving.snapshot import Snapshot

__all__ = ["Callback", "Hub"]

log = logging.getLogger(__name__)

Callback = Callable[[Sequence[Snapshot]], None]
QUEUE = 256  # publications that wait for one slow subscriber; the oldest are dropped and counted beyond that
FAREWELL_S = 5.0  # how long an unsubscribing caller waits for what was already published


class Hub:
    """Newest snapshots by service name.

    A publication replaces the map as a whole, so readers take no lock and see all of a tick or nothing of it.
    Subscribers are called on threads of their own: nothing that they do holds up a publisher.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: tuple[int, Mapping[str, Snapshot], tuple[Snapshot, ...]] = (0, MappingProxyType({}), ())
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._subscribers: list[_Subscriber] = []

    # ---- reading --------------------------------------------------------------------------------------------
    @property
    def version(self) -> int:
        """Grows by one with every publication; 0 before the first."""
        return self._state[0]

    def latest(self, service: str) -> Snapshot | None:
        """The newest snapshot of a service ("namespace/name"); None when there is none of that name."""
        return self._state[1].get(service)

    def all(self) -> tuple[Snapshot, ...]:
        """The newest snapshot of every service, ordered by name; the same tuple until something is published."""
        return self._state[2]

    def view(self) -> tuple[int, tuple[Snapshot, ...]]:
        """`version` and `all` of the same moment."""
        version, _, ordered = self._state
        return version, ordered

    async def wait(self, version: int, timeout_s: float) -> int:
        """The version as soon as it is beyond ``version``, or whatever it is after ``timeout_s`` seconds.

        From any event loop; a publication wakes it from any thread.
        """
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self.version > version:
                return self.version
            self._waiters.append(waiter)
        try:
            await asyncio.wait_for(waiter[1].wait(), timeout_s)
        except TimeoutError:
            pass
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return self.version

    # ---- writing --------------------------------------------------------------------------------------------
    def publish(self, snapshots: Iterable[Snapshot], gone: Iterable[str] = ()) -> int:
        """Replace these services' snapshots and drop those that are ``gone``; returns the new version."""
        new = tuple(snapshots)
        with self._lock:
            version, before, _ = self._state
            after = {**before, **{s.service: s for s in new}}
            for service in gone:
                after.pop(service, None)
            ordered = tuple(after[service] for service in sorted(after))
            self._state = (version + 1, MappingProxyType(after), ordered)
            waiters, self._waiters = self._waiters, []
            subscribers = tuple(self._subscribers)
            for subscriber in subscribers:  # under the lock, so that all get publications in their order
                subscriber.offer(new)
        for loop, event in waiters:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # its loop was closed while it waited: nobody is there to be woken
                log.debug("a waiter's event loop is closed")
        return version + 1

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call ``callback`` with the snapshots of every publication from now on, in order; returns how to stop that.

        Stopping waits a moment until what was published before has been delivered. A callback that raises is logged
        and called again the next time; one that is slow loses the oldest of what it has not taken (see `dropped`).
        """
        subscriber = _Subscriber(callback)
        with self._lock:
            self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._lock:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)
            subscriber.stop()

        return unsubscribe

    @property
    def dropped(self) -> int:
        """Publications that present subscribers were too slow for."""
        return sum(s.dropped for s in self._subscribers)


class _Subscriber:
    """A callback with its queue and its thread."""

    def __init__(self, callback: Callback) -> None:
        self.dropped = 0
        self._callback = callback
        self._queue: deque[Sequence[Snapshot]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="harmony-hub-subscriber", daemon=True)
        self._thread.start()

    def offer(self, snapshots: Sequence[Snapshot]) -> None:
        """Queue a publication; never waits for the callback."""
        with self._changed:
            if len(self._queue) == QUEUE:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(snapshots)
            self._changed.notify()

    def stop(self) -> None:
        """End after what is queued; waits for that, unless called by the callback itself."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(FAREWELL_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._stopping:
                    self._changed.wait()
                if not self._queue:
                    return
                snapshots = self._queue.popleft()
            try:
                self._callback(snapshots)
            except Exception:  # one subscriber's bug must not end its deliveries, nor anybody else's
                log.exception("a subscriber failed")
