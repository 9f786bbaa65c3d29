"""The loop: the order of its stages, and what it learns and remembers between turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecasting.distribution import ForecastDistribution
from harmony.decision.feedback import RiskFeedback
from harmony.loop import ControlLoop, Learned
from harmony.model.capacity import Capacity
from harmony.model.decision import Reason
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective
from harmony.model.observation import Outcome
from harmony.model.record import Record
from harmony.policies.base import Policy
from harmony.policies.harmony import HarmonyPolicy
from harmony.policies.reactive import ReactivePolicy
from harmony.ports import Reading, Replicas
from tests.harmony.builders import forecast


class ScriptedWorld:
    """All ports at once; writes down in which order they are used."""

    def __init__(self, readings: list[Reading], accepts: int = 10**9) -> None:
        self.readings, self.accepts = readings, accepts
        self.turns, self.ordered = 0, 10
        self.calls: list[str] = []
        self.records: list[Record] = []

    def now_s(self) -> float:
        return self.turns * 60.0

    def read(self) -> Reading:
        self.calls.append("read")
        self.turns += 1
        return self.readings[self.turns - 1]

    def latest(self, now_s: float) -> ForecastDistribution | None:
        self.calls.append("forecast")
        return forecast(np.full((100, 6), 1500.0))

    def started_s(self) -> Sequence[float]:
        return (200.0,)

    def replicas(self) -> Replicas:
        return Replicas(self.ordered, self.ordered)

    def scale(self, replicas: int) -> int:
        self.calls.append("scale")
        self.ordered = min(replicas, self.accepts)
        return self.ordered

    def append(self, record: Record) -> None:
        self.calls.append("journal")
        self.records.append(record)


def loop(world: ScriptedWorld, policy: Policy) -> ControlLoop:
    learned = Learned(Capacity.known(100.0), LeadTime.prior(300.0), RiskFeedback.start(0.01))
    return ControlLoop(Objective(), policy, learned, world, world, world, 60.0, 60.0, world, world)


def test_stages_come_in_order() -> None:
    world = ScriptedWorld([Reading(1000.0, Outcome())])
    record = loop(world, HarmonyPolicy()).turn()
    assert world.calls == ["read", "forecast", "scale", "journal"]
    assert (record.applied, record.decision.replicas, record.decision.model) == (15, 15, "test 1")


def test_outcomes_and_starts_are_learned_from() -> None:
    world = ScriptedWorld([Reading(1000.0, Outcome()), Reading(1000.0, Outcome(1, 1)), Reading(1000.0, Outcome(1, 0))])
    live = loop(world, HarmonyPolicy())
    levels = [live.turn().observation.risk_level for _ in range(3)]
    assert levels[1] < levels[0]
    assert levels[1] < levels[2] < levels[0]
    assert live.learned.lead_time.kappa == 5.0


def test_a_hold_is_a_guard_and_says_so() -> None:
    world = ScriptedWorld([Reading(3000.0, Outcome()), Reading(500.0, Outcome())])
    live = loop(world, ReactivePolicy(margin=0.0, hold_s=600.0))
    live.turn()
    record = live.turn()
    assert (record.decision.replicas, record.decision.reason) == (30, Reason.STABILIZED)
    assert record.decision.unconstrained == 5


def test_what_was_applied_is_recorded_even_if_it_is_less() -> None:
    world = ScriptedWorld([Reading(3000.0, Outcome())], accepts=12)
    record = loop(world, ReactivePolicy(margin=0.0)).turn()
    assert (record.decision.replicas, record.applied) == (30, 12)
    assert record.to_json()["applied"] == 12


def test_nothing_is_asked_of_the_target_when_nothing_changes() -> None:
    world = ScriptedWorld([Reading(1500.0, Outcome())])
    world.ordered = 15
    loop(world, HarmonyPolicy()).turn()
    assert "scale" not in world.calls
