"""THE LOOP: observe -> forecast -> decide -> guard -> actuate -> journal -> learn, in the cluster and in simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from harmony.decision.feedback import RiskFeedback
from harmony.decision.trust import Trust
from harmony.decision.turn import decide_turn
from harmony.loop.ports import Clock, ForecastSource, Journal, MetricSource, ScaleTarget
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision
from harmony.model.lead_time import LeadTime
from harmony.model.memory import GuardMemory, TurnMemory
from harmony.model.objective import Objective
from harmony.model.observation import Observation, Outcome
from harmony.model.record import Record
from harmony.policies.base import Policy

__all__ = ["ControlLoop", "Learned", "Turn"]


@dataclass(slots=True)
class Learned:
    """All that a service's loop knows besides its settings; what must survive a restart.

    Attributes:
        capacity, lead_time, feedback: what a replica carries, how long it takes to start, which risk level to use.
        guards: what stabilisation and rate limits remember.
        memory: what the policy wants to see again.
        trust: realised against stated risk; None where nobody judges it.
        absent_turns: turns in a row in which demand or forecast were absent.
        forecast_seen: True once there was a forecast: its absence is a loss from then on, no longer a warm-up.
        learned_s: time of the newest turn, seconds since the epoch; None before the first.
    """

    capacity: Capacity
    lead_time: LeadTime
    feedback: RiskFeedback
    guards: GuardMemory = field(default_factory=GuardMemory)
    memory: Any = None
    trust: Trust | None = None
    absent_turns: int = 0
    forecast_seen: bool = False
    learned_s: float | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Turn:
    """A turn that was considered and not yet concluded: what was seen, decided, and came of the turns before.

    `before` is what was remembered when it was decided.
    """

    observation: Observation
    decision: Decision
    outcome: Outcome
    before: TurnMemory = field(default_factory=TurnMemory)


@dataclass(slots=True)
class ControlLoop:
    """One service under one policy; call `turn` every ``interval_s`` seconds.

    `step_s` is what one reading of demand stands for; `pending` gives the ages in seconds of starts that still run,
    where the world knows them. The loop owns no thread, timer or connection: the world calls
    it and gives it its ports.
    """

    objective: Objective
    policy: Policy
    learned: Learned
    metrics: MetricSource
    target: ScaleTarget
    clock: Clock
    step_s: float
    interval_s: float
    forecasts: ForecastSource | None = None
    journal: Journal | None = None
    pending: Callable[[], Iterable[float]] | None = None

    def turn(self) -> Record:
        """Go round once; returns the record of it (also appended to the journal, if there is one)."""
        turn = self.consider()
        wanted, ordered = turn.decision.replicas, turn.observation.ordered
        return self.conclude(turn, ordered if wanted == ordered else self.target.scale(wanted))

    def consider(self) -> Turn:
        """The first half of a turn: observe, learn, forecast and decide; nothing is ordered yet.

        What was learned is kept before deciding (the world hands out an outcome only once), and what was decided is
        kept when it is complete: if forecast or policy fail, nothing is half changed and the next turn goes on.
        """
        now = self.clock.now_s()
        reading = self.metrics.read()
        self.learned = learned = self._learn(reading.outcome, now)
        present = self.target.replicas()
        observation = Observation(
            now_s=now,
            step_s=self.step_s,
            interval_s=self.interval_s,
            demand=reading.demand,
            ordered=present.ordered,
            ready=present.ready,
            objective=self.objective.at(now),
            capacity=learned.capacity,
            lead_time=learned.lead_time.with_pending(self.pending()) if self.pending is not None else learned.lead_time,
            forecast=None if self.forecasts is None else self.forecasts.latest(now),
            risk_level=learned.feedback.level,
            memory=learned.memory,
        )
        before = TurnMemory(learned.guards, learned.absent_turns, learned.forecast_seen, self.forecasts is not None)
        decision, after = decide_turn(observation, self.policy.decide, self.policy.behavior, before)
        trust = None if learned.trust is None else learned.trust.state(decision.violation_probability)
        self.learned = replace(
            learned,
            memory=decision.memory,
            guards=after.guards,
            absent_turns=after.absent_turns,
            forecast_seen=after.forecast_seen,
            trust=trust,
        )
        return Turn(observation, decision, reading.outcome, before)

    def conclude(self, turn: Turn, applied: int) -> Record:
        """The second half: journal the turn with the count that the target accepted (``applied``).

        Rate limits and stages go on from what was applied, not from what was decided.
        """
        seen = turn.observation
        if applied != turn.decision.replicas and self.policy.behavior is not None:
            guards = self.learned.guards.corrected(seen.now_s, seen.ordered, applied)
            self.learned = replace(self.learned, guards=guards)
        record = Record(seen, turn.decision, applied, turn.outcome, turn.before)
        if self.journal is not None:
            self.journal.append(record)
        return record

    def _learn(self, outcome: Outcome, now_s: float) -> Learned:
        """What is known after the outcome of the turns before and the starts that ended since."""
        before = self.learned
        lead_time = before.lead_time
        for took_s in self.target.started_s():
            lead_time = lead_time.observe(took_s)
        for age_s in outcome.failed_s:
            lead_time = lead_time.observe_failed(age_s)
        capacity = before.capacity
        if before.learned_s is not None and not capacity.is_known:
            capacity = capacity.drift(now_s - before.learned_s)
        for load, held in outcome.bound_samples:
            capacity = capacity.observe_held(load, held)
        trust = before.trust
        if trust is not None:
            trust = trust.learn(outcome, lead_time.steps(self.step_s))
        return replace(
            before,
            capacity=capacity,
            lead_time=lead_time,
            feedback=before.feedback.learn(outcome),
            trust=trust,
            learned_s=now_s,
        )
