"""Metrics over real HTTP."""

from __future__ import annotations

import asyncio
import gzip
import threading

import aiohttp

from controller.process.http import serve_metrics
from harmony.metrics import Metrics

ACCEPT_PROMETHEUS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


async def get(port: int, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as reply,
    ):
        body = await reply.read()
        if reply.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        return reply.status, body.decode(), dict(reply.headers)


def test_metrics_in_the_format_that_is_accepted() -> None:
    metrics = Metrics("1.2.3")

    async def main() -> None:
        listener = await serve_metrics("127.0.0.1:0", metrics)
        status, text, headers = await get(listener.port, "/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'harmony_build_info{version="1.2.3"} 1.0' in text
        encoded = {"Accept": ACCEPT_PROMETHEUS, "Accept-Encoding": "gzip"}
        _, text, headers = await get(listener.port, "/metrics", **encoded)
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert headers["Content-Encoding"] == "gzip"
        assert text.endswith("# EOF\n")
        assert (await get(listener.port, "/healthz"))[0] == 404
        await listener.stop()

    asyncio.run(main())


def test_a_slow_scrape_does_not_stop_the_loop() -> None:
    scraping, go_on = threading.Event(), threading.Event()

    class Slow:
        def exposition(self, accept: str = "", accept_encoding: str = "") -> tuple[bytes, dict[str, str]]:
            scraping.set()
            assert go_on.wait(60.0)
            return b"done\n", {"Content-Type": "text/plain"}

    async def main() -> None:
        listener = await serve_metrics("127.0.0.1:0", Slow())
        scrape = asyncio.create_task(get(listener.port, "/metrics"))
        assert await asyncio.to_thread(scraping.wait, 5.0)
        assert (await get(listener.port, "/"))[0] == 404
        assert not scrape.done()
        go_on.set()
        assert (await scrape)[1] == "done\n"
        await listener.stop()

    asyncio.run(main())
