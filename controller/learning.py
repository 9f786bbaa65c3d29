"""`Learning`: services' forecasters learn on line, one after the other, beside the ticks and never within one."""

from __future__ import annotations

import asyncio
import logging

from controller.fleet.fleet import Fleet
from controller.process.clock import LiveClock
from controller.prometheus.history import History
from controller.resource.settings import ServiceKey
from controller.service import Service
from forecasting.fleet import rounded
from forecasting.online import Online
from forecasting.refreshing import Outcome, Standing
from harmony.metrics import Metrics

__all__ = ["Learning"]

log = logging.getLogger(__name__)
LOOK_S = 5.0  # between two looks for services that have a period to learn of
REST = 0.2  # of the time that a refresh took, before the next: ticks come first
TOLD = frozenset({Outcome.REPLACED, Outcome.REVERTED, Outcome.RESTORED, Outcome.FAILED, Outcome.LATE})


class Learning:
    """Refreshes whoever is due in a thread, one service at a time; decisions go on with what is in force meanwhile.

    Rows are copied before, and what was learned is taken over after, by the event loop itself.
    """

    def __init__(self, online: Online[ServiceKey], fleet: Fleet, clock: LiveClock, metrics: Metrics) -> None:
        self.online = online
        self._fleet = fleet
        self._clock = clock
        self._metrics = metrics
        self._met: dict[ServiceKey, History] = {}  # whose model rests on which readings
        self._after: ServiceKey | None = None  # who learned last, so that all have their turn

    async def run(self) -> None:
        """Go on until cancelled; a refresh that breaks is counted, and the next one comes."""
        while True:
            try:
                made = await self.step()
            except Exception as error:
                log.exception("learning failed")
                self._metrics.observe_error("refresh", error)
                made = None
            await asyncio.sleep(LOOK_S if made is None else REST * made.seconds)

    async def step(self) -> Standing | None:
        """One refresh of the next service that is due; None where nobody is."""
        now_s = self._clock.now_s()
        self._meet()
        found = self._next(now_s)
        if found is None:
            return None
        service, number, horizon = found
        key, history = service.settings.key, service.history
        self._after = key
        rows = self.online.known(history, number)
        made = await asyncio.to_thread(self.online.learn, key, number, rows, horizon)
        self._metrics.observe_refresh(str(made.outcome), made.seconds)
        if self._fleet.services.get(key) is not service or service.history is not history:
            return made  # it is gone, or other readings stand for it now
        self.online.take(key, made, self._clock.now_s())
        service.own_model = self.online.to_json(key)
        level = logging.INFO if made.outcome in TOLD else logging.DEBUG
        log.log(level, "forecaster %s: %s", made.outcome, made.why, extra={"service": str(key)})
        return made

    def _meet(self) -> None:
        """Forget who is gone or is read otherwise; of the new ones, take what was in force before a restart."""
        services = self._fleet.services
        for key in [k for k, h in self._met.items() if k not in services or services[k].history is not h]:
            self.online.forget(key)
            del self._met[key]
            if key in services:
                services[key].own_model = None
        for key, service in services.items():
            if key not in self._met:
                self._met[key] = service.history
                self.online.restore(key, service.own_model)

    def _next(self, now_s: float) -> tuple[Service, int, int] | None:
        """The next service with a period to learn of, that period, and steps ahead; whoever learned last comes last."""
        keys = list(self._met)
        first = keys.index(self._after) + 1 if self._after in self._met else 0
        for key in (*keys[first:], *keys[:first]):
            service = self._fleet.services[key]
            if service.is_idle or not service.feed.has_past:
                continue
            number, wanted = self.online.due(key, now_s), None
            if number is not None:
                wanted = service.wants(now_s)
            if number is not None and wanted is not None:
                return service, number, rounded(wanted.horizon)
        return None
