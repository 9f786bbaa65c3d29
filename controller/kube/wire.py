"""What goes over the connection: a request put in words, an answer taken apart, a stream cut into events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
import orjson

from controller.kube.errors import Unavailable, error_from_status
from controller.kube.retrying import Repeat

__all__ = ["JSON", "Ask", "Call", "lines", "parse_answer", "parse_event", "surface_cuts", "translated"]

JSON = dict[str, Any]


class Call(NamedTuple):
    """What kind of request was sent; counts of these say what a tick costs the API server."""

    verb: str
    group: str
    resource: str
    subresource: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and the words (`action`) that errors use for it."""

    method: str
    path: str
    call: Call
    action: str
    repeat: Repeat = Repeat.ONCE
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    timeout_s: float | None = None

    @property
    def writes(self) -> bool:
        """Whether it may have changed something if no answer came."""
        return self.repeat is not Repeat.READ


@contextlib.asynccontextmanager
async def translated(ask: Ask) -> AsyncIterator[None]:
    """Turn every failure of the connection into Unavailable; `unknown` unless nothing can have been sent."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError and TLS errors are OSErrors
        timed_out = isinstance(error, TimeoutError)
        text = "no answer in time" if timed_out else str(error) or type(error).__name__
        unavailable = Unavailable(ask.action, text)
        unavailable.unknown = ask.writes and not isinstance(error, aiohttp.ClientConnectorError)
        raise unavailable from error


async def surface_cuts(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Middleware: the transport must not by itself repeat a write whose connection was cut (as it does for PUT).

    The second one would meet its own first one and come back as a conflict, though the write took effect.
    """
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if request.method == "GET":
            raise
        raise aiohttp.ClientConnectionError(str(error) or "connection cut") from error


def parse_answer(ask: Ask, content_type: str, body: bytes) -> JSON:
    """The JSON object of a successful answer; raises Unavailable if somebody else than the API server answered."""
    try:
        parsed = _read(body)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        return parsed
    error = Unavailable(ask.action, f"answer is not a JSON object but {content_type or 'without a content type'}")
    error.unknown = ask.writes
    raise error


async def lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of a stream however long; what comes after the last newline was cut off and is not a line."""
    parts: list[bytes] = []
    async for chunk in content.iter_any():
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            parts.append(line)
            if whole := b"".join(parts).strip():
                yield whole
            parts.clear()
        parts.append(rest)


def _read(text: bytes) -> Any:  # noqa: ANN401 - whatever stands there
    """JSON whose keys are one text each, however many objects have them: half of what thousands of objects take."""
    try:
        return orjson.loads(text)
    except ValueError:  # it is stricter: what no API server should say, and another reader takes, is taken
        return json.loads(text)


def parse_event(ask: Ask, line: bytes) -> tuple[str, JSON]:
    """One watch event; raises what an ERROR event says (Expired for 410), Unavailable if it is none."""
    try:
        event = _read(line)
        kind, obj = event["type"], event["object"]
    except (ValueError, TypeError, KeyError) as error:
        raise Unavailable(ask.action, "the stream holds something that is no watch event") from error
    if kind == "ERROR" or not isinstance(obj, dict):
        raise error_from_status(ask.action, obj if isinstance(obj, dict) else {})
    return kind, obj
