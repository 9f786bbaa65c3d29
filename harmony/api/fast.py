"""The newest forecast as bytes that are made once per snapshot: what monitoring asks for all the time."""

from __future__ import annotations

import gzip
from typing import NamedTuple

import orjson

from harmony.api.etags import etag_of, has_it
from harmony.serving.hub import Hub
from harmony.serving.snapshot import Snapshot
from harmony.serving.views import forecast_json

__all__ = ["Ready", "forecast_path", "prepare", "ready_forecast"]

HEAD, TAIL = "/api/v1/services/", "/forecast"
ZIP_FROM = 2048
Headers = list[tuple[bytes, bytes]]


class Ready(NamedTuple):
    """One answer: status, headers and body."""

    status: int
    headers: Headers
    body: bytes


class _Kept(NamedTuple):
    etag: str
    plain: Ready
    zipped: Ready
    unchanged: Ready


def forecast_path(path: str) -> str:
    """The service of a forecast's path, "" for any other path."""
    return path[len(HEAD) : -len(TAIL)] if path.startswith(HEAD) and path.endswith(TAIL) else ""


def ready_forecast(hub: Hub, service: str, if_none_match: str, accept_encoding: str) -> Ready | None:
    """The answer for a service that has a forecast; None leaves it to the route (which says what is wrong)."""
    snapshot = hub.latest(service)
    if snapshot is None:
        return None
    kept = snapshot.cache.get("api-forecast")
    if kept is None:
        kept = snapshot.cache["api-forecast"] = _made(snapshot)
    if not isinstance(kept, _Kept):
        return None
    if if_none_match and has_it(if_none_match, kept.etag):
        return kept.unchanged
    return kept.zipped if "gzip" in accept_encoding else kept.plain


def prepare(snapshot: Snapshot) -> None:
    """Make the answer now, where that keeps nobody waiting; it travels with the snapshot, also to another process."""
    made = _made(snapshot)
    snapshot.cache.clear()
    snapshot.cache["api-forecast"] = made


def _made(snapshot: Snapshot) -> _Kept | bool:
    """All spellings of the answer; False without a forecast."""
    forecast = forecast_json(snapshot)
    if forecast is None:
        return False
    body = orjson.dumps(forecast)
    etag = etag_of(body)
    common = [(b"etag", etag.encode()), (b"cache-control", b"private, no-cache"), (b"vary", b"Accept-Encoding")]
    typed = [*common, (b"content-type", b"application/json")]
    plain = Ready(200, [*typed, (b"content-length", str(len(body)).encode())], body)
    zipped = plain
    if len(body) >= ZIP_FROM:
        packed = gzip.compress(body, 5, mtime=0)
        length = (b"content-length", str(len(packed)).encode())
        zipped = Ready(200, [*typed, (b"content-encoding", b"gzip"), length], packed)
    return _Kept(etag, plain, zipped, Ready(304, common, b""))
