"""`DemoCluster`: all services of the demo, tick by tick: read, forecast in one batch, decide, act, show."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from forecasting.base import ForecastModel
from forecasting.distribution import ForecastDistribution
from forecasting.errors import UsageError
from forecasting.fleet import FleetForecaster, Wanted, forecast_rows, nobody, rounded
from forecasting.forecaster import Forecaster
from forecasting.online import Online
from forecasting.refreshing import Schedule
from harmony.metrics import Metrics
from harmony.serving import Hub
from simulator.demo.demand import STEP_S, Readings
from simulator.demo.service import DemoService
from simulator.demo.showing import measure, snapshot_of
from simulator.demo.specs import demo_specs

__all__ = ["DemoCluster", "TickTimes"]

log = logging.getLogger(__name__)

FIRST_ROW = 8 * 1440 + 9 * 60  # a Tuesday at nine, with a whole week before it
REVIEWS = 4  # services that may replay a piece of their past in one step; the others wait for the next
PAST_EVERY = 5  # rows between the turns of the past
PAST_HOURS = 24.0
PAST_HORIZON = 18
SHOWN_TURNS = 60  # of the past, so that charts and journal do not begin empty: five hours
DETAILED = 20  # up to this many services have a past, all indicators, and a forecast that reaches further
HORIZONS = (12, 24, 48, 96)
LATE_STEPS = 120  # further behind than this (a suspended machine), the rest is skipped


@dataclass(slots=True)
class TickTimes:
    """Wall-clock seconds of the ticks so far: how many, the last, the longest, and the last one's stages."""

    count: int = 0
    last_s: float = 0.0
    longest_s: float = 0.0
    total_s: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def mean_s(self) -> float:
        """Mean of all ticks; NaN before the first."""
        return self.total_s / self.count if self.count else math.nan


class DemoCluster:
    """A simulated cluster under the real control loop; publishes snapshots and exports metrics like a controller.

    Equal seed, number of services and number of steps give equal decisions, whatever the speed. Simulated time
    begins on a Tuesday at nine, after a day (for up to `DETAILED` services) that has been lived through already.
    Not thread-safe: one thread advances it; hub and metrics may be read from any.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        services: int = 5,
        speed: float = 60.0,
        hub: Hub | None = None,
        metrics: Metrics | None = None,
        model: ForecastModel | None = None,
        past_hours: float | None = None,
        refresh_s: float = 0.0,
        wall: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the services; nothing is forecast or decided yet (see `begin`).

        ``speed``: simulated seconds per second of `run`; ``wall``: Unix time for the metric of the last tick
        (default: simulated time); ``past_hours``: how long it has lived before the first step; ``refresh_s``: services
        learn the calibration of their forecasts on line in periods of so many simulated seconds, 0 for never.

        Raises `UsageError` for no services, or a speed or past that is not a positive (non-negative) number.
        """
        if services < 1 or seed < 0:
            raise UsageError(f"demo of {services} services with seed {seed}: expected 1 or more and 0 or more")
        if not (math.isfinite(speed) and speed > 0):
            raise UsageError(f"demo speed {speed}: expected a positive number, such as 60")
        few = services <= DETAILED
        hours = (PAST_HOURS if few else 0.0) if past_hours is None else past_hours
        if not 0.0 <= hours <= 96.0:
            raise UsageError(f"demo with a past of {hours} hours: expected 0 to 96")
        self.seed, self.speed = seed, speed
        self.hub = Hub() if hub is None else hub
        self.metrics = Metrics(process=False) if metrics is None else metrics
        self.specs = demo_specs(services, seed)
        self.times = TickTimes()
        self.row = FIRST_ROW - 1
        self._detail = few
        self._model = model
        self._monotonic = monotonic
        self._wall = self.now_s if wall is None else wall
        self._readings = Readings(self.specs, detail=few)
        self._past_rows = round(hours * 3600 / STEP_S / PAST_EVERY) * PAST_EVERY
        begin = FIRST_ROW - self._past_rows
        self.services = tuple(DemoService(s, i, self._readings, begin) for i, s in enumerate(self.specs))
        self._begun = False
        # what comes of it must not depend on the machine
        self._schedule = Schedule(every_s=refresh_s, budget_s=math.inf) if refresh_s != 0 else None
        self._online: Online[int] | None = None

    def now_s(self) -> float:
        """Simulated time, seconds since the Unix epoch."""
        return self._readings.time_s(self.row)

    @property
    def model(self) -> ForecastModel:
        """The forecaster: the bundled one, unless another was given; loaded when first needed."""
        if self._model is None:
            self._model = Forecaster.load("base")
        return self._model

    # ---- the past -------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """Live through the past (once; `advance` and `run` do it too) and publish its newest turns."""
        if self._begun:
            return
        self._begun = True
        self.metrics.observe_leader(True)
        self.metrics.observe_config({"interval_seconds": f"{STEP_S / self.speed:g}", "forecaster": "base"})
        first = FIRST_ROW - self._past_rows
        rows = range(first, FIRST_ROW, PAST_EVERY)
        made = [self._past_forecasts(s, rows) for s in self.services] if rows else []
        for number, row in enumerate(range(first, FIRST_ROW)):
            turn = number // PAST_EVERY if number % PAST_EVERY == 0 else -1
            for service in self.services:
                service.look(row)
                if turn >= 0:
                    self._past_turn(service, made[service.number][turn])
                service.settle()
            self._note(row)
            if turn >= max(0, len(rows) - SHOWN_TURNS):
                self._show()
        for service in self.services:
            service.turns_every(STEP_S)
        if self._schedule is not None:
            self._online = Online(self.model, "", self._schedule, time.thread_time)

    def _past_forecasts(self, service: DemoService, rows: Sequence[int]) -> list[ForecastDistribution]:
        """One service's forecasts of the demand for all turns of the past, each from what was read before it."""
        service.turns_every(PAST_EVERY * STEP_S)
        source = self._readings.rows_of(service.number, demand_only=True)
        return list(forecast_rows(self.model, source, rows, PAST_HORIZON, held=True))

    def _past_turn(self, service: DemoService, forecast: ForecastDistribution) -> None:
        service.consider(forecast if service.horizon() else None, with_past=True)
        service.conclude()
        measure(service, self.metrics)

    # ---- ticks ----------------------------------------------------------------------------------------------
    def advance(self, steps: int = 1) -> None:
        """Live through ``steps`` further steps of a minute each, as fast as it goes."""
        self.begin()
        for _ in range(steps):
            self._tick()

    def run(self, stop: threading.Event) -> None:
        """Live at `speed` until ``stop`` is set: each step at its time, late ones caught up.

        A failed step is logged and counted, and the next one comes.
        """
        self.begin()
        began, done, period = self._monotonic(), 0, STEP_S / self.speed
        while not stop.wait(max(0.0, began + done * period - self._monotonic())):
            behind = self._monotonic() - began - done * period
            if behind > LATE_STEPS * period:
                log.warning("%.0f s behind: going on from here", behind)
                began += behind
            try:
                self._tick(overrun_s=period)
            except Exception as error:  # the demo goes on, as the controller would
                log.exception("a step failed")
                self.metrics.observe_error("tick", error)
            done += 1

    def _tick(self, overrun_s: float = math.inf) -> None:
        """One step of all services."""
        began = self._monotonic()
        stages = _Stages(self._monotonic, self.metrics)
        self.row += 1
        for service in self.services:
            service.look(self.row)
        stages.end("read")
        forecasts = self._forecasts()
        stages.end("forecast")
        left = REVIEWS
        for service in self.services:
            may = not service.is_due or left > 0
            left -= service.is_due and may
            service.consider(forecasts.get(service.number), may_review=may, with_past=self._detail)
        stages.end("decide")
        for service in self.services:
            service.conclude()
            service.settle()
        self._note(self.row)
        self._learn()
        stages.end("act")
        for service in self.services:
            measure(service, self.metrics)
        self._show()
        stages.end("status")
        took_s = self._monotonic() - began
        self.metrics.observe_tick(self._wall(), overrun=took_s > overrun_s)
        times = self.times
        times.count, times.last_s, times.stages = times.count + 1, took_s, stages.seconds
        times.longest_s, times.total_s = max(times.longest_s, took_s), times.total_s + took_s

    def _forecasts(self) -> dict[int, ForecastDistribution]:
        """All indicators, equally far ahead, of every service that has something to make a forecast from."""
        steps = {s.number: s.horizon() for s in self.services}
        horizon = max(steps.values())
        horizon = max(horizon, HORIZONS[1]) if self._detail else horizon
        wanted = [Wanted(n, self._readings.rows_of(n), horizon) for n, ahead in steps.items() if ahead]
        own = nobody if self._online is None else self._online.model
        forecaster = FleetForecaster(self.model, horizons=HORIZONS, demand_only=False, own=own)
        found = forecaster.forecast(wanted, self.now_s())
        for number, failure in found.failed.items():
            log.warning("no forecast: %s", failure, extra={"service": self.specs[number].name})
            self.metrics.observe_error("forecast", failure.partition(":")[0])
        return found.made

    def _learn(self) -> None:
        """One service that has not learned of a period that has ended, after everybody's turn."""
        online = self._online
        if online is None:
            return
        for service in self.services:
            number, ahead = online.due(service.number, self.now_s()), service.horizon()
            if number is None or not ahead:
                continue
            source, horizon = self._readings.rows_of(service.number), rounded(ahead, HORIZONS)
            made = online.refresh(service.number, source, number, horizon)
            self.metrics.observe_refresh(str(made.outcome), made.seconds)
            log.info("%s: %s", made.outcome, made.why, extra={"service": self.specs[service.number].name})
            return

    def _note(self, row: int) -> None:
        """Write down what the replicas showed in this row."""
        if self._detail:
            utilization = [s.utilization for s in self.services]
            self._readings.note(row, utilization, [s.waiting for s in self.services])

    def _show(self) -> None:
        self.hub.publish([snapshot_of(s, self._readings) for s in self.services])


class _Stages:
    """Times the stages of one tick."""

    def __init__(self, monotonic: Callable[[], float], metrics: Metrics) -> None:
        self.seconds: dict[str, float] = {}
        self._monotonic, self._metrics = monotonic, metrics
        self._began = monotonic()

    def end(self, stage: str) -> None:
        """The stage that began with the end of the one before."""
        now = self._monotonic()
        self.seconds[stage] = now - self._began
        self._metrics.observe_stage(stage, now - self._began)
        self._began = now
