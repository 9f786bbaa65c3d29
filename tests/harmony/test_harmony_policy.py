"""The policies that choose by replaying their own past, live in the simulated world and out of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.panel import Indicator, Panel
from harmony.decision.in_force import again
from harmony.decision.past.tried import YET_TO_REPLAY
from harmony.decision.rule import decide
from harmony.model.decision import Candidates, Decision, Reason
from harmony.model.lead_time import LeadTime
from harmony.model.memory import TurnMemory
from harmony.model.objective import Behavior, Objective, ScalingRules
from harmony.policies.harmony import HarmonyPolicy, Replayed
from harmony.policies.registry import create_policy, policy_names
from simulator.pool import StartUp
from simulator.replaying import ReplaySettings, replay
from simulator.result import ReplayResult
from simulator.traces.trace import Trace
from tests.harmony.builders import forecast, observation

OWN = HarmonyPolicy(forecaster="", trees=False)
OWN_TURN = TurnMemory(expects_forecast=False, cap=OWN.cap)
STEP_S = 600.0


def rhythm(n: int, seed: int = 0) -> np.ndarray:
    at = np.arange(n)
    rng = np.random.default_rng(seed)
    weekday = 1.0 + 0.3 * np.sin(2 * np.pi * at / (144 * 7))
    return 2000.0 * weekday * np.exp(0.8 * np.sin(2 * np.pi * at / 144) + 0.08 * rng.standard_normal(n))


def replayed(
    demand: np.ndarray, *policies: str | HarmonyPolicy, epsilon: float = 0.02, tune: bool = False
) -> ReplayResult:
    panel = Panel(values=demand[:, None], indicators=(Indicator("demand"),), start_s=0.0, step_s=STEP_S)
    settings_ = ReplaySettings(
        replica_capacity=100.0, start_up=StartUp(1800.0), objective=Objective(epsilon=epsilon), tune=tune
    )
    return replay(Trace(panel, "demand"), policies, settings_)


def live(policy: HarmonyPolicy, demand: np.ndarray, **fixed: object) -> list[Decision]:
    """Decisions turn by turn, everything ordered being ready at once."""
    memory, ordered, out = None, 20, []
    for i, d in enumerate(demand):
        seen = observation(
            now_s=i * 60.0, demand=float(d), ordered=ordered, ready=ordered, memory=memory, **fixed
        )  # fmt: skip
        decision = policy.decide(seen)
        memory, ordered = decision.memory, decision.replicas
        out.append(decision)
    return out


@pytest.mark.slow
def test_it_keeps_its_promise_for_fewer_hours_than_a_tuned_rule_of_thumb() -> None:
    """A plain daily rhythm, nothing tuned, against the reactive rule tuned on the part before the scored one."""
    demand = rhythm(144 * 28)
    own = replayed(demand, OWN).policies["harmony"]
    rival = replayed(demand, "reactive", tune=True).policies["reactive"]
    assert own.violation_rate <= 2 * 0.02
    assert own.gpu_hours < 0.92 * rival.gpu_hours
    assert own.stated_risk is not None
    assert own.stated_risk == pytest.approx(own.violation_rate, abs=0.02)


def test_a_held_count_falls_when_it_is_said_to() -> None:
    """From a held turn on the count stands until the moment named; it falls there, where nothing so high was asked."""
    at, rng = np.arange(900), np.random.default_rng(0)
    demand = 2000.0 * np.exp(0.5 * np.sin(2 * np.pi * at / 144) + 0.25 * rng.standard_normal(900))
    decisions, told = live(OWN, demand, objective=Objective(epsilon=0.05, max_replicas=1000)), 0
    for i, decision in enumerate(decisions):
        assert math.isnan(decision.held_for_s) == (decision.bound_by != "hold")
        if decision.bound_by != "hold":
            continue
        ends = i + round(decision.held_for_s / 60.0)
        meanwhile = decisions[i : ends + 1]
        if len({d.setting for d in meanwhile}) == 1 and ends < len(decisions):
            assert all(d.held >= decision.held for d in meanwhile[:-1])
            if max(d.wanted for d in meanwhile) < decision.held:
                assert meanwhile[-1].held < decision.held
                told += 1
    assert told > 50


def test_the_same_life_twice_gives_the_same_counts() -> None:
    demand = rhythm(900)
    a, b = (replayed(demand, OWN).policies["harmony"].ordered for _ in range(2))
    assert np.array_equal(a, b)


def test_deciding_twice_on_one_observation_changes_nothing() -> None:
    demand = rhythm(420)
    policy = OWN
    memory = live(policy, demand)[-1].memory
    seen = observation(now_s=420 * 60.0, demand=2500.0, memory=memory)
    first, second = policy.decide(seen), policy.decide(seen)
    assert first.replicas == second.replicas
    assert first.violation_probability == second.violation_probability
    later = replace(seen, now_s=421 * 60.0, demand=2600.0)
    onward = [policy.decide(replace(later, memory=d.memory)) for d in (first, second)]
    assert onward[0].replicas == onward[1].replicas


@pytest.mark.slow
@pytest.mark.parametrize("trees", [False, True])
def test_it_has_a_setting_after_a_while_and_says_why(trees: bool) -> None:
    decisions = live(HarmonyPolicy(forecaster="", trees=trees), rhythm(420))
    past = decisions[-1].memory.past
    assert past.setting is not None
    rows = past.told
    assert rows[0].chosen
    assert len(rows) == len({s.family for s in past.settings})
    assert decisions[0].reason is Reason.WARMING_UP


def test_a_lost_metric_in_mid_peak_loses_no_replica_and_is_over_at_once() -> None:
    demand = rhythm(700)
    policy = OWN
    peak = 576 + 36  # a quarter of the fifth day
    holed = demand.copy()
    holed[peak : peak + 30] = np.nan
    decisions = live(policy, holed)
    before = decisions[peak - 1].replicas
    assert all(d.replicas >= before for d in decisions[peak : peak + 30])
    assert {d.reason for d in decisions[peak : peak + 30]} <= {Reason.ABSENT_DATA, Reason.STABILIZED, Reason.FORECAST}
    after = decisions[peak + 30]
    assert after.replicas >= math.ceil(holed[peak + 30] / 100.0)
    assert after.reason is not Reason.ABSENT_DATA


def test_a_dead_forecaster_in_mid_peak_loses_no_replica() -> None:
    """The forecast goes away while it is part of what is chosen: nothing is ordered away until it is back."""
    policy = HarmonyPolicy(trees=False, thumbs=False)
    rng = np.random.default_rng(0)
    demand = rhythm(500)
    memory, ordered, counts = None, 20, []
    for i, d in enumerate(demand):
        paths = d * np.exp(0.1 * np.cumsum(rng.standard_normal((100, 5)), axis=1) / 2)
        given_ = None if 440 <= i < 470 else forecast(paths)
        seen = observation(
            now_s=i * 60.0, demand=float(d), ordered=ordered, ready=ordered, memory=memory, forecast=given_
        )
        decision = policy.decide(seen)
        memory, ordered = decision.memory, decision.replicas
        counts.append(ordered)
    assert min(np.diff(counts[439:470])) >= 0
    assert memory.past.setting is not None  # type: ignore[union-attr]


def test_bounds_and_the_users_limits_hold() -> None:
    objective = Objective(min_replicas=5, max_replicas=30)
    decisions = live(OWN, rhythm(400), objective=objective)
    assert all(5 <= d.replicas <= 30 for d in decisions)
    limits = Behavior.hold(3600.0)
    assert replace(OWN, limits=limits).behavior is limits


def test_bounds_that_are_widened_later_are_used() -> None:
    demand = rhythm(400)
    memory = live(OWN, demand, objective=Objective(max_replicas=10))[-1].memory
    seen = observation(
        now_s=400 * 60.0, demand=float(demand.max()), memory=memory, objective=Objective(max_replicas=90)
    )
    assert OWN.decide(seen).replicas >= math.ceil(demand.max() / 100.0)


def test_a_history_from_elsewhere_is_chosen_from_at_the_first_turn() -> None:
    demand = rhythm(1000)
    first = observation(now_s=1000 * 60.0, demand=float(demand[-1]))
    memory = OWN.remembering(first, demand[:-1])
    assert memory.past.setting is not None
    decision = OWN.decide(replace(first, memory=memory))
    assert len(decision.memory.past.history) == 1000
    assert decision.reason is not Reason.WARMING_UP


@pytest.mark.parametrize(("epsilon", "sign"), [(0.001, 1), (0.1, -1)])
def test_a_promise_that_is_changed_takes_effect_at_once_on_the_same_past(epsilon: float, sign: int) -> None:
    decisions = live(OWN, rhythm(500))
    past = decisions[-1].memory.past
    seen = observation(
        now_s=500 * 60.0, demand=2500.0, memory=decisions[-1].memory, objective=Objective(epsilon=epsilon)
    )
    after = OWN.decide(seen).memory.past
    assert after.budget.epsilon == epsilon
    assert len(after.history) == 501
    before_cost, cost = past.tally.cost[past.chosen], after.tally.cost[after.chosen]
    assert sign * (cost - before_cost) >= 0


@pytest.mark.parametrize(("lead_s", "steps"), [(600.0, 10), (240.0, 5), (60.0, 1)])
def test_a_lead_time_that_is_learned_anew_keeps_the_past(lead_s: float, steps: int) -> None:
    """Longer ones count at once, a little shorter ones not: five minutes before, in turns of one."""
    decisions = live(OWN, rhythm(500))
    seen = observation(
        now_s=500 * 60.0, demand=2500.0, memory=decisions[-1].memory, lead_time=LeadTime.known(lead_s)
    )  # fmt: skip
    past = OWN.decide(seen).memory.past
    assert past.grid.lead_steps == steps
    assert len(past.history) == 501
    assert past.setting is not None
    assert past.budget.counted.steps == 501


def test_the_budget_counts_what_was_violated_between_rare_turns() -> None:
    def counted(**changes: object) -> tuple[float, float]:
        seen = observation(**({"interval_s": 300.0, "demand": 1000.0, "ready": 10, "missed": 0.4} | changes))
        budget = OWN.decide(seen).memory.past.budget.counted
        return budget.steps, budget.violated

    assert counted() == (1.0, 0.4)
    assert counted(demand=math.nan) == (1.0, 0.4)  # the steps before were read, this one was not
    assert counted(missed=math.nan) == (1.0, 0.0)
    assert counted(demand=1600.0, objective=Objective(measure="requests")) == (1.0, 0.375)  # that is no share of time


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.001, 0.01, 0.1]), st.sampled_from([60.0, 300.0]))
def test_any_few_turns_give_counts_within_bounds(seed: int, epsilon: float, interval_s: float) -> None:
    rng = np.random.default_rng(seed)
    objective = Objective(epsilon=epsilon, min_replicas=int(rng.integers(0, 3)), max_replicas=int(rng.integers(3, 100)))
    memory = None
    for i in range(12):
        demand = math.nan if rng.random() < 0.2 else float(rng.pareto(1.0) * 1000)
        given_ = forecast(rng.pareto(1.0, (20, 8)) * 1000) if rng.random() < 0.7 else None
        ordered = int(rng.integers(objective.min_replicas, objective.max_replicas + 1))
        seen = observation(
            now_s=i * interval_s, interval_s=interval_s, demand=demand, objective=objective, memory=memory,
            forecast=given_, ordered=ordered, ready=int(rng.integers(0, ordered + 1)),
        )  # fmt: skip
        decision = HarmonyPolicy(trees=False).decide(seen)
        assert objective.min_replicas <= decision.replicas <= objective.max_replicas
        if math.isnan(demand):
            assert decision.replicas >= ordered
        memory = decision.memory


def test_further_policies_are_asked_for_by_name() -> None:
    assert {"harmony-price", "quantile", "standin", "percentile"} <= set(policy_names(further=True))
    assert not {"harmony-price", "quantile", "standin"} & set(policy_names())
    assert create_policy("harmony", "ridge") == HarmonyPolicy("ridge")
    assert create_policy("harmony-price", "ridge") == HarmonyPolicy("ridge", name="harmony-price")  # its former name
    assert create_policy("standin", "ridge").forecaster == ""
    assert create_policy("quantile").name == "quantile"


def test_the_percentile_rival_orders_for_the_window_it_saw() -> None:
    policy = create_policy("percentile")
    memory, counts = None, []
    for i, d in enumerate([1000.0] * 70 + [math.nan] + [500.0] * 70):
        decision = policy.decide(observation(now_s=i * 60.0, demand=d, memory=memory, ordered=12))
        memory = decision.memory
        counts.append(decision.replicas)
    assert counts[60] == 12  # 1000 x 1.15 over 100 a replica
    assert counts[70] == 12  # absent: what is ordered
    assert counts[-1] == 6


# ---- a restart, and the time before the first turn ---------------------------------------------------------------
def test_a_restart_keeps_budget_and_setting_and_reads_the_rest_again() -> None:
    demand = rhythm(500)
    memory = live(OWN, demand)[-1].memory
    saved = json.loads(json.dumps(OWN.saved(memory)))
    assert len(json.dumps(saved)) < 2000
    assert OWN.saved(OWN.restored(saved)) == saved  # nothing is lost by another restart before the past is read
    assert not OWN.wants_past(memory._replace(recalled=True))
    restored = OWN.restored(saved)
    assert OWN.wants_past(restored)
    first = observation(now_s=500 * 60.0, demand=2000.0, ordered=90, ready=90, memory=restored, past=demand)
    after = OWN.decide(first).memory
    assert after.past.budget.spent == pytest.approx(memory.past.budget.spent, rel=1e-4)
    assert after.past.budget.counted.steps == pytest.approx(memory.past.budget.counted.steps + 1, rel=1e-4)
    assert after.past.setting == memory.past.setting
    assert len(after.past.history) == 501
    assert not OWN.wants_past(after)


def test_before_the_past_is_read_the_fixed_level_decides_and_the_budget_goes_on() -> None:
    policy = HarmonyPolicy()
    kept = {"budget": [[0.0, 6000.0, 120.0, 60.0]], "setting": ["ridge", "max", "price", 12.5, 3]}
    paths = 1000.0 * np.exp(0.1 * np.random.default_rng(0).standard_normal((200, 5)))
    seen = observation(now_s=6060.0, demand=1000.0, forecast=forecast(paths), memory=policy.restored(kept))
    decision = policy.decide(seen)
    assert decision.setting == ""
    assert decision.replicas == decide(seen).replicas
    assert decision.memory.past.budget.spent == 2.0
    assert decision.budget_left == pytest.approx(1.0 - 2.0 / (0.01 * 43_200))


@pytest.mark.parametrize(
    "saved", [None, 5, [], {}, {"budget": 3, "setting": "x"}, {"budget": [[1, 2], ["a"] * 4, [0, 1, 9, 0]]}]
)
def test_whatever_was_saved_a_life_begins(saved: object) -> None:
    restored = OWN.restored(saved)
    decision = OWN.decide(observation(demand=1000.0, memory=restored))
    assert decision.memory.past.budget.spent == 0.0


def test_until_there_is_a_setting_counts_are_held_for_one_lead() -> None:
    policy = HarmonyPolicy()
    memory, counts = None, []
    for i, level in enumerate([1000.0] * 5 + [500.0] * 20):
        paths = level * np.exp(0.1 * np.random.default_rng(i).standard_normal((200, 5)))
        seen = observation(now_s=i * 60.0, demand=level, ordered=20, ready=20, forecast=forecast(paths), memory=memory)
        decision = policy.decide(seen)
        memory = decision.memory
        counts.append(decision.replicas)
    lead = memory.past.grid.lead_steps  # type: ignore[union-attr]
    assert min(counts[5 : 5 + lead]) >= min(counts[:5])
    assert counts[-1] < min(counts[:5])


def test_work_that_is_put_off_changes_no_setting_and_is_made_up_for() -> None:
    memory = live(OWN, rhythm(420))[-1].memory
    assert memory is not None
    for i in range(420, 470):
        seen = observation(now_s=i * 60.0, demand=2500.0, ordered=20, ready=20, memory=memory, may_review=False)
        after = OWN.decide(seen).memory
        assert after.past.reviewed == memory.past.reviewed
        assert after.past.chosen == memory.past.chosen
        memory = after
    assert OWN.is_due(memory)
    caught_up = OWN.decide(observation(now_s=470 * 60.0, demand=2500.0, memory=memory)).memory
    assert caught_up.past.reviewed == 471
    assert not OWN.is_due(caught_up)


@pytest.mark.parametrize("change", ["lead", "limits", "measure"])
def test_a_past_is_replayed_under_changed_terms_when_there_is_time(change: str) -> None:
    """Until then what was chosen stands, and that is said; afterwards it is as if it had been replayed at once."""
    policy, terms = OWN, {}
    if change == "lead":
        terms = {"lead_time": LeadTime.known(600.0)}
    elif change == "measure":
        terms = {"objective": Objective(epsilon=0.01, measure="window")}
    else:
        policy = replace(OWN, limits=Behavior(scale_down=ScalingRules(stabilization_window_s=1200.0)))
    before = live(OWN, rhythm(500))[-1].memory
    assert isinstance(before, Replayed)

    def turn(i: int, memory: object, may: bool) -> Decision:
        seen = observation(now_s=i * 60.0, demand=2500.0, ordered=20, ready=20, memory=memory, may_review=may, **terms)
        return policy.decide(seen)

    memory: object = before
    for i in range(500, 504):
        decision = turn(i, memory, may=False)
        memory = decision.memory
        assert isinstance(memory, Replayed)
        assert memory.past.tally is before.past.tally, "nothing was replayed"
        assert memory.past.chosen == before.past.chosen
        assert len(memory.past.history) == i + 1
        assert policy.is_due(memory)
        assert YET_TO_REPLAY in decision.why
    late = turn(504, memory, may=True)
    assert not policy.is_due(late.memory)
    assert YET_TO_REPLAY not in late.why
    at_once: object = before
    for i in range(500, 505):
        soon = turn(i, at_once, may=True)
        at_once = soon.memory
    assert isinstance(late.memory, Replayed)
    assert isinstance(at_once, Replayed)
    for name in ("grid", "limits", "measure", "setting"):
        assert getattr(late.memory.past, name) == getattr(at_once.past, name)
    assert late.replicas == soon.replicas


@pytest.mark.parametrize("lead_s", [60.0, 1800.0])
def test_until_a_longer_lead_is_replayed_the_fixed_level_may_ask_for_more_and_never_for_less(lead_s: float) -> None:
    before = live(OWN, rhythm(500))[-1].memory
    rise = forecast(np.linspace(2500.0, 9000.0, 40) * np.ones((50, 1)))
    terms = {"now_s": 500 * 60.0, "demand": 2500.0, "ordered": 20, "ready": 20, "memory": before, "forecast": rise}
    waits = OWN.decide(observation(**terms, may_review=False, lead_time=LeadTime.known(lead_s)))
    stands = OWN.decide(observation(**terms, may_review=False))
    level = decide(observation(**terms, lead_time=LeadTime.known(lead_s)))
    assert waits.replicas == (max(stands.replicas, level.replicas) if lead_s > 300.0 else stands.replicas)
    assert (waits.setting == "") is (lead_s > 300.0), "who decided is said"


# ---- what is told, and the same again ----------------------------------------------------------------------------
def test_a_decision_is_made_again_from_its_own_record() -> None:
    memory, ordered = None, 20
    for i, d in enumerate(rhythm(330)):
        seen = observation(now_s=i * 60.0, demand=float(d), ordered=ordered, ready=ordered, memory=memory)
        decision = OWN.decide(seen)
        memory, ordered = decision.memory, decision.replicas
        same = again(replace(seen, memory=None), decision, OWN_TURN)
        assert same.to_json() == decision.to_json()
    assert decision.setting == memory.past.setting.label  # type: ignore[union-attr]
    assert decision.why.startswith(f"{memory.past.told[0].replicas:.3g} replicas")  # type: ignore[union-attr]
    assert decision.price == memory.past.setting.knob  # type: ignore[union-attr]


@pytest.mark.parametrize(("cap", "count"), [(5.0, 10), (2.5, 11)])
def test_made_again_under_the_cap_that_was_in_force(cap: float, count: int) -> None:
    risk = np.array([0.2, 0.05])
    table = Candidates(np.array([10, 11]), risk, risk, risk, np.array([10.0, 11.0]))
    made = Decision(
        count, 10, Reason.FORECAST, candidates=table, setting="price", price=1.0, wanted=count, held=count
    )  # fmt: skip
    seen = observation(demand=900.0, forecast=None, objective=Objective(epsilon=0.05))
    assert again(seen, made, TurnMemory(expects_forecast=False, cap=cap)).replicas == count


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.floats(1.0, 3.0), st.floats(1.0, 100.0))
def test_made_again_under_other_terms_it_moves_the_right_way(seed: int, more: float, stricter: float) -> None:
    """A higher price, present demand or minimum never gives fewer; nor does a stricter objective."""
    rng = np.random.default_rng(seed)
    counts = np.unique(rng.integers(1, 60, 20))
    risk = np.sort(rng.random(counts.size))[::-1] ** 4
    table = Candidates(counts, risk, risk, risk, counts.astype(float))
    wanted = int(counts[rng.integers(counts.size)])
    base = Decision(
        wanted, 10, Reason.FORECAST, candidates=table, setting="price", price=float(10 ** rng.uniform(0, 4)),
        wanted=wanted, held=wanted,
    )  # fmt: skip
    seen = observation(demand=float(rng.integers(0, 3000)), ordered=10, forecast=None)
    now = again(seen, base, OWN_TURN).replicas
    assert again(seen, replace(base, price=base.price * more), OWN_TURN).replicas >= now
    assert again(replace(seen, demand=seen.demand * more), base, OWN_TURN).replicas >= now
    floor = replace(seen.objective, min_replicas=int(rng.integers(1, 50)))
    assert again(replace(seen, objective=floor), base, OWN_TURN).replicas >= max(now, floor.min_replicas)
    strict = replace(seen.objective, epsilon=seen.objective.epsilon / stricter)
    assert again(replace(seen, objective=strict), base, OWN_TURN).replicas >= now


def test_other_measures_are_counted_in_the_budget_and_in_the_replay() -> None:
    demand = rhythm(300)
    found = {}
    for measure in ("time", "window", "requests"):
        decisions = live(OWN, demand, objective=Objective(epsilon=0.02, measure=measure))  # type: ignore[arg-type]
        past = decisions[-1].memory.past
        assert past.setting is not None
        found[measure] = past
    assert found["window"].tally.missed.sum() > found["time"].tally.missed.sum()
    assert found["requests"].tally.share.max() < found["time"].tally.share.max()
    assert 0.0 <= found["requests"].budget.spent <= found["time"].budget.counted.steps


@pytest.mark.parametrize(
    ("demand", "queue", "is_censored"), [(1000.0, 5.0, True), (1000.0, 0.0, False), (900.0, 5.0, False)]
)
def test_a_saturated_reading_is_a_lower_bound_where_that_is_asked_for(
    demand: float, queue: float, is_censored: bool
) -> None:
    """All that ten replicas carry is served and requests wait: it stands for the readings so far that were larger."""
    past = live(OWN, rhythm(400))[-1].memory
    seen = observation(
        now_s=400 * 60.0, demand=demand, ordered=10, ready=10, memory=past, indicators={"queue_length": queue}
    )
    plain, censored = OWN.decide(seen), replace(OWN, censored=True).decide(seen)
    known = past.past.history.demand()
    larger = float(known[known > demand].mean())
    newest = float(censored.memory.past.history.demand()[-1])
    assert newest == pytest.approx(larger if is_censored else demand, rel=1e-6)
    assert float(plain.memory.past.history.demand()[-1]) == pytest.approx(demand)
    assert censored.replicas >= plain.replicas if is_censored else censored.replicas == plain.replicas
    assert not is_censored or censored.replicas >= math.ceil(larger / 100.0)
