"""`Service`: one managed service: its settings, its world as the control loop sees it, and all that is known of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controller.observing.lead_times import LeadTimes
from controller.observing.starts import PodStarts
from controller.observing.targets import TargetView
from controller.prometheus.feed import Feed, FeedState
from controller.prometheus.history import History
from controller.resource.saving import demand_mark
from controller.resource.settings import ServiceKey, ServiceSettings
from forecasting.distribution import ForecastDistribution
from forecasting.fleet import Wanted
from harmony.decision.authority import Permitted, permitted
from harmony.decision.feedback import RiskFeedback
from harmony.decision.learning import LearningGate
from harmony.decision.rule import lead_window
from harmony.decision.trust import Trust
from harmony.loop.ledger import Ledger, Note
from harmony.loop.loop import ControlLoop, Learned, Turn
from harmony.loop.persistence import learned_from_json, learned_to_json, number_or
from harmony.loop.ports import Journal, Reading, Replicas
from harmony.loop.scoring import ForecastScores
from harmony.loop.shadow import Regret, ShadowPool
from harmony.model.authority import Mode
from harmony.model.decision import Reason
from harmony.model.observation import Outcome
from harmony.model.record import Record
from harmony.policies.harmony import HarmonyPolicy

__all__ = ["Plan", "Service"]

WARM_UP_ROWS = 12  # known readings before the first forecast
MOST_STEPS = 96  # furthest look ahead
STALE_STEPS = 2.5  # demand older than this many steps (and never younger than `STALE_S`) is absent
STALE_S = 60.0
ONE_WAY = ("paused-scale-in", "paused-scale-out")
SETTLE_S = 120.0  # replicas that became ready within this time are cold: such steps teach nothing about capacity


@dataclass(frozen=True, slots=True)
class Plan:
    """What one turn wants done: `wanted` with full authority, `desired` with what is granted, and what held it back."""

    wanted: int
    desired: int
    bound_by: str = ""


class Service:
    """State of one service. The tick drives it: `look` (I/O), `wants`, `consider` (pure), then `conclude`.

    It is the control loop's clock, metric source, forecast source and scale target for the moment that the tick set.
    While the service has no authority the loop lives with a shadow of it instead: the counts that would have been,
    with replicas that take as long to start as the real ones do.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        feed: Feed,
        *,
        interval_s: float,
        saved: object = None,
        journal: Journal | None = None,
    ) -> None:
        self.settings = settings
        self.feed = feed
        self.history: History = feed.history
        self.interval_s = interval_s
        self.starts = PodStarts()
        self.view = TargetView(problem="not looked at yet")
        self.feed_state: FeedState | None = None
        self.forecast: ForecastDistribution | None = None
        self.forecast_error = ""
        self.turn: Turn | None = None
        self.record: Record | None = None
        self.plan: Plan | None = None
        self.error = ""  # what broke in this turn, for the status; empty when nothing did
        self.rival = ""  # who else moves the target
        self.clock_s = math.nan
        self.notes: tuple[str, ...] = ()  # what could not be restored after a restart
        self._gate = LearningGate(SETTLE_S)
        self._answers_from_s = -math.inf
        self._outcome = Outcome()
        self.shadow: ShadowPool | None = None
        self.ledger = Ledger(settings.step_s, max_gap_s=max(2.5 * interval_s, settings.step_s))
        self.loop = self._loop(self._restore(saved), journal)

    def _restore(self, saved: object) -> Learned:
        """Take over what a controller before us had learned (anything at all may stand there)."""
        settings = self.settings
        saved = saved if isinstance(saved, dict) else {}
        if saved and saved.get("demand") != demand_mark(settings):
            # What was learned of another quantity means nothing here; only starts are still starts.
            saved = {
                name: saved[name] for name in ("starts", "failed", "starts_since", "gpu", "leads") if name in saved
            }
        self.scores = ForecastScores.from_json(saved.get("scores"))
        self.regret = Regret.from_json(saved.get("regret"))
        self.shadow_since_s = number_or(saved.get("shadow_since"), math.nan)
        self.starts.since_s = number_or(saved.get("starts_since"), -math.inf)
        self.finished_starts = int(number_or(saved.get("starts"), 0))
        self.failed_starts = int(number_or(saved.get("failed"), 0))
        self.gpu_type = str(saved.get("gpu") or settings.gpu_type)
        self.lead_times = LeadTimes.from_json(settings.lead_time, saved.get("leads"))
        ordered = number_or(saved.get("shadow"), -1.0)  # negative: begin with what the target has
        self._shadow_ordered = int(ordered) if 0 <= ordered <= settings.objective.max_replicas else -1
        learned, self.notes = learned_from_json(saved.get("loop"), self._fresh(settings))
        return learned

    # ---- settings -------------------------------------------------------------------------------------------
    def _fresh(self, settings: ServiceSettings) -> Learned:
        """What is known of a service that was never seen."""
        objective = settings.objective
        return Learned(
            capacity=settings.capacity,
            lead_time=settings.lead_time,
            feedback=RiskFeedback.per_lead(objective.epsilon, settings.lead_time.steps(settings.step_s)),
            trust=Trust.start(objective.epsilon, settings.lead_time.steps(settings.step_s)),
        )

    def _loop(self, learned: Learned, journal: Journal | None) -> ControlLoop:
        return ControlLoop(
            objective=self.settings.objective,
            policy=HarmonyPolicy(limits=self.settings.objective.behavior),
            learned=learned,
            metrics=self,
            target=self,
            clock=self,
            step_s=self.settings.step_s,
            interval_s=self.interval_s,
            forecasts=self,
            journal=journal,
            pending=lambda: self.view.starts.pending_s,
        )

    def adopt(self, settings: ServiceSettings, feed: Feed) -> None:
        """Take changed settings; what was learned stays where it still means the same."""
        old, learned = self.settings, self.loop.learned
        fresh = self._fresh(settings)
        same_demand = old.queries[:1] == settings.queries[:1] and old.objective.bound == settings.objective.bound
        if old.capacity != settings.capacity or not same_demand:
            learned = replace(learned, capacity=fresh.capacity)
        if old.lead_time != settings.lead_time:
            learned = replace(learned, lead_time=fresh.lead_time)
            self.lead_times = LeadTimes(fresh.lead_time)
        if old.objective.epsilon != settings.objective.epsilon or not same_demand:
            learned = replace(learned, feedback=fresh.feedback, trust=fresh.trust)
        if not same_demand:
            self.scores = ForecastScores()
        if (old.queries, old.step_s, old.prometheus_url) != (
            settings.queries,
            settings.step_s,
            settings.prometheus_url,
        ):
            self.feed, self.history, self.feed_state = feed, feed.history, None
            self.ledger = Ledger(settings.step_s, max_gap_s=max(2.5 * self.interval_s, settings.step_s))
        self.settings = settings
        self.loop = self._loop(learned, self.loop.journal)

    @property
    def learned(self) -> Learned:
        """What the loop has learned."""
        return self.loop.learned

    @property
    def mode(self) -> Mode:
        """The authority in force: what was granted, less what trust took back."""
        granted = self.settings.mode
        left = self.trust.mode(granted)
        # Whoever alone moves the count keeps moving it up: to freeze it would only add to what was missed.
        return Mode.UP_ONLY if granted.rank >= Mode.UP_ONLY.rank > left.rank else left

    @property
    def trust(self) -> Trust:
        """Realised against stated risk."""
        trust = self.learned.trust
        assert trust is not None  # `_fresh` gives one and nothing takes it away
        return trust

    @property
    def is_idle(self) -> bool:
        """True while the user has stopped it: it is watched, but nobody acts on what would be decided."""
        return self.settings.pause.paused or self.settings.pause.replicas is not None

    @property
    def is_shadowing(self) -> bool:
        """True while the loop lives with counts that would have been."""
        return not self.mode.acts

    # ---- the loop's world -----------------------------------------------------------------------------------
    def now_s(self) -> float:
        """The moment of this turn."""
        return self.clock_s

    @property
    def demand(self) -> float:
        """Newest demand; NaN when it is absent or stale."""
        stale_s = max(STALE_S, STALE_STEPS * self.settings.step_s)
        return self.history.demand_at(self.clock_s, stale_s)

    def read(self) -> Reading:
        """The newest demand and what came of the steps since the last turn."""
        outcome, self._outcome = self._outcome, Outcome()
        return Reading(self.demand, outcome)

    def latest(self, now_s: float) -> ForecastDistribution | None:
        """The forecast that was made for this turn."""
        return self.forecast

    def replicas(self) -> Replicas:
        """The target's counts, or the shadow's while there is no authority."""
        if self.shadow is not None:
            return self.shadow.replicas()
        return Replicas(self.view.ordered, self.view.ready)

    def started_s(self) -> Sequence[float]:
        """Real starts that finished on the present GPU type; the shadow has none to teach."""
        return [took for took, on in self._took() if on == self.gpu_type]

    def _took(self) -> list[tuple[float, str]]:
        """Starts that finished and the GPU type of each; where nothing tells the type, the present one."""
        starts = self.view.starts
        return [(took, on or self.gpu_type) for took, on in zip(starts.took_s, starts.took_on, strict=True)]

    def scale(self, replicas: int) -> int:
        """Only the shadow is scaled through the loop; the target is written by the tick, with everything it needs."""
        return replicas if self.shadow is None else self.shadow.scale(replicas)

    # ---- one turn -------------------------------------------------------------------------------------------
    def wants(self) -> Wanted[ServiceKey] | None:
        """The forecast that this turn needs; None while there is nothing to make one from."""
        if self.feed_state is None or math.isnan(self.demand):
            return None
        known = self.history.recent_between(0, -math.inf, self.clock_s)[1]
        if np.count_nonzero(~np.isnan(known)) < WARM_UP_ROWS:
            return None
        return Wanted(self.settings.key, self.history, self.horizon)

    @property
    def horizon(self) -> int:
        """Steps ahead to forecast: the decision's window, and one for a reading that is not in yet.

        Pods that are stuck for hours lengthen the lead time without end; no decision looks further than `MOST_STEPS`.
        """
        lead = self.learned.lead_time.with_pending(self.view.starts.pending_s)
        wait = max(1, math.ceil(round(self.interval_s / self.settings.step_s, 9)))
        return min(lead.steps(self.settings.step_s) + wait, MOST_STEPS)

    def consider(self, now_s: float, forecast: ForecastDistribution | None, error: str = "") -> Plan:
        """Judge what has come to pass, learn from it and decide; nothing is ordered yet."""
        self.clock_s, self.forecast, self.forecast_error = now_s, forecast, error
        self._follow_gpu_type()
        self._cast_shadow()
        self._begin_window(now_s)
        self._note(now_s)
        self._outcome = self._judge(now_s)
        turn = self.loop.consider()
        if forecast is not None:
            self.scores.keep(forecast, self.settings.objective.demand, max(1, lead_window(turn.observation)))
        self.turn = turn
        self.plan = self._plan(turn)
        return self.plan

    def _follow_gpu_type(self) -> None:
        """Go on with what is known of starts on the GPU type of the newest pods."""
        kind = self.view.starts.gpu_type or self.gpu_type
        if kind != self.gpu_type:
            lead = self.lead_times.move(self.gpu_type, kind, self.learned.lead_time)
            self.gpu_type, self.loop.learned = kind, replace(self.learned, lead_time=lead)
        self.lead_times.observe((took, on) for took, on in self._took() if on != self.gpu_type)

    def _cast_shadow(self) -> None:
        """While there is no authority, live on with what would have been ordered; otherwise with what is."""
        if not self.is_shadowing:
            if self.shadow is not None or self._shadow_ordered >= 0:
                # What was only ordered in the shadow must not count against the rate of real orders.
                guards = replace(self.learned.guards, ups=(), downs=(), stage=None)
                self.loop.learned = replace(self.learned, guards=guards)
            self.shadow, self._shadow_ordered = None, -1
            return
        if self.shadow is None:
            initial = self.view.ordered if self._shadow_ordered < 0 else self._shadow_ordered
            self.shadow = ShadowPool(self, self.learned.lead_time, initial)
            if math.isnan(self.shadow_since_s):
                self.shadow_since_s = self.clock_s
        self.shadow.lead_time = self.learned.lead_time
        self._shadow_ordered = self.shadow.replicas().ordered

    def _begin_window(self, now_s: float) -> None:
        """Before the first turn: what is ordered counts as recommended just now, unless newer marks were restored.

        The HorizontalPodAutoscaler begins so too: what came before is unknown, and that is no reason to scale down.
        """
        guards, window_s = self.learned.guards, self.settings.objective.behavior.scale_down.stabilization_window_s
        if self.record is not None or window_s <= 0.0 or any(at > now_s - window_s for at, _ in guards.highs):
            return
        highs = ((now_s, self.replicas().ordered),)
        self.loop.learned = replace(self.learned, guards=replace(guards, highs=highs))

    def _plan(self, turn: Turn) -> Plan:
        """What the granted authority makes of the decision."""
        current, wanted = self.view.ordered, turn.decision.replicas
        if self._is_zero_by_hand:
            return Plan(wanted, 0, "scaled to zero by hand")
        allowed: Permitted = permitted(self.mode, self.settings.pause, current, wanted)
        if turn.decision.reason is Reason.WARMING_UP and allowed.replicas < current:
            return Plan(wanted, current, "warming up")  # a few readings are no reason to give replicas away
        if self.view.hold_down and allowed.replicas < current:
            return Plan(wanted, current, self.view.hold_down)
        return Plan(wanted, allowed.replicas, allowed.bound_by)

    def shed(self) -> None:
        """Let the sample paths go once they have been decided on."""
        self.forecast = None
        if self.turn is None:
            return
        self.turn = replace(self.turn, observation=replace(self.turn.observation, forecast=None))

    def conclude(self, applied: int) -> Record:
        """End the turn with what was ordered (in the shadow's life: by the shadow)."""
        turn, self.turn = self.turn, None
        assert turn is not None
        if self.shadow is not None:
            wanted = turn.decision.replicas
            applied = wanted if wanted == turn.observation.ordered else self.shadow.scale(wanted)
        self.record = self.loop.conclude(turn, applied)
        return self.record

    # ---- judging --------------------------------------------------------------------------------------------
    def _note(self, now_s: float) -> None:
        """Write down who serves now."""
        starts = self.view.starts
        self._gate = self._gate.see(now_s, self.view.ordered, starts.ready)
        self.finished_starts += len(starts.took_s)
        self.failed_starts += len(starts.failed_s)
        shadow = self.replicas()
        note = Note(
            at_s=now_s,
            ordered=self.view.ordered,
            ready=self.view.ready,
            shadow_ordered=shadow.ordered,
            shadow_ready=shadow.ready,
            teaches=not starts.pending_s and self._gate.is_open(now_s),
            answers=self._answers(now_s),
        )
        self.ledger.add(note)

    def _answers(self, now_s: float) -> bool:
        """Whether the counts are what was decided, and have been for as long as a start takes.

        They are not while the user holds them or another writer owns the target: such misses are nobody's mistake here.
        """
        pause = self.settings.pause
        one_way = (pause.scale_in or pause.scale_out) and (self.plan is None or self.plan.bound_by in ONE_WAY)
        rival = bool(self.rival) and self.settings.writes_count and self.mode.moves_count
        if self.is_idle or one_way or rival or self._is_zero_by_hand:
            self._answers_from_s = math.inf
        elif self._answers_from_s == math.inf:
            self._answers_from_s = now_s + self.learned.lead_time.quantile_s(0.9)
        return now_s >= self._answers_from_s

    @property
    def _is_zero_by_hand(self) -> bool:
        """Nothing of ours orders 0 where the minimum is more: somebody did, and means it."""
        return (
            self.view.ordered == 0 and self.settings.objective.min_replicas > 0 and self.settings.pause.replicas is None
        )

    def _judge(self, now_s: float) -> Outcome:
        """What the steps since the last turn showed, for all that learns from it."""
        bound = self.settings.objective.bound
        step_s = self.settings.step_s
        judged = self.ledger.judge(
            self._rows(now_s),
            self.learned.capacity.median,
            None if bound is None else bound.at_most,
            now_s - 3 * step_s,
        )
        steps = violated = 0
        samples: list[tuple[float, bool]] = []
        for step in judged:
            self.scores.settle(step.at_s, step.demand, step_s)
            missed = step.missed if self.shadow is None else step.shadow_missed
            if missed is not None and step.note.answers:
                steps += 1
                violated += missed
            if step.held is not None and not math.isnan(step.load_per_replica):
                samples.append((step.load_per_replica, step.held))
            if self.shadow is not None:
                note = step.note
                actual, shadow = Replicas(note.ordered, note.ready), Replicas(note.shadow_ordered, note.shadow_ready)
                gpus = self.settings.objective.gpus_per_replica
                self.regret = self.regret.add(step_s, step.demand, self.learned.capacity.median, actual, shadow, gpus)
        return Outcome(steps, violated, tuple(samples), self.view.starts.failed_s)

    def _rows(self, now_s: float) -> Iterable[tuple[float, float, float]]:
        """Time, demand and the bound's indicator of the complete rows that were not judged yet, oldest first."""
        after_s = max(self.ledger.judged_until_s, now_s - self.history.lookback * self.settings.step_s)
        times, demand = self.history.recent_between(0, after_s, now_s)
        bound, values = self.settings.objective.bound, np.full(times.shape, np.nan)
        if bound is not None:
            column = [q.indicator.name for q in self.settings.queries].index(bound.indicator)
            values = self.history.recent_between(column, after_s, now_s)[1]
        return zip(times.tolist(), demand.tolist(), values.tolist(), strict=True)

    # ---- restart --------------------------------------------------------------------------------------------
    def to_json(self) -> dict[str, Any]:
        """All that must survive a restart, small enough for an object's status."""
        out: dict[str, Any] = {
            "demand": demand_mark(self.settings),
            "loop": learned_to_json(self.learned),
            "scores": self.scores.to_json(),
            "regret": self.regret.to_json(),
            "starts": self.finished_starts,
            "failed": self.failed_starts,
        }
        if self.gpu_type:
            out["gpu"] = self.gpu_type
        if leads := self.lead_times.to_json():
            out["leads"] = leads
        if math.isfinite(self.starts.since_s):
            out["starts_since"] = int(self.starts.since_s)
        if math.isfinite(self.shadow_since_s):
            out["shadow_since"] = int(self.shadow_since_s)
        if self.shadow is not None:
            out["shadow"] = self.shadow.replicas().ordered
        return out
