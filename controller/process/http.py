"""Endpoints for people and probes: `/metrics`, `/healthz` (is the loop alive?) and `/readyz` (may it be relied on?)."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from forecasting.errors import UsageError

__all__ = ["Check", "Exposing", "Listener", "parse_address", "serve_health", "serve_metrics", "tick_check"]

ALIVE_INTERVALS = 5.0
STOP_S = 2.0  # how long a scrape under way may take when the process ends


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of being alive or ready: ``fn`` gives None when it is met, else a sentence that says why not."""

    name: str
    fn: Callable[[], str | None]


class Exposing(Protocol):
    """What `/metrics` shows; `harmony.metrics.Metrics` is one."""

    def exposition(self, accept: str = "", accept_encoding: str = "") -> tuple[bytes, dict[str, str]]:
        """Body and headers in a format and encoding that the client accepts; called from a worker thread."""
        ...


@dataclass(frozen=True, slots=True)
class Listener:
    """A server that listens."""

    port: int
    _runner: web.AppRunner

    async def stop(self) -> None:
        """Take no more requests and let those under way finish for a moment."""
        await self._runner.cleanup()


async def serve_metrics(address: str, metrics: Exposing) -> Listener:
    """Serve `/metrics` at ``address``; UsageError when it cannot listen there.

    The text is made on a worker thread, so that a scrape of a large fleet does not stop the event loop.
    """

    async def show(request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", []))
        encoding = ",".join(request.headers.getall("Accept-Encoding", []))
        body, headers = await asyncio.to_thread(metrics.exposition, accept, encoding)
        return web.Response(body=body, headers=headers)

    return await _listen(address, [web.get("/metrics", show)])


async def serve_health(address: str, live: Sequence[Check], ready: Sequence[Check]) -> Listener:
    """Serve `/healthz` (the ``live`` checks) and `/readyz` (the ``ready`` ones); UsageError when it cannot listen.

    200 when every check passes, else 503 with the failing ones. ``?verbose`` lists all of them, and so does JSON for
    those who accept it.
    """
    return await _listen(address, [web.get("/healthz", _answer_with(live)), web.get("/readyz", _answer_with(ready))])


def tick_check(last_tick_s: Callable[[], float | None], now_s: Callable[[], float], interval_s: float) -> Check:
    """The loop has finished a tick within five intervals; before the first one, it has that long from now on."""
    began = now_s()

    def fn() -> str | None:
        last = last_tick_s()
        age = now_s() - (began if last is None else last)
        if age <= ALIVE_INTERVALS * interval_s:
            return None
        said = "since the start, no tick has finished" if last is None else "since the last finished tick"
        return f"{age:.0f} s {said}, at most {ALIVE_INTERVALS * interval_s:.0f} s are normal: the control loop is stuck"

    return Check("tick", fn)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``:8080``, ``0.0.0.0:8080`` or ``[::]:8080``; an empty host is every address of the machine.

    Port 0 takes any free one. UsageError for anything else.
    """
    host, colon, port = address.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    if not colon or not 0 <= number <= 65_535 or (":" in host and not bracketed):
        raise UsageError(f"address {address!r}: expected host:port, such as :8080, 127.0.0.1:8080 or [::]:8080")
    return host[1:-1] if bracketed else host, number


async def _listen(address: str, routes: Sequence[web.RouteDef]) -> Listener:
    listening = _bind(address)
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)  # probes would fill the log
    await runner.setup()
    await web.SockSite(runner, listening).start()
    return Listener(int(listening.getsockname()[1]), runner)


def _bind(address: str) -> socket.socket:
    """A listening socket; on every address it serves IPv4 and IPv6 alike where the machine has both."""
    host, port = parse_address(address)
    try:
        if host in ("", "::") and socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as e:  # UnicodeError: a host name that no name server could be asked for
        why = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise UsageError(f"cannot listen at {address}: {why}; free it or choose another address") from e


def _answer_with(checks: Sequence[Check]) -> Handler:
    """A handler that runs the checks and reports them."""

    async def answer(request: web.Request) -> web.Response:
        found = [(check.name, check.fn()) for check in checks]
        failing = [name for name, problem in found if problem is not None]
        status = 503 if failing else 200
        headers = {"Cache-Control": "no-store"}
        if "application/json" in request.headers.get("Accept", ""):
            states = [{"name": name, "ok": problem is None, "problem": problem} for name, problem in found]
            text = json.dumps({"ok": not failing, "checks": states})
            return web.Response(text=text, status=status, headers=headers, content_type="application/json")
        lines = [f"[+]{name} ok" if problem is None else f"[-]{name}: {problem}" for name, problem in found]
        verdict = f"failing: {', '.join(failing)}" if failing else "ok"
        shown = [*lines, verdict] if failing or "verbose" in request.query else [verdict]
        return web.Response(text="\n".join(shown) + "\n", status=status, headers=headers)

    return answer
