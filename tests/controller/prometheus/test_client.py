"""The client against a real Prometheus, and against one that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from controller.prometheus.answers import parse_answer, refusal
from controller.prometheus.client import Prometheus, PrometheusUnreachable, QueryRefused, Series, Slow
from forecasting.errors import HarmonyError, UsageError
from tests.controller.prometheus.data import END, demand
from tests.counting import calls
from tests.prom.exporter import Exporter
from tests.prom.proxy import Fault, FaultyProxy
from tests.prom.real import RealPrometheus, free_port, need_prometheus


def asked(url: str, ask: Callable[[Prometheus], Awaitable[list[Series]]], **options: object) -> list[Series]:
    async def run() -> list[Series]:
        async with Prometheus(url, **options) as client:  # type: ignore[arg-type]
            return await ask(client)

    return asyncio.run(run())


def test_values_and_times(prom: RealPrometheus) -> None:
    (series,) = asked(prom.url, lambda c: c.query_range("demand", END - 600, END + 30, 60))
    assert series.labels == {"__name__": "demand"}
    assert series.times_s.tolist() == [END - 600 + 60 * i for i in range(11)]
    assert series.values.tolist() == [demand(t) for t in series.times_s]
    (now,) = asked(prom.url, lambda c: c.query("demand", at_s=END))
    assert (now.times_s.tolist(), now.values.tolist()) == ([END], [demand(END)])
    assert len(asked(prom.url, lambda c: c.query("pods", END))) == 3
    (scalar,) = asked(prom.url, lambda c: c.query("scalar(demand) * 0 + 3", at_s=END))
    assert scalar.values.tolist() == [3]


def test_nan_and_infinity_are_absent(prom: RealPrometheus) -> None:
    (series,) = asked(prom.url, lambda c: c.query_range("ratio", END - 3600, END - 3480, 60))
    assert np.isnan(series.values).tolist() == [False, True, True]
    for query in ("1/0", "-1/0", "0/0"):
        (series,) = asked(prom.url, lambda c, q=query: c.query(f"vector({q})"))  # type: ignore[misc]
        assert np.isnan(series.values).all()


def test_a_long_range_comes_in_parts_and_whole(prom: RealPrometheus) -> None:
    parts: list[tuple[int, int]] = []

    async def run() -> tuple[list[Series], int]:
        async with Prometheus(prom.url) as client:
            got = await client.query_range(
                "demand or pods", END - 25_000 * 5, END, 5, on_part=lambda i, n: parts.append((i, n))
            )
            return got, client.requests

    series, requests = asyncio.run(run())
    assert requests == 3
    assert parts == [(1, 3), (2, 3), (3, 3)]
    assert len(series) == 4
    for one in series:
        assert len(one) == 25_001
        assert (np.diff(one.times_s) == 5).all()


def test_a_query_is_refused_in_prometheus_own_words(prom: RealPrometheus) -> None:
    with pytest.raises(QueryRefused, match="parse error"):
        asked(prom.url, lambda c: c.query("sum("))
    with pytest.raises(QueryRefused, match="many-to-many"):
        asked(prom.url, lambda c: c.query("pods * on() pods", END))
    with pytest.raises(QueryRefused, match="gives a string"):
        asked(prom.url, lambda c: c.query('"text"'))


def test_a_request_is_posted_with_its_parameters_token_and_path(prom: RealPrometheus, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")

    async def run() -> list[tuple[str, str, dict[str, str], dict[str, str]]]:
        async with FaultyProxy(prom.url) as proxy:
            options = {"token_file": token, "params": {"tenant": "a&b"}}
            async with Prometheus(f"{proxy.url}/team/prom/?x=1", **options) as client:  # type: ignore[arg-type]
                await client.query("vector(1)")
                token.write_text("second")
                await client.query("vector(1)")
                proxy.fault = "no-post"
                assert len(await client.query("vector(1)")) == 1
                return proxy.seen

    seen = asyncio.run(run())
    assert [s[0] for s in seen] == ["POST", "POST", "POST", "GET"]
    assert {s[1] for s in seen} == {"/team/prom/api/v1/query"}
    assert all(s[2] == {"tenant": "a&b", "x": "1", "query": "vector(1)", "timeout": "10.000"} for s in seen)
    assert [s[3]["Authorization"] for s in seen[:2]] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("500", PrometheusUnreachable, "HTTP 500"),
        ("503", PrometheusUnreachable, "HTTP 503; it may be starting"),
        ("429", PrometheusUnreachable, "fewer queries"),
        ("401", PrometheusUnreachable, "token"),
        ("redirect", PrometheusUnreachable, "redirects"),
        ("hang", Slow, "no answer within 2 s"),
        ("cut", PrometheusUnreachable, "connection broke"),
        ("html", PrometheusUnreachable, "sign in"),
        ("truncate", PrometheusUnreachable, "no answer of Prometheus"),
    ],
)
def test_faults_end_in_errors_that_say_what_to_do(
    prom: RealPrometheus, fault: Fault, error: type[HarmonyError], words: str
) -> None:
    async def run() -> int:
        async with (
            FaultyProxy(prom.url) as proxy,
            Prometheus(proxy.url, timeout_s=2.0 if fault == "hang" else 60.0) as client,
        ):
            proxy.fault = fault
            with pytest.raises(error, match=words) as caught:
                await client.query("vector(1)")
            assert "\n" not in str(caught.value)
            asked_for = len(proxy.seen)
            proxy.fault = "pass"
            assert len(await client.query("vector(1)")) == 1  # and all is well afterwards
            return asked_for

    assert asyncio.run(run()) == (2 if fault in ("503", "cut") else 1)


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_a_passing_fault_is_not_noticed(prom: RealPrometheus, fault: Fault) -> None:
    async def run() -> list[Series]:
        async with FaultyProxy(prom.url) as proxy, Prometheus(proxy.url) as client:
            proxy.next.append(fault)
            return await client.query("vector(1)")

    assert asyncio.run(run())[0].values.tolist() == [1]


def test_nobody_there_and_no_such_host() -> None:
    with pytest.raises(PrometheusUnreachable, match="is Prometheus running"):
        asked(f"http://127.0.0.1:{free_port()}", lambda c: c.query("1"))
    with pytest.raises(PrometheusUnreachable, match="host not found"):
        asked("http://prometheus.invalid:9090", lambda c: c.query("1"))


def test_token_files_that_cannot_be_used(tmp_path: Path) -> None:
    for content, words in ((None, "cannot be read"), (b"", "one line"), (b"a\nb", "one line"), (b"\xff", "plain text")):
        path = tmp_path / "token"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(PrometheusUnreachable, match=words):
            asked("http://127.0.0.1:9", lambda c: c.query("1"), token_file=path)


@pytest.mark.parametrize("url", ["", "prometheus:9090", "ftp://x", "http://", "http://x/#y", "http://[x"])
def test_addresses_that_cannot_be_used(url: str) -> None:
    with pytest.raises(UsageError, match="no address of Prometheus"):
        Prometheus(url)


def test_options_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for options, words in (
        ({"ca_file": tmp_path / "ca.pem"}, "PEM"),
        ({"ca_file": tmp_path / "none.pem"}, "PEM"),
        ({"timeout_s": 0.0}, "positive"),
        ({"concurrency": 0}, "at least 1"),
        ({"points_per_request": 11_001}, "points"),
    ):
        with pytest.raises(UsageError, match=words):
            Prometheus("http://x", **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not both"):
        Prometheus("http://me:secret@x", token_file="t")


def test_a_password_in_the_address_is_sent_but_never_shown(prom: RealPrometheus) -> None:
    async def run() -> str:
        async with FaultyProxy(prom.url) as proxy, Prometheus(proxy.url.replace("//", "//me:secret@")) as client:
            await client.query("vector(1)")
            assert "secret" not in client.url
            return proxy.seen[0][3]["Authorization"]

    assert asyncio.run(run()) == "Basic " + base64.b64encode(b"me:secret").decode()
    url = f"http://me:secret@127.0.0.1:{free_port()}"
    with pytest.raises(PrometheusUnreachable) as caught:
        asked(url, lambda c: c.query("1"))
    assert "secret" not in str(caught.value)


def test_tls_is_checked_against_the_given_bundle(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)

    async def run() -> None:
        async def answer(_: web.Request) -> web.Response:
            return web.json_response({"status": "success", "data": {"resultType": "scalar", "result": [1, "4"]}})

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with Prometheus(url, ca_file=cert) as client:
                assert (await client.query("4"))[0].values.tolist() == [4]
            async with Prometheus(url) as client:
                with pytest.raises(PrometheusUnreachable, match="TLS fails"):
                    await client.query("4")
        finally:
            await runner.cleanup()

    asyncio.run(run())


def test_no_more_requests_at_a_time_than_allowed(prom: RealPrometheus) -> None:
    async def run() -> int:
        most = present = 0
        async with Prometheus(prom.url, concurrency=3) as client:
            once = client._once

            async def counted(path: str, form: dict[str, str]) -> object:
                nonlocal most, present
                present += 1
                most = max(most, present)
                try:
                    return await once(path, form)
                finally:
                    present -= 1

            client._once = counted  # type: ignore[method-assign, assignment]
            await asyncio.gather(*(client.query("demand", END) for _ in range(20)))
        return most

    assert asyncio.run(run()) == 3


def test_the_clock_is_prometheus_own_and_carried_on(prom: RealPrometheus) -> None:
    ours = [1000.0]

    async def run() -> None:
        async with FaultyProxy(prom.url) as proxy:
            client = Prometheus(proxy.url, monotonic=lambda: ours[0])
            first = await client.now_s()
            assert abs(first - time.time()) < 30  # noqa: TID251 - both run on this machine
            ours[0] += 45
            assert await client.now_s() == pytest.approx(first + 45)
            assert len(proxy.seen) == 1
            ours[0] += 100
            proxy.fault = "500"
            assert await client.now_s() == pytest.approx(first + 145)  # carried on while nobody answers
            proxy.fault = "pass"
            assert abs(await client.now_s() - first) < 30  # heard again: what it says counts
            await client.close()
            deaf = Prometheus(f"http://127.0.0.1:{free_port()}")
            with pytest.raises(PrometheusUnreachable):
                await deaf.now_s()
            await deaf.close()

    asyncio.run(run())


def test_warnings_are_kept_beside_the_query() -> None:
    answer = {
        "status": "success",
        "data": {"resultType": "vector", "result": []},
        "warnings": ["one store was unreachable"],
        "infos": ["metric might not be a counter"],
    }
    assert parse_answer(json.dumps(answer).encode(), "x").notes == (
        "one store was unreachable",
        "metric might not be a counter",
    )


def test_a_query_that_prometheus_gives_up_on_is_slow_not_unreachable() -> None:
    body = b'{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}'
    error = refusal(503, body, "x", 10.0)
    assert isinstance(error, Slow)
    assert "query timed out" in str(error)
    assert isinstance(refusal(404, b"404 page not found", "x", 10.0), PrometheusUnreachable)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"resultType": "vector", "result": [{"metric": {}, "histogram": [1, {}]}]}, "histogram_quantile"),
        ({"resultType": "string", "result": [1, "x"]}, "gives a string"),
    ],
)
def test_results_that_are_no_numbers(data: object, words: str) -> None:
    with pytest.raises(QueryRefused, match=words):
        parse_answer(json.dumps({"status": "success", "data": data}).encode(), "x")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"status":"success"}',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"many"]]}]}}',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1e999,"1"]]}]}}',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1]]}]}}',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":[],"values":[]}]}}',
        b'{"status":"success","data":{"resultType":"vector","result":"x"}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_damaged_answers(body: bytes) -> None:
    with pytest.raises(PrometheusUnreachable):
        parse_answer(body, "x")


def test_eleven_thousand_points_are_read_together() -> None:
    def read(points: int) -> int:
        values = [[1_760_000_000 + 60 * i, f"{i * 1.37:.9f}"] for i in range(points)]
        answer = {"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": values}]}}
        body = json.dumps(answer).encode()
        (series,) = parse_answer(body, "x").series
        assert len(series) == points
        return calls(lambda: parse_answer(body, "x"))

    assert read(11_000) <= 1.5 * read(11)


@pytest.mark.prometheus
def test_killed_paused_and_back(tmp_path: Path) -> None:
    need_prometheus()
    with Exporter() as exporter, RealPrometheus(tmp_path / "p", targets={"job": exporter.address}) as real:
        exporter.set({"rps": 3})

        async def run() -> None:
            async with Prometheus(real.url, timeout_s=20.0) as client, Prometheus(real.url, timeout_s=1.0) as hasty:
                deadline = time.monotonic() + 60
                while not await client.query("rps"):
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.1)
                real.pause()
                with pytest.raises(Slow):
                    await hasty.query("rps")
                real.resume()
                assert len(await client.query("up")) == 1
                real.kill()
                with pytest.raises(PrometheusUnreachable):
                    await client.query("rps")
                await asyncio.to_thread(real.start)
                assert len(await client.query("vector(1)")) == 1

        asyncio.run(run())
