"""Plans over GPU types and services against brute force, and what holds for any of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import UsageError
from harmony.decision.fleet import FleetPlan, FleetService, GpuType, plan_fleet, price_for
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime

MOST = 3


@st.composite
def fleets(draw: st.DrawFn, services: int = 1, types: int = 2) -> tuple[list[GpuType], list[FleetService]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = [
        GpuType(name, float(rng.integers(1, 8)), int(rng.integers(0, MOST + 1)), int(rng.integers(0, 4)))
        for name in "abc"[:types]
    ]
    made = [
        FleetService(
            f"s{i}",
            rng.integers(0, 12, (int(rng.integers(1, 6)), 3)).astype(float),
            {t.name: float(rng.integers(1, 6)) for t in kinds if t.name == "a" or rng.random() < 0.8},
            current={t.name: min(int(rng.integers(0, 2)), t.available // services) for t in kinds},
            priority=float(rng.choice([0.5, 1.0, 2.0])),
            least=int(rng.integers(0, 2)),
            most_risk=float(rng.choice([0.4, 1.0])),
        )
        for i in range(services)
    ]
    return kinds, made


def told(types: list[GpuType], service: FleetService, counts: tuple[int, ...]) -> tuple[float, float]:
    """Cost and risk of counts, step by step and path by path."""
    cost, missed = 0.0, 0
    for t, n in zip(types, counts, strict=True):
        cost += n * t.price
    for path in service.paths:
        for h, demand in enumerate(path):
            carried = 0.0
            for t, n in zip(types, counts, strict=True):
                here = min(n, service.current.get(t.name, 0))
                carried += service.per_replica.get(t.name, 0.0) * (here + (n - here if h + 1 >= t.lead_steps else 0))
            missed += demand > carried
    return cost, missed / service.paths.size


def brute(types: list[GpuType], services: list[FleetService], price: float, budget: float) -> float:
    """The least objective over everything that is allowed; infinite for nothing."""
    per_service = []
    for s in services:
        ranges = [
            range(t.available + 1) if t.name in s.per_replica else range(s.current.get(t.name, 0) + 1) for t in types
        ]
        options = [(n, *told(types, s, n)) for n in itertools.product(*ranges) if sum(n) >= s.least]
        per_service.append([o for o in options if o[2] <= s.most_risk + 1e-9])
    best = math.inf
    for choice in itertools.product(*per_service):
        if any(sum(c[0][k] for c in choice) > t.available for k, t in enumerate(types)):
            continue
        cost = sum(c[1] for c in choice)
        if cost <= budget + 1e-9:
            best = min(best, cost + price * sum(s.priority * c[2] for s, c in zip(services, choice, strict=True)))
    return best


def value(services: list[FleetService], plan: FleetPlan, price: float) -> float:
    return plan.cost + price * sum(s.priority * plan.services[s.name].risk for s in services)


@given(fleets(), st.sampled_from([0.0, 3.0, 20.0, 200.0]), st.sampled_from([6.0, math.inf]))
@settings(max_examples=200, deadline=None)
def test_one_service_on_two_types_is_as_cheap_as_brute_force(fleet: Any, price: float, budget: float) -> None:
    types, services = fleet
    plan = plan_fleet(types, services, violation_price=price, budget=budget)
    best = brute(types, services, price, budget)
    if math.isinf(best):
        assert plan.kept
        assert dict(plan.services["s0"].replicas) == {t.name: services[0].current.get(t.name, 0) for t in types}
        return
    assert not plan.kept
    assert value(services, plan, price) == pytest.approx(best, abs=1e-6)
    served = plan.services["s0"]
    assert (served.cost, served.risk) == pytest.approx(told(types, services[0], tuple(served.replicas.values())))


@given(fleets(services=2), st.sampled_from([3.0, 30.0]), st.sampled_from([8.0, math.inf]))
@settings(max_examples=60, deadline=None)
def test_two_services_share_types_and_money_as_brute_force_would(fleet: Any, price: float, budget: float) -> None:
    types, services = fleet
    plan = plan_fleet(types, services, violation_price=price, budget=budget)
    best = brute(types, services, price, budget)
    assert bool(plan.kept) == math.isinf(best)
    if not plan.kept:
        assert value(services, plan, price) == pytest.approx(best, abs=1e-6)
        assert plan.cost <= budget + 1e-9
        for t in types:
            assert sum(s.replicas[t.name] for s in plan.services.values()) <= t.available


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.2, 0.5]))
@settings(max_examples=15, deadline=None)
def test_one_price_spends_a_shared_error_budget_at_least_cost(seed: int, epsilon: float) -> None:
    """No allocation with at most the same total of violations costs less: brute force over both services."""
    rng = np.random.default_rng(seed)
    types = [GpuType("a", 2.0, 40), GpuType("b", 3.0, 40)]
    services = [
        FleetService(f"s{i}", rng.integers(0, 9, (8, 1)).astype(float), {"a": 1.0, "b": 2.0}, priority=w)
        for i, w in enumerate((1.0, 2.0))
    ]
    price, plan = price_for(types, services, epsilon=epsilon)
    assert not plan.kept
    weights = np.array([1.0, 2.0]) / 3.0
    risks = [plan.services[s.name].risk for s in services]
    total = float(weights @ risks)
    assert total <= epsilon + 1e-9
    options = [
        [told(types, s, n) for n in itertools.product(range(9), range(6))] for s in services
    ]  # fmt: skip
    cheapest = min(
        a[0] + b[0] for a in options[0] for b in options[1] if weights[0] * a[1] + weights[1] * b[1] <= total + 1e-12
    )
    assert plan.cost == pytest.approx(cheapest)
    if price:
        below = plan_fleet(types, services, violation_price=price * 0.99)
        assert float(weights @ [below.services[s.name].risk for s in services]) > epsilon


@given(fleets(services=2), st.floats(0, 100), st.floats(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_larger_price_never_buys_more_risk(fleet: Any, price: float, factor: float) -> None:
    types, services = fleet
    low, high = (plan_fleet(types, services, violation_price=p) for p in (price, price * factor))
    assert bool(low.kept) == bool(high.kept)
    if not low.kept:
        a, b = (sum(s.priority * p.services[s.name].risk for s in services) for p in (low, high))
        assert b <= a + 1e-9
        assert high.cost >= low.cost - 1e-9


def test_absent_demand_lowers_nothing() -> None:
    types = [GpuType("a", 1.0, 10), GpuType("b", 9.0, 10)]
    unknown = FleetService("s", np.array([[math.nan, 1.0]]), {"a": 1.0}, current={"a": 2, "b": 3})
    other = FleetService("t", np.full((4, 1), 6.0), {"a": 1.0})
    plan = plan_fleet(types, [unknown, other], violation_price=1e3)
    assert dict(plan.services["s"].replicas) == {"a": 2, "b": 3}
    assert math.isnan(plan.services["s"].risk)
    assert plan.services["t"].replicas["a"] == 6


def test_what_cannot_be_solved_keeps_what_there_is_and_says_why() -> None:
    types = [GpuType("a", 1.0, 2)]
    greedy = FleetService("s", np.full((4, 1), 6.0), {"a": 1.0}, current={"a": 1}, most_risk=0.0)
    plan = plan_fleet(types, [greedy], violation_price=1.0)
    assert dict(plan.services["s"].replicas) == {"a": 1}
    assert "no plan fits" in plan.kept
    rng = np.random.default_rng(0)
    hard = [
        FleetService(f"s{i}", rng.uniform(1, 90, (200, 6)), {k: rng.uniform(1, 9) for k in "abcd"}, current={"a": 1})
        for i in range(30)
    ]
    kinds = [GpuType(k, rng.uniform(1, 4), 200, int(rng.integers(0, 5))) for k in "abcd"]
    unproven = plan_fleet(kinds, hard, violation_price=300.0, time_limit_s=1e-9)
    assert "no proven plan" in unproven.kept
    assert all(s.replicas["a"] == 1 for s in unproven.services.values())
    _, shared = price_for(types, [FleetService("s", np.full((4, 1), 6.0), {"a": 1.0})], epsilon=0.1)
    assert "keeps 10.000%" in shared.kept


def test_a_slow_type_does_not_serve_before_its_lead() -> None:
    slow, fast = GpuType("slow", 1.0, 9, lead_steps=3), GpuType("fast", 5.0, 9, lead_steps=1)
    rising = FleetService("s", np.array([[1.0, 4.0, 4.0, 4.0]] * 10), {"slow": 1.0, "fast": 1.0}, current={"slow": 1})
    plan = plan_fleet([slow, fast], [rising], violation_price=1_000.0)
    assert dict(plan.services["s"].replicas) == {"slow": 1, "fast": 3}
    late = FleetService("s", np.array([[1.0, 1.0, 1.0, 4.0]] * 10), {"slow": 1.0, "fast": 1.0}, current={"slow": 1})
    assert dict(plan_fleet([slow, fast], [late], violation_price=1_000.0).services["s"].replicas) == {
        "slow": 4,
        "fast": 0,
    }


def test_posteriors_become_steps_and_capacities() -> None:
    lead = LeadTime.prior(120.0, spread=1.5, weight=8.0)
    learned = GpuType.learned("a", 2.0, 4, lead, 60.0)
    assert learned.lead_steps == math.ceil(lead.quantile_s(0.9) / 60) > 2
    service = FleetService.learned("s", np.ones((2, 2)), {"a": Capacity.known(3.0)}, least=1)
    assert service.per_replica == {"a": 3.0}
    assert service.least == 1


def test_mistakes_are_told() -> None:
    one = np.ones((1, 1))
    types = [GpuType("a", 1.0)]
    for service in (FleetService("s", one, {"b": 1.0}), FleetService("s", one, {"a": 1.0}, current={"c": 1})):
        with pytest.raises(UsageError, match="no GPU type"):
            plan_fleet(types, [service], violation_price=1.0)
    with pytest.raises(UsageError, match="names of their own"):
        plan_fleet(types, [FleetService("s", one, {"a": 1.0})] * 2, violation_price=1.0)
    with pytest.raises(UsageError, match="at least one"):
        plan_fleet([], [], violation_price=1.0)
    with pytest.raises(UsageError, match="0 or more"):
        plan_fleet(types, [FleetService("s", one, {"a": 1.0})], violation_price=-1.0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        price_for(types, [FleetService("s", one, {"a": 1.0})], epsilon=2.0)
    for wrong in ({"per_replica": {"a": 0.0}}, {"paths": np.ones(3)}, {"priority": 0.0}, {"current": {"a": -1}}):
        with pytest.raises(UsageError, match="service 's'"):
            FleetService(**({"name": "s", "paths": one, "per_replica": {"a": 1.0}} | wrong))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="price"):
        GpuType("a", math.nan)
