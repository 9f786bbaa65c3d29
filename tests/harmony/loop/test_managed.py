"""A managed service: the order of a turn's stages, and what is learned and remembered between turns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.distribution import ForecastDistribution
from harmony.decision.rule import decide
from harmony.loop.managed import MOST_STEPS, WARM_UP_ROWS, ManagedService
from harmony.loop.state import Look, Terms
from harmony.model.authority import Mode
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision, Reason
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Behavior, Fallback, IndicatorBound, Objective, ScalingPolicy, ScalingRules, Stages
from harmony.model.observation import Observation, Outcome
from harmony.model.record import Record
from harmony.model.schedule import Schedule
from harmony.policies.base import Policy
from harmony.policies.quantile import QuantilePolicy
from harmony.policies.reactive import ReactivePolicy
from tests.harmony.builders import forecast

NAN = math.nan


@dataclass(frozen=True)
class Step:
    """What one look tells: present demand, and whether the steps before were missed."""

    demand: float
    missed: tuple[bool, ...] = ()
    loads: tuple[tuple[float, bool], ...] = ()
    failed_s: tuple[float, ...] = ()


class ScriptedWorld:
    """A world that tells what a script says; writes down in which order it is used."""

    def __init__(self, steps: list[Step], policy: Policy, accepts: int = 10**9, **terms: Any) -> None:
        self.steps, self.accepts = steps, accepts
        self.turns, self.ordered = 0, 10
        self.calls: list[str] = []
        self.records: list[Record] = []
        agreed = {
            "objective": Objective(),
            "capacity": Capacity.known(100.0),
            "lead_time": LeadTime.prior(300.0),
            "step_s": 60.0,
            "interval_s": 60.0,
            "steps_back": False,
        }
        self.service = ManagedService(Terms(policy=policy, **(agreed | terms)), journal=self)
        self.pending_s: tuple[float, ...] = ()

    def forecast(self) -> ForecastDistribution | None:
        return forecast(np.full((100, 6), 1500.0))

    def look(self) -> Look:
        """One look; the rows before are such that they were missed or not, as the script says."""
        self.calls.append("look")
        now_s, step = self.turns * 60.0, self.steps[self.turns]
        made = self.forecast()
        self.turns += 1
        return Look(
            now_s=now_s,
            demand=step.demand,
            demand_age_s=0.0,
            ordered=self.ordered,
            ready=self.ordered,
            rows=[(now_s - 60.0, 1e9 if missed else 0.0, NAN) for missed in step.missed],
            forecast=made,
            started=((200.0, ""),),
            failed_s=step.failed_s,
            pending_s=self.pending_s,
        )

    def scale(self, replicas: int) -> int:
        if replicas != self.ordered:
            self.calls.append("scale")
            self.ordered = min(replicas, self.accepts)
        return self.ordered

    def turn(self) -> Record:
        turn = self.service.consider(self.look())
        return self.service.conclude(turn, self.scale(turn.plan.desired))

    def append(self, record: Record) -> None:
        self.calls.append("journal")
        self.records.append(record)


def test_stages_come_in_order() -> None:
    world = ScriptedWorld([Step(1000.0)], QuantilePolicy())
    record = world.turn()
    assert world.calls == ["look", "scale", "journal"]
    assert (record.applied, record.decision.replicas, record.decision.model) == (15, 15, "test 1")


def test_outcomes_and_starts_are_learned_from() -> None:
    world = ScriptedWorld([Step(1000.0), Step(1000.0, (True,)), Step(1000.0, (False,))], QuantilePolicy())
    levels = [world.turn().observation.risk_level for _ in range(3)]
    assert levels[1] < levels[0]
    assert levels[1] < levels[2] < levels[0]
    assert world.service.learned.lead_time.kappa == 5.0


def test_a_hold_is_a_guard_and_says_so() -> None:
    world = ScriptedWorld([Step(3000.0), Step(500.0)], ReactivePolicy(margin=0.0, hold_s=600.0))
    world.turn()
    record = world.turn()
    assert (record.decision.replicas, record.decision.reason) == (30, Reason.STABILIZED)
    assert record.decision.unconstrained == 5


def test_what_was_applied_is_recorded_even_if_it_is_less() -> None:
    world = ScriptedWorld([Step(3000.0)], ReactivePolicy(margin=0.0), accepts=12)
    record = world.turn()
    assert (record.decision.replicas, record.applied) == (30, 12)
    assert record.to_json()["applied"] == 12


def test_nothing_is_asked_of_the_target_when_nothing_changes() -> None:
    world = ScriptedWorld([Step(1500.0)], QuantilePolicy())
    world.ordered = 15
    world.turn()
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


def test_considering_orders_nothing_and_journals_nothing() -> None:
    world = ScriptedWorld([Step(3000.0)], QuantilePolicy())
    world.service.consider(world.look())
    assert world.calls == ["look"]
    assert world.records == []


def test_a_state_is_a_value() -> None:
    """Turns make new states; the old one, and any number of services that go on from it, are not touched."""
    script = [Step(1000.0 + 300 * i, (bool(i % 2),)) for i in range(8)]
    world = ScriptedWorld(script, QuantilePolicy(hold_s=120.0), mode=Mode.RECOMMEND, steps_back=True)
    for _ in range(4):
        world.turn()
    before, text = world.service.state, str(world.service.to_json())
    again = ScriptedWorld(script, QuantilePolicy(hold_s=120.0), mode=Mode.RECOMMEND, steps_back=True)
    again.turns, again.service = world.turns, ManagedService(world.service.terms, before)
    for _ in range(4):
        assert world.turn().to_json() == again.turn().to_json()
    assert str(ManagedService(world.service.terms, before).to_json()) == text
    assert str(world.service.to_json()) == str(again.service.to_json()) != text


def test_a_failing_policy_loses_no_evidence_and_half_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = ScriptedWorld([Step(1000.0, (True,))] * 3, QuantilePolicy(hold_s=120.0))
    failing = Failing()
    monkeypatch.setattr("harmony.policies.quantile.decide", failing)
    world.turn()
    before = world.service.learned
    failing.fails = True
    with pytest.raises(RuntimeError, match="no forecast today"):
        world.turn()
    after = world.service.learned
    assert after.feedback == before.feedback.learn(Outcome(1, 1))  # what came of the turn before is known for good
    assert (after.guards, after.memory, after.absent_turns) == (before.guards, before.memory, before.absent_turns)
    failing.fails = False
    assert world.turn().decision.reason is not None


def test_rate_limits_go_on_from_what_was_applied() -> None:
    limits = Behavior(ScalingRules(), ScalingRules(0.0, (ScalingPolicy("Pods", 2, 3600.0),)))
    world = ScriptedWorld([Step(100.0)] * 2, QuantilePolicy(limits=limits))
    world.ordered = 20
    turn = world.service.consider(world.look())
    assert turn.decision.replicas == 18
    world.service.conclude(turn, 20)  # held by the user's pause
    assert world.service.learned.guards.downs == ()


def test_the_users_limits_stand_in_for_the_hold() -> None:
    limits = Behavior(stages=Stages(10, 60.0))
    policy = QuantilePolicy(hold_s=600.0, limits=limits)
    assert policy.behavior is limits
    assert policy.settings["hold_s"] == 300.0
    assert QuantilePolicy(hold_s=600.0).behavior == Behavior.hold(600.0)


def test_bounds_of_the_hour_are_in_force() -> None:
    night = Schedule("night", "UTC", frozenset(range(7)), 0, 2, min_replicas=30)
    world = ScriptedWorld([Step(1000.0)] * 3, QuantilePolicy(), objective=Objective(schedules=(night,)))
    counts = [world.turn().decision.replicas for _ in range(3)]
    assert counts == [30, 30, 15]  # at 00:00, 00:01 and 00:02


@pytest.mark.parametrize(("interval_s", "told"), [(300.0, 0.4), (60.0, NAN)])
def test_turns_rarer_than_steps_are_told_which_share_was_violated_in_between(interval_s: float, told: float) -> None:
    terms = Terms(
        objective=Objective(), policy=ReactivePolicy(), capacity=Capacity.known(100.0), lead_time=LeadTime.known(60.0),
        step_s=60.0, interval_s=interval_s,
    )  # fmt: skip
    service = ManagedService(terms)
    first = Look(0.0, 1000.0, 0.0, 10, 10)
    turn = service.consider(first)
    assert math.isnan(turn.observation.missed)
    service.conclude(turn, 10)
    rows = [(60.0 * i, demand, NAN) for i, demand in enumerate((1000.0, 1100.0, NAN, 900.0, 1200.0, 1000.0))]
    seen = service.consider(Look(300.0, 1000.0, 0.0, 10, 10, rows=rows, settled_before_s=300.0)).observation
    assert seen.missed == pytest.approx(told, nan_ok=True)  # two of five that are known


# ---- data that are missing -----------------------------------------------------------------------------------
class Patchy(ScriptedWorld):
    """A world whose forecast is missing in some turns."""

    lost: frozenset[int] = frozenset()

    def forecast(self) -> ForecastDistribution | None:
        return None if self.turns in self.lost else super().forecast()


def test_a_lost_forecast_is_no_warm_up_and_neither_gives_replicas_away() -> None:
    world = Patchy([Step(100.0)] * 3, QuantilePolicy())
    world.lost = frozenset({0, 2})
    records = [world.turn(), world.turn(), world.turn()]
    assert [r.decision.reason for r in records] == [Reason.WARMING_UP, Reason.FORECAST, Reason.ABSENT_DATA]
    assert [r.decision.replicas for r in records] == [2, 15, 15]
    assert [r.applied for r in records] == [10, 15, 15]


def test_ten_are_ordered_and_three_are_wanted_without_a_forecast() -> None:
    """The first readings of a service are no reason to take replicas away, and they are one to add some."""
    world = Patchy([Step(240.0), Step(1600.0)], QuantilePolicy())
    world.lost = frozenset({0, 1})
    turn = world.service.consider(world.look())
    assert turn.plan == (3, 10, "warming up")
    world.service.conclude(turn, 10)
    assert world.service.consider(world.look()).plan == (20, 20, "")


def test_the_fallback_raises_after_so_many_turns_and_ends_with_data() -> None:
    script = [Step(d) for d in (1000.0, NAN, NAN, NAN, NAN, 1000.0)]
    world = Patchy(script, QuantilePolicy(), objective=Objective(fallback=Fallback(3, 40)))
    records = [world.turn() for _ in range(6)]
    assert [r.applied for r in records] == [15, 15, 15, 40, 40, 15]
    assert [r.decision.reason for r in records[3:5]] == [Reason.FALLBACK] * 2  # also where it need not raise any more
    assert world.service.learned.absent_turns == 0


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
    script = [Step(d) for d, _ in turns]
    world = Patchy(script, QuantilePolicy(limits=limits), objective=Objective(fallback=fallback))
    world.lost = frozenset(i for i, (_, lost) in enumerate(turns) if lost)
    seen_forecast = False
    for demand, lost in turns:
        before = world.ordered
        record = world.turn()
        if demand != demand or lost:
            assert record.applied >= before
        if demand != demand or (lost and seen_forecast):
            assert world.service.learned.absent_turns >= 1
            if fallback is None or fallback.behavior == "currentReplicas":
                needed = 0 if demand != demand else int(np.ceil(demand / 100.0 * 1.25))
                assert record.applied <= max(before, needed, 15)
        seen_forecast = seen_forecast or (not lost and demand == demand)


# ---- what is learned -----------------------------------------------------------------------------------------
def test_capacity_lead_time_and_trust_are_learned_before_deciding() -> None:
    bound = Objective(bound=IndicatorBound("latency", 0.5))
    world = ScriptedWorld(
        [Step(1000.0, failed_s=()), Step(1000.0, failed_s=(800.0,))],
        QuantilePolicy(),
        objective=bound,
        capacity=Capacity.prior(100.0),
        steps_back=True,
    )
    for k in range(4):  # the gate opens once nothing has changed for two minutes
        look = world.look()._replace(now_s=60.0 * k, ordered=5, ready=5, started=())
        world.turns = 0
        world.service.conclude(world.service.consider(look), 5)
    first = world.service.learned
    rows = [(200.0, 1000.0, 0.4), (240.0, 950.0, 0.9)]
    world.turns = 1
    look = world.look()._replace(now_s=240.0, ordered=5, ready=5, rows=rows)
    turn = world.service.consider(look)
    assert turn.outcome.bound_samples == ((200.0, True), (190.0, False))
    assert turn.observation.capacity.median > 1.3 * first.capacity.median
    assert turn.observation.lead_time.quantile_s(0.9) > first.lead_time.quantile_s(0.9)
    trust = world.service.learned.trust
    assert trust is not None
    assert trust.realized == pytest.approx(0.5, abs=0.01)
    assert trust.last_stated == turn.decision.violation_probability


def test_pending_starts_lengthen_the_lead_of_one_turn_only() -> None:
    world = ScriptedWorld([Step(1000.0)] * 2, QuantilePolicy())
    world.pending_s = (5000.0, 5000.0)
    seen = world.turn().observation.lead_time
    assert seen.median_s > world.service.learned.lead_time.median_s
    world.pending_s = ()
    assert world.turn().observation.lead_time == world.service.learned.lead_time


# ---- how far, and how long -----------------------------------------------------------------------------------
def test_a_forecast_reaches_over_the_window_and_what_is_late() -> None:
    world = ScriptedWorld([], QuantilePolicy(), lead_time=LeadTime.known(300.0), interval_s=180.0)
    ask = world.service.forecast_steps
    assert ask(10.0, 0.0, 100, (), 0) == 5 + 3 - 1
    assert ask(10.0, 0.0, 100, (), 1) == 8
    assert ask(NAN, math.inf, 100, (), 1) == 0
    assert ask(10.0, 151.0, 100, (), 1) == 0, "too old to be present demand"
    assert ask(10.0, 150.0, WARM_UP_ROWS - 1, (), 1) == 0, "too little to make a forecast of"


def test_starts_that_are_stuck_lengthen_the_look_ahead_only_so_far() -> None:
    stuck = ScriptedWorld([], QuantilePolicy())
    lead = stuck.service.learned.lead_time
    most = math.ceil(lead.stuck_after_s / 60.0)
    assert lead.steps(60.0) < most < MOST_STEPS
    assert stuck.service.forecast_steps(10.0, 0.0, 100, (1e6,) * 9, 1) == most + 1
    vague = ScriptedWorld([], QuantilePolicy(), lead_time=LeadTime.measured(3600.0, spread=3.0))
    assert vague.service.forecast_steps(10.0, 0.0, 100, (1e6,) * 9, 1) <= 1 + max(
        MOST_STEPS, vague.service.terms.lead_time.steps(60.0)
    )
    slow = ScriptedWorld([], QuantilePolicy(), lead_time=LeadTime.known(3 * 3600.0))
    assert slow.service.forecast_steps(10.0, 0.0, 100, (), 1) == 181, "what a person says is looked at in full"


def test_what_is_ordered_before_the_first_turn_was_recommended() -> None:
    """The HorizontalPodAutoscaler begins so: nothing is known of the time before."""
    world = ScriptedWorld([Step(100.0)] * 12, ReactivePolicy(margin=0.0, hold_s=300.0))
    assert [world.turn().applied for _ in range(7)] == [10] * 5 + [1] * 2
