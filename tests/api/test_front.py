"""The process at the door of the API's port: real server, real process, real connections."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import string
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from harmony.api.app import create_app
from harmony.api.connections import MOST_CONNECTIONS
from harmony.api.gate import HEALTH
from harmony.api.server import Door
from harmony.api.state import ApiSettings, ApiState
from harmony.app import porter
from harmony.app.front import Front, asked, spelled
from harmony.serving import Hub
from tests.api.serving import Beside, eventually, serving

PATIENCE_S = 60.0


@dataclass
class World:
    """A server behind a front, and what its loop is kept from doing."""

    url: str
    front: Front
    app: FastAPI
    problem: list[str]
    go: threading.Event = field(default_factory=threading.Event)
    blocked: threading.Event = field(default_factory=threading.Event)

    @property
    def at(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80


@contextlib.contextmanager
def world(silent_s: float = PATIENCE_S, hosts: frozenset[str] = frozenset()) -> Iterator[World]:
    problem = [""]
    settings = ApiSettings(is_open=True, hosts=hosts, rate=1e6, burst=1e6)
    app = create_app(ApiState(hub=Hub(), settings=settings, health=lambda: problem[0]))
    made: list[Front] = []

    def door(listening: socket.socket) -> tuple[Beside, Door]:
        made.append(Front(listening, silent_s))
        return functools.partial(made[0].speak, app, hosts), made[0]

    with serving(app, door) as url:
        found = World(url, made[0], app, problem)

        async def block() -> Response:  # on the event loop: nothing moves meanwhile
            found.blocked.set()
            found.go.wait(PATIENCE_S)
            return JSONResponse("over")

        app.add_api_route("/block", block)
        eventually(lambda: "date" in httpx.get(url + "/healthz").headers)
        try:
            yield found
        finally:
            found.go.set()


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """One for all who leave it as it was."""
    with world() as found:
        yield found


@contextlib.contextmanager
def hanging(found: World) -> Iterator[None]:
    """The server's event loop does nothing; what asked for that is answered in the end."""
    answers: list[int] = []

    def ask() -> None:
        answers.append(httpx.get(found.url + "/block", timeout=PATIENCE_S).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert found.blocked.wait(PATIENCE_S)
        yield
    finally:
        found.go.set()
        thread.join()
    assert answers == [200]


def request(path: str = "/healthz", *headers: str, host: str = "localhost", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


def raw(found: World, *sent: bytes) -> bytes:
    """All that comes back on one connection until it closes."""
    with socket.create_connection(found.at, timeout=PATIENCE_S) as link:
        for part in sent:
            link.sendall(part)
        link.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: link.recv(65_536), b""))


def test_health_is_answered_while_the_servers_loop_does_nothing() -> None:
    with world() as found:
        usual = {path: httpx.get(found.url + path) for path in sorted(HEALTH)}
        with hanging(found):
            for path, before in usual.items():
                now = httpx.get(found.url + path, timeout=PATIENCE_S)
                assert (now.status_code, now.json()) == (200, before.json())
                assert before.json()["status"] == "ok"
            with httpx.Client(base_url=found.url, timeout=PATIENCE_S) as client:  # again and again on one connection
                assert {client.get("/readyz").status_code for _ in range(20)} == {200}
            assert raw(found, request() * 3).count(b"HTTP/1.1 200 OK") == 3
        assert httpx.get(found.url + "/api/v1/services").status_code == 200


def test_it_is_the_servers_own_answer() -> None:
    """Status, headers and body, whether the one or the other answers: a query leaves it to the server."""
    with world() as found:
        for problem, status in (("", 200), ("the loop has shown nothing for 99 s", 503)):
            found.problem[0] = problem
            assert eventually(lambda s=status: httpx.get(found.url + "/healthz").status_code == s)
            for path in sorted(HEALTH):
                ours, theirs = httpx.get(found.url + path), httpx.get(f"{found.url}{path}?all")
                assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
                assert ours.json()["problem"] == problem
                assert set(ours.headers) == set(theirs.headers)
                assert all(ours.headers[k] == v for k, v in theirs.headers.items() if k != "date")


def test_a_loop_that_hangs_is_said_and_so_is_its_end() -> None:
    with world(silent_s=1.0) as found:
        with hanging(found):
            assert eventually(lambda: httpx.get(found.url + "/healthz", timeout=PATIENCE_S).status_code == 503)
            said = httpx.get(found.url + "/readyz", timeout=PATIENCE_S)
            assert said.json()["problem"] == "the server hangs: it was not heard for 1 s"
            assert said.json()["status"] == "failing"
        assert eventually(lambda: httpx.get(found.url + "/healthz").status_code == 200)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(method="HEAD"), b"405"),
        (request(method="POST"), b"405"),
        (request("/healthz?x"), b"200"),
        (request("/healthz", "X-Forwarded-Proto: https"), b"200"),
        (request("/healthz", "Content-Length: 2") + b"ab", b"200"),
        (request("/healthz", "Host: other"), b"400"),
        (request("/healthz", "Nonsense"), b"400"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"200"),
        (b"\x16\x03\x01\x02\x00", b"400"),
        (request("/nowhere"), b"404"),
    ],
)
def test_everything_else_is_the_servers(shared: World, sent: bytes, status: bytes) -> None:
    assert raw(shared, sent).split(b" ")[1] == status
    alone = raw(shared, sent[:5], sent[5:])
    assert alone.split(b" ")[1] == status, "in two pieces"
    both = raw(shared, request() + sent)
    assert both.startswith(b"HTTP/1.1 200")
    assert both.split(b"HTTP/1.1 ")[2].startswith(status), "after health on the same connection"


def test_tls_before_us_and_foreign_hosts_are_told_as_ever() -> None:
    with world(hosts=frozenset({"localhost", "127.0.0.1"})) as found:
        assert b"strict-transport-security" in raw(found, request("/healthz", "X-Forwarded-Proto: https"))
        assert b"strict-transport-security" not in raw(found, request())
        assert raw(found, request(host="evil.example")).startswith(b"HTTP/1.1 421")
        with hanging(found):
            for host in ("localhost", "LOCALHOST:80", "127.0.0.1:1"):
                assert raw(found, request(host=host)).startswith(b"HTTP/1.1 200")


def test_addresses_bodies_and_streams_pass_the_door(shared: World) -> None:
    """Who asks is known by address, whatever its size a body arrives, and answers are not cut."""

    async def who(request: Request) -> Response:
        return JSONResponse(request.client)

    shared.app.add_api_route("/who", who)
    with socket.create_connection(shared.at, PATIENCE_S) as link:
        link.sendall(request("/who", "Connection: close"))
        assert json.loads(b"".join(iter(lambda: link.recv(65_536), b"")).partition(b"\r\n\r\n")[2]) == list(
            link.getsockname()
        )
    body = b'{"a": "' + b"x" * 500_000 + b'"}'
    answer = httpx.post(shared.url + "/api/v1/forecast", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (404, 422, 503), "it was read, and is no history"
    with httpx.stream("GET", shared.url + "/api/v1/events?seconds=0.2", timeout=PATIENCE_S) as events:
        assert b"event: fleet" in b"".join(events.iter_raw())


def test_who_says_nothing_keeps_nobody_out_and_ends() -> None:
    with world() as found, contextlib.ExitStack() as stack:
        links = [
            stack.enter_context(socket.create_connection(found.at, PATIENCE_S)) for _ in range(porter.MOST_CLIENTS + 50)
        ]
        assert httpx.get(found.url + "/healthz", timeout=PATIENCE_S).status_code == 200
        assert httpx.get(found.url + "/api/v1/services", timeout=PATIENCE_S).status_code == 200
        assert links[0].recv(1) == b"", "the oldest had to go"
        links[-1].sendall(request())
        assert links[-1].recv(65_536).startswith(b"HTTP/1.1 200")


def test_connections_that_break_or_never_read_harm_nobody() -> None:
    with world() as found, contextlib.ExitStack() as stack:
        first = found.front.pid
        for sent in (b"", request()[:7], request(), request() * 50, request("/api/v1/services"), b"\x00" * 9000) * 10:
            link = socket.create_connection(found.at, PATIENCE_S)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with a reset
            link.sendall(sent)
            link.close()
        greedy = stack.enter_context(socket.create_connection(found.at, PATIENCE_S))
        greedy.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            for _ in range(20_000):  # some megabytes, of which no answer is read
                greedy.sendall(request() * 50)
        assert httpx.get(found.url + "/readyz", timeout=PATIENCE_S).status_code == 200
        assert httpx.get(found.url + "/api/v1/services", timeout=PATIENCE_S).status_code == 200
        assert found.front.pid == first


def test_many_at_once_while_the_loop_does_nothing_are_all_answered() -> None:
    """More than fit on their way: they wait at the door, and health is answered meanwhile."""
    count = MOST_CONNECTIONS - 200
    with world() as found, contextlib.ExitStack() as stack:
        with hanging(found):
            links = []
            for _ in range(count):
                links.append(stack.enter_context(socket.create_connection(found.at, PATIENCE_S)))
                links[-1].sendall(request("/api/v1/services", "Connection: close"))
            assert httpx.get(found.url + "/healthz", timeout=PATIENCE_S).status_code == 200
        answers = [link.recv(65_536) for link in links]
        served = [answer for answer in answers if answer.startswith(b"HTTP/1.1 200")]
        later = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503") and b"retry-after" in answer]
        assert len(served) + len(later) == count
        assert len(served) >= ApiSettings().concurrency


def test_the_process_begins_again_and_ends_with_the_server() -> None:
    with world() as found:
        first = found.front.pid
        assert first is not None
        assert "torch" not in Path(f"/proc/{first}/maps").read_text()
        os.kill(first, signal.SIGTERM)  # a whole group is told to end: that is its parent's matter
        assert httpx.get(found.url + "/healthz").status_code == 200
        os.kill(first, signal.SIGKILL)
        assert eventually(lambda: found.front.pid != first)
        assert httpx.get(found.url + "/healthz", timeout=PATIENCE_S).status_code == 200
        assert httpx.get(found.url + "/api/v1/services", timeout=PATIENCE_S).status_code == 200
        second, at = found.front.pid, found.at
    assert second is not None
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)
    socket.create_server(at).close()  # the port is free


def test_what_is_said_is_as_old_as_it_says() -> None:
    said = porter.Said(10.0)
    assert said.answer(request(), 0.0) is None, "nothing was said yet: the server answers"
    answers = {"/healthz": spelled(200, [(b"content-type", b"text/plain")], b"fine")}
    silent = {"/healthz": spelled(503, [(b"content-type", b"text/plain")], b"hangs")}
    line = json.dumps({"at_s": 100.0, "hosts": [], "answers": answers, "silent": silent})
    said.hear(line.encode())
    for now_s, status, body in ((100.0, b"200", b"fine"), (110.0, b"200", b"fine"), (111.0, b"503", b"hangs")):
        found = said.answer(request(), now_s)
        assert found is not None
        length, response, stays = found
        assert (length, stays) == (len(request()), True)
        head, _, told = response.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == status
        assert told == body
        assert f"content-length: {len(body)}".encode() in head


PIECES = st.sampled_from([
    b"GET /healthz HTTP/1.1\r\n", b"GET ", b"get ", b"/healthz", b"/healthz ", b" ", b"HTTP/1.1", b"HTTP/1.0", b"\r\n",
    b"\n", b"\r", b"Host: a", b"Host:a\r\n", b"Connection: close", b"Connection: upgrade", b"Content-Length: 3",
    b"Transfer-Encoding: chunked", b":", b"\x00", b"\xff", b"x", b"\r\n\r\n",
])  # fmt: skip


@given(st.lists(PIECES, max_size=14).map(b"".join) | st.binary(max_size=80))
def test_only_a_plain_request_is_answered_at_the_door(sent: bytes) -> None:
    """Whatever is answered there is one whole request, and nothing of what follows is taken."""
    said = porter.Said(10.0)
    said.hear(
        json.dumps(
            {"at_s": 0.0, "hosts": [], "answers": {"/healthz": "HTTP/1.1 200 OK\r\n\r\n"}, "silent": {}}
        ).encode()
    )
    found = said.answer(sent, 0.0)
    if found is None:
        return
    length, _, _ = found
    head = sent[:length]
    assert head.endswith(b"\r\n\r\n")
    assert head.startswith(b"GET /healthz HTTP/1.1\r\n")
    lines = head[:-4].split(b"\r\n")[1:]
    names = [line.partition(b":")[0].lower() for line in lines]
    assert names.count(b"host") == 1
    assert len(set(names)) == len(names)
    assert not set(names) & porter.SERVERS_OWN
    assert all(chr(c) in string.ascii_lowercase + string.digits + "-_" for name in names for c in name)


def test_an_answer_is_read_from_the_application_itself() -> None:
    settings = ApiSettings(is_open=True, hosts=frozenset({"harmony.example"}))
    app = create_app(ApiState(hub=Hub(), settings=settings))
    status, headers, body = asyncio.run(asked(app, "/readyz", "harmony.example"))
    assert (status, json.loads(body)["status"]) == (200, "ok")
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
    assert asyncio.run(asked(app, "/readyz", "another.example"))[0] == 421
