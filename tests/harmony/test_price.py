"""Laws of the price rule and of the tails that it prices with."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecasting.errors import UsageError
from harmony.decision.price import PriceRule, decide_by_price, weigh_by_price
from harmony.decision.risk import replicas_needed
from harmony.decision.tails import UpperTail, quantiles
from harmony.model.decision import Reason
from harmony.model.objective import Objective
from tests.harmony.builders import forecast, observation

LAWS = settings(max_examples=200, deadline=None)

paths_of_demand = arrays(
    np.float64,
    st.tuples(st.integers(2, 60), st.integers(5, 8)),
    elements=st.floats(0, 5000, allow_nan=False, width=32),
)
prices = st.floats(0, 1e6)
tails = st.sampled_from(["empirical", "exponential", "pareto"])
measures = st.sampled_from(["time", "window"])


def smooth_paths(seed: int, *, level: float = 3000.0, spread: float = 0.3, samples: int = 200) -> np.ndarray:
    """Lognormal paths, as forecasts of positive demand are."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.standard_normal((samples, 5)), axis=1) / math.sqrt(5)
    return level * np.exp(spread * steps)


@LAWS
@given(paths_of_demand, prices, tails, measures, st.integers(0, 20), st.integers(20, 90), st.floats(0, 9000))
def test_within_bounds_and_never_below_present_demand(
    paths: np.ndarray, price: float, tail: str, measure: str, low: int, high: int, demand: float
) -> None:
    objective = Objective(min_replicas=low, max_replicas=high, measure=measure)  # type: ignore[arg-type]
    seen = observation(forecast=forecast(paths), objective=objective, demand=demand)
    decision = decide_by_price(seen, PriceRule(price, tail=tail))  # type: ignore[arg-type]
    assert low <= decision.replicas <= high
    assert decision.replicas >= min(high, replicas_needed(np.asarray(demand), 100.0))
    assert 0.0 <= decision.violation_probability <= 1.0


@LAWS
@given(paths_of_demand, prices, measures, st.floats(0, 3), st.integers(0, 80), st.floats(0, 0.19))
def test_empirical_rule_equals_brute_force(
    paths: np.ndarray, price: float, measure: str, switch: float, ordered: int, epsilon: float
) -> None:
    objective = Objective(epsilon=epsilon, measure=measure, switch_price=switch, min_replicas=0, max_replicas=60)  # type: ignore[arg-type]
    need = replicas_needed(paths[:, :5], 100.0)
    missed = need if measure == "time" else need.max(axis=1)
    risk = np.array([(missed > n).mean() for n in range(61)])
    cost = np.arange(61) + switch * abs(np.arange(61) - ordered) + price * risk
    seen = observation(forecast=forecast(paths), objective=objective, demand=0.0, ordered=ordered)
    got = decide_by_price(seen, PriceRule(price, tail="empirical")).replicas
    assert risk[got] <= 5 * epsilon
    assert cost[got] <= cost[risk <= 5 * epsilon].min() + 1e-6 * price


@LAWS
@given(paths_of_demand, prices, prices, tails, measures)
def test_a_larger_price_never_gives_fewer(paths: np.ndarray, a: float, b: float, tail: str, measure: str) -> None:
    seen = observation(forecast=forecast(paths), objective=Objective(measure=measure))  # type: ignore[arg-type]
    few, many = (decide_by_price(seen, PriceRule(p, tail=tail)).replicas for p in sorted((a, b)))  # type: ignore[arg-type]
    assert few <= many


@LAWS
@given(st.integers(0, 10**6), st.floats(0.02, 0.8), st.floats(0, 3000), st.floats(1, 1e4), st.integers(0, 80))
def test_the_same_forecast_shifted_up_never_gives_fewer(
    seed: int, spread: float, shift: float, price: float, ordered: int
) -> None:
    paths = smooth_paths(seed, spread=spread)
    objective = Objective(switch_price=0.5)
    few, many = (
        decide_by_price(
            observation(forecast=forecast(p), objective=objective, ordered=ordered, demand=0.0), PriceRule(price)
        ).replicas
        for p in (paths, paths + shift)
    )
    assert few <= many


@LAWS
@given(paths_of_demand, st.integers(1, 40), prices, measures)
def test_any_forecast_shifted_by_whole_replicas_moves_the_count_by_as_many(
    paths: np.ndarray, replicas: int, price: float, measure: str
) -> None:
    objective = Objective(min_replicas=0, measure=measure)  # type: ignore[arg-type]
    paths = np.floor(paths / 100.0) * 100.0
    low, high = (
        decide_by_price(
            observation(forecast=forecast(p), objective=objective, demand=0.0), PriceRule(price, tail="empirical")
        ).replicas
        for p in (paths, paths + 100.0 * replicas)
    )
    assert high == low + replicas


@LAWS
@given(st.integers(0, 10**6), st.floats(0.02, 0.6), st.floats(1, 5), st.floats(1, 1e4))
def test_the_same_forecast_scaled_up_never_gives_fewer(seed: int, spread: float, factor: float, price: float) -> None:
    paths = smooth_paths(seed, spread=spread)
    few, many = (
        decide_by_price(observation(forecast=forecast(p), demand=0.0), PriceRule(price)).replicas
        for p in (paths, paths * factor)
    )
    assert few <= many


def test_a_rare_far_peak_is_given_up_when_it_gets_farther() -> None:
    """Why "more demand never fewer" holds for shifts and not for any larger demand; the docs tell this case."""
    paths = np.full((200, 5), 1000.0)
    counts = []
    for peak in (2000.0, 5000.0):
        paths[0] = peak  # half a percent of the paths
        seen = observation(forecast=forecast(paths), demand=0.0)
        counts.append(decide_by_price(seen, PriceRule(5000.0, tail="empirical")).replicas)
    assert counts == [20, 10]  # 10 more replicas cost less than 5000 x 0.5 % = 25, 40 more do not


@LAWS
@given(paths_of_demand, tails)
def test_without_end_the_price_buys_the_sample_maximum(paths: np.ndarray, tail: str) -> None:
    seen = observation(forecast=forecast(paths), demand=0.0)
    most = max(1, int(replicas_needed(paths[:, :5], 100.0).max()))
    assert decide_by_price(seen, PriceRule(1e12, tail="empirical")).replicas == most
    assert decide_by_price(seen, PriceRule(1e12, tail=tail)).replicas >= most  # type: ignore[arg-type]


@LAWS
@given(paths_of_demand, st.floats(1.05, 50))
def test_without_price_and_switching_it_is_the_newsvendor(paths: np.ndarray, loss: float) -> None:
    """argmin c n + c_u E[(need - n)+] is the quantile of need at (c_u - c) / c_u."""
    objective = Objective(epsilon=0.99, miss_price_per_replica_hour=loss, min_replicas=0)
    need = replicas_needed(paths[:, :5], 100.0)
    level = (loss - 1.0) / loss
    assume(min(abs(level * need.size - i) for i in range(need.size)) > 1e-6)
    seen = observation(forecast=forecast(paths), objective=objective, demand=0.0, ordered=0)
    decision = decide_by_price(seen, PriceRule(0.0, tail="empirical"))
    assert decision.replicas == np.quantile(need, level, method="inverted_cdf")


@pytest.mark.slow
@LAWS
@given(st.integers(0, 10**6), st.floats(0.02, 0.08), st.floats(1.2, 2), st.floats(30, 1e4))
def test_the_wider_of_two_forecasts_gets_at_least_as_much_risk(
    seed: int, spread: float, wider: float, price: float
) -> None:
    """Equal shape, and as much risk but for the last whole replica."""
    shape = spread * np.random.default_rng(seed).exponential(size=(400, 5))
    objective = Objective(min_replicas=100)
    narrow, wide = (
        decide_by_price(
            observation(forecast=forecast(1e4 * (1.0 + w * shape)), objective=objective, demand=0.0),
            PriceRule(price, tail="exponential"),
        )
        for w in (1.0, wider)
    )
    assert wide.candidates is not None
    at = int(np.searchsorted(wide.candidates.replicas, wide.replicas))
    with_one_less = wide.candidates.violation_probability[max(0, at - 1)]
    assert with_one_less >= narrow.violation_probability


@LAWS
@given(paths_of_demand, prices, st.integers(0, 80), st.floats(0, 9000), tails)
def test_absent_data_never_lower(paths: np.ndarray, price: float, ordered: int, demand: float, tail: str) -> None:
    rule = PriceRule(price, tail=tail)  # type: ignore[arg-type]
    for d, f in ((math.nan, forecast(paths)), (math.nan, None), (demand, forecast(np.full((3, 5), np.nan)))):
        assert decide_by_price(observation(demand=d, forecast=f, ordered=ordered), rule).replicas >= ordered


@LAWS
@given(paths_of_demand, prices, st.integers(0, 30), st.integers(0, 30))
def test_pending_replicas_count_once(paths: np.ndarray, price: float, ready: int, pending: int) -> None:
    """What is starting is part of what is ordered; how much of it serves already changes nothing."""
    seen = observation(forecast=forecast(paths), ordered=ready + pending, ready=ready)
    served = replace(seen, ready=ready + pending)
    assert decide_by_price(seen, PriceRule(price)).replicas == decide_by_price(served, PriceRule(price)).replicas


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(
    st.integers(0, 2**32),
    st.floats(0, 1e9),
    st.sampled_from([0.0, 1e-4, 1e-3, 0.01, 0.1, 0.5]),
    st.sampled_from([1.0, 5.0, 50.0]),
    tails,
    measures,
)
@example(0, 0.0, 0.0, 5.0, "pareto", "time")
def test_no_exception_and_no_nan(seed: int, price: float, epsilon: float, cap: float, tail: str, measure: str) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 300)), int(rng.integers(1, 12)))
    heavy = rng.pareto(0.7 + rng.random(), shape) * 10.0 ** rng.uniform(-3, 5)
    heavy[rng.random(shape) < rng.random()] = 0.0
    objective = Objective(epsilon=epsilon, measure=measure, switch_price=float(rng.random()))  # type: ignore[arg-type]
    seen = observation(
        forecast=forecast(heavy),
        objective=objective,
        demand=float(rng.exponential(1e4)),
        ordered=int(rng.integers(200)),
    )
    decision = decide_by_price(seen, PriceRule(price, cap, tail))  # type: ignore[arg-type]
    numbers = [decision.violation_probability, decision.expected_cost]
    assert decision.candidates is not None
    assert np.isfinite(numbers).all()
    assert np.isfinite(decision.candidates.expected_cost).all()
    risk = decision.candidates.violation_probability
    assert (np.diff(risk) <= 1e-12).all()
    assert ((risk >= 0) & (risk <= 1)).all()


def test_the_cap_binds_where_the_price_is_low() -> None:
    seen = observation(forecast=forecast(smooth_paths(1)), demand=0.0)
    decision = decide_by_price(seen, PriceRule(0.0))
    assert decision.bound_by == "risk cap"
    assert decision.violation_probability <= 0.05


def test_a_promise_out_of_reach_is_said() -> None:
    seen = observation(forecast=forecast(smooth_paths(1)), objective=Objective(max_replicas=20), demand=0.0)
    decision = decide_by_price(seen, PriceRule(10.0))
    assert (decision.replicas, decision.reason) == (20, Reason.UNREACHABLE)


def test_risk_beyond_the_highest_path_is_priced() -> None:
    """At 0.1 % one path of 200 is five times too coarse; the tail goes on where the paths end."""
    paths = smooth_paths(3, samples=200)
    table = weigh_by_price(paths / 100.0, Objective(epsilon=0.001), 0, PriceRule(1.0))
    top = int(replicas_needed(paths.max(), 100.0))
    beyond = table.violation_probability[table.replicas > top]
    assert beyond.size
    assert (beyond > 0).all()
    assert (beyond < 1 / paths.size * 5).all()


@LAWS
@given(st.integers(0, 10**6), st.sampled_from([-0.2, 0.0, 0.2]))
def test_the_tail_of_a_known_distribution_is_found(seed: int, shape: float) -> None:
    """Generalised Pareto values: the quantile at 0.1 % within a third of the truth from 20,000 of them."""
    u = np.random.default_rng(seed).random(20_000)
    x = np.sort(-np.log(u) if shape == 0.0 else (u**-shape - 1.0) / shape)
    truth = math.log(1000.0) if shape == 0.0 else (1000.0**shape - 1.0) / shape
    assert quantiles(x, np.array([0.999]))[0] == pytest.approx(truth, rel=1 / 3)


@LAWS
@given(st.integers(0, 10**6), st.integers(20, 2000), st.sampled_from(["exponential", "pareto"]))
def test_survival_and_value_are_inverse_and_convex(seed: int, n: int, kind: str) -> None:
    x = np.sort(np.random.default_rng(seed).lognormal(size=n))
    tail = UpperTail.fit(x, kind)  # type: ignore[arg-type]
    p = np.geomspace(tail.share, 1e-5, 40)
    v = tail.value_at(p)
    assert tail.survival(v) == pytest.approx(p, rel=1e-6)
    on_grid = tail.survival(np.linspace(tail.start, v[-1], 200))
    assert (np.diff(on_grid, 2) >= -1e-12).all()


def test_nothing_above_gives_no_tail() -> None:
    tail = UpperTail.fit(np.full(50, 7.0))
    assert tail.survival(np.array([7.0, 8.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [{"price": -1.0}, {"price": math.nan}, {"price": 1.0, "cap": 0.0}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        PriceRule(**bad)
