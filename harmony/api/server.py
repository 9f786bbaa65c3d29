"""The server around the application: where it listens, and how it ends without cutting anybody off."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from forecasting.errors import UsageError
from harmony.api.connections import MOST_CONNECTIONS, Connection

__all__ = ["ApiServer", "is_loopback", "listen"]

STOP_S = 5
KEEP_ALIVE_S = 30
BACKLOG = 512
SWITCH_S = 0.001


class ApiServer(uvicorn.Server):
    """uvicorn with our settings. Claims of proxies are not believed, and event streams end when the server does."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                limit_concurrency=MOST_CONNECTIONS,
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
        try:
            super().run(sockets)
        finally:
            sys.setswitchinterval(before_s)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell streams first, then wait for what is under way."""
        self._app.state.stopping.set()
        await super().shutdown(sockets)


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
