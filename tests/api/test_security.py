"""What strangers try: keys, sizes, depths, names, headers, origins, time; and that no secret is written anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import inspect
import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from controller.process.logs import JsonFormatter
from forecasting.errors import HarmonyError
from harmony.api import connections
from harmony.api import keys as api_keys
from harmony.api.app import create_app
from harmony.api.bodies import json_depth
from harmony.api.keys import hash_secret, new_key, parse_key, verify
from harmony.api.limits import MOST, Buckets, counted_as
from harmony.api.ports import TokenUser
from harmony.api.roles import Role
from harmony.api.state import ApiSettings, ApiState
from harmony.journal.stored import ApiKey
from harmony.serving import Hub
from tests.api.conftest import GENEROUS, World, make_state
from tests.api.memory import MemoryJournal
from tests.api.serving import eventually, key_for, serving

Lived = tuple[Hub, MemoryJournal]


@contextmanager
def api(
    lived: Lived, settings: ApiSettings = GENEROUS, **ports: object
) -> Iterator[tuple[httpx.Client, ApiState, FastAPI]]:
    """Another server over the same services with a journal of its own; the client has an admin's key."""
    journal = MemoryJournal()
    state = dataclasses.replace(make_state(lived[0], journal, settings), **ports)  # type: ignore[arg-type]
    app = create_app(state)
    with serving(app) as url:
        key = key_for(journal, "admin")
        with httpx.Client(base_url=url, headers={"x-api-key": key}, timeout=30) as client:
            yield client, state, app


def raw(url: str, text: bytes) -> bytes:
    """What a server answers to these very bytes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as link:
        with contextlib.suppress(OSError):  # it may have answered and closed before all was sent
            link.sendall(text)
        out = b""
        while not _complete(out) and (part := link.recv(65536)):
            out += part
    return out


def _complete(answer: bytes) -> bool:
    """Whether an answer is there with all that its length says."""
    head, ended, body = answer.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head.lower())
    return bool(ended) and found is not None and len(body) >= int(found[1])


# ---- keys -------------------------------------------------------------------------------------------------------
def test_key_is_256_random_bits_and_only_its_keyed_hash_is_kept() -> None:
    one, other = new_key(), new_key()
    assert parse_key(one.text) == (one.id, one.text.rpartition("_")[2])
    assert len(bytes.fromhex(one.text.rpartition("_")[2])) == 32
    secret = one.text.rpartition("_")[2]
    assert secret not in one.secret_hash
    assert hash_secret(one.id, secret) == one.secret_hash != hash_secret(other.id, secret)
    assert one.secret_hash != hashlib.blake2b(secret.encode(), digest_size=32).hexdigest()


def test_wrong_and_unknown_keys_cost_the_same_hash_and_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same calls whatever is wrong; nothing returns before them."""
    calls: list[str] = []
    real_hash, real_compare = api_keys.hash_secret, api_keys.hmac.compare_digest
    monkeypatch.setattr(api_keys, "hash_secret", lambda *a: (calls.append("hash"), real_hash(*a))[1])
    monkeypatch.setattr(api_keys.hmac, "compare_digest", lambda *a: (calls.append("compare"), real_compare(*a))[1])
    good = new_key()
    record = ApiKey(good.id, "x", "read", good.secret_hash, 0.0)
    cases = {
        good.text: (record, True),
        good.text[:-1] + ("0" if good.text[-1] != "0" else "1"): (record, False),
        new_key().text: (None, False),
        "hk_short": (None, False),
        "": (None, False),
    }
    calls.clear()
    for text, (known, expected) in cases.items():
        assert verify(text, known, 1.0) is expected
        assert calls == ["hash", "compare"], text
        calls.clear()
    assert not verify(good.text, dataclasses.replace(record, revoked_s=0.5), 1.0)
    assert not verify(good.text, dataclasses.replace(record, expires_s=1.0), 1.0)
    assert verify(good.text, dataclasses.replace(record, expires_s=1.1), 1.0)
    assert "==" not in inspect.getsource(verify).replace("record.id == key_id", "")


def test_wrong_credentials_are_401_wherever_they_are_sent_and_never_reach_the_database(world: World) -> None:
    wrong = new_key().text
    good = world.keys["read"]
    before = world.journal.key_reads
    with httpx.Client(base_url=world.url, timeout=60) as client:
        for headers in (
            {"x-api-key": wrong},
            {"authorization": f"Bearer {wrong}"},
            {"authorization": f"bearer {good}x"},
            {"authorization": f"Basic {good}"},
            {"authorization": "Bearer"},
            {"authorization": good},
            {"cookie": f"harmony_key={wrong}"},
            {"x-api-key": good.upper()},
            {"x-api-key": f"{good}\x00".replace("\x00", "%00")},
            {"x-forwarded-user": "admin", "x-remote-user": "admin"},
        ):
            for path in ("/api/v1/services", "/api/v1/nothing", "/", "/api/v1/openapi.json", "/docs", "/metrics"):
                response = client.get(path, headers=headers)
                assert response.status_code == 401, (path, headers)
                assert response.headers["www-authenticate"] == 'Bearer realm="harmony"'
        assert client.get("/api/v1/me", headers={"authorization": f"bearer {good}"}).status_code == 200
        assert client.get("/api/v1/me", headers={"cookie": f"a=b; harmony_key={good}"}).status_code == 200
        two = client.get("/api/v1/me", headers={"x-api-key": good, "authorization": f"Bearer {wrong}"})
        assert two.json()["type"] == "urn:harmony:problem:bad-request"
    assert world.journal.key_reads - before < 10  # every five seconds, not with every request


def test_guesses_are_slowed_down_but_nobody_else_is_locked_out(lived: Lived) -> None:
    settings = dataclasses.replace(GENEROUS, failed_rate=0.1, failed_burst=5)
    with api(lived, settings) as (client, _, _):
        url = str(client.base_url)
        answers = [httpx.get(f"{url}/api/v1/me", headers={"x-api-key": new_key().text}, timeout=60) for _ in range(8)]
        assert [a.status_code for a in answers] == [401] * 5 + [429] * 3
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert client.get("/api/v1/me").status_code == 200


# ---- tokens -----------------------------------------------------------------------------------------------------
def test_kubernetes_tokens_get_the_highest_role_of_their_groups_and_are_reviewed_once_a_minute(lived: Lived) -> None:
    asked: list[str] = []
    now = [0.0]
    users = {"dev": TokenUser("ann", ("devs", "ops")), "none": TokenUser("bob", ("others",))}

    async def review(token: str) -> TokenUser | None:
        asked.append(token)
        if token == "broken":
            raise HarmonyError("cannot reach https://10.0.0.1: secret")
        return users.get(token)

    settings = dataclasses.replace(GENEROUS, groups={"devs": Role.READ, "ops": Role.OPERATE})
    with api(lived, settings, token_review=review, monotonic_s=lambda: now[0]) as (client, _, _):
        url = str(client.base_url)

        def me(token: str) -> httpx.Response:
            return httpx.get(f"{url}/api/v1/me", headers={"authorization": f"Bearer {token}"}, timeout=60)

        assert [me("dev").json()[k] for k in ("id", "role", "method")] == ["user:ann", "operate", "token"]
        assert me("dev").status_code == 200
        assert asked == ["dev"]
        now[0] = 61.0
        users["dev"] = TokenUser("ann", ())
        assert me("dev").status_code == 403  # a good token, but no group of it has a role any more
        assert asked == ["dev", "dev"]
        assert me("none").json()["detail"] == "That token is good, but none of its groups has a role here."
        assert me("unknown").status_code == 401
        broken = me("broken")
        assert broken.status_code == 503
        assert "secret" not in broken.text
        asked.clear()
        assert me(new_key().text).status_code == 401
        assert asked == []  # our own keys are shown to nobody


def test_wrong_tokens_are_looked_up_no_more_often_than_an_address_may_guess(lived: Lived) -> None:
    """Each look-up is a call to the API server; a token that was right before is looked up whatever others do."""
    asked: list[str] = []
    now = [0.0]

    async def review(token: str) -> TokenUser | None:
        asked.append(token)
        return TokenUser("ann", ("devs",)) if token == "good" else None

    settings = dataclasses.replace(GENEROUS, groups={"devs": Role.READ}, failed_rate=0.1, failed_burst=5)
    with api(lived, settings, token_review=review, monotonic_s=lambda: now[0]) as (client, _, _):
        url = str(client.base_url)

        def me(token: str) -> int:
            return httpx.get(f"{url}/api/v1/me", headers={"authorization": f"Bearer {token}"}).status_code

        assert me("good") == 200
        guesses = [httpx.get(f"{url}/api/v1/me", headers={"x-api-key": new_key().text}).status_code for _ in range(8)]
        assert guesses[-1] == 429  # wrong keys cost no look-up, and keep nobody's token from one
        now[0] = 70.0
        assert [me(f"wrong{i}") for i in range(60)] == [401] * 5 + [429] * 55
        assert asked == ["good", *(f"wrong{i}" for i in range(5))]
        now[0] = 131.0  # the good token's minute is over, and five guesses are free again
        assert [me(f"again{i}") for i in range(20)] == [401] * 5 + [429] * 15
        assert me("good") == 200
        assert asked.count("good") == 2


def test_known_keys_work_on_while_the_journal_does_not_answer(lived: Lived, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read hangs (a frozen server): one thread waits for it, one request for a moment, and nobody is shut out."""
    monkeypatch.setattr("harmony.api.auth.KEYS_WAIT_S", 0.1)
    now, frozen, reads = [0.0], threading.Event(), [0]
    with api(lived, GENEROUS, monotonic_s=lambda: now[0]) as (client, state, _):
        assert state.journal is not None
        whole = state.journal.keys

        def keys() -> object:
            reads[0] += 1
            assert reads[0] == 1 or frozen.wait(60)
            return whole()

        monkeypatch.setattr(state.journal, "keys", keys)
        for moment in (10.0, 20.0, 30.0, 40.0):
            now[0] = moment
            assert client.get("/api/v1/me").status_code == 200
            assert client.get("/api/v1/me", headers={"x-api-key": new_key().text}).status_code == 401
        assert reads[0] == 2
        frozen.set()


def at_once(url: str, headers: list[dict[str, str]], path: str = "/api/v1/me") -> list[int]:
    """What requests with these headers are answered that are all under way together."""

    async def run() -> list[int]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            answers = await asyncio.gather(*(client.get(path, headers=one) for one in headers))
        return [answer.status_code for answer in answers]

    return asyncio.run(run())


def test_wrong_tokens_that_come_all_at_once_are_looked_up_no_more_often(lived: Lived) -> None:
    """None of them has failed yet while the first is looked up: each counts before it is."""
    asked: list[str] = []

    async def review(token: str) -> TokenUser | None:
        asked.append(token)
        await asyncio.sleep(0.05)
        return TokenUser("ann", ("devs",)) if token == "good" else None

    settings = dataclasses.replace(GENEROUS, groups={"devs": Role.READ}, failed_rate=0.001, failed_burst=5)
    with api(lived, settings, token_review=review, monotonic_s=lambda: 0.0) as (client, _, _):
        url = str(client.base_url)
        good = [{"authorization": "Bearer good"}] * 20
        assert at_once(url, good) == [200] * 20
        assert asked == ["good"], "one look-up for all who wait for it, and it costs nothing"
        codes = at_once(url, [{"cookie": f"harmony_key=wrong{i}"} for i in range(40)])  # as a browser sends them
        assert sorted(codes) == [401] * 5 + [429] * 35
        assert len(asked) == 6


def test_wrong_tokens_are_not_looked_up_without_end_while_the_api_server_fails(lived: Lived) -> None:
    asked: list[str] = []

    async def review(token: str) -> TokenUser | None:
        asked.append(token)
        raise HarmonyError("too many requests")

    settings = dataclasses.replace(GENEROUS, groups={"devs": Role.READ}, failed_rate=0.001, failed_burst=5)
    with api(lived, settings, token_review=review, monotonic_s=lambda: 0.0) as (client, _, _):
        long = "x" * 20_000  # as long as headers may be
        codes = at_once(str(client.base_url), [{"authorization": f"Bearer {long}{i}"} for i in range(30)])
        assert sorted(codes) == [429] * 25 + [503] * 5
        assert len(asked) == 5


def test_an_address_is_its_site_where_it_can_take_any_address_of_it() -> None:
    assert counted_as("2001:db8:1:2::1") == counted_as("2001:db8:1:2:ffff:ffff:ffff:1") == "2001:db8:1:2::/64"
    assert counted_as("2001:db8:1:3::1") != counted_as("2001:db8:1:2::1")
    assert counted_as("::ffff:192.0.2.7") == counted_as("192.0.2.7") == "192.0.2.7"
    assert [counted_as(a) for a in ("::1", "127.0.0.1", "unknown", "fe80::1%eth0")] == [
        "::1", "127.0.0.1", "unknown", "fe80::/64",
    ]  # fmt: skip


def test_known_keys_and_health_pass_reads_that_never_come_back(lived: Lived, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen server holds every thread that reads the journal; what needs none of them goes on."""
    frozen, held = threading.Event(), threading.Semaphore(0)
    settings = dataclasses.replace(GENEROUS, time_limit_s=1.0)
    with api(lived, settings) as (client, state, _):

        def decisions(*_: object, **__: object) -> object:
            held.release()
            assert frozen.wait(60)
            return []

        monkeypatch.setattr(state.journal, "decisions", decisions)
        url, key = str(client.base_url), {"x-api-key": client.headers["x-api-key"]}
        codes: list[int] = []
        path = "/api/v1/services/serving/chat/decisions"
        reads = threading.Thread(target=lambda: codes.extend(at_once(url, [key] * 60, path)))
        reads.start()
        try:
            assert held.acquire(timeout=60)
            assert client.get("/healthz").status_code == 200
            assert client.get("/api/v1/services").status_code == 200
            assert client.get("/api/v1/me", headers={"x-api-key": new_key().text}).status_code == 401
        finally:
            frozen.set()
            reads.join(60)
        assert set(codes) <= {200, 504}
        assert len(codes) == 60


def test_health_passes_all_that_waits_for_others(lived: Lived) -> None:
    """An API server that does not answer, a forecast that does not end, metrics that nobody gives out."""
    go, at_work, waiting = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def stuck(*_: object, **__: object) -> object:
        at_work.release()
        assert go.wait(60)
        raise HarmonyError("too late")

    async def review(token: str) -> TokenUser | None:
        waiting.release()
        while not go.is_set():
            await asyncio.sleep(0.02)
        return None

    class Stuck:
        exposition = staticmethod(stuck)

    settings = dataclasses.replace(GENEROUS, time_limit_s=1.0)
    with api(lived, settings, token_review=review, forecast=stuck, metrics=Stuck()) as (client, _, _):
        url, key = str(client.base_url), {"x-api-key": client.headers["x-api-key"]}
        history = {"indicators": [{"name": "a"}], "step_seconds": 60, "values": [[1.0]] * 10}
        others = [
            threading.Thread(target=at_once, args=(url, [{"authorization": f"Bearer w{i}"} for i in range(40)])),
            threading.Thread(target=at_once, args=(url, [key] * 40, "/api/v1/metrics")),
            threading.Thread(target=lambda: client.post("/api/v1/forecast", json=history)),
        ]
        for thread in others:
            thread.start()
        try:
            assert waiting.acquire(timeout=60)
            assert at_work.acquire(timeout=60)
            assert at_work.acquire(timeout=60)
            for path in ("/healthz", "/api/v1/healthz"):
                assert httpx.get(url + path, timeout=60).status_code == 200
            assert not go.is_set()
        finally:
            go.set()
            for thread in others:
                thread.join(60)


# ---- connections ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea", b"\r\n"],
    ids=["nothing", "half a header", "half of a second request", "an empty line"],
)
def test_a_request_that_never_comes_ends_its_connection(
    lived: Lived, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.2)
    monkeypatch.setattr("harmony.api.server.KEEP_ALIVE_S", 1)
    with api(lived, GENEROUS) as (client, _, _):
        url = httpx.URL(str(client.base_url))
        with socket.create_connection((url.host, url.port or 80), timeout=60) as held:
            held.sendall(sent)
            while held.recv(65_536):  # ends when the server closes; waits for ever (60 s) where it does not
                pass


@pytest.mark.parametrize(
    ("first", "drips"),
    [
        ("POST /api/v1/forecast HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", "x"),
        ("POST /api/v1/forecast HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
        ("GET /api/v1/me HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "\x81"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "PRI * HTTP/2.0"),
        ("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "G"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n", "x"),
    ],
    ids=["slow body", "slow chunks", "websocket", "http/2", "http/1.0", "expect"],
)
def test_bytes_that_drip_after_the_answer_keep_no_connection(
    lived: Lived, first: str, drips: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.2)
    monkeypatch.setattr("harmony.api.server.KEEP_ALIVE_S", 1)
    with api(lived, GENEROUS) as (client, _, _):
        url = httpx.URL(str(client.base_url))
        with socket.create_connection((url.host, url.port or 80), timeout=60) as held:
            held.sendall(first.encode())
            assert held.recv(65_536).startswith((b"HTTP/1.1 200", b"HTTP/1.1 401"))
            held.settimeout(0.05)
            for _ in range(1200):  # a minute at the least; over as soon as the server closes
                try:
                    held.sendall(drips.encode("latin-1"))
                    if not held.recv(65_536):
                        return
                except TimeoutError:
                    continue
                except OSError:
                    return
            pytest.fail("the connection was kept")


@pytest.mark.parametrize("ahead", ["GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"])
def test_only_so_many_requests_wait_on_one_connection(lived: Lived, ahead: str) -> None:
    """Each takes some kilobytes of memory, of a few bytes; a thousand connections may send as much as they like."""
    with api(lived, GENEROUS) as (client, _, _):
        text = ahead.encode()
        assert raw_count(str(client.base_url), text * 20, 20) == 20, "as browsers and proxies do"
        assert raw_count(str(client.base_url), text * 3000, 3000) <= 2 * connections.MOST_AHEAD
        assert client.get("/healthz").status_code == 200


def test_beside_more_connections_than_are_served_health_answers(lived: Lived, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 20)
    monkeypatch.setattr(connections, "SPARE_CONNECTIONS", 5)
    with api(lived, GENEROUS) as (client, _, _), contextlib.ExitStack() as held:
        url = httpx.URL(str(client.base_url))
        address = url.host, url.port or 80
        key = {"x-api-key": client.headers["x-api-key"]}
        others = [held.enter_context(socket.create_connection(address, timeout=60)) for _ in range(20)]
        for path in ("/healthz", "/api/v1/healthz"):
            assert httpx.get(f"{url}{path}", timeout=60).status_code == 200
        refused = httpx.get(f"{url}/api/v1/me", headers=key, timeout=60)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.headers["x-content-type-options"] == "nosniff"
        last = [held.enter_context(socket.create_connection(address, timeout=60)) for _ in range(10)][-1]
        with contextlib.suppress(ConnectionResetError):
            assert last.recv(1) == b"", "closed at once"
        for other in others:
            other.close()
        for _ in range(600):  # a minute: the server hears of their ends one after another
            if httpx.get(f"{url}/api/v1/me", headers=key, timeout=60).status_code == 200:
                return
            time.sleep(0.1)
        pytest.fail("nobody was let in again")


def raw_count(url: str, text: bytes, most: int) -> int:
    """How many answers there are to these bytes until the server closes, or there are ``most``."""
    host, port = url.removeprefix("http://").split(":")
    out = b""
    with socket.create_connection((host, int(port)), timeout=60) as link:
        with contextlib.suppress(OSError):
            link.sendall(text)
        with contextlib.suppress(ConnectionResetError):
            while out.count(b"HTTP/1.1 ") < most and (part := link.recv(65_536)):
                out += part
    return out.count(b"HTTP/1.1 ")


def test_who_does_not_read_the_answers_is_let_go(lived: Lived, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks again and again and reads nothing: what waits for it is not kept for ever."""
    monkeypatch.setattr(connections, "READS_S", 0.2)
    with api(lived, GENEROUS) as (client, _, _):
        url = httpx.URL(str(client.base_url))
        ask = (
            b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\n\r\n"
            % client.headers["x-api-key"].encode()
        )
        with socket.socket() as held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            held.settimeout(60)
            held.connect((url.host, url.port or 80))

            def ask_on() -> None:
                for _ in range(10_000):
                    held.sendall(ask)
                    time.sleep(0.01)

            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                ask_on()


# ---- sizes ------------------------------------------------------------------------------------------------------
def test_oversized_body_is_refused_before_it_is_read(world: World) -> None:
    head = "POST /api/v1/forecast HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"X-API-Key: {world.keys['read']}\r\n"
    answer = raw(world.url, (head + "Content-Length: 2000000\r\n\r\n{").encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"urn:harmony:problem:too-large" in answer
    chunk = b"%x\r\n" % 300_000 + b" " * 300_000 + b"\r\n"
    answer = raw(world.url, (head + "Transfer-Encoding: chunked\r\n\r\n").encode() + chunk * 5 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_body_without_a_key_is_not_read_at_all(world: World) -> None:
    answer = raw(world.url, b"POST /api/v1/forecast HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("body", ["[" * 200_000, '{"a":' * 500, "[" * 17 + "]" * 17])
def test_deep_json_is_refused_without_parsing(world: World, body: str) -> None:
    with world.client("read") as client:
        response = client.post("/api/v1/forecast", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert "deeper than 16" in response.json()["detail"]


def test_depth_counts_brackets_outside_of_strings_only() -> None:
    assert json_depth(b'{"a": "[[[[[[{{{", "b": [1, "\\"[["]}', 16) == 2
    assert json_depth(b'["' + b"[" * 100, 16) == 1
    assert json_depth(b"", 16) == 0
    json_depth(b'"' + b"\\" * 1_000_000, 16)  # each byte is looked at once: at all those before it, it took hours
    json_depth(b"[]" * 500_000, 16)


def test_too_many_headers_are_refused(world: World) -> None:
    with world.client("read") as client:
        response = client.get("/api/v1/me", headers={f"x-{i}": "y" * 500 for i in range(80)})
        assert response.status_code == 431


def test_content_types_other_than_json_are_refused(world: World) -> None:
    with world.client("read") as client:
        for kind in ("text/plain", "multipart/form-data; boundary=x", "", "application/xml"):
            response = client.post("/api/v1/forecast", content=b"{}", headers={"content-type": kind})
            assert response.status_code == 415, kind


# ---- names ------------------------------------------------------------------------------------------------------
NAMES = [
    "..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "a%00b", "a%0d%0aSet-Cookie:x=1", 'chat"}%20or%20vector(1)%23',
    "chat%7B__name__%3D~%22.%2B%22%7D", "a'%20OR%201%3D1--", "%F0%9F%98%80", "A", "a_b", "-a", "a" * 300, "%ff",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_kubernetes_would_not_have_get_nowhere(world: World, name: str) -> None:
    """Paths, queries and labels are never made of anything but checked names."""
    lines = f"Host: x\r\nX-API-Key: {world.keys['admin']}\r\nConnection: close\r\n"
    one = "/api/v1/services/serving"
    for path in (
        f"/api/v1/services/{name}/chat", f"{one}/{name}", f"{one}/{name}/forecast",
        f"/api/v1/decisions/{name}", f"/api/v1/jobs/{name}", f"{one}/{name}/decisions",
    ):  # fmt: skip
        answer = raw(world.url, f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        status = int(answer.split(b" ")[1])
        assert status in (400, 404, 422), (path, answer[:200])
        assert b"root:" not in answer
        assert b"\r\nset-cookie" not in answer.lower()
        assert b"vector(1)" not in answer


# ---- headers ----------------------------------------------------------------------------------------------------
def test_what_proxies_claim_is_not_believed(lived: Lived) -> None:
    settings = dataclasses.replace(GENEROUS, rate=0.01, burst=3, is_open=True)
    with api(lived, settings) as (client, _, _):
        url = str(client.base_url)
        answers = [
            httpx.get(
                f"{url}/api/v1/me",
                headers={"x-forwarded-for": f"10.0.0.{i}", "forwarded": f"for=10.0.0.{i}"},
                timeout=60,
            )
            for i in range(6)
        ]
        assert [a.status_code for a in answers] == [200] * 3 + [429] * 3  # one address, whatever it says
        assert answers[0].json()["id"] == "address:127.0.0.1"


def test_host_header_shapes_no_answer_and_an_open_server_on_loopback_knows_its_own(lived: Lived) -> None:
    settings = dataclasses.replace(GENEROUS, is_open=True, hosts=frozenset({"localhost", "127.0.0.1", "[::1]"}))
    with api(lived, settings) as (client, _, _):
        url = str(client.base_url)
        for host, status in (("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 421)):
            assert httpx.get(f"{url}/api/v1/me", headers={"host": host}, timeout=60).status_code == status, host
        for path in ("/api/v1/services/", "/api/v1//services", "/api/v1/services?x="):
            response = client.get(path, headers={"x-forwarded-host": "evil.example", "x-forwarded-prefix": "/evil"})
            assert "evil" not in response.text + str(response.headers)
            assert "location" not in response.headers
        twice = raw(url, b"GET /api/v1/me HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert twice.startswith(b"HTTP/1.1 400 ")


def test_method_override_and_internal_headers_change_nothing(world: World) -> None:
    with world.client("read") as client:
        response = client.get(
            "/api/v1/me", headers={"x-http-method-override": "DELETE", "x-original-url": "/api/v1/keys"}
        )
        assert response.json()["role"] == "read"


# ---- browsers ---------------------------------------------------------------------------------------------------
def test_other_sites_may_neither_read_nor_change_anything(world: World) -> None:
    with world.client("admin") as client:
        body = {"name": "x"}
        for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            response = client.post("/api/v1/keys", json=body, headers=headers)
            assert response.json()["type"] == "urn:harmony:problem:cross-origin"
            assert "access-control-allow-origin" not in response.headers
        read = client.get("/api/v1/services", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in read.headers
        assert "access-control-allow-origin" not in client.options("/api/v1/services", headers=PREFLIGHT).headers
        own = str(client.base_url)
        assert client.post("/api/v1/keys", json=body, headers={"origin": own}).status_code == 201
    with httpx.Client(base_url=world.url, cookies={"harmony_key": world.keys["admin"]}, timeout=60) as browser:
        assert browser.post("/api/v1/keys", json=body).status_code == 403  # a cookie alone proves no intent
        assert browser.post("/api/v1/keys", json=body, headers={"origin": world.url}).status_code == 201


PREFLIGHT = {"origin": "https://ok.example", "access-control-request-method": "GET"}


def test_cors_is_for_named_origins_only(lived: Lived) -> None:
    settings = dataclasses.replace(GENEROUS, cors_origins=("https://ok.example",))
    with api(lived, settings) as (client, _, _):
        allowed = client.options("/api/v1/services", headers=PREFLIGHT)
        assert allowed.headers["access-control-allow-origin"] == "https://ok.example"
        refused = client.options("/api/v1/services", headers=PREFLIGHT | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers


# ---- limits -----------------------------------------------------------------------------------------------------
def test_each_key_has_its_own_limit_and_is_told_when_to_come_back(lived: Lived) -> None:
    settings, now = dataclasses.replace(GENEROUS, rate=2.0, burst=10), [0.0]
    with api(lived, settings, monotonic_s=lambda: now[0]) as (client, state, _):
        other = key_for(state.journal, "read")  # type: ignore[arg-type]
        answers = [client.get("/api/v1/me") for _ in range(12)]
        codes = [a.status_code for a in answers]
        assert codes == [200] * 10 + [429] * 2
        limited = answers[-1]
        assert limited.json()["type"] == "urn:harmony:problem:rate-limited"
        assert int(limited.headers["retry-after"]) >= 1
        now[0] += 5.1  # the other key is known by now
        assert client.get("/api/v1/me", headers={"x-api-key": other}).status_code == 200
        assert client.post("/api/v1/forecast", json={}).status_code == 422  # worth five
        assert client.get("/healthz").status_code == 200


def test_buckets_refill_and_their_table_stays_small() -> None:
    buckets = Buckets(rate=2.0, burst=4.0)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0.0] * 4
    assert buckets.take("a", 0.0) == 0.5
    assert buckets.take("a", 0.5) == 0.0
    assert buckets.take("a", 0.4) == 0.5  # a clock that goes back gives nothing
    assert buckets.take("b", 0.5) == 0.0
    for i in range(MOST + 50):
        buckets.take(str(i), 1.0)
    assert len(buckets) == MOST


def test_what_takes_too_long_is_given_up(lived: Lived) -> None:
    over = threading.Event()

    def slow(*_: object) -> object:
        over.wait(120)
        raise HarmonyError("nobody waits for this")

    settings = dataclasses.replace(GENEROUS, time_limit_s=1.0)
    with api(lived, settings, forecast=slow) as (client, _, _):
        history = {"indicators": [{"name": "a"}], "step_seconds": 60, "values": [[1.0]] * 10}
        response = client.post("/api/v1/forecast", json=history)  # answered although the forecast has not ended
        assert (response.status_code, response.json()["type"]) == (504, "urn:harmony:problem:timeout")
        assert response.headers["retry-after"] == "5"
        assert eventually(lambda: client.get("/api/v1/me").status_code == 200)
        key = client.headers["x-api-key"]
        head = f"POST /api/v1/forecast HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
        host, port = client.base_url.host, client.base_url.port
        with socket.create_connection((host, port or 0), timeout=60) as link:  # a body that never comes
            link.sendall((head + "Content-Length: 100\r\n\r\n{").encode())
            assert link.recv(4096).startswith(b"HTTP/1.1 504 ")
        over.set()


def test_too_much_at_once_is_refused_kindly(lived: Lived) -> None:
    async def run(url: str, key: str) -> list[int]:
        async with httpx.AsyncClient(base_url=url, headers={"x-api-key": key}, timeout=60) as client:
            history = {"indicators": [{"name": "a"}], "step_seconds": 60, "values": [[1.0]] * 10}
            return [
                r.status_code
                for r in await asyncio.gather(*(client.post("/api/v1/forecast", json=history) for _ in range(6)))
            ]

    def slow(*_: object) -> object:
        time.sleep(0.2)
        raise HarmonyError("no")

    settings = dataclasses.replace(GENEROUS, concurrency=3)
    with api(lived, settings, forecast=slow) as (client, _, _):
        codes = asyncio.run(run(str(client.base_url), client.headers["x-api-key"]))
        assert set(codes) == {503}


# ---- streams ----------------------------------------------------------------------------------------------------
def next_event(lines: Iterator[str]) -> dict[str, object]:
    """The next one; whoever holds ``lines`` holds the stream open."""
    found: dict[str, object] = json.loads(next(line for line in lines if line.startswith("data: "))[6:])
    return found


def test_stream_tells_every_change_and_ends_with_the_server(lived: Lived) -> None:
    hub = Hub()
    snapshots = lived[0].all()
    hub.publish(snapshots)
    ended = []
    with contextlib.ExitStack() as stack:
        with api((hub, lived[1])) as (client, _, app):
            reader = stack.enter_context(httpx.Client(base_url=client.base_url, headers=client.headers, timeout=30))
            response = stack.enter_context(reader.stream("GET", "/api/v1/events"))
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.iter_lines()
            assert next_event(lines) == {"version": 1, "changed": [s.service for s in snapshots], "gone": []}
            hub.publish([dataclasses.replace(snapshots[0])], gone=[snapshots[1].service])
            changed = {"version": 2, "changed": [snapshots[0].service], "gone": [snapshots[1].service]}
            assert next_event(lines) == changed
            assert not app.state.stopping.is_set()
        ended = list(lines)  # the server has ended, and the stream with it: properly, not cut off
    assert not any(line.startswith("data: ") for line in ended)


def test_stream_goes_on_from_what_is_known_and_ends_when_asked_to(world: World) -> None:
    version = world.state.hub.version
    with world.client("read") as client:
        known = client.get("/api/v1/events", params={"seconds": 0.3}, headers={"last-event-id": str(version)})
        assert "data:" not in known.text
        fresh = client.get("/api/v1/events", params={"seconds": 0.3})
        assert fresh.text.count("event: fleet") == 1
        assert f"id: {version}\n" in fresh.text


def test_only_so_many_streams(lived: Lived) -> None:
    settings = dataclasses.replace(GENEROUS, streams=1)
    with api(lived, settings) as (client, _, _), client.stream("GET", "/api/v1/events?seconds=20") as first:
        lines = first.iter_lines()
        assert next_event(lines)
        second = client.get("/api/v1/events?seconds=1")
        assert (second.status_code, second.json()["type"]) == (503, "urn:harmony:problem:unavailable")
        del lines


def test_one_caller_does_not_take_all_streams(lived: Lived) -> None:
    settings = dataclasses.replace(GENEROUS, streams=4, streams_each=2)
    with api(lived, settings) as (client, _, _), contextlib.ExitStack() as open_ones:
        other = client.post("/api/v1/keys", json={"name": "other", "role": "read"}).json()["key"]
        streams = [open_ones.enter_context(client.stream("GET", "/api/v1/events?seconds=20")) for _ in range(2)]
        held = [stream.iter_lines() for stream in streams]  # whoever holds the lines holds the stream open
        assert all(next_event(lines) for lines in held)
        third = client.get("/api/v1/events?seconds=1")
        assert (third.status_code, third.json()["type"]) == (429, "urn:harmony:problem:rate-limited")
        assert client.get("/api/v1/events?seconds=0.1", headers={"x-api-key": other}).status_code == 200


def test_a_stream_ends_once_its_key_is_revoked(lived: Lived) -> None:
    hub = Hub()
    hub.publish(lived[0].all())
    now = [0.0]
    with api((hub, lived[1]), GENEROUS, monotonic_s=lambda: now[0]) as (client, _, _):
        made = client.post("/api/v1/keys", json={"name": "gone", "role": "read"}).json()
        reader = httpx.Client(base_url=client.base_url, headers={"x-api-key": made["key"]}, timeout=60)
        with reader, reader.stream("GET", "/api/v1/events") as response:
            lines = response.iter_lines()
            assert next_event(lines)["version"] == 1
            assert client.delete(f"/api/v1/keys/{made['id']}").status_code < 300
            hub.publish(lived[0].all())
            assert not any(line.startswith("data: ") for line in lines)  # it ends, and nothing more is told


def test_a_stream_ends_once_its_key_expires(lived: Lived) -> None:
    hub = Hub()
    hub.publish(lived[0].all())
    now = [0.0]
    with api((hub, lived[1]), GENEROUS, now_s=lambda: 1_000_000.0 + now[0]) as (client, state, _):
        short = key_for(state.journal, "read", expires_s=1_000_060.0)  # type: ignore[arg-type]
        reader = httpx.Client(base_url=client.base_url, headers={"x-api-key": short}, timeout=60)
        with reader, reader.stream("GET", "/api/v1/events") as response:
            lines = response.iter_lines()
            assert next_event(lines)["version"] == 1
            now[0] = 61.0
            hub.publish(lived[0].all())
            assert not any(line.startswith("data: ") for line in lines)


@pytest.mark.parametrize("groups", [(), ("others",), None], ids=["no group", "another group", "gone"])
def test_a_stream_ends_once_its_user_has_lost_the_role(lived: Lived, groups: tuple[str, ...] | None) -> None:
    """A token is looked up again after its minute; wrong ones of the same address keep it from nothing."""
    hub = Hub()
    hub.publish(lived[0].all())
    now = [0.0]
    users: dict[str, TokenUser | None] = {"dev": TokenUser("ann", ("devs",))}

    async def review(token: str) -> TokenUser | None:
        return users.get(token)

    settings = dataclasses.replace(GENEROUS, groups={"devs": Role.READ}, failed_rate=0.001, failed_burst=2)
    with api((hub, lived[1]), settings, token_review=review, monotonic_s=lambda: now[0]) as (client, _, _):
        reader = httpx.Client(base_url=client.base_url, headers={"authorization": "Bearer dev"}, timeout=60)
        with reader, reader.stream("GET", "/api/v1/events") as response:
            lines = response.iter_lines()
            assert next_event(lines)["version"] == 1
            users["dev"] = None if groups is None else TokenUser("ann", groups)
            url = str(client.base_url)
            wrong = [
                httpx.get(f"{url}/api/v1/me", headers={"authorization": f"Bearer w{i}"}).status_code for i in range(4)
            ]
            assert wrong == [401, 401, 429, 429]
            now[0] = 61.0
            hub.publish(lived[0].all())
            assert not any(line.startswith("data: ") for line in lines)


def test_two_tokens_of_one_user_share_what_a_caller_may_hold(lived: Lived) -> None:
    async def review(token: str) -> TokenUser | None:
        return TokenUser("bob" if token == "other" else "ann", ("devs",))

    settings = dataclasses.replace(GENEROUS, groups={"devs": Role.READ}, streams=8, streams_each=2)
    with api(lived, settings, token_review=review) as (client, _, _), contextlib.ExitStack() as open_ones:
        url, held = str(client.base_url), []
        for token in ("one", "two"):
            reader = open_ones.enter_context(httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}))
            held.append(open_ones.enter_context(reader.stream("GET", "/api/v1/events?seconds=20")).iter_lines())
        assert all(next_event(lines) for lines in held)
        answers = [
            httpx.get(f"{url}/api/v1/events?seconds=0.1", headers={"authorization": f"Bearer {t}"}).status_code
            for t in ("three", "other")
        ]
        assert answers == [429, 200]


# ---- secrets ----------------------------------------------------------------------------------------------------
def test_no_secret_is_ever_logged_or_told(lived: Lived) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(lambda record: not record.name.startswith(("httpx", "httpcore")))  # this test's own client
    root, own = logging.getLogger(), logging.getLogger("harmony")
    levels = root.level, own.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    own.setLevel(logging.DEBUG)

    async def review(token: str) -> TokenUser | None:
        raise HarmonyError(f"no answer about {token}")

    def broken(*_: object) -> object:
        raise RuntimeError("internal detail 4711")

    try:
        with api(lived, GENEROUS, token_review=review, forecast=broken) as (client, state, _):
            wrong = new_key().text
            made = client.post("/api/v1/keys", json={"name": "n"}).json()["key"]
            answers = [
                client.get("/api/v1/me", headers={"x-api-key": wrong}),
                client.get("/api/v1/me", headers={"x-api-key": "eyJtoken.secret.value"}),
                client.get(f"/api/v1/decisions/{wrong}"),
                client.post("/api/v1/keys", json={"name": {"x": wrong}}),
                client.post("/api/v1/keys", json={wrong: 1}),
                client.post(
                    "/api/v1/forecast", json={"indicators": [{"name": "a"}], "step_seconds": 60, "values": [[1.0]]}
                ),
            ]
            assert answers[-1].status_code == 500
            assert answers[-1].json()["type"] == "urn:harmony:problem:internal"
            assert "4711" not in answers[-1].text
            audits = json.dumps([dict(a.detail) for a in state.journal.audits(before=None, limit=100)])  # type: ignore[union-attr]
            kept = repr(state.journal.keys())  # type: ignore[union-attr]
        told = written.getvalue()
        assert "a wrong key or token" in told
        assert "internal detail 4711" in told  # the fault itself is
        for key in (wrong, made, client.headers["x-api-key"]):
            secret = key.rpartition("_")[2]
            assert secret not in told
            assert secret not in audits
            assert secret not in kept
        assert "eyJtoken.secret.value" not in told
    finally:
        root.removeHandler(handler)
        root.setLevel(levels[0])
        own.setLevel(levels[1])
