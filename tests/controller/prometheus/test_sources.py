"""One connection pool per Prometheus, and credentials that only ever go to the controller's own."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest
from aiohttp import web

from controller.process.settings import PrometheusSettings
from controller.prometheus.sources import Sources
from controller.resource.parsing import parse_autoscaler
from forecasting.errors import UsageError
from tests.controller.e2e.world import autoscaler

OWN, OTHER = "http://own:9090", "http://other:9090"


def sources(**settings: object) -> Sources:
    return Sources(PrometheusSettings(**settings), time.monotonic)  # type: ignore[arg-type]


def test_services_share_a_client_per_address() -> None:
    made = sources(url=OWN)
    assert made.prometheus() is made.prometheus(OWN)
    assert made.prometheus(OTHER) is made.prometheus(OTHER)
    assert made.prometheus(OTHER) is not made.prometheus()


def test_no_address_at_all_says_what_to_set() -> None:
    with pytest.raises(UsageError, match=r"spec\.prometheus\.url.*--prometheus-url"):
        sources().prometheus()


def test_a_feed_reads_what_the_object_asks_for() -> None:
    made = sources(url=OWN)
    settings = parse_autoscaler({**autoscaler(), "metadata": {**autoscaler()["metadata"], "uid": "u"}})
    feed = made.feed(settings)
    assert [i.name for i in feed.history.indicators] == ["running"]
    assert feed.history.step_s == settings.step_s
    assert feed.prometheus is made.prometheus()
    elsewhere = made.feed(dataclasses.replace(settings, prometheus_url=OTHER))
    assert elsewhere.prometheus.url == OTHER


def test_credentials_and_parameters_stay_at_home(tmp_path: Path) -> None:
    """An object may name any server; what that server gets to see is checked on the wire."""
    token = tmp_path / "token"
    token.write_text("secret\n")

    async def whole() -> list[tuple[str, str, str]]:
        seen: list[tuple[str, str, str]] = []

        async def answer(request: web.Request) -> web.Response:
            seen.append((request.path, request.headers.get("Authorization", ""), request.query.get("tenant", "")))
            data = {"resultType": "scalar", "result": [1.0, "1"]}
            return web.json_response({"status": "success", "data": data})

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        made = sources(url=f"{url}/own", token_file=str(token), params=(("tenant", "a"),))
        try:
            await made.prometheus().query("1")
            await made.prometheus(f"{url}/own/").query("1")
            await made.prometheus(f"{url}/other").query("1")
        finally:
            await made.close()
            await runner.cleanup()
        return seen

    assert asyncio.run(whole()) == [
        ("/own/api/v1/query", "Bearer secret", "a"),
        ("/own/api/v1/query", "Bearer secret", "a"),
        ("/other/api/v1/query", "", ""),
    ]
