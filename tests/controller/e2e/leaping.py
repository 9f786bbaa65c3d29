"""A world in which hours pass at once: the controller's clock and Prometheus's axis of time leap together."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from controller.kube.client import Kube
from controller.process.clock import LiveClock
from controller.runner import Controller
from tests.controller.e2e.world import STEP_S, WITHIN_S, Running, World, base_model
from tests.kube.api import ApiServer
from tests.prom.proxy import FaultyProxy

Json = dict[str, Any]


class Leaps:
    """Time as the controller sees it: the machine's, and everything that was leapt over.

    What Prometheus scraped before a leap keeps its place; between lies time in which nothing was scraped.
    """

    def __init__(self) -> None:
        self._since = [-math.inf]  # real Unix times at which each offset began to hold
        self._offsets = [0.0]

    def leap(self, seconds: float) -> None:
        """Let that much time pass at once, a multiple of the history's step."""
        assert seconds % STEP_S == 0
        self._since.append(time.time())  # noqa: TID251  (the axis of a real Prometheus)
        self._offsets.append(self._offsets[-1] + seconds)

    @property
    def offset(self) -> float:
        """All that was leapt over so far."""
        return self._offsets[-1]

    def monotonic(self) -> float:
        return time.monotonic() + self.offset

    def seen(self, real: float) -> float:
        """When something that really happened at ``real`` happened to the controller."""
        return real + self._offsets[bisect.bisect_left(self._since, real) - 1]

    def first_real(self, seen: float, step_s: float) -> float:
        """The first real time on the same grid that the controller saw at ``seen`` or later."""
        for since, offset, until in zip(self._since, self._offsets, [*self._since[1:], math.inf], strict=True):
            at = seen - offset
            if at <= until:
                return at if at > since else at + (math.floor((since - at) / step_s) + 1) * step_s
        raise AssertionError("unreachable")

    def last_real(self, seen: float, step_s: float) -> float:
        """The last real time on the same grid that the controller saw at ``seen`` or earlier."""
        spans = zip(self._since, self._offsets, [*self._since[1:], math.inf], strict=True)
        for since, offset, until in reversed(list(spans)):
            at = seen - offset
            if at > since:
                return at if at <= until else at - math.ceil((at - until) / step_s) * step_s
        raise AssertionError("unreachable")


class LeapingProxy(FaultyProxy):
    """A `FaultyProxy` behind which Prometheus lives in the controller's time; where it is down, connections break."""

    def __init__(self, upstream: str, leaps: Leaps) -> None:
        super().__init__(upstream)
        self._leaps = leaps

    async def _upstream(self, request: web.Request, form: dict[str, str]) -> tuple[int, bytes]:
        asked = dict(request.query) | form
        try:
            if asked["query"] == "time()":
                return 200, _time(time.time() + self._leaps.offset)  # noqa: TID251
            if "start" in asked:
                step_s = float(asked["step"])
                start = self._leaps.first_real(float(asked["start"]), step_s)
                end = self._leaps.last_real(float(asked["end"]), step_s)
                if end < start:
                    return 200, _matrix([])
                form = asked | {"start": f"{start:.3f}", "end": f"{end:.3f}"}
            status, body = await super()._upstream(request, form)
        except aiohttp.ClientError as error:
            assert request.transport is not None
            request.transport.abort()
            raise web.HTTPBadGateway from error
        return status, self._moved(body) if status == 200 else body

    def _moved(self, body: bytes) -> bytes:
        answer = json.loads(body)
        for entry in answer["data"]["result"]:
            for point in entry.get("values") or [entry["value"]]:
                point[0] = self._leaps.seen(point[0])
        return json.dumps(answer).encode()


def _time(now: float) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "scalar", "result": [now, f"{now:.3f}"]}}).encode()


def _matrix(result: list[Json]) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


class LeapingWorld(World):
    """A `World` behind a `LeapingProxy`; its controllers live in leaping time."""

    def __init__(self, api: ApiServer, folder: Path, **changes: Any) -> None:
        super().__init__(api, folder, **changes)
        self.leaps = Leaps()
        self.proxy = LeapingProxy(self.prometheus.url, self.leaps)

    @contextlib.asynccontextmanager
    async def running(
        self, demand: Callable[[float], float] = lambda _: 80.0, *, replicas: int = 4
    ) -> AsyncIterator[LeapingWorld]:
        async with super().running(demand, replicas=replicas), self.proxy:
            self.prometheus_url = self.proxy.url
            yield self

    def leap(self, seconds: float) -> None:
        self.leaps.leap(seconds)

    @contextlib.asynccontextmanager
    async def controller(self, **changes: Any) -> AsyncIterator[Running]:
        settings = self.settings(**changes)
        kube = await Kube.connect(settings.kubeconfig)
        made = Controller(settings, kube, base_model(), LiveClock(monotonic=self.leaps.monotonic))
        running = Running(made)
        task = asyncio.create_task(made.run())
        try:
            yield running
            assert not task.done(), "the controller ended by itself"
        finally:
            made.stop()
            await asyncio.wait_for(task, WITHIN_S)


class Watcher:
    """Notes every replica count that the target has, in a thread of its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.counts: list[int] = []

    @property
    def lowest(self) -> int:
        return min(self.counts)


@contextlib.contextmanager
def watching(world: World, every_s: float = 0.1) -> Iterator[Watcher]:
    """Look at the target's count all the while."""
    watcher, stop = Watcher(world), threading.Event()
    watcher.counts.append(world.replicas)

    def look() -> None:
        while not stop.wait(every_s):
            watcher.counts.append(world.replicas)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watcher
    finally:
        stop.set()
        thread.join(10)
        watcher.counts.append(world.replicas)
