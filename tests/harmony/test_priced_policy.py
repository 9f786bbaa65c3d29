"""The policies that choose by replaying their own past, live in the simulated world and out of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.panel import Indicator, Panel
from harmony.model.decision import Decision, Reason
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Behavior, Objective
from harmony.policies.priced import PricedPolicy
from harmony.policies.registry import create_policy, policy_names
from simulator.pool import StartUp
from simulator.replaying import ReplaySettings, replay
from simulator.result import ReplayResult
from simulator.traces.trace import Trace
from tests.harmony.builders import forecast, observation

OWN = PricedPolicy(forecaster="", trees=False)
STEP_S = 600.0


def rhythm(n: int, seed: int = 0) -> np.ndarray:
    at = np.arange(n)
    rng = np.random.default_rng(seed)
    weekday = 1.0 + 0.3 * np.sin(2 * np.pi * at / (144 * 7))
    return 2000.0 * weekday * np.exp(0.8 * np.sin(2 * np.pi * at / 144) + 0.08 * rng.standard_normal(n))


def replayed(
    demand: np.ndarray, *policies: str | PricedPolicy, epsilon: float = 0.02, tune: bool = False
) -> ReplayResult:
    panel = Panel(values=demand[:, None], indicators=(Indicator("demand"),), start_s=0.0, step_s=STEP_S)
    settings_ = ReplaySettings(
        replica_capacity=100.0, start_up=StartUp(1800.0), objective=Objective(epsilon=epsilon), tune=tune
    )
    return replay(Trace(panel, "demand"), policies, settings_)


def live(policy: PricedPolicy, demand: np.ndarray, **fixed: object) -> list[Decision]:
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
    own = replayed(demand, OWN).policies["harmony-price"]
    rival = replayed(demand, "reactive", tune=True).policies["reactive"]
    assert own.violation_rate <= 2 * 0.02
    assert own.gpu_hours < 0.92 * rival.gpu_hours
    assert own.stated_risk is not None
    assert own.stated_risk == pytest.approx(own.violation_rate, abs=0.02)


def test_the_same_life_twice_gives_the_same_counts() -> None:
    demand = rhythm(900)
    a, b = (replayed(demand, OWN).policies["harmony-price"].ordered for _ in range(2))
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
    decisions = live(PricedPolicy(forecaster="", trees=trees), rhythm(420))
    past = decisions[-1].memory.past
    assert past.setting is not None
    rows = past.verdict()
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
    policy = PricedPolicy(trees=False, thumbs=False)
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
        decision = PricedPolicy(trees=False).decide(seen)
        assert objective.min_replicas <= decision.replicas <= objective.max_replicas
        if math.isnan(demand):
            assert decision.replicas >= ordered
        memory = decision.memory


def test_further_policies_are_asked_for_by_name() -> None:
    assert {"harmony-price", "quantile", "standin", "percentile"} <= set(policy_names(further=True))
    assert not {"harmony-price", "standin"} & set(policy_names())
    assert create_policy("harmony-price", "ridge").forecaster == "ridge"
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
