"""Whether a request came by TLS: to this server, or to the proxy before it that ends TLS.

What a proxy says is believed for this alone, because it can only make answers stricter: a cookie for TLS connections
only, and a wish never to come without TLS again, which browsers heed only where they did come by TLS.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request

__all__ = ["STRICT_TRANSPORT", "came_by_tls", "is_secure"]

STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")


def came_by_tls(scheme: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the browser's own connection was TLS: the first of what proxies say, else this server's scheme."""
    if scheme == "https":
        return True
    for name, value in headers:
        if name == b"x-forwarded-proto":
            return value.split(b",")[0].strip().lower() == b"https"
        if name == b"forwarded":
            first = value.split(b",")[0].lower().replace(b" ", b"").replace(b'"', b"")
            return b"proto=https" in first.split(b";")
    return False


def is_secure(request: Request) -> bool:
    """The same of a route's request."""
    return came_by_tls(request.url.scheme, request.scope["headers"])
