"""`Service`: one managed service in a cluster: what a person said of it, what was read, and what stands about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from controller.observing.groups import Groups
from controller.observing.starts import PodStarts
from controller.observing.targets import OWNERS, Targets, TargetView
from controller.prometheus.feed import Feed, FeedState
from controller.prometheus.history import History
from controller.resource.saving import demand_mark
from controller.resource.settings import ServiceKey, ServiceSettings
from forecasting.distribution import ForecastDistribution
from forecasting.fleet import Wanted
from forecasting.panel import FloatArray
from forecasting.windows import WEEK_S
from harmony.decision.trust import Trust
from harmony.loop.ledger import Row
from harmony.loop.managed import GPU_BUDGET, ManagedService
from harmony.loop.ports import RecordSink
from harmony.loop.scoring import ForecastScores
from harmony.loop.shadow import Regret
from harmony.loop.state import Learned, Look, ScalePlan, State, Terms, Turn
from harmony.loop.violations import ViolationCounts
from harmony.model.authority import Mode
from harmony.model.record import Record
from harmony.policies.harmony import SERVED, HarmonyPolicy

__all__ = ["Service", "terms_of"]

GROUP = "group"  # among what is saved: how many pods a replica is
LATE_STEPS = 1  # a reading may not be in yet
OWN_MODEL = "ownModel"  # which forecaster of its own is in force
INCOMPLETE = "its metrics are incomplete"
SETTLED_STEPS = 3  # a step that has no demand after so many more gets none any more


def terms_of(settings: ServiceSettings, interval_s: float) -> Terms:
    """What is agreed about a service, as a person said it."""
    return Terms(
        objective=settings.objective,
        policy=HarmonyPolicy(limits=settings.objective.behavior, kept=SERVED),
        capacity=settings.capacity,
        lead_time=settings.lead_time,
        step_s=settings.step_s,
        interval_s=interval_s,
        mode=settings.mode,
        pause=settings.pause,
        writes_count=settings.writes_count,
        gpu_type=settings.gpu_type,
        measures=demand_mark(settings),
    )


class Service:
    """The ports of one service; the tick drives it: `read` (I/O), `wants`, `consider`, and `conclude` after acting.

    What it decides, learns and remembers is its `ManagedService`'s, the same as in a replay.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        feed: Feed,
        *,
        interval_s: float,
        saved: object = None,
        journal: RecordSink | None = None,
    ) -> None:
        self._settings = settings
        self._feed = feed
        self._interval_s = interval_s
        self._managed = ManagedService(terms_of(settings, interval_s), saved=saved, journal=journal)
        self._notes = self._managed.notes
        self._starts = PodStarts(since_s=self._managed.state.starts_since_s)
        self._view = TargetView(problem="not looked at yet")
        known = saved.get(GROUP) if isinstance(saved, dict) else None
        self._groups = Groups.from_json(known, str(settings.target))
        self.own_model: object = saved.get(OWN_MODEL) if isinstance(saved, dict) else None  # see `controller.learning`
        self._feed_state: FeedState | None = None
        self._forecast: ForecastDistribution | None = None
        self._forecast_error = ""
        self._turn: Turn | None = None
        self._record: Record | None = None
        self._plan: ScalePlan | None = None
        self._error = ""
        self._rival = ""
        self._now_s = math.nan

    # ---- what was said of it --------------------------------------------------------------------------------
    @property
    def settings(self) -> ServiceSettings:
        """What a person said of it."""
        return self._settings

    @property
    def terms(self) -> Terms:
        """The same in the terms of a managed service."""
        return self._managed.terms

    @property
    def is_idle(self) -> bool:
        """True while the user has stopped it: it is watched, but nobody acts on what would be decided."""
        return self._settings.pause.paused or self._settings.pause.replicas is not None

    def adopt(self, settings: ServiceSettings, feed: Feed) -> None:
        """Take changed settings; what was read and learned stays where it still means the same."""
        old = self._settings
        others = (old.queries, old.step_s, old.prometheus_url) != (
            settings.queries,
            settings.step_s,
            settings.prometheus_url,
        )
        if others:
            self._feed, self._feed_state = feed, None
        if old.target != settings.target:
            self._groups = Groups()
        self._settings = settings
        self._managed.adopt(terms_of(settings, self._interval_s), other_readings=others)

    def meet(self, rival: str) -> None:
        """Who else moves the target; empty for nobody."""
        self._rival = rival

    # ---- what was read --------------------------------------------------------------------------------------
    @property
    def feed(self) -> Feed:
        """Reader of its indicators."""
        return self._feed

    @property
    def history(self) -> History:
        """What was read of its indicators."""
        return self._feed.history

    @property
    def view(self) -> TargetView:
        """The target as it was last seen."""
        return self._view

    @property
    def feed_state(self) -> FeedState | None:
        """How its indicators stand; None before they were read."""
        return self._feed_state

    @property
    def rival(self) -> str:
        """Who else moves the target."""
        return self._rival

    async def read(self, targets: Targets, now_s: float) -> None:
        """Look at the target, then at the indicators: how many pods should report is known by then."""
        self._error = ""
        settings = self._settings
        self._feed.reads_past = not self.is_idle
        view = await targets.look(settings.key.namespace, settings.target, self._starts, now_s)
        self.expects(view, now_s)
        self.saw(view, await self._feed.refresh(now_s))

    def expects(self, view: TargetView, now_s: float) -> None:
        """So many pods should report: of kinds that may have several pods a replica no more than there are replicas."""
        one_each = (self._settings.target.api_version.rpartition("/")[0], self._settings.target.kind) in OWNERS
        most = view.starts.ready if one_each and self._groups.size == 1 else min(view.starts.ready, view.ordered)
        self._feed.expect(now_s, view.starts.pods, most, min(view.starts.settled, most))

    def saw(self, view: TargetView, feed_state: FeedState) -> None:
        """What was read for the coming turn."""
        if not view.problem:
            counts = view.ordered, view.starts.pods, view.starts.ready
            self._groups = self._groups.see(feed_state.now_s, *counts)
        self._view, self._feed_state = replace(view, group=self._groups.size), feed_state

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know although all goes on."""
        learns = self._settings.objective.bound is not None and not self._settings.capacity.is_known
        problem = self._groups.problem if learns else ""
        return self._settings.warnings + ((problem,) if problem else ())

    def fails(self, why: str) -> None:
        """Something broke in this turn; it stands in the status until the target is read again."""
        self._error = why

    # ---- one turn -------------------------------------------------------------------------------------------
    def wants(self, now_s: float) -> Wanted[ServiceKey] | None:
        """The forecast that this turn needs; None while there is nothing to make one from."""
        if self._feed_state is None:
            return None
        known = self.history.recent_between(0, -math.inf, now_s)[1]
        demand_s, demand = self.history.newest(0)
        steps = self._managed.forecast_steps(
            demand, now_s - demand_s, int(np.count_nonzero(~np.isnan(known))), self._view.starts.pending_s, LATE_STEPS
        )
        return Wanted(self._settings.key, self.history, steps) if steps else None

    @property
    def has_long_work(self) -> bool:
        """Whether the next turn would replay some of the past, which may wait for a later one."""
        return self._managed.is_due or (self._managed.wants_past and self._feed.has_past)

    def consider(
        self, now_s: float, forecast: ForecastDistribution | None, error: str = "", *, may_review: bool = True
    ) -> ScalePlan | None:
        """Judge what has come to pass, learn from it and decide; None where the target cannot be looked at.

        ``may_review``: whether there is time for long work.
        """
        self._plan, self._now_s = None, now_s
        if self._view.problem:
            return None
        self._forecast, self._forecast_error = forecast, error
        look = self._look(now_s, forecast)
        if not may_review:
            look = look._replace(may_review=False)
        elif self._managed.wants_past and self._feed.has_past:
            look = look._replace(past=self._past(now_s))
        self._turn = self._managed.consider(look)
        self._plan = self._turn.plan
        return self._plan

    def granted(self, replicas: int) -> ScalePlan:
        """The plan with so many replicas where a budget of GPUs allows no more."""
        plan, turn = self._plan, self._turn
        assert plan is not None
        assert turn is not None
        if replicas < plan.desired:
            plan = self._plan = plan._replace(desired=replicas, held_by=GPU_BUDGET)
            self._turn = turn._replace(plan=plan)
        return plan

    def _look(self, now_s: float, forecast: ForecastDistribution | None) -> Look:
        """What was read, as the turn takes it."""
        view, starts = self._view, self._view.starts
        demand_s, demand = self._demand(now_s)
        incomplete = self._feed_state is not None and bool(self._feed_state.incomplete)
        return Look(
            now_s=now_s,
            demand=demand,
            demand_age_s=now_s - demand_s,
            ordered=view.ordered,
            ready=view.ready,
            rows=self._rows(now_s),
            settled_before_s=now_s - SETTLED_STEPS * self._settings.step_s,
            forecast=forecast,
            started=tuple(zip(starts.took_s, starts.took_on, strict=True)),
            failed_s=starts.failed_s,
            pending_s=starts.pending_s,
            gpu_type=starts.gpu_type,
            starts_since_s=self._starts.since_s,
            rival=self._rival,
            hold_down=view.hold_down or (INCOMPLETE if incomplete else ""),
        )

    def _demand(self, now_s: float) -> tuple[float, float]:
        """Time and value of present demand: the last complete reading, or what an incomplete one says it is at least.

        The latter where it is more, or the last complete one too old: demand that rises meanwhile is served.
        """
        at_s, demand = self.history.newest(0)
        seen = self._feed_state
        if seen is None or not seen.at_least >= 0.0:
            return at_s, demand
        is_present = abs(now_s - at_s) <= self.terms.stale_s
        return (at_s, demand) if is_present and demand >= seen.at_least else (now_s, seen.at_least)

    def _rows(self, now_s: float) -> Sequence[Row]:
        """Time, demand and the bound's indicator of the complete rows that were not judged yet, oldest first."""
        history, objective = self.history, self._settings.objective
        after_s = max(self._managed.state.ledger.judged_until_s, now_s - history.lookback * self._settings.step_s)
        times, demand = history.recent_between(0, after_s, now_s)
        values = np.full(times.shape, np.nan)
        if objective.bound is not None:
            column = [q.indicator.name for q in self._settings.queries].index(objective.bound.indicator)
            values = history.recent_between(column, after_s, now_s)[1]
        return list(zip(times.tolist(), demand.tolist(), values.tolist(), strict=True))

    def _past(self, now_s: float) -> FloatArray:
        """(rows,) the demand before this turn, a turn (at least a step) apart, from the first known one on."""
        every = max(1, round(self._interval_s / self._settings.step_s))
        times, demand = self.history.demand_between(now_s - WEEK_S, now_s)
        present_s = max(self.history.newest(0)[0], self.history.row_at(now_s) * self._settings.step_s)
        demand = demand[times < present_s][::-1][every - 1 :: every][::-1]
        known = np.flatnonzero(~np.isnan(demand))
        return demand[known[0] :] if known.size else demand[:0]

    def shed(self) -> None:
        """Let the sample paths go once they have been decided on."""
        self._forecast = None
        if self._turn is None:
            return
        self._turn = self._turn._replace(observation=replace(self._turn.observation, forecast=None))

    def conclude(self, applied: int) -> Record:
        """End the turn with what was done."""
        turn, self._turn = self._turn, None
        assert turn is not None
        self._record = self._managed.conclude(turn, applied)
        if applied != self._view.ordered:  # who is taken away serves no more, long before the next look
            self._managed.served(self._now_s, applied, min(self._view.ready, applied))
        return self._record

    # ---- what stands about it -------------------------------------------------------------------------------
    @property
    def clock_s(self) -> float:
        """The moment of the last turn; NaN before the first."""
        return self._now_s

    @property
    def forecast(self) -> ForecastDistribution | None:
        """The forecast of the last turn, until it is shed."""
        return self._forecast

    @property
    def forecast_error(self) -> str:
        """Why there is no forecast; empty where nothing is wrong."""
        return self._forecast_error

    @property
    def turn(self) -> Turn | None:
        """The turn that was considered and is not concluded."""
        return self._turn

    @property
    def plan(self) -> ScalePlan | None:
        """What the last turn wants done; None where nothing was decided."""
        return self._plan

    @property
    def record(self) -> Record | None:
        """The last turn that was concluded; None before the first."""
        return self._record

    @property
    def error(self) -> str:
        """What broke in this turn; empty when nothing did."""
        return self._error

    @property
    def managed(self) -> ManagedService:
        """Its loop, to be looked at."""
        return self._managed

    @property
    def mode(self) -> Mode:
        """The authority in force: what was granted, less what trust took back."""
        return self._managed.mode

    @property
    def state(self) -> State:
        """All that is known of it."""
        return self._managed.state

    @property
    def learned(self) -> Learned:
        """What decisions are made of."""
        return self._managed.learned

    @property
    def trust(self) -> Trust:
        """Realised against stated risk."""
        return self._managed.trust

    @property
    def scores(self) -> ForecastScores:
        """Whether forecasts came true."""
        return self._managed.state.scores

    @property
    def violations(self) -> ViolationCounts:
        """Steps that the real replicas and the shadow's violated since counting began."""
        return self._managed.state.violations

    @property
    def regret(self) -> Regret:
        """What the shadow would have saved and violated."""
        return self._managed.state.regret

    @property
    def shadow_since_s(self) -> float:
        """When the shadow first began; NaN before."""
        return self._managed.state.shadow_since_s

    @property
    def gpu_type(self) -> str:
        """The GPU type of the newest pods; empty where unknown."""
        return self._managed.state.gpu_type

    @property
    def finished_starts(self) -> int:
        """Starts that ended well, since the service was first seen."""
        return self._managed.state.finished_starts

    @property
    def failed_starts(self) -> int:
        """Starts that failed, since the service was first seen."""
        return self._managed.state.failed_starts

    # ---- restart --------------------------------------------------------------------------------------------
    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be restored after a restart, until it is taken."""
        return self._notes

    def take_notes(self) -> tuple[str, ...]:
        """What could not be restored after a restart, told once."""
        notes, self._notes = self._notes, ()
        return notes

    def to_json(self) -> dict[str, Any]:
        """All that must survive a restart, small enough for an object's status."""
        group = self._groups.to_json(str(self._settings.target))
        own = self.own_model
        return self._managed.to_json() | ({GROUP: group} if group else {}) | ({OWN_MODEL: own} if own else {})
