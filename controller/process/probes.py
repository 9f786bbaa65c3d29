"""`Probes`: `/healthz` and `/readyz`, answered by a process of their own, so that they answer whatever else happens.

The event loops of this process are its *voices*: each says a few times a second how its checks stand. While threads
compute and a thousand clients wait, the other process answers with what it heard last; from a loop that hangs it hears
nothing, and after a while says so. It ends with this process, and is begun again if it ends alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from controller.process.listening import bind
from forecasting.errors import UsageError

__all__ = ["CONTROLLER", "SILENT_S", "Check", "Probes"]

log = logging.getLogger(__name__)
PROBER = Path(__file__).with_name("prober.py")
CONTROLLER = "controller"
"""The voice of the controller's loop; other processes that run one have it beside their own."""
BEAT_S = 0.25
SILENT_S = 10.0
"""Seconds without a beat after which a loop is said to hang: far more than any work between two of its turns takes."""
AGAIN_S = 1.0
STOP_S = 2.0
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
        self._words = [f"{silent_s!r}", *voices]
        self._lock = threading.Lock()  # the voices are on threads of their own
        # It stays open here, too: who asks while the process begins anew waits a moment.
        self._listening = bind(address)
        self._rest = b""
        try:
            self._begin()
        except OSError as error:
            self._listening.close()
            raise UsageError(f"cannot begin the process that answers probes at {address}: {error}") from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.getsockname()[1])

    @property
    def pid(self) -> int:
        """The process that answers."""
        return self._process.pid

    async def speak(self, voice: str, live: Sequence[Check], ready: Sequence[Check]) -> None:
        """Say how things stand, from the event loop that is the ``voice``, until cancelled."""
        while True:
            self.say(voice, live, ready)
            await asyncio.sleep(BEAT_S)

    def say(self, voice: str, live: Sequence[Check], ready: Sequence[Check]) -> None:
        """One beat. It never waits: while nobody reads, beats are lost."""
        said = {"voice": voice, "at_s": time.monotonic(), "live": _found(live), "ready": _found(ready)}
        with self._lock:
            if self._listening.fileno() >= 0 and self._is_there():
                self._send(json.dumps(said).encode() + b"\n")

    def close(self) -> None:
        """Answer no more; the port is free afterwards."""
        with self._lock:
            if self._listening.fileno() < 0:
                return
            self._listening.close()
            self._channel.close()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Begin the process: no copy of this one, but a fresh interpreter that is there after some milliseconds."""
        self._begun_s = time.monotonic()
        here, there = socket.socketpair()
        here.setblocking(False)
        with there:
            fds = self._listening.fileno(), there.fileno()
            command = [sys.executable, "-I", "-S", str(PROBER), *map(str, fds), str(os.getpid()), *self._words]
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", pass_fds=fds
                )
            except OSError:
                here.close()
                raise
        self._channel, self._rest = here, b""

    def _is_there(self) -> bool:
        """Whether the process runs; one that has ended is begun again."""
        if self._process.poll() is None:
            return True
        if time.monotonic() - self._begun_s < AGAIN_S:
            return False
        log.warning("the process that answers probes has ended (%s); beginning it again", self._process.returncode)
        self._channel.close()
        try:
            self._begin()
        except OSError as error:
            log.warning("the process that answers probes cannot be begun: %s", error)
            return False
        return True

    def _send(self, line: bytes) -> None:
        """A line that did not fit is finished before the next one begins."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            if self._rest:
                self._rest = self._rest[self._channel.send(self._rest) :]
            if not self._rest:
                self._rest = line[self._channel.send(line) :]


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
