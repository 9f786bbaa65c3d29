"""What `harmony serve` shows of a real cluster: its own loop's turns, or those that others write into the journal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harmony.app.gpu_budget import GpuBudget
from harmony.app.sources import STILL_S, Watch, beside
from harmony.serving import Hub, Snapshot

if TYPE_CHECKING:
    import uvicorn

    from controller.process.probes import Probes
    from controller.process.settings import ControllerSettings
    from controller.runner import Controller
    from harmony.api.ports import MetricsPort
    from harmony.journal import JournalStore

__all__ = ["Cluster", "Follower"]

log = logging.getLogger(__name__)
FOLLOW_S = 2.0
OVERLAP_S = 120.0  # writers' clocks differ a little


class Newest:
    """What a journal holds that a hub does not show yet."""

    def __init__(self, store: JournalStore, hub: Hub) -> None:
        self._store, self._hub = store, hub
        self.trouble = ""

    def read(self) -> list[Snapshot]:
        """Snapshots newer than the hub's; none, and `trouble`, while the journal cannot be read."""
        from forecasting.errors import HarmonyError

        known = {s.service: s.at_s for s in self._hub.all()}
        try:
            found = self._store.latest(max(known.values(), default=0.0) - OVERLAP_S if known else 0.0)
        except HarmonyError as error:
            if not self.trouble:
                log.warning("%s; going on with what is known", error)
            self.trouble = "the journal cannot be read"
            return []
        self.trouble = ""
        return [s for s in found if s.at_s > known.get(s.service, float("-inf"))]


class Cluster:
    """The Kubernetes controller on a thread of its own, with its own event loop.

    While another process leads, this one shows what that one writes into the journal they share.
    """

    def __init__(self, settings: ControllerSettings, store: JournalStore | None, probes: Probes | None = None) -> None:
        self.settings = settings
        self._probes = probes
        self.hub, self.speed = Hub(), 1.0
        self.turns: Hub | None = Hub()  # our own: what is read from the journal is not written into it again
        self.trouble = ""
        self.metrics: MetricsPort | None = None
        self.what = "The controller runs in this process."
        self._watch = Watch(self.hub, max(STILL_S, 5 * settings.interval_s))
        self._store = store
        self._newest = None if store is None else Newest(store, self.hub)
        self._publishing = threading.Lock()
        self._followed: set[str] = set()  # services that we know from the journal only
        self._controller: Controller | None = None

    def health(self) -> str:
        """What is wrong."""
        if self._leads or self._newest is None:
            return self._watch.problem()
        return self._newest.trouble

    def stuck(self) -> str:
        """Nothing: the controller tells the probes itself."""
        return ""

    @property
    def _leads(self) -> bool:
        return self._controller is not None and self._controller.is_leading

    @contextlib.contextmanager
    def running(self, server: uvicorn.Server) -> Iterator[None]:
        """Run the controller beside the server."""
        from controller.runner import Controller

        ready, ended = threading.Event(), threading.Event()
        held: dict[str, asyncio.AbstractEventLoop] = {}

        async def live() -> None:
            controller = await Controller.create(
                self.settings,
                publish=self._publish,
                probes=self._probes,
                gpu_budget=GpuBudget(self.settings.gpu_budget, self._store),
            )
            held["loop"], self._controller = asyncio.get_running_loop(), controller
            config: Any = server.config.app
            config.state.api.metrics = controller.metrics
            config.state.api.gpu_budget = self.settings.gpu_budget
            ready.set()
            await controller.run()

        def stop() -> None:
            if "loop" in held and self._controller is not None:
                with contextlib.suppress(RuntimeError):  # it has ended by itself
                    held["loop"].call_soon_threadsafe(self._controller.stop)

        with contextlib.ExitStack() as stack:
            if self._newest is not None:
                stack.enter_context(beside(lambda: self._follow(ended), ended.set, server))
            failed = stack.enter_context(beside(lambda: asyncio.run(live()), stop, server))
            while not ready.wait(0.1):
                if failed:
                    raise failed[0]  # before anybody is greeted
            yield

    def _publish(self, snapshots: Sequence[Snapshot], gone: Sequence[str]) -> None:
        """Show and keep a tick; what only the journal knew of is gone by now, or another's."""
        with self._publishing:
            others = self._followed - {s.service for s in snapshots}
            self._followed.clear()
            self.hub.publish(snapshots, {*gone, *others})
        if self.turns is not None:
            self.turns.publish(snapshots, gone)

    def _follow(self, ended: threading.Event) -> None:
        """While another leads: show what it writes."""
        assert self._newest is not None  # or this thread would not have been begun
        while True:
            if not self._leads:
                new = self._newest.read()
                with self._publishing:
                    if new and not self._leads:
                        self._followed.update(s.service for s in new)
                        self.hub.publish(new)
                self._watch.moved()
            if ended.wait(FOLLOW_S):
                return


class Follower:
    """The newest state of a journal that others write, read every few seconds."""

    def __init__(self, store: JournalStore) -> None:
        self.hub, self.speed = Hub(), 1.0
        self.turns: Hub | None = None
        self.trouble = ""
        self.metrics: MetricsPort | None = None
        self._newest = Newest(store, self.hub)
        self.what = f"What the journal {store.where} tells."

    def health(self) -> str:
        """What is wrong with the journal."""
        return self._newest.trouble

    def stuck(self) -> str:
        """Nothing: another start would find the same journal."""
        return ""

    @contextlib.contextmanager
    def running(self, server: uvicorn.Server) -> Iterator[None]:
        """Read once, then go on beside the server."""
        stop = threading.Event()
        self._read()
        with beside(lambda: self._follow(stop), stop.set, server):
            yield

    def _follow(self, stop: threading.Event) -> None:
        while not stop.wait(FOLLOW_S):
            self._read()

    def _read(self) -> None:
        new = self._newest.read()
        if new:
            self.hub.publish(new)
