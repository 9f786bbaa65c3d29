"""THE LOOP: observe -> forecast -> decide -> guard -> actuate -> journal -> learn, in the cluster and in simulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harmony.decision.feedback import RiskFeedback
from harmony.decision.guards import GuardMemory, apply_behavior
from harmony.decision.rule import with_bounds
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision, Reason
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Behavior, Objective
from harmony.model.observation import Observation, Outcome
from harmony.model.record import Record
from harmony.policies.base import Policy
from harmony.ports import Clock, ForecastSource, Journal, MetricSource, ScaleTarget

__all__ = ["ControlLoop", "Learned", "Turn"]


@dataclass(slots=True)
class Learned:
    """All that a service's loop knows besides its settings; what must survive a restart."""

    capacity: Capacity
    lead_time: LeadTime
    feedback: RiskFeedback
    guards: GuardMemory = field(default_factory=GuardMemory)
    memory: Any = None


@dataclass(frozen=True, eq=False, slots=True)
class Turn:
    """A turn that was considered and not yet concluded: what was seen, decided, and came of the turns before."""

    observation: Observation
    decision: Decision
    outcome: Outcome


@dataclass(slots=True)
class ControlLoop:
    """One service under one policy; call `turn` every ``interval_s`` seconds.

    `step_s` is what one reading of demand stands for. The loop owns no thread, timer or connection: the world calls
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

    def turn(self) -> Record:
        """Go round once; returns the record of it (also appended to the journal, if there is one)."""
        turn = self.consider()
        wanted, ordered = turn.decision.replicas, turn.observation.ordered
        return self.conclude(turn, ordered if wanted == ordered else self.target.scale(wanted))

    def consider(self) -> Turn:
        """The first half of a turn: observe, learn, forecast and decide; nothing is ordered yet."""
        learned = self.learned
        now = self.clock.now_s()
        reading = self.metrics.read()
        learned.feedback = learned.feedback.learn(reading.outcome)
        for took_s in self.target.started_s():
            learned.lead_time = learned.lead_time.observe(took_s)
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
            lead_time=learned.lead_time,
            forecast=None if self.forecasts is None else self.forecasts.latest(now),
            risk_level=learned.feedback.level,
            memory=learned.memory,
        )
        decision = self.policy.decide(observation)
        learned.memory = decision.memory
        if self.policy.behavior is not None:
            decision = self._guard(decision, observation, self.policy.behavior)
        return Turn(observation, with_bounds(decision, observation), reading.outcome)

    def conclude(self, turn: Turn, applied: int) -> Record:
        """The second half: journal the turn with the count that the target accepted (``applied``)."""
        record = Record(turn.observation, turn.decision, applied, turn.outcome)
        if self.journal is not None:
            self.journal.append(record)
        return record

    def _guard(self, decision: Decision, observation: Observation, behavior: Behavior) -> Decision:
        """Stabilise and rate-limit the decision, and say so in it."""
        guarded = apply_behavior(
            self.learned.guards, behavior, observation.now_s, observation.ordered, decision.replicas
        )
        self.learned.guards = guarded.memory
        if guarded.replicas == decision.replicas:
            return decision
        reason = Reason.STABILIZED if guarded.bound_by == "stabilization" else Reason.RATE_LIMITED
        return decision.with_replicas(guarded.replicas, reason, guarded.bound_by)
