"""`run_controller`: wiring of one controller process, from settings to a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controller.fleet.fleet import Fleet
from controller.keda.board import Board
from controller.keda.server import KedaScaler, Tls
from controller.kube.client import Kube
from controller.kube.errors import KubeError
from controller.kube.events import Events
from controller.kube.lease import LeaseElection
from controller.learning import Learning
from controller.observing.targets import Targets
from controller.outputs.actuation import Actuator
from controller.process.clock import LiveClock
from controller.process.http import serve_metrics
from controller.process.malloc import settle
from controller.process.probes import CONTROLLER, Check, Probes
from controller.process.settings import ControllerSettings
from controller.prometheus.errors import PrometheusError
from controller.prometheus.sources import Sources
from controller.reporting.following import post_from_statuses
from controller.reporting.json_lines import JsonLines
from controller.reporting.publishing import Publish
from controller.reporting.writing import Reporter
from controller.resource.settings import ServiceKey
from controller.tick import Tick, TickReport
from forecasting.base import ForecastModel, rows_read
from forecasting.errors import HarmonyError
from forecasting.fleet import FleetForecaster, nobody
from forecasting.online import Online
from forecasting.refreshing import QUICK, Schedule, shared_model
from harmony import __version__
from harmony.metrics import Metrics

__all__ = ["Controller", "run_controller"]

log = logging.getLogger(__name__)
JITTER = 0.1
STUCK_INTERVALS = 5
FIND_KINDS_S = 60.0
RETRY_S = 2.0
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


async def run_controller(
    settings: ControllerSettings, *, model: ForecastModel | None = None, publish: Publish | None = None
) -> None:
    """Run until SIGTERM or SIGINT; raises `HarmonyError` when it cannot begin.

    ``publish`` is given every service's snapshot after every tick.
    """
    controller = await Controller.create(settings, model=model, publish=publish)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, controller.stop)
    settle()
    await controller.run()


class Controller:
    """One controller process: watches always, ticks while it leads."""

    def __init__(
        self,
        settings: ControllerSettings,
        kube: Kube,
        model: ForecastModel,
        clock: LiveClock,
        given: Sequence[dict[str, Any]] = (),
        publish: Publish | None = None,
        probes: Probes | None = None,
        gpu_budget: Callable[[], int | None] | None = None,
    ) -> None:
        self.settings = settings
        self._probes = probes
        self.clock = clock
        self.metrics = Metrics(__version__)
        self.board = Board(closed="this controller is in a dry run" if settings.dry_run else "")
        self._kube = kube
        self._stop = asyncio.Event()
        self._leading = False
        self._ticked_s = clock.monotonic_s()
        self._jitter = np.random.default_rng()
        self._synced = False
        self._waiting_for = ""
        namespaces = settings.namespaces or None
        self._journal = JsonLines(settings.journal) if settings.journal else None
        self.sources = Sources(settings.prometheus, clock.monotonic_s, lookback=rows_read(model))
        self.targets = Targets(kube, namespaces)
        self.fleet = Fleet(
            kube,
            namespaces,
            settings.selector,
            self.sources.feed,
            interval_s=settings.interval_s,
            journal=None if self._journal is None else self._journal.of,
            given=given,
        )
        self.events = Events(kube, "harmony-controller", clock.now_s)
        self.identity = f"{platform.node()}_{uuid.uuid4().hex[:8]}"
        self.election = LeaseElection(
            kube, settings.lease_namespace or own_namespace(), settings.lease_name, self.identity
        )
        self.learning = None
        if settings.refresh_s > 0:
            schedule = Schedule(every_s=settings.refresh_s)
            online: Online[ServiceKey] = Online(model, settings.forecaster, schedule, time.thread_time)
            self.learning = Learning(online, self.fleet, clock, self.metrics)
        self.tick = Tick(
            kube=kube,
            clock=clock,
            fleet=self.fleet,
            targets=self.targets,
            forecaster=FleetForecaster(
                model,
                samples=settings.samples,
                seed=settings.seed,
                own=nobody if self.learning is None else self.learning.online.model,
            ),
            actuator=Actuator.over(kube, self.board, self.metrics, self.may_act, dry_run=settings.dry_run),
            reporter=(reporter := Reporter(kube, self.fleet, self.events, self.may_act, dry_run=settings.dry_run)),
            events=self.events,
            metrics=self.metrics,
            deadline_s=settings.read_deadline_s,
            publish=publish,
            together=self.sources.together,
            gpu_budget=gpu_budget or (lambda: settings.gpu_budget or None),
        )
        self.reporter = reporter
        self.ports: tuple[int, ...] = ()
        self.keda_port = 0  # 0: KEDA is not served
        self.on_tick: Callable[[TickReport], None] = lambda _: None

    @classmethod
    async def create(
        cls,
        settings: ControllerSettings,
        *,
        model: ForecastModel | None = None,
        given: Sequence[dict[str, Any]] = (),
        publish: Publish | None = None,
        probes: Probes | None = None,
        gpu_budget: Callable[[], int | None] | None = None,
        kube: Kube | None = None,
    ) -> Controller:
        """Connect and load the model; raises `HarmonyError` naming what is missing.

        Without ``probes`` of the process around it, it answers them itself at the settings' health address;
        ``gpu_budget`` says before every tick which budget of GPUs is in force, by default the settings' own;
        ``kube`` is a connection that is there already.
        """
        if kube is None:
            kube = await Kube.connect(settings.kubeconfig or None, settings.context or None)
        try:
            loaded = model if model is not None else await asyncio.to_thread(load_model, settings.forecaster)
            return cls(settings, kube, loaded, LiveClock(), given, publish, probes, gpu_budget)
        except BaseException:
            await kube.close()
            raise

    # ---- authority ------------------------------------------------------------------------------------------
    def may_act(self) -> bool:
        """Whether this process may write right now (self-fenced: false before anybody else may)."""
        return self._leading and (not self.settings.elects or self.election.may_act())

    @property
    def is_leading(self) -> bool:
        """Whether the loop runs here; may be asked from any thread."""
        return self._leading

    # ---- life -----------------------------------------------------------------------------------------------
    def stop(self) -> None:
        """End after the present tick; leadership is handed over at once."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until `stop`."""
        s = self.settings
        keda = KedaScaler(
            self.board,
            self.clock,
            max_age_s=max(180.0, 3 * s.interval_s),
            observe=self.metrics.observe_keda_request,
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.close)
            ports: list[int] = []
            probes = self._probes
            if probes is None and s.health_address:
                probes = stack.enter_context(Probes(s.health_address, [CONTROLLER]))
                ports.append(probes.port)
            if probes is not None:
                stack.enter_context(_speaking(probes, self._live(), self._ready(keda)))
            if s.metrics_address:
                listener = await serve_metrics(s.metrics_address, self.metrics)
                stack.push_async_callback(listener.stop)
                ports.append(listener.port)
            stack.push_async_callback(keda.stop)
            if s.keda_address:
                tls = Tls(s.keda_cert_file, s.keda_key_file, s.keda_ca_file) if s.keda_cert_file else None
                self.keda_port = await keda.start(s.keda_address, tls)
            self.ports = tuple(ports)
            await self.begin()
            await self._serve()

    async def close(self) -> None:
        """Give up watches and connections."""
        await self.events.stop()
        await self.fleet.stop()
        await self.targets.stop()
        await self.sources.close()
        await self._kube.close()
        if self._journal is not None:
            self._journal.close()

    async def reach(self) -> None:
        """Raises `KubeError` if the API server does not answer now, which `begin` would wait for."""
        await self._kube.version()

    async def begin(self) -> None:
        """Take the time from Prometheus, and know all that exists."""
        if self.settings.prometheus.url:
            try:
                self.clock.begin_at(await self.sources.prometheus().now_s())
            except PrometheusError as error:
                log.warning("%s; beginning with this machine's clock", error)
        self.metrics.observe_config(
            {
                "interval_seconds": f"{self.settings.interval_s:g}",
                "forecaster": self.settings.forecaster,
                "refresh_seconds": f"{self.settings.refresh_s:g}",
                "dry_run": str(self.settings.dry_run).lower(),
                "scope": ",".join(self.settings.namespaces) or "cluster",
            }
        )
        if self.learning is None and self.settings.forecaster in QUICK:
            named = self.settings.forecaster
            log.warning("%s is learned on line: without --refresh, such as 1h, the bundled model forecasts", named)
        await self.events.start()
        started = asyncio.ensure_future(self._watch_all())
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([started, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not started.done():
            started.cancel()
            return
        await started
        self._synced = True
        scope = ", ".join(self.settings.namespaces) or "the whole cluster"
        log.info("watching %s as %s", scope, self.identity)
        if not self.fleet.has_crd:
            log.warning("GPUAutoscalers are not installed (harmony crd | kubectl apply -f -): annotations only")

    async def _watch_all(self) -> None:
        """Start all watches; an API server that is not there (yet) is waited for."""
        while True:
            try:
                await asyncio.gather(self.fleet.start(), self.targets.start())
            except KubeError as error:
                self._waiting_for = str(error)
                log.warning("%s; trying again in %g s", error, RETRY_S)
                await asyncio.sleep(RETRY_S)
            else:
                self._waiting_for = ""
                return

    async def _serve(self) -> None:
        if self._stop.is_set():
            return
        if not self.settings.elects:
            await self._lead()
            return
        election = asyncio.create_task(self.election.run(self._lead, self._lost))
        follower = asyncio.create_task(self._follow())
        stopped = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait({election, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if election in done and not self._stop.is_set():
            election.result()
        await self.election.stop()
        for task in (election, follower, stopped):
            task.cancel()
        await asyncio.gather(election, follower, stopped, return_exceptions=True)

    async def _lead(self) -> None:
        """Tick until stopped or cancelled; whatever breaks in a tick, the next one comes."""
        self._leading = True
        self._ticked_s = self.clock.monotonic_s()
        self.metrics.observe_leader(True)
        log.info("leading")
        found_s = self._ticked_s
        learning = None if self.learning is None else asyncio.create_task(self.learning.run())
        try:
            while not self._stop.is_set():
                began = self.clock.monotonic_s()
                if began - found_s > FIND_KINDS_S:
                    found_s = began
                    await self._try("kinds", self.fleet.find_kinds)
                await self._try("clock", self._follow_clock)
                done = await self._try("tick", self._tick)
                took = self.clock.monotonic_s() - began
                pause = self.settings.interval_s * (1 + self._jitter.uniform(-JITTER, JITTER)) - took
                if done:
                    self.metrics.observe_tick(self.clock.now_s(), overrun=took > self.settings.interval_s)
                await self._sleep(max(0.01, pause))
            await self.tick.finish()
            failed = await self.reporter.save_all()
            if failed:
                log.warning("what was learned could not be written for %d objects", failed)
        finally:
            self._leading = False
            if learning is not None:
                learning.cancel()
            self.metrics.observe_leader(False)
            self.metrics.forget_services()  # their figures are the next leader's to export

    async def _lost(self) -> None:
        """Leadership went to another."""
        log.warning("no longer leading")

    async def _try(self, what: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Run one part of the loop; its failure is logged and counted, and never ends the loop."""
        try:
            await work()
        except HarmonyError as error:
            log.warning("%s: %s", what, error)
            self.metrics.observe_error(what, error)
        except Exception as error:
            log.exception("%s failed", what)
            self.metrics.observe_error(what, error)
        else:
            return True
        return False

    async def _tick(self) -> None:
        report = await self.tick.run()
        self._ticked_s = self.clock.monotonic_s()
        self._count_calls()
        log.info(
            "tick",
            extra={
                "tick": report.number,
                "services": report.services,
                "decided": report.decided,
                "late": report.late,
                "errors": report.errors,
                "api_calls": report.calls,
                "seconds": {k: round(v, 3) for k, v in report.seconds.items()},
            },
        )
        self.on_tick(report)

    def _count_calls(self) -> None:
        """Export the API server's calls since the last tick."""
        for (call, code), count in self._kube.take_answers().items():
            resource = f"{call.resource}/{call.subresource}" if call.subresource else call.resource
            self.metrics.observe_kube_request(call.verb, resource, code, count)

    async def _follow_clock(self) -> None:
        if not self.settings.prometheus.url:
            return
        apart = self.clock.follow(await self.sources.prometheus().now_s())
        if abs(apart) > self.settings.interval_s:
            log.warning("this controller's clock and Prometheus's are %.0f s apart", apart)

    async def _follow(self) -> None:
        """While another leads: answer KEDA from what the leader wrote, as long as it is alive."""
        while not self._stop.is_set():
            if not self._leading and self._synced and self.election.leader_is_alive():
                post_from_statuses(self.fleet.autoscalers(), self.board, self.clock.now_s())
            await self._sleep(self.settings.interval_s)

    async def _sleep(self, seconds: float) -> None:
        """Wait, or less when stopped."""
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return

    # ---- health ---------------------------------------------------------------------------------------------
    def _live(self) -> list[Check]:
        return [Check("loop", self._stuck)]

    def _ready(self, keda: KedaScaler) -> list[Check]:
        checks = [Check("watches", self._unsynced)]
        return [*checks, Check("keda", keda.problem)] if self.settings.keda_address else checks

    def _stuck(self) -> str | None:
        if not self._leading:
            return None
        age = self.clock.monotonic_s() - self._ticked_s
        limit = STUCK_INTERVALS * self.settings.interval_s + 3 * self.settings.read_deadline_s
        return f"no tick has finished for {age:.0f} s" if age > limit else None

    def _unsynced(self) -> str | None:
        if not self._synced:
            return self._waiting_for or "still reading what exists"
        stale = [str(c.resource.plural) for c in (*self.fleet.caches, *self.targets.caches) if not c.is_synced]
        return f"not in step with the API server: {', '.join(stale)}" if stale else None


@contextlib.contextmanager
def _speaking(probes: Probes, live: Sequence[Check], ready: Sequence[Check]) -> Iterator[None]:
    """Tell the probes from this event loop how things stand, while the block runs."""
    speaking = asyncio.create_task(probes.speak(CONTROLLER, live, ready))
    try:
        yield
    finally:
        speaking.cancel()


def load_model(name: str) -> ForecastModel:
    """What forecasts all services: the forecaster by bundled name or folder."""
    return shared_model(name)


def own_namespace() -> str:
    """The namespace this process runs in; "default" outside of a cluster."""
    if NAMESPACE_FILE.is_file():
        return NAMESPACE_FILE.read_text().strip()
    return os.environ.get("POD_NAMESPACE", "default")
