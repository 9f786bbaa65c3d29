"""The server around the application: where it listens, and how it ends without cutting anybody off."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from forecasting.errors import UsageError
from harmony.api.connections import MOST_CONNECTIONS, SPARE_CONNECTIONS, Connection

__all__ = ["KEEP_ALIVE_S", "ApiServer", "Door", "is_loopback", "listen"]

STOP_S = 5
KEEP_ALIVE_S = 30
BACKLOG = 512
SWITCH_S = 0.001
ARRIVALS = 8
OTHER_FILES = 500  # journal, model, pipes, clients of our own


class Door(Protocol):
    """Who accepts connections for the server."""

    arrivals: socket.socket
    """Where they come from: one descriptor with every byte."""

    def begin(self) -> None:
        """Accept from now on."""
        ...

    def close(self) -> None:
        """Accept no more."""
        ...


class ApiServer(uvicorn.Server):
    """uvicorn with our settings. Claims of proxies are not believed, and event streams end when the server does.

    ``beside`` runs on the server's own event loop from when it serves until it has ended; ``door`` accepts instead of
    this process.
    """

    def __init__(
        self,
        app: FastAPI,
        beside: Callable[[], Coroutine[None, None, None]] | None = None,
        door: Door | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                log_config=None,
                access_log=False,
                proxy_headers=False,
                forwarded_allow_ips="",
                server_header=False,
                ws="none",
                lifespan="on",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
                h11_max_incomplete_event_size=64 * 1024,
            )
        )
        self._app = app
        self._beside = beside
        self._door = door
        self._arriving: set[asyncio.Task[object]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGINT and SIGTERM, and leave it at that: what runs around the server ends in its own order."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until stopped; meanwhile threads that compute hand the interpreter over more often.

        The loop needs it several times for an answer, and waits each time for every thread that computes.
        """
        before_s = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH_S, before_s))
        _allow_descriptors(MOST_CONNECTIONS + SPARE_CONNECTIONS + OTHER_FILES)
        try:
            super().run(sockets)
        finally:
            sys.setswitchinterval(before_s)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Where there is a door, connections come through it."""
        await super().startup(sockets if self._door is None else [])
        if self._door is not None:
            self._door.begin()
            asyncio.get_running_loop().add_reader(self._door.arrivals, self._arrive, self._door.arrivals)

    def _arrive(self, arrivals: socket.socket) -> None:
        """Take some connections; the others in the next round of the loop, after what else is ready."""
        loop = asyncio.get_running_loop()
        for _ in range(ARRIVALS):
            try:
                _, descriptors, _, _ = socket.recv_fds(arrivals, 1, 1)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
                one = socket.socket(fileno=descriptor)
                one.setblocking(False)
                task = loop.create_task(self._serve_one(one))
                self._arriving.add(task)
                task.add_done_callback(self._arriving.discard)

    async def _serve_one(self, one: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it has gone already
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, one)

    def _connection(self) -> Connection:
        return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def main_loop(self) -> None:
        """What is done while requests are served."""
        beside = None if self._beside is None else asyncio.create_task(self._beside())
        try:
            await super().main_loop()
        finally:
            if beside is not None:
                beside.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell streams first, then wait for what is under way."""
        self._app.state.stopping.set()
        if self._door is not None:
            asyncio.get_running_loop().remove_reader(self._door.arrivals)
            await asyncio.to_thread(self._door.close)
        await super().shutdown(sockets)


def _allow_descriptors(count: int) -> None:
    """Let this process open so many files, where the machine permits it: many shells begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def listen(address: str) -> tuple[socket.socket, str, int]:
    """A socket at ``127.0.0.1:8000``, ``:8000`` or ``[::1]:8000`` (port 0: any), with host and port."""
    host, colon, port = address.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    if not colon or not 0 <= number <= 65_535 or (":" in host and not bracketed):
        raise UsageError(f"address {address!r}: expected host:port, such as 127.0.0.1:8000, :8000 or [::1]:8000")
    host = host[1:-1] if bracketed else host
    try:
        if host in ("", "::") and socket.has_dualstack_ipv6():
            found = socket.create_server(("::", number), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            found = socket.create_server((host, number), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"cannot listen at {address}: {why}; free it or choose another --address") from error
    return found, host, int(found.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
