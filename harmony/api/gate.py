"""`Gate`: what every request passes before any route: host, credentials, limits, size and time.

Plain ASGI, so that the fast path costs no more than it must. Nothing that a proxy could claim (Forwarded,
X-Forwarded-*, X-Real-IP) is read but whether TLS was spoken (`harmony.api.transport`): an address is the peer's, a host
is this server's own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from harmony.api.auth import Authenticator, read_credentials
from harmony.api.bodies import is_json, json_depth, read_body, replay
from harmony.api.connections import CROWDED
from harmony.api.fast import forecast_path, ready_forecast
from harmony.api.limits import Buckets, counted_as
from harmony.api.problems import Problem, render, too_often
from harmony.api.roles import Caller
from harmony.api.state import ApiState
from harmony.api.transport import STRICT_TRANSPORT, came_by_tls
from harmony.api.turns import Turns

__all__ = ["EVENTS", "HEALTH", "Gate"]

log = logging.getLogger(__name__)
HEALTH = frozenset({"/healthz", "/readyz", "/api/v1/healthz"})
EVENTS = "/api/v1/events"
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
LARGE = 64 * 1024
API_POLICY = b"default-src 'none'; frame-ancestors 'none'"
SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
POLICY = (b"content-security-policy", API_POLICY)


class _LogInFirst(Exception):  # noqa: N818
    """A page was asked for without a key."""


class Asked(NamedTuple):
    """The headers that the gate looks at."""

    host: str = ""
    origin: str = ""
    fetch_site: str = ""
    content_type: str = ""
    content_length: str = ""
    accept: str = ""
    accept_encoding: str = ""
    if_none_match: str = ""


NAMES = {
    b"host": "host",
    b"origin": "origin",
    b"sec-fetch-site": "fetch_site",
    b"content-type": "content_type",
    b"content-length": "content_length",
    b"accept": "accept",
    b"accept-encoding": "accept_encoding",
    b"if-none-match": "if_none_match",
}


class Gate:
    """The outermost middleware of the API."""

    def __init__(self, app: ASGIApp, *, state: ApiState, authenticator: Authenticator) -> None:
        self._app, self._state, self._authenticator = app, state, authenticator
        self._settings = settings = state.settings
        self._buckets = Buckets(settings.rate, settings.burst)
        self._failures = Buckets(settings.failed_rate, settings.failed_burst)
        self._running = 0
        self._turns = Turns()
        self._streams: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (or let the server's own messages through)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        outgoing = _Outgoing(send, came_by_tls(scope["scheme"], scope["headers"]))
        try:
            await self._serve(scope, receive, outgoing)
        except Problem as problem:
            await self._answer(problem, scope, receive, outgoing)
        except _LogInFirst:
            await Response(None, 303, {"location": self._settings.login_path})(scope, receive, outgoing)
        except ConnectionResetError:
            log.debug("a client went away")
        except Exception:
            log.exception("a request failed", extra={"method": scope["method"], "route": _route(scope)})
            await self._answer(Problem("internal", "This is a fault of the server."), scope, receive, outgoing)

    async def _answer(self, problem: Problem, scope: Scope, receive: Receive, send: _Outgoing) -> None:
        if not send.started:
            await render(problem)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: _Outgoing) -> None:
        asked = self._read(scope)
        path, method = scope["path"], scope["method"]
        if path in HEALTH:
            await self._app(scope, receive, send)
            return
        if scope.get("state", {}).get(CROWDED):
            raise Problem("unavailable", "Too many connections are open.", {"retry-after": "1", "connection": "close"})
        caller = await self._admitted(scope, asked, path, method)
        if method == "GET" and caller is not None and not scope["query_string"] and (name := forecast_path(path)):
            ready = ready_forecast(self._state.hub, name, asked.if_none_match, asked.accept_encoding)
            if ready is not None:
                await send({"type": "http.response.start", "status": ready.status, "headers": list(ready.headers)})
                await send({"type": "http.response.body", "body": ready.body})
                return
        if path == EVENTS:
            await self._stream(scope, receive, send)
            return
        await self._run(scope, receive, send, asked)

    # ---- admission ------------------------------------------------------------------------------------------
    def _read(self, scope: Scope) -> Asked:
        """The headers of interest; `Problem` for too many, doubled, or of another host."""
        size, found = 0, {}
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            known = NAMES.get(name)
            if known is not None:
                if known in found and known in ("host", "content_length", "content_type"):
                    raise Problem("bad-request", f"The header {name.decode()} was sent twice.")
                found[known] = value.decode("latin-1")
        if size > self._settings.header_limit:
            raise Problem("headers-too-large", f"Headers of at most {self._settings.header_limit} bytes are accepted.")
        asked = Asked(**found)
        hosts = self._settings.hosts
        if hosts and _host(asked.host) not in hosts:
            raise Problem("misdirected", f"Ask for one of the hosts {', '.join(sorted(hosts))}.")
        return asked

    async def _admitted(self, scope: Scope, asked: Asked, path: str, method: str) -> Caller | None:
        """Who asks; None on a path that needs nobody. `Problem` for those who may not, or not so often."""
        settings, now_s = self._settings, self._state.monotonic_s()
        address = counted_as(scope["client"][0]) if scope.get("client") else "unknown"
        caller, by_cookie = None, False
        if path not in settings.open_paths and not (settings.open_prefixes and path.startswith(settings.open_prefixes)):
            credentials = read_credentials(scope["headers"])
            by_cookie = credentials.by_cookie
            try:
                caller = await self._authenticator.caller(credentials, address)
            except Problem as problem:
                if problem.slug == "unauthenticated":
                    self._failed(address, now_s, asked, path, method, had_one=bool(credentials.text))
                raise
        work = method == "POST"
        who = f"address:{address}" if caller is None else caller.id
        wait_s = self._buckets.take(who, now_s, settings.work_cost if work else 1.0)
        if wait_s:
            raise too_often(wait_s)
        if method not in SAFE:
            self._same_site(asked, by_cookie)
        scope["caller"] = caller
        return caller

    def _failed(self, address: str, now_s: float, asked: Asked, path: str, method: str, *, had_one: bool) -> None:
        """Guesses are counted, and too many are told to wait; a page sends its visitor to the login."""
        is_page = bool(self._settings.login_path) and method == "GET" and "text/html" in asked.accept
        is_page = is_page and "/api/" not in path
        if had_one or not is_page:
            wait_s = self._failures.take(address, now_s)
            if wait_s:
                raise too_often(wait_s)
        if had_one:
            log.info("a wrong key or token", extra={"address": address})
        if is_page:
            raise _LogInFirst

    def _same_site(self, asked: Asked, by_cookie: bool) -> None:
        """Browsers say where a request comes from: other sites may not change anything here."""
        if asked.origin and asked.origin in self._settings.cors_origins and not by_cookie:
            return
        foreign = asked.fetch_site in ("cross-site", "same-site")
        if asked.origin:
            foreign = foreign or urlsplit(asked.origin).netloc.lower() != asked.host.lower()
        if foreign or (by_cookie and not asked.origin and asked.fetch_site != "same-origin"):
            raise Problem("cross-origin", "This came from a page of another site.")

    # ---- running --------------------------------------------------------------------------------------------
    async def _run(self, scope: Scope, receive: Receive, send: _Outgoing, asked: Asked) -> None:
        """Read the body, then the route, all within the time limit."""
        settings = self._settings
        if self._running >= settings.concurrency:
            raise Problem("unavailable", "Too much is going on.", {"retry-after": "1"})
        self._running += 1
        try:
            async with asyncio.timeout(settings.time_limit_s):
                body = await read_body(receive, _length(asked.content_length), settings.body_limit)
                if body:
                    await self._checked(body, asked)
                await self._turns.mine()
                await self._app(scope, replay(body, receive), send)
        except TimeoutError as error:
            log.warning("a request took too long", extra={"method": scope["method"], "route": _route(scope)})
            raise Problem("timeout", f"It took longer than {settings.time_limit_s:g} s.") from error
        finally:
            self._running -= 1

    async def _checked(self, body: bytes, asked: Asked) -> None:
        """JSON, and not too deep."""
        kind = asked.content_type
        if not is_json(kind) and not kind.startswith("application/x-www-form-urlencoded"):
            raise Problem("unsupported-media-type", "Send application/json.")
        limit = self._settings.depth_limit
        count = json_depth if len(body) < LARGE else _in_thread
        found = count(body, limit)
        depth = found if isinstance(found, int) else await found
        if depth > limit:
            raise Problem("bad-request", f"JSON nested deeper than {limit} is not accepted.")

    async def _stream(self, scope: Scope, receive: Receive, send: _Outgoing) -> None:
        """An event stream: no time limit, but only so many, and no caller has all of them."""
        caller: Caller | None = scope["caller"]
        who = "" if caller is None else caller.id
        if self._streams.total() >= self._settings.streams:
            raise Problem("unavailable", "Too many event streams are open.", {"retry-after": "10"})
        if self._streams[who] >= self._settings.streams_each:
            raise Problem("rate-limited", "Too many event streams of this caller are open.", {"retry-after": "10"})
        self._streams[who] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams[who] -= 1
            self._streams += Counter()  # callers without streams are forgotten


class _Outgoing:
    """`send` that adds the security headers and knows whether an answer has begun."""

    __slots__ = ("_send", "_tls", "started")

    def __init__(self, send: Send, tls: bool) -> None:
        self._send, self._tls, self.started = send, tls, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = message["headers"] = list(message.get("headers", ()))
            headers.extend(SECURITY)
            if self._tls:
                headers.append(STRICT_TRANSPORT)
            if not any(name == b"content-security-policy" for name, _ in headers):
                headers.append(POLICY)
        await self._send(message)


async def _in_thread(body: bytes, limit: int) -> int:
    return await asyncio.to_thread(json_depth, body, limit)


def _length(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _host(text: str) -> str:
    """Host without port, as `hosts` has it."""
    if text.startswith("["):
        return text.partition("]")[0].lower() + "]"
    return text.partition(":")[0].lower()


def _route(scope: Scope) -> str:
    """The route's template for logs (never the path itself: it is what the client wrote)."""
    return str(getattr(scope.get("route"), "path", ""))
