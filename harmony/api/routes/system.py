"""Health, metrics and the stream of changes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from harmony import __version__
from harmony.api.auth import read_credentials
from harmony.api.depends import Reader, StateOf, needed
from harmony.api.limits import counted_as
from harmony.api.models import Health
from harmony.api.problems import Problem
from harmony.api.state import ApiState
from harmony.serving.snapshot import Snapshot

__all__ = ["changes", "health", "router"]

router = APIRouter(tags=["system"])
PING_S = 15.0
EVENT = {
    "type": "object",
    "description": 'One event; `data` is JSON: {"version", "changed": [service], "gone": [service]}.',
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}
UNRECORDED = "decisions are not being recorded; the log says why"


@router.get("/healthz", response_model=Health, summary="Does it work", responses={503: {"model": Health}})
async def health(state: StateOf) -> Response:
    """Open to all: 200 while the server answers and the loop behind it moves, else 503.

    Decisions that are not being recorded are "degraded" and 200: the loop goes on, and a restart would not help it.
    """
    problem = state.health()
    if problem:
        found = Health(status="failing", version=__version__, problem=problem)
    elif state.notice():  # the sentence itself names the journal, which is not for everybody
        found = Health(status="degraded", version=__version__, problem=UNRECORDED)
    else:
        found = Health(status="ok", version=__version__, problem="")
    headers = {"cache-control": "no-store"}
    return Response(found.model_dump_json(), 503 if problem else 200, headers, "application/json")


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, state: StateOf, _: Reader) -> Response:
    """In the text format that the client accepts."""
    port = needed(state.metrics, "metrics")
    accept = ",".join(request.headers.getlist("accept"))
    encoding = ",".join(request.headers.getlist("accept-encoding"))
    body, headers = await asyncio.to_thread(port.exposition, accept, encoding)
    return Response(body, headers={**headers, "cache-control": "no-store"})


@router.get(
    "/events",
    summary="Changes of the fleet as they happen",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {"schema": EVENT}}}},
)
async def events(
    request: Request,
    state: StateOf,
    _: Reader,
    seconds: Annotated[float, Query(gt=0, le=3600, description="How long to stay.")] = 3600.0,
    last_event_id: Annotated[
        str | None, Header(max_length=20, pattern=r"^\d+$", description="Version that is known already.")
    ] = None,
) -> StreamingResponse:
    """Server-sent events `fleet`: {"version", "changed": [service], "gone": [service]}; a comment every 15 s."""
    known = -1 if last_event_id is None else int(last_event_id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    stopping: asyncio.Event = request.app.state.stopping
    stream = changes(state, known, seconds, stopping, functools.partial(_may_still, request))
    return StreamingResponse(stream, headers=headers, media_type="text/event-stream")


async def _may_still(request: Request) -> bool:
    """Whether the key or token that opened the stream is still good: it may have been revoked since."""
    address = counted_as(request.client.host) if request.client is not None else "unknown"
    try:
        await request.app.state.authenticator.caller(read_credentials(request.headers.raw), address)
    except Problem as problem:
        return problem.slug not in ("unauthenticated", "forbidden")  # a journal in trouble ends nobody's stream
    return True


async def changes(
    state: ApiState,
    known: int,
    seconds: float,
    stopping: asyncio.Event,
    may_still: Callable[[], Awaitable[bool]],
) -> AsyncIterator[bytes]:
    """The stream: at once where the version is another one than ``known``, then with every change.

    Whether its reader ``may_still`` read is asked again before everything that is sent.
    """
    until_s = state.monotonic_s() + seconds
    before: dict[str, Snapshot] = {}
    version = known
    yield b"retry: 3000\n\n"
    while not stopping.is_set() and await may_still():
        now, snapshots = state.hub.view()
        if now != version:
            fleet = {s.service: s for s in snapshots}
            changed = [name for name, s in fleet.items() if before.get(name) is not s]
            gone = [name for name in before if name not in fleet]
            data = orjson.dumps({"version": now, "changed": changed, "gone": gone})
            yield b"id: %d\nevent: fleet\ndata: %b\n\n" % (now, data)
            before, version = fleet, now
        left_s = until_s - state.monotonic_s()
        if left_s <= 0:
            return
        if await _next(state, version, min(PING_S, left_s), stopping) == version and left_s > PING_S:
            yield b": still here\n\n"


async def _next(state: ApiState, version: int, timeout_s: float, stopping: asyncio.Event) -> int:
    """The hub's version once it is another one, or after the timeout, or when the server stops."""
    waiting = asyncio.ensure_future(state.hub.wait(version, timeout_s))
    ending = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (waiting, ending):
            if not task.done():
                task.cancel()
        await asyncio.gather(waiting, ending, return_exceptions=True)
    return state.hub.version
