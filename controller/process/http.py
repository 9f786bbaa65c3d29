"""`/metrics` of the controller, from its event loop; probes are answered beside it (`controller.process.probes`)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from controller.process.listening import bind

__all__ = ["Exposing", "Listener", "serve_metrics"]

STOP_S = 2.0  # how long a scrape under way may take when the process ends


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

    listening = bind(address)
    app = web.Application()
    app.add_routes([web.get("/metrics", show)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)  # scrapes would fill the log
    await runner.setup()
    await web.SockSite(runner, listening).start()
    return Listener(int(listening.getsockname()[1]), runner)
