"""A real HTTP server whose answers a test writes down: for what no well-behaved API server can be made to do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from controller.kube.client import Kube

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(code: int, reason: str = "", message: str = "", **details: Any) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }
    return web.json_response(body, status=code)


def write_kubeconfig(path: Path, url: str, user: dict[str, Any] | None = None) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "here",
    }
    path.write_text(json.dumps(config))
    return path


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve until the block ends; gives the base URL."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def kube_for(
    handler: Handler, folder: Path, user: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Kube]:
    """A client of a server that answers with `handler`."""
    async with serving(handler) as url:
        config = write_kubeconfig(folder / "kubeconfig", url, user)
        async with await Kube.connect(config, jitter=np.random.default_rng(0), **options) as kube:
            yield kube


async def cut(request: web.Request) -> web.Response:
    """Cut the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
