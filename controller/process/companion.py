"""`Companion`: a process beside this one that answers while this one is busy; it is told how things stand, by lines.

Threads that compute hold the interpreter, and with it all that this process should answer at once. A companion is a
fresh interpreter that runs one file of the standard library. It ends with this process, and is begun again if it ends
alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Companion"]

log = logging.getLogger(__name__)
AGAIN_S = 1.0
STOP_S = 2.0


class Companion:
    """Runs ``program`` with what it inherits: ``python -I -S PROGRAM SOCKET... CHANNEL PARENT WORD...``.

    ``sockets`` stay open here, too: who asks while the process begins anew waits a moment. They are closed with it.
    OSError where no process can be begun; then they are closed as well.
    """

    def __init__(self, what: str, program: Path, sockets: Sequence[socket.socket], words: Sequence[str] = ()) -> None:
        self._what, self._program, self._sockets, self._words = what, program, sockets, words
        self._lock = threading.Lock()  # who tells may be on threads of its own
        self._open = True
        self._rest = b""
        try:
            self._begin()
        except OSError:
            self._close_sockets()
            raise

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def tell(self, line: bytes) -> None:
        """One line, without its end. It never waits: while nobody reads, lines are lost."""
        with self._lock:
            if self._open and self._is_there():
                self._send(line + b"\n")

    def close(self) -> None:
        """End it; its ports are free afterwards."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            self._close_sockets()
            self._channel.close()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _close_sockets(self) -> None:
        for one in self._sockets:
            one.close()

    def _begin(self) -> None:
        """Begin the process: no copy of this one, but a fresh interpreter that is there after some milliseconds."""
        self._begun_s = time.monotonic()
        here, there = socket.socketpair()
        here.setblocking(False)
        with there:
            fds = *(one.fileno() for one in self._sockets), there.fileno()
            command = [sys.executable, "-I", "-S", str(self._program), *map(str, fds), str(os.getpid()), *self._words]
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
        log.warning(
            "the process that answers %s has ended (%s); beginning it again", self._what, self._process.returncode
        )
        self._channel.close()
        try:
            self._begin()
        except OSError as error:
            log.warning("the process that answers %s cannot be begun: %s", self._what, error)
            return False
        return True

    def _send(self, line: bytes) -> None:
        """A line that did not fit is finished before the next one begins."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            if self._rest:
                self._rest = self._rest[self._channel.send(self._rest) :]
            if not self._rest:
                self._rest = line[self._channel.send(line) :]
