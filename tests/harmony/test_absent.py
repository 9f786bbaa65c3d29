"""Absent and absurd data: never fewer replicas because of them, never an exception, never a cost that is no number."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.prometheus.answers import at_each_moment, parse_answer
from controller.prometheus.errors import PrometheusUnreachable
from controller.prometheus.history import History
from forecasting.distribution import ForecastDistribution
from forecasting.panel import LARGEST
from harmony.decision.turn import decide_turn
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision, Reason
from harmony.model.memory import TurnMemory
from harmony.model.objective import Behavior, Fallback, Objective, Stages
from harmony.model.schedule import Schedule
from harmony.policies.base import Policy
from harmony.policies.hpa import HpaPolicy
from harmony.policies.quantile import QuantilePolicy
from harmony.policies.reactive import ReactivePolicy
from harmony.policies.registry import create_policy, policy_names
from tests.harmony.builders import DEMAND, forecast, observation

WITHOUT_READINGS = ("static", "oracle", "oracle-free")  # a count that is given, or that is made of the future
STAGED = Behavior(stages=Stages(25, 120.0))
POLICIES = st.sampled_from([QuantilePolicy(), HpaPolicy(0.7), ReactivePolicy(0.2)])
absurd = st.sampled_from([math.inf, -math.inf, 1e308, 1.7e308, 1e300, 5e-324, math.nan])
PATHS = st.sampled_from([0.0, 100.0, 900.0, 5000.0, math.nan, math.inf, -math.inf, 1e308])


def turn(policy: Policy, **seen: object) -> Decision:
    before = TurnMemory(expects_forecast=True, forecast_seen=bool(seen.pop("forecast_seen", False)))
    return decide_turn(observation(**seen), policy.decide, policy.behavior, before)[0]


def some_forecast(levels: list[float]) -> ForecastDistribution:
    paths = np.full((len(levels), 6), 100.0)
    paths[:, 3] = levels
    return forecast(paths)


@given(
    POLICIES,
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.none() | st.lists(PATHS, min_size=1, max_size=6).map(some_forecast),
    st.integers(0, 40),
    st.integers(0, 30),
    st.integers(0, 30),
    st.booleans(),
)
def test_no_bound_lowers_the_count_while_demand_is_absent(
    policy: Policy,
    demand: float,
    made: ForecastDistribution | None,
    ordered: int,
    low: int,
    more: int,
    seen: bool,
) -> None:
    objective = Objective(min_replicas=low, max_replicas=max(1, low + more))
    decision = turn(
        policy, demand=demand, forecast=made, ordered=ordered, ready=ordered, objective=objective, forecast_seen=seen
    )
    assert min(ordered, objective.max_replicas) <= decision.replicas <= objective.max_replicas


@pytest.mark.parametrize("name", [n for n in policy_names(further=True) if n not in WITHOUT_READINGS])
@pytest.mark.parametrize("lowered", ["by a schedule", "by hand, below the fallback", "with the minimum, to one count"])
def test_whatever_lowers_the_maximum_in_an_outage_it_holds_there(name: str, lowered: str) -> None:
    """Every policy there is, over twenty turns without demand, with guards and stages on their way down."""
    outage = Objective(min_replicas=0, max_replicas=30, behavior=STAGED)
    if lowered == "by a schedule":
        night = Schedule("night", "UTC", frozenset(range(7)), 0, 1440, max_replicas=7)
        outage = dataclasses.replace(outage, schedules=(night,))
    elif lowered == "by hand, below the fallback":
        outage = dataclasses.replace(outage, max_replicas=7, fallback=Fallback(2, 12))
    else:
        outage = dataclasses.replace(outage, min_replicas=7, max_replicas=7)
    policy = create_policy(name)
    memory, ordered = TurnMemory(expects_forecast=True, forecast_seen=True), 11
    for k in range(20):
        now_s = 60.0 * k
        seen = observation(
            now_s=now_s,
            demand=math.nan,
            forecast=forecast(np.full((50, 6), 100.0)) if k % 3 else None,
            ordered=ordered,
            ready=ordered,
            objective=outage.at(now_s),
        )
        decision, memory = decide_turn(seen, policy.decide, STAGED, memory)
        assert min(ordered, 7) <= decision.replicas <= 11
        ordered = decision.replicas
    assert ordered == 7


@given(
    POLICIES,
    absurd | st.floats(0, 1e12),
    st.none() | st.lists(PATHS, min_size=1, max_size=6).map(some_forecast),
    st.sampled_from([1e-9, 1.0, 1e10, 1e300]),
    st.integers(0, 20),
)
def test_absurd_values_give_a_count_within_the_bounds(
    policy: Policy, demand: float, made: ForecastDistribution | None, per_replica: float, ordered: int
) -> None:
    decision = turn(
        policy,
        demand=demand,
        forecast=made,
        ordered=ordered,
        ready=ordered,
        capacity=Capacity.known(per_replica),
        objective=Objective(max_replicas=10),
    )
    assert 1 <= decision.replicas <= 10
    if decision.candidates is not None:
        assert np.isfinite(decision.candidates.expected_cost).all()


ODD = ("-0.0", "5e-324", "1e-300", "1e308", "1e400", "-1e308", "9" * 5000, "+Inf", "NaN", "1e39")
ODD_NUMBERS = ("9223372036854775808", "1" + "0" * 30, "1e308", "-0", "5e-324", "true")  # without quotes around them
NO_NUMBERS = ("1" + "0" * 400, "1e999", "null", "[1]", "{}", '""', '"0x10"', '"nothing"')


def answer(value: str) -> bytes:
    series = f'{{"metric":{{}},"values":[[60,"100"],[120,{value}]]}}'
    return f'{{"status":"success","data":{{"resultType":"matrix","result":[{series}]}}}}'.encode()


@pytest.mark.parametrize("value", [*(f'"{odd}"' for odd in ODD), *ODD_NUMBERS])
def test_odd_numbers_of_prometheus_are_demand_or_absent_and_lower_no_count_by_being_odd(value: str) -> None:
    """As text and as numbers, of any size and length: read, kept and decided upon as it happens live."""
    found = at_each_moment(parse_answer(answer(value), "Prometheus").series)
    history = History((DEMAND,), 60.0, 3)
    history.write(0, found.times_s, np.where(found.values < 0, np.nan, found.values))
    demand = history.demand_between(60.0, 120.0)[1][0]
    assert math.isnan(demand) or 0.0 <= demand <= LARGEST
    decision = turn(QuantilePolicy(), demand=float(demand), ordered=3, ready=3, objective=Objective(max_replicas=10))
    assert decision.replicas == 3 if math.isnan(demand) else 1 <= decision.replicas <= 10


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_is_no_answer(value: str) -> None:
    with pytest.raises(PrometheusUnreachable):
        parse_answer(answer(value), "Prometheus")


@pytest.mark.parametrize("ordered", [10, 11, 25])
def test_a_maximum_that_was_lowered_is_where_absent_demand_holds(ordered: int) -> None:
    """The forecast alone would ask for one replica; what is ordered lies at or above the maximum."""
    decision = turn(
        QuantilePolicy(),
        demand=math.nan,
        forecast=forecast(np.full((50, 6), 100.0)),
        ordered=ordered,
        ready=ordered,
        objective=Objective(epsilon=0.05, min_replicas=0, max_replicas=10),
    )
    assert decision.replicas == 10


def test_one_infinite_path_makes_the_forecast_absent() -> None:
    paths = np.full((200, 6), 100.0)
    paths[3, 2] = math.inf
    decision = turn(QuantilePolicy(), demand=100.0, ordered=3, ready=3, forecast=forecast(paths), forecast_seen=True)
    assert decision.candidates is None
    assert decision.replicas == 3


FALLBACK = Objective(fallback=Fallback(replicas=4, failure_threshold=3, behavior="currentReplicasIfHigher"))


def absent(before: TurnMemory, ordered: int, ready: int) -> tuple[Decision, TurnMemory]:
    """A turn without demand."""
    policy = QuantilePolicy()
    seen = observation(demand=math.nan, forecast=None, ordered=ordered, ready=ready, objective=FALLBACK)
    return decide_turn(seen, policy.decide, policy.behavior, before)


def test_a_cold_start_is_no_outage() -> None:
    """What a service's own pods measure is not there before the first of them is ready."""
    memory = TurnMemory(served=False)
    for _ in range(50):
        decision, memory = absent(memory, ordered=1, ready=0)
        assert (decision.replicas, decision.reason) == (1, Reason.ABSENT_DATA)
    for k in range(1, 3):
        decision, memory = absent(memory, ordered=1, ready=1)
        assert (decision.replicas, memory.absent_turns) == (1, k)
    for ready in (1, 0, 0):  # whoever has served and loses its pods and readings has an outage
        decision, memory = absent(memory, ordered=1, ready=ready)
        assert (decision.replicas, decision.reason) == (4, Reason.FALLBACK)
    _, memory = absent(memory, ordered=0, ready=0)
    for _ in range(50):
        decision, memory = absent(memory, ordered=1, ready=0)
        assert (decision.replicas, decision.reason) == (1, Reason.ABSENT_DATA), "woken from 0, it starts cold again"
