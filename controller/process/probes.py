"""`Probes`: `/healthz` and `/readyz`, answered by a process of their own, so that they answer whatever else happens.

The event loops of this process are its *voices*: each says a few times a second how its checks stand. While threads
compute and a thousand clients wait, the other process answers with what it heard last; from a loop that hangs it hears
nothing, and after a while says so.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from controller.process.companion import Companion
from controller.process.listening import bind
from forecasting.errors import UsageError

__all__ = ["CONTROLLER", "SILENT_S", "Check", "Probes"]

PROBER = Path(__file__).with_name("prober.py")
CONTROLLER = "controller"
"""The voice of the controller's loop; other processes that run one have it beside their own."""
BEAT_S = 0.25
SILENT_S = 10.0
"""Seconds without a beat after which a loop is said to hang: far more than any work between two of its turns takes."""
LONGEST = 500  # characters of what a check says


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of being alive or ready: ``fn`` gives None when it is met, else a sentence that says why not."""

    name: str
    fn: Callable[[], str | None]


class Probes:
    """`/healthz` (the live checks of all ``voices``) and `/readyz` (the ready ones) at ``address``.

    200 when every check passes and every voice is heard, else 503 with the failing ones. ``?verbose`` lists all of
    them, and so does JSON for those who accept it. UsageError when it cannot listen, or no process can be begun.
    """

    def __init__(self, address: str, voices: Iterable[str], silent_s: float = SILENT_S) -> None:
        listening = bind(address)
        self.port = int(listening.getsockname()[1])
        try:
            self._companion = Companion("probes", PROBER, [listening], [f"{silent_s!r}", *voices])
        except OSError as error:
            raise UsageError(f"cannot begin the process that answers probes at {address}: {error}") from error

    @property
    def pid(self) -> int:
        """The process that answers."""
        return self._companion.pid

    async def speak(self, voice: str, live: Sequence[Check], ready: Sequence[Check]) -> None:
        """Say how things stand, from the event loop that is the ``voice``, until cancelled."""
        while True:
            self.say(voice, live, ready)
            await asyncio.sleep(BEAT_S)

    def say(self, voice: str, live: Sequence[Check], ready: Sequence[Check]) -> None:
        """One beat. It never waits: while nobody reads, beats are lost."""
        said = {"voice": voice, "at_s": time.monotonic(), "live": _found(live), "ready": _found(ready)}
        self._companion.tell(json.dumps(said).encode())

    def close(self) -> None:
        """Answer no more; the port is free afterwards."""
        self._companion.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _found(checks: Sequence[Check]) -> list[tuple[str, str | None]]:
    """Name and problem of each."""
    return [(check.name, _problem(check)) for check in checks]


def _problem(check: Check) -> str | None:
    """What is wrong; a check that fails itself is wrong."""
    try:
        problem = check.fn()
    except Exception as error:  # noqa: BLE001 - it fails the probe, which says why
        return f"cannot be told: {type(error).__name__}: {error}"[:LONGEST]
    return None if problem is None else problem[:LONGEST]
