"""Two hundred clients at once for a minute, some of them rude, and how soon health answers meanwhile.

    python benchmarks/clients.py --clients 200 --seconds 60
    python benchmarks/clients.py --clients 200 --seconds 60 --silent 1000

The server is `harmony serve --demo` with a journal, a key for every client and an address for probes, as anybody would
start it. Clients read services, forecasts, decisions, explanations and pages, ask what-ifs and forecasts, start and
cancel backtests, follow events, send wrong keys, bodies that are no JSON and bodies that are too large, and go away in
the middle of an answer; with --silent so many more connections are open that say nothing. Two processes beside them ask
twenty times a second for /healthz and /readyz in turn, each time on a connection of its own: one as the kubelet does,
at the address for probes, one at the API's own port. A third asks there with a query, so that the server's own event
loop answers, to show how long that keeps others waiting. Exit code 1 where an answer is a fault of the server (5xx that
does not say when to come again), or health was not 200 or took 100 ms or more.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import multiprocessing
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import aiohttp
import numpy as np

PROBES, OWN, LOOP = "health, as probes ask", "health, at the API's port", "the server's own loop"
PATHS = {PROBES: ("/healthz", "/readyz"), OWN: ("/healthz", "/readyz"), LOOP: ("/healthz?loop",)}
HEALTH_S = 0.1
SERVICE = "/api/v1/services/serving/chat"


def health(what: str, port: int, stop, answers) -> None:
    """Asks every 50 ms; how long each answer took, connecting included, and those that were not 200."""
    found, wrong = [], []
    while not stop.is_set():
        path = PATHS[what][len(found) % len(PATHS[what])]
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        began = time.perf_counter()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
                link.sendall(request)
                if not link.recv(65_536).startswith(b"HTTP/1.1 200"):
                    wrong.append("not 200")
        except OSError as error:
            wrong.append(type(error).__name__)
        found.append(time.perf_counter() - began)
        time.sleep(max(0.0, 0.05 - found[-1]))
    answers.put((what, (found, wrong)))


class Tally:
    """Answers by what was asked and by status."""

    def __init__(self) -> None:
        self.status: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        self.took: dict[str, list[float]] = collections.defaultdict(list)
        self.dishonest: list[str] = []

    def note(self, what: str, status: int, headers, began: float) -> None:
        self.status[what][status] += 1
        self.took[what].append(time.perf_counter() - began)
        if status >= 500 and not (status in (503, 504) and "retry-after" in headers):
            self.dishonest.append(f"{what} {status}")


def history(rows: int) -> bytes:
    values = [[100.0 + i % 7, 0.5, None] for i in range(rows)]
    names = [{"name": name, "level": level} for level, name in enumerate(("requests", "gpu", "queue"), 1)]
    return json.dumps({"indicators": names, "step_seconds": 60, "values": values, "horizon": 12}).encode()


HISTORY = history(144)
BACKTEST = json.dumps({"demand": [float(5 + i % 9) for i in range(300)], "policies": ["hpa"]}).encode()
JSON = {"content-type": "application/json"}


async def client(
    session: aiohttp.ClientSession, key: str, until: float, think_s: float, tally: Tally, seed: int
) -> None:
    rng = random.Random(seed)
    mine = {"x-api-key": key}
    etags: dict[str, str] = {}
    decision = ""

    async def ask(what: str, method: str, path: str, headers=None, **more) -> bytes:
        began = time.perf_counter()
        try:
            async with session.request(method, path, headers=mine | (headers or {}), **more) as answer:
                body = await answer.read()
                tally.note(what, answer.status, answer.headers, began)
                if "etag" in answer.headers:
                    etags[path] = answer.headers["etag"]
                return body if answer.status < 300 else b""
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            tally.note(what, 0, {}, began)
            tally.dishonest.append(f"{what}: {type(error).__name__}")
            return b""

    while time.monotonic() < until:
        await asyncio.sleep(rng.expovariate(1 / think_s))
        what = rng.choices(KINDS, WEIGHTS)[0]
        if what == "read":
            path = rng.choice(
                [f"{SERVICE}/forecast", SERVICE, "/api/v1/services?limit=5", f"{SERVICE}/calibration", "/api/v1/me"]
            )
            await ask(
                what, "GET", path, {"if-none-match": etags[path]} if path in etags and rng.random() < 0.5 else None
            )
        elif what == "decisions":
            body = await ask(what, "GET", f"{SERVICE}/decisions?limit=20")
            items = json.loads(body)["items"] if body else []
            decision = items[-1]["id"] if items else decision
        elif what == "explanation" and decision:
            await ask(what, "GET", f"/api/v1/decisions/{decision}/explanation")
        elif what == "what-if":
            body = json.dumps({"epsilon": rng.choice([0.001, 0.01, 0.2]), "max_replicas": rng.randint(1, 50)}).encode()
            await ask(what, "POST", f"{SERVICE}/what-if", JSON, data=body)
        elif what == "forecast":
            await ask(what, "POST", "/api/v1/forecast", JSON, data=HISTORY)
        elif what == "page":
            await ask(what, "GET", rng.choice(["/", "/services/serving/chat", "/about"]), {"accept": "text/html"})
        elif what == "backtest":
            body = await ask(what, "POST", "/api/v1/jobs/backtests", JSON, data=BACKTEST)
            if body:
                await ask("cancel", "DELETE", f"/api/v1/jobs/{json.loads(body)['id']}")
        elif what == "metrics":
            await ask(what, "GET", "/api/v1/metrics")
        elif what == "wrong key":
            await ask(what, "GET", "/api/v1/me", {"x-api-key": "hk_no"})
        elif what == "no JSON":
            await ask(what, "POST", "/api/v1/forecast", JSON, data=b"{" * rng.choice([1, 1000, 100_000]))
        elif what == "too large":
            await ask(what, "POST", "/api/v1/forecast", JSON, data=b" " * 2_000_000)
        elif what == "events":
            await ask(what, "GET", "/api/v1/events?seconds=2")
        elif what == "goes away":
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(session._base_url.host, session._base_url.port)
                writer.write(
                    f"GET {SERVICE} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\n\r\n".encode()[
                        : rng.choice([20, 500])
                    ]
                )
                await writer.drain()
                writer.close()


KINDS, WEIGHTS = zip(
    *{
        "read": 50, "decisions": 8, "explanation": 5, "what-if": 6, "forecast": 6, "page": 8, "backtest": 0.3,
        "metrics": 2, "wrong key": 4, "no JSON": 2, "too large": 1, "events": 2, "goes away": 4,
    }.items(),
    strict=True,
)  # fmt: skip


def keys_in(journal: str, count: int) -> list[str]:
    from harmony.api.keys import new_key
    from harmony.journal import ApiKey, JournalStore

    made = [new_key() for _ in range(count)]
    with JournalStore.open(journal) as store:
        for i, key in enumerate(made):
            store.add_key(ApiKey(key.id, f"client {i}", "operate", key.secret_hash, 0.0))
    return [key.text for key in made]


@contextlib.contextmanager
def server(folder: str, clients: int):
    """The real command; its port, that of its probes, and the clients' keys."""
    journal = f"sqlite:///{folder}/journal.db"
    keys = keys_in(journal, clients)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as free:
        probes = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "harmony.cli",
        "serve",
        "--demo",
        "--address",
        f"127.0.0.1:{port}",
        "--journal",
        journal,
        "--health-address",
        f"127.0.0.1:{probes}",
    ]
    log = Path(folder) / "log"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        until = time.monotonic() + 300
        while not ready(port, keys[0]):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, "the server did not begin"
            time.sleep(0.5)
        yield port, probes, keys
        process.terminate()


def ready(port: int, key: str) -> bool:
    """Whether it forecasts and its own forecaster is loaded: what follows is about clients, not about beginning."""
    address = f"http://127.0.0.1:{port}"
    asked = urllib.request.Request(f"{address}/api/v1/forecast", HISTORY, {"x-api-key": key} | JSON)
    newest = urllib.request.Request(address + SERVICE + "/forecast", headers={"x-api-key": key})
    try:
        for request in (newest, asked):
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
    except OSError:
        return False
    return True


async def say_nothing(port: int) -> None:
    """A connection without a request; another one when the server has had enough of it."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            writer.close()
        await asyncio.sleep(0.1)


async def load(port: int, keys: list[str], seconds: float, think_s: float, silent: int) -> Tally:
    tally = Tally()
    others = [asyncio.create_task(say_nothing(port)) for _ in range(silent)]
    await asyncio.sleep(1.0 if others else 0.0)
    until = time.monotonic() + seconds
    base = f"http://127.0.0.1:{port}"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(base, connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        await asyncio.gather(*(client(session, key, until, think_s, tally, i) for i, key in enumerate(keys)))
    for other in others:
        other.cancel()
    return tally


def main() -> int:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--clients", type=int, default=200)
    told.add_argument("--seconds", type=float, default=60.0)
    told.add_argument("--think", type=float, default=0.7, help="seconds between requests of one client, on average")
    told.add_argument("--silent", type=int, default=0, help="connections beside them that say nothing")
    given = told.parse_args()
    context = multiprocessing.get_context("spawn")
    stop, answers = context.Event(), context.Queue()
    with tempfile.TemporaryDirectory() as folder, server(folder, given.clients) as (port, probes, keys):
        asked = {PROBES: probes, OWN: port, LOOP: port}
        askers = [context.Process(target=health, args=(what, at, stop, answers)) for what, at in asked.items()]
        for asker in askers:
            asker.start()
        tally = asyncio.run(load(port, keys, given.seconds, given.think, given.silent))
        stop.set()
        beats = dict(answers.get(timeout=30) for _ in askers)
        for asker in askers:
            asker.join()
    print("| asked | answers | by status | p50 ms | p99 ms | worst ms |\n|---|---|---|---|---|---|")
    for what in sorted(tally.status):
        took = np.array(tally.took[what])
        by = ", ".join(f"{count} x {status}" for status, count in sorted(tally.status[what].items()))
        print(
            f"| {what} | {len(took):,} | {by} |"
            + "".join(f" {1000 * np.quantile(took, q):.0f} |" for q in (0.5, 0.99, 1))
        )
    slow = {}
    for what in asked:
        found, wrong = beats[what]
        took = np.array(found)
        slow[what] = f"{int((took >= HEALTH_S).sum())} of {len(took):,}"
        by = f"{len(took) - len(wrong)} x 200" + "".join(f", {n} x {w}" for w, n in collections.Counter(wrong).items())
        print(
            f"| **{what}** | {len(took):,} | {by} |"
            + "".join(f" {1000 * np.quantile(took, q):.0f} |" for q in (0.5, 0.99, 1))
        )
    total = sum(len(took) for took in tally.took.values())
    print(
        f"\n{total / given.seconds:,.0f} requests/s; "
        f"faults of the server: {len(tally.dishonest)} {tally.dishonest[:5]}; "
        f"{HEALTH_S * 1000:.0f} ms or more: " + ", ".join(f"{count} ({what})" for what, count in slow.items())
    )
    failed = any(beats[what][1] or max(beats[what][0]) >= HEALTH_S for what in (PROBES, OWN))
    return 1 if tally.dishonest or failed else 0


if __name__ == "__main__":
    sys.exit(main())
