"""The rivals against plain reimplementations of what their sources say, or against cases that those document."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony.model.decision import Reason
from harmony.model.objective import Behavior, Objective, ScalingRules
from harmony.policies.aws_predictive import AwsPredictivePolicy, hourly_forecast
from harmony.policies.bacc import BaccPolicy, LeastSquares, paced_risk
from harmony.policies.base import Past, Policy
from harmony.policies.dynamo_like import DynamoLikePolicy, LinearTrend
from harmony.policies.hpa import desired_replicas
from harmony.policies.keda import KedaPolicy
from harmony.policies.kpa import KpaPolicy, window_mean
from harmony.policies.mimir_like import MimirLikePolicy, same_time_of_past_periods
from harmony.policies.oracle_free import OracleFreePolicy
from harmony.policies.percentile import BUCKETS, PercentilePolicy
from harmony.policies.predictive_hpa import HoltWinters, PredictiveHpaPolicy
from harmony.policies.registry import create_policy
from simulator.replaying import ReplaySettings, replay
from tests.harmony.builders import observation
from tests.simulator.worlds import make_trace, waves

ABSENT = math.nan
RIVALS = (
    "keda", "kpa", "percentile", "predictive-hpa", "mimir-like", "dynamo-like", "aws-predictive", "bacc", "oracle-free"
)  # fmt: skip
NO_GUARDS = Behavior(ScalingRules(), ScalingRules())
Demands = st.lists(st.floats(0, 5000), min_size=1, max_size=40)


def lives(policy: Policy, demands: list[float], **changes: Any) -> list[int]:
    """Counts of a policy whose replicas are all ready at once (capacity 100 a replica, a turn a minute)."""
    memory, ordered, out = None, 10, []
    step = changes.get("interval_s", 60.0)
    for i, demand in enumerate(demands):
        seen = observation(
            **{"now_s": i * step, "demand": demand, "ordered": ordered, "ready": ordered, "memory": memory} | changes
        )
        decision = policy.decide(seen)
        memory, ordered = decision.memory, decision.replicas
        out.append(ordered)
    return out


# ---- HPA -----------------------------------------------------------------------------------------------------
def by_pod(load: float, target: float, ordered: int, ready: int, tolerance: float, starting: str) -> int:
    """The replica calculator on a map of pods, as its source describes it."""
    metrics = {f"ready-{i}": load / ready for i in range(ready)}
    rest = [f"starting-{i}" for i in range(ordered - ready)]
    missing, unready = (rest, []) if starting == "missing" else ([], rest)
    if not metrics:
        return ordered
    usage = sum(metrics.values()) / len(metrics) / target
    with_unready = bool(unready) and usage > 1.0
    if not with_unready and not missing:
        return ordered if abs(usage - 1) <= tolerance + 1e-9 else math.ceil(usage * ready - 1e-9)
    metrics |= dict.fromkeys(missing, target if usage < 1.0 else 0.0)
    if with_unready:
        metrics |= dict.fromkeys(unready, 0.0)
    again = sum(metrics.values()) / len(metrics) / target
    if abs(again - 1) <= tolerance + 1e-9 or (usage < 1 < again) or (usage > 1 > again):
        return ordered
    wanted = math.ceil(again * len(metrics) - 1e-9)
    return ordered if (again < 1 and wanted > ordered) or (again > 1 and wanted < ordered) else wanted


@given(
    st.integers(1, 4000), st.integers(0, 30), st.integers(0, 30), st.sampled_from(["unready", "missing"]),
    st.sampled_from([0.0, 0.1]),
)  # fmt: skip
def test_hpa_counts_pods_as_its_replica_calculator(
    load: int, ready: int, more: int, starting: Any, tolerance: float
) -> None:
    ordered = max(1, ready + more)
    assert desired_replicas(load, 80.0, ordered, ready, tolerance, starting) == by_pod(
        load, 80.0, ordered, ready, tolerance, starting
    )


# ---- KEDA ----------------------------------------------------------------------------------------------------
@given(Demands)
def test_keda_between_one_and_many_is_an_external_metric(demands: list[float]) -> None:
    counts, ordered = lives(KedaPolicy(behavior_=NO_GUARDS), demands), 10
    for demand, count in zip(demands, counts, strict=True):
        for _ in range(4):  # syncs a minute
            if abs(demand / (80.0 * ordered) - 1) > 0.1 + 1e-9:
                ordered = max(1, math.ceil(demand / 80.0 - 1e-9))
        assert count == ordered


def test_keda_goes_to_zero_after_the_cooldown_and_wakes_at_a_poll() -> None:
    objective = Objective(min_replicas=0)
    quiet = [0.0] * 12
    counts = lives(KedaPolicy(behavior_=NO_GUARDS), [80.0, *quiet, 500.0, 500.0], objective=objective)
    assert counts[1:6] == [1] * 5  # the HPA that KEDA makes never goes below one; 300 s have not passed
    assert counts[6:13] == [0] * 7
    assert counts[13:] == [1, 7]  # one replica first, then the HPA goes on from there
    polls = KedaPolicy(behavior_=NO_GUARDS, polling_s=120.0)
    assert lives(polls, [80.0, *quiet, 500.0, 500.0], objective=objective)[13:] in ([0, 1], [1, 7])


@pytest.mark.parametrize(
    ("behavior", "then"),
    [("static", 5), ("currentReplicas", 12), ("currentReplicasIfHigher", 12), ("currentReplicasIfLower", 5)],
)
def test_keda_falls_back_after_more_failures_than_the_threshold(behavior: Any, then: int) -> None:
    policy = KedaPolicy(behavior_=NO_GUARDS, fallback_replicas=5, failure_threshold=8, fallback_behavior=behavior)
    counts = lives(policy, [960.0, ABSENT, ABSENT, ABSENT, 960.0])
    assert counts == [12, 12, 12, then, 12]  # four queries a minute: the ninth in a row falls into the third
    assert lives(KedaPolicy(behavior_=NO_GUARDS), [960.0] + [ABSENT] * 9) == [12] * 10


# ---- Knative -------------------------------------------------------------------------------------------------
def knative(demands: list[float], target: float, ready: int, step: float, delay: float) -> list[int]:
    """The scaling loop as its source says, one tick at a time, windows as lists of seconds."""
    seconds: deque[float] = deque(maxlen=60)
    panic, most, now, out = None, 0, 0.0, []
    asked: list[tuple[float, int]] = []
    for demand in demands:
        seconds.extend([demand] * int(min(step, 60)))
        window = list(seconds)
        stable = math.ceil(sum(window) / len(window) / target - 1e-9)
        panicked = math.ceil(sum(window[-6:]) / len(window[-6:]) / target - 1e-9)
        for _ in range(int(step / 2)):
            base = max(1, ready)
            low, high = math.floor(base / 2), math.ceil(1000 * base)
            over = panicked / base >= 2.0
            if over:
                panic = now
            elif panic is not None and panic + 60 < now:
                panic, most = None, 0
            wanted = min(max(stable, low), high)
            if panic is not None:
                most = wanted = max(wanted, min(max(panicked, low), high), most)
            if delay:
                asked = [a for a in asked if a[0] > now - delay] + [(now, wanted)]
                wanted = max(n for _, n in asked)
            count = max(1, wanted)
            ready = min(ready, count)
        ready = count
        out.append(count)
        now += step
    return out


@settings(max_examples=40)
@given(Demands, st.sampled_from([20.0, 60.0, 300.0]), st.sampled_from([0.0, 900.0]))
def test_kpa_scales_like_knatives_loop(demands: list[float], step: float, delay: float) -> None:
    counts = lives(KpaPolicy(delay_s=delay), demands, interval_s=step, step_s=step)
    assert counts == knative(demands, 70.0, 10, step, delay)


def test_kpa_panics_on_twice_the_ready_and_does_not_come_down_for_a_stable_window() -> None:
    counts = lives(KpaPolicy(), [700.0, 2100.0, 700.0, 700.0, 700.0, 700.0])
    assert counts[0] == 10
    assert counts[1:3] == [30, 30]
    assert counts[-1] == 10


def test_a_windows_mean_weighs_readings_by_how_much_of_them_lies_in_it() -> None:
    assert window_mean(((60.0, 6.0), (120.0, 12.0)), 120.0, 90.0, 60.0) == pytest.approx((30 * 6 + 60 * 12) / 90)
    assert math.isnan(window_mean((), 0.0, 60.0, 60.0))


# ---- percentile ----------------------------------------------------------------------------------------------
@given(Demands, st.sampled_from([0.5, 0.95, 1.0]))
def test_percentile_is_that_of_the_window(demands: list[float], level: float) -> None:
    counts = lives(PercentilePolicy(level=level, window_s=600.0, margin=0.1), demands)
    for i, count in enumerate(counts):
        window = sorted(demands[max(0, i - 9) : i + 1])
        high = window[math.ceil(level * (len(window) - 1) - 1e-9)]
        assert count == max(1, math.ceil(high * 1.1 / 100 - 1e-9))


@settings(max_examples=50)
@given(st.lists(st.floats(50, 5000), min_size=1, max_size=40), st.sampled_from([0.5, 0.98]))
def test_the_histogram_forgets_by_half_lives_and_is_right_to_a_bucket(demands: list[float], level: float) -> None:
    policy = PercentilePolicy(level=level, margin=0.0, half_life_s=600.0)
    memory = None
    for i, demand in enumerate(demands):
        decision = policy.decide(observation(now_s=i * 60.0, demand=demand, memory=memory))
        memory = decision.memory
    aged = sorted((d, 0.5 ** ((len(demands) - 1 - i) * 60 / 600)) for i, d in enumerate(demands))
    reached, total = 0.0, sum(w for _, w in aged)
    load = math.nan
    for value, weight in aged:
        load = value / 100
        reached += weight
        if reached >= level * total * (1 - 1e-9):
            break
    upper = BUCKETS[np.searchsorted(BUCKETS, load)]
    assert load <= upper <= load * 1.05 + 0.011
    assert decision.replicas in {max(1, math.ceil(upper - 1e-9)), max(1, math.ceil(load - 1e-9))}


# ---- Holt-Winters --------------------------------------------------------------------------------------------
@settings(max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.integers(2, 6), st.integers(1, 9))
def test_holt_winters_is_the_additive_recursion(values: list[float], period: int, ahead: int) -> None:
    alpha, beta, gamma = 0.4, 0.1, 0.3
    model = HoltWinters.empty()
    for value in values:
        model = model.seen(value, period, alpha, beta, gamma)
    if len(values) < 2 * period:
        assert math.isnan(model.ahead(ahead))
        return
    one, two = values[:period], values[period : 2 * period]
    mean_one, mean_two = sum(one) / period, sum(two) / period
    level, trend = mean_one, (mean_two - mean_one) / period
    seasonal = [((a - mean_one) + (b - mean_two)) / 2 for a, b in zip(one, two, strict=True)]
    for t, y in enumerate(values):
        before, s = level, seasonal[t % period]
        level = alpha * (y - s) + (1 - alpha) * (before + trend)
        seasonal[t % period] = gamma * (y - before - trend) + (1 - gamma) * s
        trend = beta * (level - before) + (1 - beta) * trend
    foreseen = level + ahead * trend + seasonal[(len(values) + ahead - 1) % period]
    assert model.ahead(ahead) == pytest.approx(foreseen, abs=1e-6)


def test_predictive_hpa_is_an_hpa_until_it_has_two_seasons_and_never_asks_for_less() -> None:
    wave = [1000 + 800 * math.sin(2 * math.pi * i / 60) for i in range(300)]
    predictive = replace(PredictiveHpaPolicy(behavior_=NO_GUARDS, period_s=3600.0), ahead_s=300.0)
    counts, plain = lives(predictive, wave), lives(create_policy("hpa"), wave)
    alone = lives(replace(predictive, period_s=1e7), wave)
    assert counts[:119] == alone[:119]
    assert all(a >= b * 0.9 - 1 for a, b in zip(counts, alone, strict=True))
    rising = [i for i in range(180, 299) if wave[i] < wave[i + 1]]
    assert np.mean([counts[i] >= wave[i + 1] / 80 for i in rising]) > np.mean(
        [plain[i] >= wave[i + 1] / 80 for i in rising]
    )
    assert predictive.fitted(Past(np.ones(3), 60.0, 300.0, 0.01)) == predictive
    assert PredictiveHpaPolicy().fitted(Past(np.ones(3), 60.0, 420.0, 0.01)).ahead_s == 420.0


# ---- Mimir ---------------------------------------------------------------------------------------------------
@settings(max_examples=50)
@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([60.0, 600.0]))
def test_the_past_is_asked_for_the_same_time_of_each_period(seed: int, periods: int, lookback: float) -> None:
    rng = np.random.default_rng(seed)
    rows = np.column_stack([np.arange(200) * 60.0, rng.random(200)])
    now = rows[-1, 0] + 60.0
    found = same_time_of_past_periods(rows, now, 3600.0, periods, lookback)
    since = [now - back * 3600.0 for back in range(1, periods + 1)]
    plain = [v for t, v in rows if any(s < t <= s + lookback for s in since)]
    assert found == max(plain)


def test_mimir_like_raises_for_yesterday_and_never_lowers() -> None:
    day = [200.0] * 1440
    day[600] = 3000.0
    counts = lives(MimirLikePolicy(behavior_=NO_GUARDS), [*day, *[200.0] * 700])
    assert counts[1439] == 3
    assert max(counts[1440 + 571 : 1440 + 600]) == 38  # half an hour ahead of yesterday's spike
    assert counts[1440 + 601] == 3
    absent = lives(MimirLikePolicy(behavior_=NO_GUARDS), [*day, *[ABSENT] * 700])
    assert absent[1440:] == sorted(absent[1440:])


# ---- Dynamo --------------------------------------------------------------------------------------------------
def test_the_linear_trend_is_the_textbook_kalman_filter() -> None:
    rng = np.random.default_rng(0)
    q, noise = np.diag([1.0, 0.1]), 10.0
    move, look = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
    values = 100 + np.cumsum(rng.normal(1, 2, 60))
    mine = LinearTrend().seen(values[0], 1.0, 0.1, noise)
    state, covariance = np.array([values[0], 0.0]), np.diag([noise, 0.1])
    for value in values[1:]:
        mine = mine.seen(float(value), 1.0, 0.1, noise)
        state, covariance = move @ state, move @ covariance @ move.T + q
        gain = covariance @ look.T / (look @ covariance @ look.T + noise)
        state = state + (gain * (value - look @ state)).ravel()
        covariance = (np.eye(2) - gain @ look) @ covariance
        assert (mine.level, mine.trend) == pytest.approx(tuple(state))
    assert mine.next == pytest.approx(state.sum())


def test_dynamo_like_adjusts_by_the_interval_and_waits_while_replicas_start() -> None:
    policy = DynamoLikePolicy(target=1.0, predictor="constant", adjust_s=180.0)
    counts = lives(policy, [500.0] * 3 + [900.0] * 7)
    # 500; then (500 + 500 + 900) / 3 = 633 times 1 + 0.3 (1.267 - 1) = 1.08; then 900 times 1.18; then 900 times 1.13
    assert counts == [5, 5, 5, 7, 7, 7, 11, 11, 11, 11]
    waiting = policy.decide(observation(demand=900.0, ordered=8, ready=5))
    assert (waiting.replicas, waiting.bound_by) == (8, "starting")


# ---- AWS -----------------------------------------------------------------------------------------------------
def test_the_hourly_forecast_reads_the_same_weekday_and_needs_a_day() -> None:
    hours = np.arange(10 * 24, dtype=float)
    foreseen = hourly_forecast(hours)
    assert np.isnan(hourly_forecast(hours[:23])).all()
    assert foreseen[0] == 240 - 168
    assert foreseen[47] == 287 - 168
    young = hourly_forecast(hours[:48])
    assert young[0] == (0 + 24) / 2


def test_aws_predictive_raises_before_the_hour_and_never_lowers_below_present_demand() -> None:
    demand = [200.0 if (i // 60) % 24 != 9 else 2000.0 for i in range(3 * 1440)]
    counts = lives(AwsPredictivePolicy(target=0.8), demand)
    nine = 2 * 1440 + 9 * 60
    assert counts[nine - 6] == 3
    assert counts[nine - 5] == 25  # five minutes before nine
    assert all(c >= math.ceil(d / 80) for c, d in zip(counts, demand, strict=True))


# ---- BACC ----------------------------------------------------------------------------------------------------
def test_recursive_least_squares_is_the_batch_solution() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 3)), rng.normal(size=200)
    model = LeastSquares.start(np.zeros(3))
    for row, value in zip(x, y, strict=True):
        model = model.seen(row, float(value), forget=1.0)
    assert model.weights == pytest.approx(np.linalg.solve(x.T @ x + 10 * np.eye(3), x.T @ y))


@given(st.floats(0, 3), st.floats(0, 1), st.floats(-1, 1))
def test_the_pace_of_the_budget_steers_the_risk(spent: float, elapsed: float, integral: float) -> None:
    aim = paced_risk(0.01, spent, elapsed, integral, 2.0, 0.5)
    assert paced_risk(0.01, spent + 0.1, elapsed, integral, 2.0, 0.5) <= aim
    assert paced_risk(0.01, elapsed, elapsed, 0.0, 2.0, 0.5) == pytest.approx(0.01)
    assert 0 < aim < 1


@pytest.mark.slow
def test_bacc_keeps_about_the_risk_that_it_is_given() -> None:
    rng = np.random.default_rng(2)
    demand = 1000 + 500 * np.sin(np.arange(4000) / 40) + rng.normal(0, 60, 4000)
    result = replay(make_trace(np.maximum(demand, 0)), [BaccPolicy(), "oracle"], ReplaySettings())
    assert 0 < result.policies["bacc"].violation_rate < 0.015
    assert result.policies["bacc"].gpu_hours < 1.4 * result.policies["oracle"].gpu_hours


# ---- what holds for all --------------------------------------------------------------------------------------
def test_what_the_lead_time_costs_is_seen_beside_the_oracle() -> None:
    result = replay(make_trace(waves()), ["oracle", "oracle-free"], ReplaySettings())
    free, oracle = result.policies["oracle-free"], result.policies["oracle"]
    assert free.violation_rate == oracle.violation_rate == 0.0
    assert free.gpu_hours < oracle.gpu_hours
    need = np.maximum(np.ceil(result.demand / result.replica_capacity - 1e-9), 1)
    assert free.gpu_hours == need[result.scored_from :].sum() / 60
    assert OracleFreePolicy().decide(observation(demand=ABSENT)).reason is Reason.FORESIGHT


@pytest.mark.parametrize("name", [n for n in RIVALS if n != "oracle-free"])
def test_absent_demand_is_never_a_reason_to_scale_down(name: str) -> None:
    past = Past(np.ones(10), 60.0, 300.0, 0.01)
    demands = [1500.0] * 20 + [ABSENT] * 20 + [1500.0]
    counts = lives(create_policy(name).fitted(past), demands)
    assert min(counts[20:40]) >= counts[19]


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_lives_in_the_loop_is_tuned_like_all_and_is_repeatable(name: str) -> None:
    trace = make_trace(np.tile(waves(), 2))
    made = [replay(trace, [name], ReplaySettings()).policies[name] for _ in range(2)]
    assert (made[0].ordered == made[1].ordered).all()
    ladders = create_policy(name).ladders(Past(np.ones(10), 60.0, 300.0, 0.01))
    assert all(p.name == name for ladder in ladders for p in ladder)
    cheapest, safest = (replay(trace, [ladders[0][i]], ReplaySettings()).policies[name] for i in (0, -1))
    assert safest.gpu_hours >= cheapest.gpu_hours
    assert safest.violation_rate <= cheapest.violation_rate
