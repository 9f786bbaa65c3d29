"""`Front`: a process of its own accepts at the API's port and answers health, so that health waits for nothing else.

It hands the other connections over to the server's event loop, which tells it four times a second what health answers
(`harmony.app.porter` is the process).
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from http import HTTPStatus
from pathlib import Path

from starlette.types import ASGIApp, Message

from controller.process.companion import Companion
from controller.process.probes import BEAT_S, SILENT_S
from forecasting.errors import UsageError
from harmony import __version__
from harmony.api.connections import HEADERS_S
from harmony.api.gate import HEALTH
from harmony.api.models import Health
from harmony.api.server import KEEP_ALIVE_S

__all__ = ["Front"]

PORTER = Path(__file__).with_name("porter.py")
Headers = list[tuple[bytes, bytes]]


class Front:
    """What accepts at ``listening`` for the server: its connections come through `arrivals` (descriptors, one a byte).

    ``silent_s``: seconds without a beat after which health says that the server hangs.
    """

    def __init__(self, listening: socket.socket, silent_s: float = SILENT_S) -> None:
        self._listening, self._silent_s = listening, silent_s
        self.arrivals, self._there = socket.socketpair()
        self.arrivals.setblocking(False)
        self._companion: Companion | None = None

    @property
    def pid(self) -> int | None:
        """The process, once it was begun."""
        return None if self._companion is None else self._companion.pid

    def begin(self) -> None:
        """Begin the process, with as many descriptors as this one may have; UsageError where there can be none."""
        words = [f"{seconds!r}" for seconds in (HEADERS_S, float(KEEP_ALIVE_S), self._silent_s)]
        try:
            self._companion = Companion("health", PORTER, [self._listening, self._there], words)
        except OSError as error:
            raise UsageError(f"cannot begin the process that accepts connections: {error}") from error

    async def speak(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        """Say what ``app`` answers now, again and again until cancelled; ``hosts`` may be asked for (none: all)."""
        while True:
            await self.say(app, hosts)
            await asyncio.sleep(BEAT_S)

    async def say(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        """One beat."""
        problem = f"the server hangs: it was not heard for {self._silent_s:g} s"
        hangs = Health(status="failing", version=__version__, problem=problem).model_dump_json().encode()
        at_s, answers, silent = time.monotonic(), {}, {}
        for path in sorted(HEALTH):
            status, headers, body = await asked(app, path, min(hosts, default="localhost"))
            answers[path], silent[path] = spelled(status, headers, body), spelled(503, headers, hangs)
        said = {"at_s": at_s, "hosts": sorted(hosts), "answers": answers, "silent": silent}
        if self._companion is not None:
            self._companion.tell(json.dumps(said).encode())

    def close(self) -> None:
        """Accept no more; the port is free afterwards."""
        if self._companion is not None:
            self._companion.close()
        self._there.close()
        self.arrivals.close()


async def asked(app: ASGIApp, path: str, host: str) -> tuple[int, Headers, bytes]:
    """What ``app`` answers to a GET of ``path``: status, headers, body."""
    status, headers, body = 500, Headers(), b""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers, body
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
        else:
            body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", host.encode())],
        "client": None,
        "server": None,
        "state": {},
    }
    await app(scope, receive, send)
    return status, headers, body


def spelled(status: int, headers: Headers, body: bytes) -> str:
    """The same as it goes over the wire, but for what each connection adds."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{k.decode('latin-1')}: {v.decode('latin-1')}" for k, v in headers if k != b"content-length"]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", body.decode("latin-1")])
