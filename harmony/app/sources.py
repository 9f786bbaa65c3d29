"""What `harmony serve` shows comes from a source: a demo (`demo`), a cluster or a journal (`following`)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from harmony.serving import Hub

if TYPE_CHECKING:
    import uvicorn

    from harmony.api.ports import MetricsPort

__all__ = ["STILL_S", "STOP_S", "Source", "Watch", "beside"]

STILL_S = 60.0  # a loop that has shown nothing for so long, and for several intervals, stands still
STOP_S = 30.0


class Source(Protocol):
    """Where snapshots come from."""

    hub: Hub
    metrics: MetricsPort | None
    speed: float  # seconds of the snapshots' time that pass in one of life
    what: str  # for the greeting
    turns: Hub | None  # what is new to the journal; None where nothing is
    trouble: str  # of a journal that it keeps itself

    def health(self) -> str:
        """What is wrong; empty for nothing."""
        ...

    def stuck(self) -> str:
        """What is wrong and only a new start mends; empty for nothing. A controller says its own to the probes."""
        ...

    def running(self, server: uvicorn.Server) -> contextlib.AbstractContextManager[None]:
        """Begin, and end on leaving; a source that fails ends the server."""
        ...


class Watch:
    """Says when a hub has been silent for too long."""

    def __init__(self, hub: Hub, longest_s: float) -> None:
        self._hub, self._longest_s = hub, longest_s
        self._seen, self._since_s = -1, time.monotonic()
        hub.subscribe(self.moved)

    def moved(self, _: object = None) -> None:
        """Nothing is missing up to now."""
        self._since_s = time.monotonic()

    def problem(self) -> str:
        """A sentence, or nothing."""
        age_s = time.monotonic() - self._since_s
        return "" if age_s <= self._longest_s else f"the loop has shown nothing for {age_s:.0f} s"


@contextlib.contextmanager
def beside(work: Callable[[], object], stop: Callable[[], object], server: uvicorn.Server) -> Iterator[list[Exception]]:
    """Do ``work`` on a thread while the block runs; its failure ends the server and is raised at the end."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)
            server.should_exit = True

    thread = threading.Thread(target=run, name="harmony-loop", daemon=True)
    thread.start()
    try:
        yield failed
    finally:
        stop()
        thread.join(STOP_S)
    if failed:
        raise failed[0]
