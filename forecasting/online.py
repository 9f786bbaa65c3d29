"""`Online`: the forecasters of many services as they learn, each in its own time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from forecasting.base import ForecastModel
from forecasting.panel import Panel
from forecasting.refreshing import Outcome, Schedule, Standing, learner, refreshed
from forecasting.windows import RowSource

__all__ = ["Online"]

K = TypeVar("K", bound=Hashable)
UNTIL, VERSION = "untilS", "version"


class Online(Generic[K]):
    """Who forecasts each service now, what was learned last, and whose turn it is to learn.

    `due` says which period a service has not learned of yet; `learn` makes the refresh and `take` takes it over, or
    `refresh` does both at once. `learn` changes nothing here, so it may run in another thread than the rest.

    Args:
        shared: the model of all services.
        method: what services learn (`forecasting.refreshing.learner`).
        schedule: when, and with how much.
        clock: seconds of a core of the thread that learns.
    """

    def __init__(self, shared: ForecastModel, method: str, schedule: Schedule, clock: Callable[[], float]) -> None:
        self.shared = shared
        self.schedule = schedule
        self._learn = learner(method, shared)
        self._clock = clock
        self._in_force: dict[K, ForecastModel | None] = {}
        self._standing: dict[K, tuple[float, Standing]] = {}  # from when on it counts
        self._before: dict[K, tuple[float, str]] = {}  # what was in force before a restart: rows until when, version

    # ---- forecasting ------------------------------------------------------------------------------------------
    def model(self, key: K, now_s: float) -> ForecastModel | None:
        """What forecasts this service at ``now_s``; None: the shared model."""
        known = self._standing.get(key)
        if known is not None and now_s >= known[0]:
            return known[1].model
        return self._in_force.get(key)

    # ---- learning ---------------------------------------------------------------------------------------------
    def due(self, key: K, now_s: float) -> int | None:
        """The period that is to be learned of; None where all has been.

        Of a service that was not met before, first what should be in force by now: or what was before a restart.
        """
        known = self._standing.get(key)
        if known is None:
            first = self.schedule.in_force(now_s)
            return min(first, round(self._before[key][0] / self.schedule.every_s)) if key in self._before else first
        newest = self.schedule.newest(now_s)
        if known[1].number >= newest:
            return None
        return max(known[1].number + 1, self.schedule.in_force(now_s))

    def known(self, source: RowSource, number: int) -> Panel:
        """A copy of the rows that a refresh reads."""
        return self.schedule.known(source, number)

    def learn(self, key: K, number: int, rows: Panel, horizon: int) -> Standing:
        """One refresh; see `forecasting.refreshing.refreshed`."""
        known, (_, version) = self._standing.get(key), self._before.get(key, (0.0, ""))
        before = None if known is None else known[1]
        return refreshed(self.shared, before, number, rows, horizon, self._learn, self.schedule, self._clock, version)

    def take(self, key: K, standing: Standing, now_s: float) -> None:
        """What was learned by ``now_s`` is in force from its time on, or from now on where it is late."""
        self._in_force[key] = self.model(key, now_s)
        self._before.pop(key, None)
        ready_s = self.schedule.end_s(standing.number) + self.schedule.ready_s
        self._standing[key] = (max(ready_s, now_s) if standing.outcome is not Outcome.RESTORED else now_s, standing)

    def refresh(self, key: K, source: RowSource, number: int, horizon: int) -> Standing:
        """Learn and take over at the end of the period, however long it took."""
        made = self.learn(key, number, self.known(source, number), horizon)
        self.take(key, made, self.schedule.end_s(number))
        return made

    def standing(self, key: K) -> Standing | None:
        """What came of the last refresh; None before the first."""
        known = self._standing.get(key)
        return None if known is None else known[1]

    def forget(self, key: K) -> None:
        """The service is gone."""
        for kept in (self._in_force, self._standing, self._before):
            kept.pop(key, None)

    # ---- restarts ---------------------------------------------------------------------------------------------
    def to_json(self, key: K) -> dict[str, Any] | None:
        """What is to be kept over a restart: which rows what is in force has learned, and its version."""
        known = self.standing(key)
        if known is None or known.model is None:
            return None
        return {UNTIL: self.schedule.end_s(known.learned), VERSION: known.version}

    def restore(self, key: K, saved: object) -> None:
        """Begin with learning that again from the same rows; what cannot be read or is of other periods is ignored."""
        if not isinstance(saved, dict) or key in self._standing:
            return
        until_s, version = saved.get(UNTIL), saved.get(VERSION)
        if isinstance(until_s, bool) or not isinstance(until_s, int | float) or not isinstance(version, str):
            return
        if version and abs(until_s) < 1e12 and until_s % self.schedule.every_s == 0:
            self._before[key] = (float(until_s), version)
