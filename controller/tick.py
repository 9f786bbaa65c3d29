"""THE TICK: read -> forecast -> decide -> act -> status, for all services at once, none in another's way.

Level-triggered: everything is read fresh, so that a lost event, a crash between deciding and writing, or a hand
that changed something cannot put it wrong for longer than one tick.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from controller.fleet.fleet import Fleet
from controller.fleet.ordering import order_of, standing_of, untouched
from controller.kube.client import Kube
from controller.kube.errors import KubeError
from controller.kube.events import Events
from controller.observing.targets import Targets
from controller.outputs.actuation import Actuator
from controller.outputs.base import ABSENT, Acted, Order
from controller.process.clock import LiveClock
from controller.process.malloc import give_back, uninterrupted
from controller.prometheus.together import Together
from controller.reporting.publishing import Publish, snapshot_of
from controller.reporting.writing import Reporter
from controller.resource.settings import ServiceKey
from controller.service import Service
from forecasting.distribution import ForecastDistribution
from forecasting.errors import HarmonyError
from forecasting.fleet import FleetForecaster, Forecasts
from harmony.decision.shared_gpus import Asking, share_gpus
from harmony.loop.state import ScalePlan
from harmony.metrics import Metrics
from harmony.model.record import Record

__all__ = ["Tick", "TickReport"]

log = logging.getLogger(__name__)
Json = dict[str, Any]
AT_ONCE = 256  # services forecast and decided together
REVIEW_S = 2.0  # of a core in a tick for replaying pasts; who comes later than that waits for another tick
LONG_S = 0.05  # of a core for one turn; one that replays nothing takes some thousandths
MANY = 500  # from so many services on, what a tick freed is given back to the system
GIVEN_BACK = 6  # times while it plans, at most: each looks through all that is free, so through more with more services


@dataclass(slots=True)
class TickReport:
    """What one tick did: counts for logs and tests, seconds by stage."""

    number: int
    services: int = 0
    decided: int = 0
    late: int = 0
    errors: int = 0
    calls: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class Tick:
    """One pass over all services; `run` it every interval.

    A service that is still busy with an earlier pass (a target or Prometheus that does not answer) is left out, so
    that it delays nobody; what breaks in one service, and that it is late, is written into its status and counted.
    """

    def __init__(
        self,
        *,
        kube: Kube,
        clock: LiveClock,
        fleet: Fleet,
        targets: Targets,
        forecaster: FleetForecaster,
        actuator: Actuator,
        reporter: Reporter,
        events: Events,
        metrics: Metrics,
        deadline_s: float,
        publish: Publish | None = None,
        together: Together | None = None,
        gpu_budget: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._kube = kube
        self._clock = clock
        self._fleet = fleet
        self._targets = targets
        self._forecaster = forecaster
        self._actuator = actuator
        self._reporter = reporter
        self._events = events
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._show = publish
        self._together = together or Together()
        self._gpu_budget = gpu_budget
        self._gone: list[str] = []
        self._busy: dict[tuple[bool, ServiceKey], asyncio.Task[bool]] = {}  # (is it its status, whose)
        self._reviewed_s = 0.0
        self.number = 0

    async def run(self) -> TickReport:
        """Once through all services."""
        with uninterrupted():
            return await self._once()

    async def _once(self) -> TickReport:
        self.number += 1
        report = TickReport(self.number)
        before = self._kube.calls.total()
        self._events.begin_cycle()
        now_s = self._clock.now_s()
        for key in self._fleet.sync():
            self._forget(key)
        services = list(self._fleet.services.values())
        report.services = len(services)
        with _Stage(self, report, "read"):
            self._together.begin((s.feed for s in services if (False, s.settings.key) not in self._busy), now_s)
            read = await self._each("read", services, lambda s: self._read(s, now_s), report)
        planned = self._shared(services, await self._plan(read, now_s, report), await self._budget())
        acted: dict[ServiceKey, Acted] = {}
        with _Stage(self, report, "act"):
            orders = self._orders(services, planned)
            await self._each("act", [s for s, _ in planned], lambda s: self._act(s, orders, acted), report)
            await self._restore()
        with _Stage(self, report, "status"):
            self._tell(planned, orders, acted)
            self._show_all(planned, acted)
            await self._each("status", services, lambda s: self._status(s, acted, now_s), report)
            await self._reject(now_s, report)
            await self._clear(report)
        if report.services >= MANY:
            await asyncio.to_thread(give_back)
        report.calls = self._kube.calls.total() - before
        for stage, seconds in report.seconds.items():
            self._metrics.observe_stage(stage, seconds)
        return report

    async def _plan(self, services: list[Service], now_s: float, report: TickReport) -> list[tuple[Service, ScalePlan]]:
        """Forecast and decide, some hundred services at a time: sample paths of thousands need not be held at once."""
        planned: list[tuple[Service, ScalePlan]] = []
        self._reviewed_s = 0.0
        parts = [services[lo : lo + AT_ONCE] for lo in range(0, len(services), AT_ONCE)]
        apart = math.ceil(len(parts) / GIVEN_BACK)
        for number, part in enumerate(parts, 1):
            with _Stage(self, report, "forecast"):
                forecasts = await asyncio.to_thread(self._forecast, part, now_s)
            with _Stage(self, report, "decide"):
                planned += await asyncio.to_thread(self._decide, part, forecasts, now_s, report)
            if self._show is None:
                for service in part:
                    if not self._actuator.reads_forecast(standing_of(service)):
                        service.shed()
            if report.services >= MANY and number % apart == 0:
                await asyncio.to_thread(give_back)  # or what each part needs for a moment adds up
        report.decided = len(planned)
        return planned

    def _forget(self, key: ServiceKey) -> None:
        """An object is gone: so is all that stands about it."""
        self._metrics.forget(key)
        self._actuator.forget(key)
        self._reporter.forget(key)
        self._gone.append(f"{key.namespace}/{key.name}")

    # ---- stages ---------------------------------------------------------------------------------------------
    async def _read(self, service: Service, now_s: float) -> None:
        """Look at the target and at the indicators, side by side."""
        await service.read(self._targets, now_s)

    def _forecast(self, services: list[Service], now_s: float) -> Forecasts[ServiceKey]:
        wanted = [w for w in (s.wants(now_s) for s in services) if w is not None]
        return self._forecaster.forecast(wanted, now_s)

    def _decide(
        self, services: list[Service], forecasts: Forecasts[ServiceKey], now_s: float, report: TickReport
    ) -> list[tuple[Service, ScalePlan]]:
        """Decide for every service that could be looked at; one that breaks is left as it is."""
        planned = []
        for service in services:
            key = service.settings.key
            try:
                plan = self._considered(service, now_s, forecasts.made.get(key), forecasts.failed.get(key, ""))
            except Exception as error:  # one service's bug must not take the others along; its count stays
                log.exception("deciding failed", extra={"service": str(key)})
                service.fails(f"deciding failed: {type(error).__name__}: {error}")
                self._metrics.observe_error("decide", error)
                report.errors += 1
                continue
            if plan is not None:
                planned.append((service, plan))
        for failure in forecasts.failed.values():
            self._metrics.observe_error("forecast", failure.partition(":")[0])
        for key, why in forecasts.left_out.items():
            log.warning("the shared model forecasts: %s", why, extra={"service": str(key)})
            self._metrics.observe_error("forecast", "LeftOut")
        return planned

    def _considered(
        self, service: Service, now_s: float, forecast: ForecastDistribution | None, failure: str
    ) -> ScalePlan | None:
        """One service's turn; it may replay its past while this tick still has time for such work.

        That some is needed may show only in the turn itself, in a lead time that it learns or limits that were changed.
        """
        due, began_s = service.has_long_work, time.thread_time()
        plan = service.consider(now_s, forecast, failure, may_review=self._reviewed_s < REVIEW_S)
        took_s = time.thread_time() - began_s
        if due or took_s >= LONG_S:
            self._reviewed_s += took_s
        return plan

    async def _budget(self) -> int | None:
        """GPUs that all services share in this tick; None for no budget."""
        return await asyncio.to_thread(self._gpu_budget)

    def _shared(
        self, services: list[Service], planned: list[tuple[Service, ScalePlan]], budget: int | None
    ) -> list[tuple[Service, ScalePlan]]:
        """The plans within a budget of GPUs; what services hold that had no turn counts as in use."""
        if budget is None:
            return planned
        asking = {str(service.settings.key): _asking(service, plan) for service, plan in planned}
        others = [s for s in services if str(s.settings.key) not in asking]
        in_use = sum(s.view.ordered * s.settings.objective.gpus_per_replica for s in others)
        granted = share_gpus(asking, budget, others=in_use).replicas
        return [(service, service.granted(granted[str(service.settings.key)])) for service, _ in planned]

    def _orders(self, services: list[Service], planned: list[tuple[Service, ScalePlan]]) -> dict[ServiceKey, Order]:
        """What is to be done for whom; outputs have looked at everybody by then, planned or not."""

        def about(service: Service) -> tuple[Service, Json | None, str]:
            return service, self._fleet.owner_of(service), self._fleet.since(service.settings.key)

        orders = {service.settings.key: order_of(*about(service)) for service, _ in planned}
        standings = [orders.get(s.settings.key) or standing_of(*about(s)) for s in services]
        self._actuator.survey(standings, self._fleet.neighbours())
        return orders

    async def _act(self, service: Service, orders: dict[ServiceKey, Order], acted: dict[ServiceKey, Acted]) -> None:
        key = service.settings.key
        done = acted[key] = await self._actuator.act(orders[key])
        service.conclude(done.applied)
        if done.error:
            self._metrics.observe_scale_error(key)
            log.warning("not applied: %s", done.error, extra={"service": str(key)})
        elif done.changed:
            note = done.event[1] if done.event else ""
            log.info("applied: %s", note, extra={"service": str(key)})

    async def _restore(self) -> None:
        """Give back what no service asks for any more (mode changed, object deleted, opted out)."""
        for back in await self._actuator.restore():
            if back.error is not None:
                self._metrics.observe_error(back.output, back.error)
                log.warning("%s not restored: %s", back.output, back.error)
            elif back.event is not None:
                reason, note = back.event
                self._events.record(back.obj, "Normal", str(reason), note)

    async def _status(self, service: Service, acted: dict[ServiceKey, Acted], now_s: float) -> None:
        key = service.settings.key
        await self._reporter.report(service, acted.get(key) or untouched(service), now_s)

    async def _reject(self, now_s: float, report: TickReport) -> None:
        for key, rejected in list(self._fleet.rejected.items()):
            if key not in self._fleet.services:
                self._actuator.forget(key)
            try:
                await self._reporter.reject(key, rejected, now_s)
            except KubeError as error:
                report.errors += 1
                self._metrics.observe_error("status", error)

    async def _clear(self, report: TickReport) -> None:
        """Leave nothing on objects that have opted out."""
        for key in list(self._fleet.opted_out):
            try:
                await self._reporter.clear(key)
            except KubeError as error:
                report.errors += 1
                self._metrics.observe_error("status", error)

    # ---- figures for machines -------------------------------------------------------------------------------
    def _tell(
        self,
        planned: list[tuple[Service, ScalePlan]],
        orders: dict[ServiceKey, Order],
        acted: dict[ServiceKey, Acted],
    ) -> None:
        """Export what Prometheus scrapes, of every service that had its turn."""
        for service, _ in planned:
            key = service.settings.key
            if (done := acted.get(key)) is not None and service.record is not None:
                self._actuator.tell(orders[key], done, service.record)
                self._measure(service, service.record)

    def _show_all(self, planned: list[tuple[Service, ScalePlan]], acted: dict[ServiceKey, Acted]) -> None:
        """Publish a snapshot of every service that had its turn; whatever breaks there, scaling goes on."""
        gone, self._gone = self._gone, []
        if self._show is None:
            return
        try:
            made = [snapshot_of(s, acted[s.settings.key]) for s, _ in planned if s.settings.key in acted]
            self._show([s for s in made if s is not None], gone)
        except Exception as error:
            log.exception("publishing failed")
            self._metrics.observe_error("publish", error)

    def _measure(self, service: Service, record: Record) -> None:
        """Export what is known of one service besides its decision."""
        key, metrics = service.settings.key, self._metrics
        metrics.observe_replicas(key, service.view.ordered, service.view.ready, service.settings.objective.max_replicas)
        metrics.observe_mode(key, str(service.settings.mode), str(service.mode))
        metrics.observe_fallback(key, record.decision.reason in ABSENT)
        if service.feed_state is not None:
            metrics.observe_metrics_age(key, service.feed_state.demand_age_s)
            metrics.observe_incomplete(key, bool(service.feed_state.incomplete))
        for took_s in service.view.starts.took_s:
            metrics.observe_start(key, took_s)
        if service.regret.seconds > 0:
            regret = service.regret
            metrics.observe_shadow(key, regret.gpu_hours_saved, regret.misses_avoided_s, regret.misses_caused_s)
        metrics.observe_agreement(key, service.trust.agreement)
        if service.record is not None and not service.view.problem:
            metrics.observe_bill(key, service.view.ordered, service.record.observation)
        metrics.observe_scores(key, service.scores.coverage, service.scores.crps)

    # ---- side by side ---------------------------------------------------------------------------------------
    async def _each(
        self,
        stage: str,
        services: Iterable[Service],
        work: Callable[[Service], Awaitable[None]],
        report: TickReport,
    ) -> list[Service]:
        """Do ``work`` for all services at once; returns those for which it was done within the deadline.

        Work that takes longer goes on in the background, and its service sits out until it is done; only its status
        is still written, and a status that cannot be written keeps nobody from scaling.
        """
        tasks: dict[asyncio.Task[bool], Service] = {}
        for service in services:
            lane = stage == "status", service.settings.key
            if lane in self._busy:
                report.late += 1
                continue
            task = asyncio.ensure_future(self._guarded(stage, service, work, report))
            tasks[task] = service
            self._busy[lane] = task
            task.add_done_callback(functools.partial(self._idle, lane))
        if not tasks:
            return []
        done, late = await asyncio.wait(tasks, timeout=self._deadline_s)
        report.late += len(late)
        for task in late:
            service = tasks[task]
            service.fails(f"{stage} took longer than {self._deadline_s:g} s")
            log.warning("late: %s", service.error, extra={"service": str(service.settings.key)})
            self._metrics.observe_error(stage, "Late")
        return [service for task, service in tasks.items() if task in done and task.result()]

    def _idle(self, lane: tuple[bool, ServiceKey], _: asyncio.Task[bool]) -> None:
        self._busy.pop(lane, None)

    async def _guarded(
        self, stage: str, service: Service, work: Callable[[Service], Awaitable[None]], report: TickReport
    ) -> bool:
        """True when the work was done; trouble is written down where it belongs."""
        key = service.settings.key
        try:
            await work(service)
        except HarmonyError as error:
            service.fails(f"{stage}: {error}")
            log.warning("%s failed: %s", stage, error, extra={"service": str(key)})
        except Exception as error:  # one service's bug must not take the others along
            service.fails(f"{stage}: {type(error).__name__}: {error}")
            log.exception("%s failed", stage, extra={"service": str(key)})
        else:
            return True
        report.errors += 1
        self._metrics.observe_error(stage, service.error.split(":")[1].strip() if ":" in service.error else "Error")
        return False

    async def finish(self) -> None:
        """Wait for what still goes on in the background, as long as one deadline."""
        if self._busy:
            await asyncio.wait(list(self._busy.values()), timeout=self._deadline_s)


def _asking(service: Service, plan: ScalePlan) -> Asking:
    """What a planned service asks of a shared budget of GPUs."""
    turn = service.turn
    table = None if turn is None else turn.decision.candidates
    return Asking(service.view.ordered, plan.desired, service.settings.objective.gpus_per_replica, table)


class _Stage:
    """Times one stage for the report and for Prometheus."""

    def __init__(self, tick: Tick, report: TickReport, name: str) -> None:
        self._tick, self._report, self._name = tick, report, name
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = self._tick._clock.monotonic_s()

    def __exit__(self, *_: object) -> None:
        took = self._tick._clock.monotonic_s() - self._began
        self._report.seconds[self._name] = self._report.seconds.get(self._name, 0.0) + took
