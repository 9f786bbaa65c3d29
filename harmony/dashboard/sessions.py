"""Signing in with an API key: the browser gets a signed session cookie, the key stays here.

The cookie holds a random id and its signature; the key that it stands for is looked up in this process and put in the
cookie's place before the gate sees the request. So the gate checks the key anew every time (a revoked key ends the
session), and its checks for requests that a cookie brought (same site, Origin) hold for sessions as well.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from harmony.api.auth import COOKIE as KEY_COOKIE

__all__ = ["COOKIE", "SessionCookies", "Sessions"]

COOKIE = "harmony_session"
LIFE_S = 12 * 3600.0
IDLE_S = 2 * 3600.0
MOST = 10_000


class Sessions:
    """Keys of who is signed in, by session; a restart signs everybody out."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._keys: OrderedDict[bytes, tuple[str, float, float]] = OrderedDict()  # digest -> key, begun, last seen

    def begin(self, key: str) -> str:
        """A new session for a key that was found valid; the cookie's value."""
        name = secrets.token_urlsafe(32)
        now_s = self._monotonic_s()
        with self._lock:
            self._keys[self._digest(name)] = (key, now_s, now_s)
            if len(self._keys) > MOST:
                self._keys.popitem(last=False)
        return f"{name}.{self._sign(name)}"

    def key(self, cookie: str) -> str | None:
        """The key that a cookie stands for; None for one that is forged, unknown, too old or idle for too long."""
        name, _, signature = cookie.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(name).encode()):
            return None
        digest, now_s = self._digest(name), self._monotonic_s()
        with self._lock:
            found = self._keys.get(digest)
            if found is None:
                return None
            key, begun_s, seen_s = found
            if now_s - begun_s > LIFE_S or now_s - seen_s > IDLE_S:
                del self._keys[digest]
                return None
            self._keys[digest] = (key, begun_s, now_s)
            self._keys.move_to_end(digest)
        return key

    def end(self, cookie: str) -> None:
        """Sign out."""
        with self._lock:
            self._keys.pop(self._digest(cookie.partition(".")[0]), None)

    def _sign(self, name: str) -> str:
        return hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()

    @staticmethod
    def _digest(name: str) -> bytes:
        return hashlib.sha256(name.encode()).digest()


class SessionCookies:
    """Middleware around the gate: a session's cookie becomes its key; a visitor without one comes back after login."""

    def __init__(self, app: ASGIApp, *, sessions: Sessions, login_path: str) -> None:
        self._app, self._sessions, self._login = app, sessions, login_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**scope, "headers": self._headers(scope["headers"])}
        path = scope["path"]

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 303:
                headers = MutableHeaders(raw=message["headers"])
                if headers.get("location") == self._login and path not in ("/", self._login, "/logout"):
                    headers["location"] = f"{self._login}?next={quote(path, safe='')}"
            await send(message)

        await self._app(scope, receive, answered)

    def _headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """With the key in the place of our cookie; a key that a browser sends in a cookie by itself is taken away."""
        if not any(name == b"cookie" for name, _ in headers):
            return headers
        out = [(n, v) for n, v in headers if n != b"cookie"]
        kept, key = [], None
        for part in "; ".join(v.decode("latin-1") for n, v in headers if n == b"cookie").split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE and key is None:
                key = self._sessions.key(value)
            if name and name != KEY_COOKIE:
                kept.append(f"{name}={value}")
        if key is not None:
            kept.insert(0, f"{KEY_COOKIE}={key}")
        out.append((b"cookie", "; ".join(kept).encode("latin-1")))
        return out
