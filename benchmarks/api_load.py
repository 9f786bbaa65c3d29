"""How many newest-forecast requests a server answers while its loop serves hundreds of services, on this machine.

    python benchmarks/api_load.py --services 500 --loop process --seconds 60

Server and client run on the same cores. The server is a process with the real application (key, rate limit, fast
path); its loop is a demo cluster that ticks every 30 s, on a thread of the server or in a process beside it. The
client sends a fixed number of requests per second over open connections and measures from the moment at which a
request was due (so that a server that stalls is not asked less), and then as many as it can.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import socket
import tempfile
import time
from collections import deque

import numpy as np

INTERVAL_S = 30.0
STEP_S = 60.0


# ---- server -----------------------------------------------------------------------------------------------------
def serve(pipe, services, loop) -> None:
    """The process of the server; answers "ticks" with how long the ticks since the last question took."""
    import threading

    from harmony.api.app import create_app
    from harmony.api.server import ApiServer, listen
    from harmony.api.state import ApiSettings, ApiState
    from harmony.app import answering, keeping
    from harmony.app.demo import Demo, DemoApart
    from harmony.app.settings import DemoSettings
    from harmony.journal import JournalStore

    ticks: list[float] = []
    chosen = DemoSettings(services, STEP_S / INTERVAL_S, 0)
    with tempfile.TemporaryDirectory() as folder, JournalStore.open(f"sqlite:///{folder}/journal.db") as store:
        if loop == "thread":
            source = Demo(chosen)
            times = source._cluster.times
            source.hub.subscribe(lambda _: ticks.append(times.last_s))
        else:
            source = DemoApart(chosen, f"sqlite:///{folder}/journal.db")
            ticks = source.tick_s
        state = ApiState(
            hub=source.hub,
            journal=store,
            forecast=answering.PostedHistories("base").forecast,
            settings=ApiSettings(rate=1e6, burst=1e6),
        )
        key = make_key(store)
        listening, _, port = listen("127.0.0.1:0")
        server = ApiServer(create_app(state))

        def control() -> None:
            pipe.send((port, key))
            with contextlib.suppress(EOFError):
                while pipe.recv() == "ticks":
                    pipe.send((list(ticks), time.process_time()))
            server.should_exit = True

        with keeping.recording(store, source), source.running(server):
            threading.Thread(target=control, daemon=True).start()
            server.run(sockets=[listening])


def make_key(store) -> str:
    from harmony.api.keys import new_key
    from harmony.journal import ApiKey

    fresh = new_key()
    store.add_key(ApiKey(fresh.id, "load", "read", fresh.secret_hash, 0.0))
    return fresh.text


# ---- client -----------------------------------------------------------------------------------------------------
class Link(asyncio.Protocol):
    """A connection with one request under way at most; as little work per answer as Python can do."""

    def connection_made(self, transport) -> None:
        self.transport, self.got, self.size, self.done = transport, b"", -1, None

    def data_received(self, data: bytes) -> None:
        self.got += data
        if self.size < 0 and (end := self.got.find(b"\r\n\r\n")) >= 0:
            assert self.got.startswith(b"HTTP/1.1 200"), self.got[:200]
            at = self.got.index(b"content-length: ") + 16
            self.size = end + 4 + int(self.got[at : self.got.index(b"\r\n", at)])
        if len(self.got) == self.size:
            self.got, self.size = b"", -1
            self.done(self)


class Load:
    """Requests over open connections; latencies are counted from when each was due."""

    def __init__(self, port: int, key: str, services: list[str]) -> None:
        self._port = port
        head = f"Host: 127.0.0.1\r\nX-API-Key: {key}\r\n\r\n"
        self._requests = [f"GET /api/v1/services/{s}/forecast HTTP/1.1\r\n{head}".encode() for s in services]
        self._idle: list[Link] = []
        self._due: deque = deque()
        self._asked = 0

    async def open(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            self._idle.append((await loop.create_connection(Link, "127.0.0.1", self._port))[1])

    def ask(self, due: float, found: list[float], then=lambda: None) -> None:
        self._due.append((due, found, then))
        if self._idle:
            self._send(self._idle.pop())

    def _send(self, link: Link) -> None:
        due, found, then = self._due.popleft()

        def done(link: Link) -> None:
            found.append(time.perf_counter() - due)
            then()
            if self._due:
                self._send(link)
            else:
                self._idle.append(link)

        link.done = done
        self._asked += 1
        link.transport.write(self._requests[self._asked % len(self._requests)])

    async def paced(self, rate: float, seconds: float) -> np.ndarray:
        found: list[float] = []
        began, number = time.perf_counter(), 0
        while number < rate * seconds:
            now = time.perf_counter() - began
            while number / rate <= now and number < rate * seconds:
                self.ask(began + number / rate, found)
                number += 1
            await asyncio.sleep(0.002)
        while len(found) < number:
            await asyncio.sleep(0.01)
        return np.array(found)

    async def flat_out(self, workers: int, seconds: float) -> tuple[np.ndarray, float]:
        found: list[float] = []
        began = time.perf_counter()
        asked = 0

        def again() -> None:
            nonlocal asked
            if time.perf_counter() - began < seconds:
                asked += 1
                self.ask(time.perf_counter(), found, again)

        for _ in range(workers):
            again()
        while len(found) < asked or time.perf_counter() - began < seconds:
            await asyncio.sleep(0.01)
        return np.array(found), len(found) / (time.perf_counter() - began)


def ad_hoc(port: int, key: str, count: int) -> np.ndarray:
    """Latencies of forecasts of 11 indicators x 144 rows, one after the other."""
    import httpx2 as httpx

    rng = np.random.default_rng(0)
    body = {
        "indicators": [{"name": f"i{i}", "level": 1 if i == 0 else 2 if i < 4 else 3} for i in range(11)],
        "step_seconds": 60,
        "start": "2026-03-02T12:00:00Z",
        "values": (100 + 10 * rng.standard_normal((144, 11)).cumsum(axis=0)).tolist(),
        "horizon": 12,
    }
    text, found = json.dumps(body), []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": key}, timeout=60) as client:
        for _ in range(count + 2):
            at = time.perf_counter()
            answer = client.post("/api/v1/forecast", content=text, headers={"content-type": "application/json"})
            answer.raise_for_status()
            found.append(time.perf_counter() - at)
    return np.array(found[2:])  # the first loads the model


def line(what: str, rate: float, found: np.ndarray) -> str:
    p50, p99, worst = (1000 * np.quantile(found, q) for q in (0.5, 0.99, 1.0))
    return f"| {what} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {worst:.0f} |"


def free_services(port: int, key: str) -> list[str]:
    """Services that have a forecast."""
    import httpx2 as httpx

    found, cursor = [], None
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers={"x-api-key": key}, timeout=60) as client:
        while True:
            page = client.get("/services", params={"limit": 500} | ({"cursor": cursor} if cursor else {})).json()
            found += [row["service"] for row in page["items"] if row["violation_probability"] is not None]
            cursor = page["next_cursor"]
            if cursor is None:
                return found


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--services", type=int, default=500)
    told.add_argument("--loop", choices=("thread", "process"), default="process")
    told.add_argument("--seconds", type=float, default=65.0, help="per phase; a tick comes every 30 s")
    told.add_argument("--rate", type=float, default=1500.0)
    told.add_argument("--connections", type=int, default=32)
    told.add_argument("--ad-hoc", type=int, default=100)
    given = told.parse_args()

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, given.services, given.loop))
    process.start()
    there.close()
    port, key = here.recv()
    until = time.monotonic() + 300
    services: list[str] = []
    while len(services) < given.services // 2:
        assert process.is_alive(), "the server ended"
        assert time.monotonic() < until, "the loop did not begin"
        time.sleep(1)
        with contextlib.suppress(OSError):
            services = free_services(port, key)

    def ticks() -> list[float]:
        here.send("ticks")
        return here.recv()[0]

    def cpu_s() -> float:
        here.send("ticks")
        return here.recv()[1]

    async def load() -> None:
        skip = len(ticks())
        time.sleep(given.seconds)
        quiet = ticks()[skip:]
        links = Load(port, key, services)
        await links.open(given.connections)
        await links.flat_out(4, 2.0)  # warm
        skip = len(ticks())
        found = await links.paced(given.rate, given.seconds)
        under_load = ticks()[skip:]
        print("\n| load | requests/s | p50 ms | p99 ms | worst ms |\n|---|---|---|---|---|")
        print(line(f"paced, {given.connections} connections", len(found) / given.seconds, found))
        spent = cpu_s()
        found, rate = await links.flat_out(given.connections, given.seconds / 2)
        print(line("as many as go", rate, found))
        print(f"| (the server's processor time for one of these: {1e6 * (cpu_s() - spent) / len(found):.0f} us) |||||")
        found = ad_hoc(port, key, given.ad_hoc)
        print(line("ad-hoc forecast, 11 x 144", 1 / found.mean(), found))
        print(
            f"\nloop of {given.services} services ({given.loop}), tick: without load {np.mean(quiet):.2f} s "
            f"({len(quiet)} ticks), under paced load {np.mean(under_load):.2f} s ({len(under_load)} ticks): "
            f"{np.mean(under_load) / np.mean(quiet) - 1:+.0%}"
        )

    asyncio.run(load())
    here.close()
    process.join(60)
    if process.is_alive():
        process.kill()


if __name__ == "__main__":
    socket.setdefaulttimeout(60)
    main()
