"""The simulated cluster of `harmony serve --demo`: on a thread, or in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from harmony.app.keeping import told
from harmony.app.sources import STILL_S, STOP_S, Watch, beside
from harmony.serving import Hub, Snapshot

if TYPE_CHECKING:
    import uvicorn

    from harmony.api.ports import MetricsPort
    from harmony.app.settings import DemoSettings

__all__ = ["Demo", "DemoApart"]

PART = 10  # snapshots per message of a loop in another process


class Demo:
    """A simulated cluster on a thread of its own."""

    def __init__(self, chosen: DemoSettings, refresh_s: float = 0.0) -> None:
        from harmony.metrics import Metrics
        from simulator.demo import DemoCluster

        metrics = Metrics()
        services, speed = chosen.services, chosen.speed
        self.hub, self.speed = Hub(), speed
        self.metrics: MetricsPort | None = metrics
        self.turns: Hub | None = self.hub
        self.trouble = ""
        self._cluster = DemoCluster(
            chosen.seed,
            services=services,
            speed=speed,
            hub=self.hub,
            metrics=metrics,
            refresh_s=refresh_s,
            wall=time.time,  # noqa: TID251
        )
        self._watch = Watch(self.hub, max(STILL_S, 300.0 / speed))
        self.what = f"A simulated cluster of {services} services, {speed:g} times as fast as life."

    def health(self) -> str:
        """What is wrong."""
        return self._watch.problem()

    stuck = health

    @contextlib.contextmanager
    def running(self, server: uvicorn.Server) -> Iterator[None]:
        """Live through the past, then go on beside the server."""
        print("living through the demo's past ...", flush=True)
        self._cluster.begin()
        stop = threading.Event()
        with beside(lambda: self._cluster.run(stop), stop.set, server):
            yield


class DemoApart:
    """The same in a process of its own: a loop of hundreds of services does not share an interpreter with the server.

    That process keeps the journal, too, and makes the answers that are asked for most. Snapshots come through a pipe
    in small parts, so that taking one apart never keeps a request waiting for long.
    """

    def __init__(self, chosen: DemoSettings, journal: str = "", refresh_s: float = 0.0) -> None:
        self.hub, self.speed = Hub(), chosen.speed
        self.turns: Hub | None = None  # the other process keeps the journal
        self.trouble = ""
        self.metrics: MetricsPort | None = None
        self._given = (chosen, journal, refresh_s)
        self._watch = Watch(self.hub, max(STILL_S, 300.0 / chosen.speed))
        self.what = f"A simulated cluster of {chosen.services} services in a process of its own."
        self.tick_s: list[float] = []  # how long each tick took

    def health(self) -> str:
        """What is wrong."""
        return self._watch.problem()

    stuck = health

    @contextlib.contextmanager
    def running(self, server: uvicorn.Server) -> Iterator[None]:
        """Begin the process, and publish what it sends."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_live_apart, args=(there, *self._given), daemon=True)
        process.start()
        there.close()

        def stop() -> None:
            with contextlib.suppress(OSError):
                here.send("stop")

        try:
            with beside(lambda: self._take(here), stop, server):
                yield
        finally:
            process.join(STOP_S)
            if process.is_alive():
                process.kill()
            here.close()

    def _take(self, pipe: Connection) -> None:
        parts: list[Snapshot] = []
        while True:
            try:
                kind, value = pipe.recv()
            except (EOFError, OSError):
                return
            if kind == "part":
                parts.extend(pickle.loads(value))  # from our own process
            else:
                self.hub.publish(parts)
                took_s, self.trouble = value
                self.tick_s.append(took_s)
                parts = []


def _live_apart(pipe: Connection, chosen: DemoSettings, journal: str, refresh_s: float) -> None:
    """The process of `DemoApart`: ends when it is told to, or the other end of the pipe is gone."""
    from harmony.api.fast import prepare
    from harmony.journal import JournalStore, JournalWriter
    from simulator.demo import DemoCluster

    hub, stop = Hub(), threading.Event()
    cluster = DemoCluster(
        chosen.seed,
        services=chosen.services,
        speed=chosen.speed,
        hub=hub,
        refresh_s=refresh_s,
        wall=time.time,  # noqa: TID251
    )

    writer: JournalWriter | None = None

    def show(snapshots: Sequence[Snapshot]) -> None:
        try:
            for first in range(0, len(snapshots), PART):
                part = [_portable(s) for s in snapshots[first : first + PART]]
                for snapshot in part:
                    prepare(snapshot)
                pipe.send(("part", pickle.dumps(part, protocol=5)))
            pipe.send(("tick", (cluster.times.last_s, "" if writer is None else writer.trouble)))
        except OSError:
            stop.set()

    def wait_for_end() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server tells us when to end
    with contextlib.ExitStack() as stack:
        if journal:
            store = stack.enter_context(JournalStore.open(journal))
            writer = JournalWriter(store, told).follow(hub)
            stack.callback(writer.close)
        hub.subscribe(show)
        cluster.run(stop)


def _portable(snapshot: Snapshot) -> Snapshot:
    """Another of it without the density of its forecast, which is a function of the model's own process."""
    seen = snapshot.record.observation
    forecast = None if seen.forecast is None else replace(seen.forecast, log_prob_fn=None)
    return replace(snapshot, record=replace(snapshot.record, observation=replace(seen, forecast=forecast)))
