"""Probes and metrics over real HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import Sequence

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.process.http import Check, parse_address, serve_health, serve_metrics, tick_check
from forecasting.errors import UsageError
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


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (":8080", ("", 8080)),
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("[::]:8080", ("::", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("[fe80::1]:65535", ("fe80::1", 65535)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize("address", ["", "8080", ":", ":x", ":65536", ":-1", "::1:80", "host", ":٣", "[::]", ":8 0"])
def test_other_addresses_are_refused_with_examples(address: str) -> None:
    with pytest.raises(UsageError, match=r"expected host:port, such as :8080"):
        parse_address(address)


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except UsageError:
        return
    assert text.strip() in (f"{host}:{text.strip().rpartition(':')[2]}", f"[{host}]:{text.strip().rpartition(':')[2]}")
    assert port == int(text.strip().rpartition(":")[2])
    assert 0 <= port <= 65_535


def probe(live: Sequence[Check], ready: Sequence[Check], path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    async def main() -> tuple[int, str, dict[str, str]]:
        listener = await serve_health("127.0.0.1:0", live, ready)
        try:
            return await get(listener.port, path, **headers)
        finally:
            await listener.stop()

    return asyncio.run(main())


FINE, BROKEN = Check("caches", lambda: None), Check("keda", lambda: "it has ended")


def test_healthy_is_short_and_verbose_lists_the_checks() -> None:
    assert probe([FINE], [], "/healthz")[:2] == (200, "ok\n")
    assert probe([FINE], [], "/healthz?verbose")[:2] == (200, "[+]caches ok\nok\n")
    assert probe([FINE], [BROKEN], "/healthz")[0] == 200


def test_a_failing_check_is_503_and_named() -> None:
    status, text, headers = probe([FINE], [FINE, BROKEN], "/readyz")
    assert (status, text) == (503, "[+]caches ok\n[-]keda: it has ended\nfailing: keda\n")
    assert headers["Cache-Control"] == "no-store"


def test_json_for_those_who_accept_it() -> None:
    status, text, headers = probe([], [FINE, BROKEN], "/readyz", Accept="application/json")
    assert status == 503
    assert headers["Content-Type"].startswith("application/json")
    assert json.loads(text) == {
        "ok": False,
        "checks": [
            {"name": "caches", "ok": True, "problem": None},
            {"name": "keda", "ok": False, "problem": "it has ended"},
        ],
    }


def test_checks_are_asked_anew_each_time() -> None:
    problems: list[str | None] = ["not yet", None]

    async def main() -> list[int]:
        listener = await serve_health("127.0.0.1:0", [], [Check("synced", lambda: problems.pop(0))])
        seen = [(await get(listener.port, "/readyz"))[0] for _ in range(2)]
        await listener.stop()
        return seen

    assert asyncio.run(main()) == [503, 200]


def test_a_loop_that_finishes_no_tick_is_not_alive() -> None:
    now, last = [1000.0], [None]
    check = tick_check(lambda: last[0], lambda: now[0], 30.0)
    now[0] = 1150.0
    assert check.fn() is None
    now[0] = 1151.0
    assert "151 s since the start, no tick has finished" in (check.fn() or "")
    last[0] = 1140.0  # type: ignore[call-overload]
    assert check.fn() is None
    now[0] = 1290.5
    assert "stuck" in (check.fn() or "")
    last[0] = 0.0  # type: ignore[call-overload]
    assert "since the last finished tick" in (check.fn() or "")


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
        metrics, health = await serve_metrics("127.0.0.1:0", Slow()), await serve_health("127.0.0.1:0", [FINE], [])
        scrape = asyncio.create_task(get(metrics.port, "/metrics"))
        assert await asyncio.to_thread(scraping.wait, 5.0)
        assert (await get(health.port, "/healthz"))[0] == 200
        assert not scrape.done()
        go_on.set()
        assert (await scrape)[1] == "done\n"
        await metrics.stop()
        await health.stop()

    asyncio.run(main())


def test_every_address_serves_both_families_and_the_port_is_freed() -> None:
    async def main() -> None:
        listener = await serve_health(":0", [FINE], [])
        assert (await get(listener.port, "/healthz"))[0] == 200
        if socket.has_dualstack_ipv6():
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://[::1]:{listener.port}/healthz") as reply,
            ):
                assert reply.status == 200
        await listener.stop()
        again = await serve_health(f":{listener.port}", [FINE], [])
        assert again.port == listener.port
        await again.stop()

    asyncio.run(main())


@pytest.mark.parametrize("address", ["127.0.0.1:{}", ":{}", "[::]:{}"])
def test_a_taken_port_is_said_in_a_sentence(address: str) -> None:
    async def main() -> None:
        taken = await serve_health(address.format(0), [], [])
        wanted = address.format(taken.port)
        with pytest.raises(UsageError, match=r"cannot listen at .*in use.*; free it or choose another address"):
            await serve_health(wanted, [], [])
        await taken.stop()

    asyncio.run(main())


def test_an_address_of_another_machine_is_said_in_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"cannot listen at 192\.0\.2\.1:8080"):
        asyncio.run(serve_health("192.0.2.1:8080", [], []))
