"""The loop: the order of its stages, and what it learns and remembers between turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.distribution import ForecastDistribution
from harmony.decision.feedback import RiskFeedback
from harmony.decision.rule import decide
from harmony.decision.trust import Trust
from harmony.loop.loop import ControlLoop, Learned
from harmony.loop.ports import Reading, Replicas
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision, Reason
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Behavior, Fallback, Objective, ScalingPolicy, ScalingRules, Stages
from harmony.model.observation import Observation, Outcome
from harmony.model.record import Record
from harmony.model.schedule import Schedule
from harmony.policies.base import Policy
from harmony.policies.harmony import HarmonyPolicy
from harmony.policies.reactive import ReactivePolicy
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


# ---- a turn in two halves ------------------------------------------------------------------------------------
class Failing:
    """A policy that fails when told to."""

    def __init__(self) -> None:
        self.fails = False

    def __call__(self, observation: Observation) -> Decision:
        if self.fails:
            raise RuntimeError("no forecast today")
        return decide(observation)


def test_a_turn_is_its_two_halves() -> None:
    readings = [Reading(1000.0 + 300 * i, Outcome(1, i % 2)) for i in range(6)]
    whole, halves = ScriptedWorld(readings), ScriptedWorld(readings)
    one, two = loop(whole, HarmonyPolicy(hold_s=120.0)), loop(halves, HarmonyPolicy(hold_s=120.0))
    for _ in readings:
        record = one.turn()
        turn = two.consider()
        assert "scale" not in halves.calls[-2:]
        applied = halves.scale(turn.decision.replicas)
        assert two.conclude(turn, applied).to_json() == record.to_json()
    assert one.learned == two.learned


def test_considering_orders_nothing_and_journals_nothing() -> None:
    world = ScriptedWorld([Reading(3000.0, Outcome())])
    loop(world, HarmonyPolicy()).consider()
    assert world.calls == ["read", "forecast"]
    assert world.records == []


def test_a_failing_policy_loses_no_evidence_and_half_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = ScriptedWorld([Reading(1000.0, Outcome(1, 1))] * 3)
    live = loop(world, HarmonyPolicy(hold_s=120.0))
    failing = Failing()
    monkeypatch.setattr("harmony.policies.harmony.decide", failing)
    live.turn()
    before = live.learned
    failing.fails = True
    with pytest.raises(RuntimeError, match="no forecast today"):
        live.turn()
    after = live.learned
    assert after.feedback == before.feedback.learn(Outcome(1, 1))  # what came of the turn before is known for good
    assert (after.guards, after.memory, after.absent_turns) == (before.guards, before.memory, before.absent_turns)
    failing.fails = False
    assert live.turn().decision.reason is not None


def test_rate_limits_go_on_from_what_was_applied() -> None:
    limits = Behavior(ScalingRules(), ScalingRules(0.0, (ScalingPolicy("Pods", 2, 3600.0),)))
    world = ScriptedWorld([Reading(100.0, Outcome())] * 2)
    live = loop(world, HarmonyPolicy(limits=limits))
    world.ordered = 20
    turn = live.consider()
    assert turn.decision.replicas == 18
    live.conclude(turn, 20)  # held by the user's pause
    assert live.learned.guards.downs == ()


def test_the_users_limits_stand_in_for_the_hold() -> None:
    limits = Behavior(stages=Stages(10, 60.0))
    policy = HarmonyPolicy(hold_s=600.0, limits=limits)
    assert policy.behavior is limits
    assert policy.settings["hold_s"] == 300.0
    assert HarmonyPolicy(hold_s=600.0).behavior == Behavior.hold(600.0)


def test_bounds_of_the_hour_are_in_force() -> None:
    night = Schedule("night", "UTC", frozenset(range(7)), 0, 2, min_replicas=30)
    world = ScriptedWorld([Reading(1000.0, Outcome())] * 3)
    live = loop(world, HarmonyPolicy())
    live.objective = Objective(schedules=(night,))
    counts = [live.turn().decision.replicas for _ in range(3)]
    assert counts == [30, 30, 15]  # at 00:00, 00:01 and 00:02


# ---- data that are missing -----------------------------------------------------------------------------------
class Patchy(ScriptedWorld):
    """A world whose forecast is missing in some turns."""

    lost: frozenset[int] = frozenset()

    def latest(self, now_s: float) -> ForecastDistribution | None:
        made = super().latest(now_s)
        return None if self.turns - 1 in self.lost else made


NAN = float("nan")


def test_a_lost_forecast_is_no_warm_up() -> None:
    world = Patchy([Reading(100.0, Outcome())] * 3)
    world.lost = frozenset({0, 2})
    records = [r for live in [loop(world, HarmonyPolicy())] for r in (live.turn(), live.turn(), live.turn())]
    assert [r.decision.reason for r in records] == [Reason.WARMING_UP, Reason.FORECAST, Reason.ABSENT_DATA]
    assert [r.applied for r in records] == [2, 15, 15]


def test_the_fallback_raises_after_so_many_turns_and_ends_with_data() -> None:
    world = Patchy([Reading(d, Outcome()) for d in (1000.0, NAN, NAN, NAN, NAN, 1000.0)])
    live = loop(world, HarmonyPolicy())
    live.objective = Objective(fallback=Fallback(3, 40))
    records = [live.turn() for _ in range(6)]
    assert [r.applied for r in records] == [15, 15, 15, 40, 40, 15]
    assert [r.decision.reason for r in records[3:5]] == [Reason.FALLBACK] * 2  # also where it need not raise any more
    assert live.learned.absent_turns == 0


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.just(NAN) | st.floats(0, 5000), st.booleans()), min_size=1, max_size=12),
    st.none()
    | st.builds(
        Fallback,
        st.integers(1, 4),
        st.integers(0, 60),
        st.sampled_from(["currentReplicas", "currentReplicasIfHigher"]),
    ),
    st.sampled_from([Behavior(), Behavior.hold(120.0), Behavior(stages=Stages(25, 120.0))]),
)
def test_missing_data_never_lower_the_count(
    turns: list[tuple[float, bool]], fallback: Fallback | None, limits: Behavior
) -> None:
    world = Patchy([Reading(d, Outcome()) for d, _ in turns])
    world.lost = frozenset(i for i, (_, lost) in enumerate(turns) if lost)
    live = loop(world, HarmonyPolicy(limits=limits))
    live.objective = Objective(fallback=fallback)
    seen_forecast = False
    for demand, lost in turns:
        before = world.ordered
        record = live.turn()
        if demand != demand or (lost and seen_forecast):
            assert record.applied >= before
            assert live.learned.absent_turns >= 1
            if fallback is None or fallback.behavior == "currentReplicas":
                needed = 0 if demand != demand else int(np.ceil(demand / 100.0 * 1.25))
                assert record.applied <= max(before, needed, 15)
        seen_forecast = seen_forecast or (not lost and demand == demand)


# ---- what is learned -----------------------------------------------------------------------------------------
def test_capacity_lead_time_and_trust_are_learned_before_deciding() -> None:
    world = ScriptedWorld(
        [Reading(1000.0, Outcome()), Reading(1000.0, Outcome(1, 1, ((200.0, True), (190.0, True)), (4000.0,)))]
    )
    live = loop(world, HarmonyPolicy())
    live.learned = replace(live.learned, capacity=Capacity.prior(100.0), trust=Trust.start(0.01))
    first, second = live.turn(), live.turn()
    assert second.observation.capacity.median > 1.5 * first.observation.capacity.median
    assert second.observation.lead_time.quantile_s(0.9) > first.observation.lead_time.quantile_s(0.9)
    trust = live.learned.trust
    assert trust is not None
    assert trust.realized == 1.0
    assert trust.last_stated == second.decision.violation_probability


def test_pending_starts_lengthen_the_lead_of_one_turn_only() -> None:
    world = ScriptedWorld([Reading(1000.0, Outcome())] * 2)
    live = loop(world, HarmonyPolicy())
    live.pending = lambda: [5000.0, 5000.0]
    seen = live.turn().observation.lead_time
    assert seen.median_s > live.learned.lead_time.median_s
    live.pending = None
    assert live.turn().observation.lead_time == live.learned.lead_time
