"""Ways into a Prometheus of a company: tenants' headers, mutual TLS with renewed certificates, proxies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controller.process.settings import PrometheusSettings
from controller.prometheus.client import Prometheus
from controller.prometheus.errors import PrometheusUnreachable
from controller.prometheus.sources import Sources
from forecasting.errors import UsageError

ANSWER = {"status": "success", "data": {"resultType": "scalar", "result": [1, "4"]}}


@contextlib.asynccontextmanager
async def server(
    seen: list[web.Request], context: ssl.SSLContext | None = None, status: Any = lambda _: 200
) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        return web.json_response(ANSWER, status=status(request))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


# ---- headers ------------------------------------------------------------------------------------------------
def test_headers_are_sent_and_those_of_files_follow_them(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("first\n")
    seen: list[web.Request] = []

    async def run() -> None:
        async with server(seen, status=lambda r: 200 if r.headers.get("X-Scope-OrgID") == "team-a|b" else 401) as url:
            headers = [("X-Scope-OrgID", "team-a|b"), ("X-Api-Key", f"@{key}"), ("Authorization", "Basic eA==")]
            async with Prometheus(url, headers=headers) as client:
                await client.query("1")
                key.write_text("second")
                await client.query("1")
            async with Prometheus(url, headers={"X-Scope-OrgID": "other"}) as client:
                with pytest.raises(PrometheusUnreachable, match="denies access"):
                    await client.query("1")

    asyncio.run(run())
    assert [r.headers["X-Api-Key"] for r in seen[:2]] == ["first", "second"]
    assert {r.headers["Authorization"] for r in seen[:2]} == {"Basic eA=="}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"headers": [("X Scope", "a")]}, "'X Scope' is no header"),
        ({"headers": [("Host", "a")]}, "'Host' is no header"),
        ({"headers": [("X-A", "a\r\nX-B: c")]}, "header X-A: expected one line"),
        ({"headers": [("X-A", "")]}, "header X-A: expected one line"),
        ({"headers": {"authorization": "x"}, "token_file": "t"}, "or an Authorization header, not both"),
        ({"key_file": "k"}, "a client key for Prometheus without a certificate"),
        ({"cert_file": "/nowhere/c"}, "client certificate /nowhere/c: cannot be used"),
        ({"proxy": "proxy:3128"}, "no address of a proxy; expected one such as http"),
        ({"proxy": "socks5://proxy"}, "no address of a proxy"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Prometheus("http://x", **options)


def test_a_header_file_that_is_not_there_is_an_outage_that_says_so() -> None:
    async def run() -> None:
        async with Prometheus("http://127.0.0.1:9", headers={"X-Key": "@/nowhere/key"}) as client:
            with pytest.raises(PrometheusUnreachable, match="header file /nowhere/key: cannot be read"):
                await client.query("1")

    asyncio.run(run())


def test_headers_and_proxy_stay_with_the_controllers_own_prometheus() -> None:
    seen: list[web.Request] = []

    async def run() -> None:
        async with server(seen) as url:
            settings = PrometheusSettings(f"{url}/own", headers=(("X-Scope-OrgID", "a"),))
            made = Sources(settings, time.monotonic)
            await made.prometheus().query("1")
            await made.prometheus(f"{url}/other").query("1")
            await made.close()

    asyncio.run(run())
    assert [(r.path.split("/")[1], r.headers.get("X-Scope-OrgID")) for r in seen] == [("own", "a"), ("other", None)]


# ---- mutual TLS ---------------------------------------------------------------------------------------------
def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


def authority(folder: Path, name: str) -> None:
    openssl(
        "req",
        "-x509",
        *CURVE,
        "-subj",
        f"/CN={name}",
        "-keyout",
        folder / f"{name}.key",
        "-out",
        folder / f"{name}.pem",
    )


def issue(folder: Path, by: str, name: str, subject: str, key: Path, cert: Path) -> None:
    openssl(
        "req", "-x509", *CURVE, "-subj", f"/CN={subject}", "-addext", "subjectAltName=IP:127.0.0.1",
        "-CA", folder / f"{by}.pem", "-CAkey", folder / f"{by}.key", "-keyout", folder / f"{name}.key",
        "-out", folder / f"{name}.pem",
    )  # fmt: skip
    key.write_bytes((folder / f"{name}.key").read_bytes())
    cert.write_bytes((folder / f"{name}.pem").read_bytes())
    for file in (key, cert):  # two renewals within a clock tick are still two
        at = time.time_ns()
        os.utime(file, ns=(at, at))


def test_a_client_certificate_is_shown_and_a_renewed_one_taken_up(tmp_path: Path) -> None:
    authority(tmp_path, "ca")
    key, cert = tmp_path / "tls.key", tmp_path / "tls.crt"
    served_key, served = tmp_path / "served.key", tmp_path / "served.crt"
    issue(tmp_path, "ca", "server", "prometheus", served_key, served)
    issue(tmp_path, "ca", "one", "harmony-1", key, cert)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(served, served_key)
    context.verify_mode = ssl.CERT_REQUIRED
    names: list[str] = []

    def who(request: web.Request) -> int:
        assert request.transport is not None
        shown = request.transport.get_extra_info("peercert")
        names.append(dict(part[0] for part in shown["subject"])["commonName"])
        return 200

    async def run() -> None:
        async with server([], context, who) as url:
            ca = tmp_path / "ca.pem"
            async with Prometheus(url, ca_file=ca) as client:
                with pytest.raises(PrometheusUnreachable):
                    await client.query("4")
            async with Prometheus(url, ca_file=ca, cert_file=cert, key_file=key) as client:
                await client.query("4")
                issue(tmp_path, "ca", "two", "harmony-2", key, cert)
                await client.query("4")
                good = cert.read_bytes()
                cert.write_text("half a certif")
                await client.query("4")  # what was good stays until the new one is whole
                cert.write_bytes(good)
                await client.query("4")
            both = tmp_path / "both.pem"
            both.write_bytes(cert.read_bytes() + key.read_bytes())
            async with Prometheus(url, ca_file=ca, cert_file=both) as client:
                await client.query("4")

    asyncio.run(run())
    assert names == ["harmony-1", *["harmony-2"] * 4]


# ---- proxies ------------------------------------------------------------------------------------------------
def test_requests_go_through_the_proxy() -> None:
    seen: list[web.Request] = []

    async def run() -> None:
        async with (
            server(seen) as proxy,
            Prometheus("http://prometheus.invalid:9090/p", proxy=proxy, headers={"X-Scope-OrgID": "a"}) as client,
        ):
            assert (await client.query("4"))[0].values.tolist() == [4]
        async with Prometheus("http://prometheus.invalid", proxy="http://127.0.0.1:9") as client:
            with pytest.raises(PrometheusUnreachable, match=r"proxy http://127\.0\.0\.1:9"):
                await client.query("4")

    asyncio.run(run())
    (request,) = seen
    assert (request.headers["Host"], request.path) == ("prometheus.invalid:9090", "/p/api/v1/query")
