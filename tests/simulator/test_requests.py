"""The request-level world against closed forms, a brute-force replica, and laws that hold for any load."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import DataError, UsageError
from forecasting.panel import FloatArray, Indicator
from simulator.requests import RequestWorld, ServiceModel, default_ttft_slo_s, request_figures, simulate_requests
from simulator.traces import RequestTrace

INF = math.inf


@dataclass(frozen=True)
class Log:
    arrival_s: FloatArray
    prompt_tokens: npt.NDArray[Any]
    output_tokens: npt.NDArray[Any]


def log(arrival: Any, prompt: Any, output: Any) -> Log:
    columns = np.broadcast_arrays(*(np.asarray(c, dtype=np.float64) for c in (arrival, prompt, output)))
    return Log(*(np.array(c) for c in columns))


def slots(n: int, tokens_per_s: float = 1.0) -> ServiceModel:
    """Slots that do not slow each other down: the textbook's servers."""
    return ServiceModel(INF, tokens_per_s, INF, n)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Log, list[int], ServiceModel, float]:
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gaps = rng.choice([0.0, 0.5, 1.0, 3.0], n)  # ties and bursts
    requests = log(np.cumsum(gaps), rng.integers(0, 50, n), rng.integers(0, 12, n))
    lone = draw(st.sampled_from([0.5, 2.0, 10.0]))
    limit = lone * draw(st.sampled_from([1.0, 3.0, INF]))
    model = ServiceModel(draw(st.sampled_from([20.0, 100.0, INF])), lone, limit, draw(st.integers(1, 5)))
    ready = draw(st.lists(st.integers(0, 4), min_size=1, max_size=25))
    return requests, ready, model, draw(st.sampled_from([1.0, 7.0]))


# ---- laws -------------------------------------------------------------------------------------------------------
@given(worlds())
@settings(max_examples=200, deadline=None)
def test_every_request_is_accounted_for_and_slots_are_never_exceeded(world: Any) -> None:
    requests, ready, model, step_s = world
    live = RequestWorld(requests, model, 0.0)
    arrived = finished = 0
    ever_ready = 0
    for i, count in enumerate(ready):
        seen = live.advance((i + 1) * step_s, count)
        arrived, finished = arrived + seen.arrived, finished + seen.finished
        ever_ready = max(ever_ready, count)
        assert arrived == int((requests.arrival_s < (i + 1) * step_s).sum())
        assert arrived == finished + seen.running + seen.queue_length
        assert seen.running <= model.max_concurrency * (count + seen.draining)
        assert seen.queue_length == 0 or seen.running >= model.max_concurrency * count  # no slot idles beside a queue
    out = live.outcome()
    assert out.arrival_s.size == arrived
    assert int((~np.isnan(out.finished_s)).sum()) == finished
    assert out.summary()["requests"] == arrived
    assert out.summary()["unfinished"] == arrived - finished


@given(worlds())
@settings(max_examples=200, deadline=None)
def test_moments_are_in_order_and_starts_are_first_come_first_served(world: Any) -> None:
    requests, ready, model, step_s = world
    out = simulate_requests(requests, ready, step_s=step_s, start_s=0.0, model=model)
    moments = [out.arrival_s, out.started_s, out.first_token_s, out.finished_s]
    for before, after in itertools.pairwise(moments):
        reached = ~np.isnan(after)
        assert not np.isnan(before[reached]).any()
        assert (after[reached] >= before[reached]).all()
    started = ~np.isnan(out.started_s)
    assert not (np.diff(started.astype(int)) > 0).any()  # who came later never starts while an earlier one waits
    assert (np.diff(out.started_s[started]) >= 0).all()
    assert np.nanmax(np.append(out.finished_s, 0.0)) <= out.end_s
    prompt, extra = requests.prompt_tokens[: len(started)], np.maximum(requests.output_tokens[: len(started)] - 1, 0)
    slack = 1e-9 * out.end_s
    with np.errstate(invalid="ignore"):
        assert not (out.ttft_s < prompt / model.prefill_tokens_per_s - slack).any()
        assert not (out.e2e_s - out.ttft_s < extra / model.decode_tokens_per_s - slack).any()


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_step_by_step_equals_all_at_once_and_again(world: Any) -> None:
    requests, ready, model, step_s = world
    once = simulate_requests(requests, ready, step_s=step_s, start_s=0.0, model=model)
    live = RequestWorld(requests, model, 0.0)
    for i, count in enumerate(ready):
        live.advance((i + 0.5) * step_s, count)  # a look in between changes nothing
        live.advance((i + 1) * step_s, count)
    again = live.outcome()
    for name in ("arrival_s", "started_s", "first_token_s", "finished_s"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_one_more_replica_never_makes_identical_servers_wait_longer(seed: int, replicas: int, serial: bool) -> None:
    """True for servers of fixed service times (Kiefer-Wolfowitz); with a slow-down by batch it need not be."""
    rng = np.random.default_rng(seed)
    n = 80
    requests = log(np.cumsum(rng.exponential(1.0, n)), rng.integers(0, 30, n), rng.integers(1, 8, n))
    model = ServiceModel(10.0, 1.0, 1.0, 1) if serial else slots(3)
    waits = [
        simulate_requests(requests, [c], step_s=1e6, start_s=0.0, model=model).queue_wait_s.sum()
        for c in (replicas, replicas + 1)
    ]
    assert waits[1] <= waits[0] + 1e-6


# ---- closed forms -----------------------------------------------------------------------------------------------
def erlang_c_wait(rate: float, service_s: float, servers: int) -> float:
    """Mean wait of M/M/c by the Erlang-C formula."""
    load = rate * service_s
    busy = load**servers / math.factorial(servers) / (1 - load / servers)
    probability = busy / (sum(load**k / math.factorial(k) for k in range(servers)) + busy)
    return probability * service_s / (servers - load)


@pytest.mark.parametrize(("replicas", "each"), [(1, 6), (3, 2), (6, 1)])
def test_mean_wait_is_erlang_c(replicas: int, each: int) -> None:
    rng, n = np.random.default_rng(3), 100_000
    requests = log(np.cumsum(rng.exponential(1 / 4.5, n)), 0.0, 1.0 + rng.exponential(1.0, n))  # utilisation 75 %
    out = simulate_requests(requests, [replicas], step_s=1e9, start_s=0.0, model=slots(each))
    assert out.queue_wait_s.mean() == pytest.approx(erlang_c_wait(4.5, 1.0, 6), rel=0.06)
    np.testing.assert_allclose(out.e2e_s - out.queue_wait_s, requests.output_tokens - 1.0, rtol=1e-6, atol=1e-6)


def test_one_slot_with_prompts_is_pollaczek_khinchine() -> None:
    rng, n = np.random.default_rng(4), 100_000
    prompt, output = rng.choice([10.0, 40.0], n), 1.0 + rng.choice([0.1, 0.5], n)
    service = prompt / 100 + (output - 1)
    rate = 0.7 / service.mean()
    requests = log(np.cumsum(rng.exponential(1 / rate, n)), prompt, output)
    out = simulate_requests(requests, [1], step_s=1e9, start_s=0.0, model=ServiceModel(100.0, 1.0, 1.0, 1))
    expected = rate * (service**2).mean() / (2 * (1 - 0.7))
    assert out.queue_wait_s.mean() == pytest.approx(expected, rel=0.06)


def test_shared_decoding_is_processor_sharing() -> None:
    """M/G/1-PS: mean time in system is E[S] / (1 - rho), whatever the distribution of sizes."""
    rng, n = np.random.default_rng(5), 60_000
    size = rng.choice([0.25, 3.25], n, p=[0.75, 0.25])  # mean 1, far from exponential
    requests = log(np.cumsum(rng.exponential(1 / 0.6, n)), 0.0, 1.0 + size)
    out = simulate_requests(requests, [1], step_s=1e9, start_s=0.0, model=ServiceModel(INF, 1.0, 1.0, 5_000))
    assert out.e2e_s.mean() == pytest.approx(1 / (1 - 0.6), rel=0.06)


def test_a_replica_sustains_exactly_the_capacity_it_was_made_for() -> None:
    rng, n = np.random.default_rng(6), 4_000
    prompt, output = rng.integers(1, 4_000, n), rng.integers(1, 300, n)
    for capacity in (0.1, 2.0):
        backlog = log(np.zeros(n), prompt, output)
        model = ServiceModel.for_capacity(backlog, capacity)
        assert model.requests_per_s(backlog) == pytest.approx(capacity)
        out = simulate_requests(backlog, [3], step_s=1e9, start_s=0.0, model=model)
        assert n / out.finished_s.max() == pytest.approx(3 * capacity, rel=0.03)
    assert model.decode_limit_tokens_per_s / model.decode_tokens_per_s == pytest.approx(2_600 / 135)


def test_queue_grows_above_capacity_and_not_below() -> None:
    rng, n = np.random.default_rng(7), 6_000
    prompt, output = rng.integers(1, 2_000, n), rng.integers(1, 200, n)
    requests = log(np.cumsum(rng.exponential(0.1, n)), prompt, output)  # 10 requests/s
    model = ServiceModel.for_capacity(requests, 1.0)
    ends = {
        c: simulate_requests(requests, [c] * 10, step_s=60.0, start_s=0.0, model=model).queue_length for c in (8, 12)
    }
    assert ends[8][-1] == pytest.approx(600 * 10 - 600 * 8, rel=0.25)
    assert (np.diff(ends[8]) > 0).all()
    assert ends[12].max() < 50


# ---- a replica, by hand -----------------------------------------------------------------------------------------
def test_prompts_go_one_after_another_and_decoding_pauses_for_them() -> None:
    # prompts 1 s each; alone 2 tokens/s, two together 1.5 s per token each (limit 1 token/s)
    model = ServiceModel(10.0, 2.0, 2.0, 2)
    assert [model.token_s(n) for n in (1, 2)] == [0.5, 1.0]
    out = simulate_requests(log([0.0, 2.0, 2.5], 10.0, 5.0), [1], step_s=100.0, start_s=0.0, model=model)
    # A: prompt 0-1, decodes 1-2 (2 of 4 tokens), pauses for B's prompt 2-3, both decode: A's last 2 tokens until 5.
    # C waits for A's slot at 5, its prompt 5-6; B has 2 of 4 left, together until 8; C's last 2 alone until 9.
    np.testing.assert_allclose(out.started_s, [0, 2, 5])
    np.testing.assert_allclose(out.first_token_s, [1, 3, 6])
    np.testing.assert_allclose(out.finished_s, [5, 8, 9])
    np.testing.assert_allclose(out.queue_wait_s, [0, 0, 2.5])


def test_a_removed_replica_drains_and_takes_nothing_new() -> None:
    model = slots(1)
    world = RequestWorld(log([0.0, 0.0, 0.0, 0.0], 0.0, [11, 11, 4, 4]), model, 0.0)
    first = world.advance(5.0, 2)
    assert (first.running, first.queue_length, first.draining) == (2, 2, 0)
    second = world.advance(9.0, 1)
    assert (second.running, second.draining) == (2, 1)
    third = world.advance(20.0, 1)
    assert (third.draining, third.finished) == (0, 4)
    out = world.outcome()
    np.testing.assert_allclose(out.started_s, [0, 0, 10, 13])
    np.testing.assert_allclose(out.finished_s, [10, 10, 13, 16])


def test_without_replicas_the_queue_grows_until_some_are_ready() -> None:
    requests = log(np.arange(6.0), 0.0, 2.0)
    world = RequestWorld(requests, slots(2), 0.0)
    assert world.advance(6.0, 0).queue_length == 6
    seen = world.advance(6.5, 2)
    assert (seen.queue_length, seen.running) == (2, 4)
    out = simulate_requests(requests, [0], step_s=10.0, start_s=0.0, model=slots(2))
    figures = out.summary(ttft_slo_s=5.5)
    assert figures["unfinished"] == figures["requests"] == 6.0
    assert figures["ttft_p50_s"] == 7.5  # what they have waited so far, 10 .. 5 s
    assert figures["slo_miss_rate"] == 1.0  # the sixth has waited 5 s: not known yet, counted neither way


def test_summary_counts_the_scored_part_only() -> None:
    out = simulate_requests(log([0.0, 0.0, 50.0], 0.0, [11, 2, 2]), [1], step_s=99.0, start_s=0.0, model=slots(1))
    everything, scored = out.summary(), out.summary(from_s=40.0, ttft_slo_s=1.0)
    assert everything["requests"] == 3.0
    assert everything["slo_miss_rate"] == pytest.approx(1 / 3)
    assert scored == {
        "requests": 1.0,
        "unfinished": 0.0,
        "ttft_slo_s": 1.0,
        "slo_miss_rate": 0.0,
        "slo_attainment": 1.0,
        **{f"ttft_p{q}_s": 0.0 for q in (50, 95, 99)},
        **{f"e2e_p{q}_s": 1.0 for q in (50, 95, 99)},
        "queue_wait_p95_s": 0.0,
        **{f"itl_p{q}_s": 1.0 for q in (50, 95, 99)},
    }
    assert out.summary(from_s=60.0) == {"requests": 0.0, "unfinished": 0.0}


def test_default_bound_can_be_kept_by_an_idle_replica() -> None:
    requests = log([0.0, 1.0], [100, 1_000], 5.0)
    assert default_ttft_slo_s(ServiceModel(), requests) == 2.0
    assert default_ttft_slo_s(ServiceModel(100.0), requests) == pytest.approx(3 * 955 / 100)


# ---- figures of a replay ----------------------------------------------------------------------------------------
def poisson_trace(rate: float = 5.0, n: int = 3_000, start: float = 1_000.0) -> RequestTrace:
    rng = np.random.default_rng(8)
    arrival = np.cumsum(rng.exponential(1 / rate, n))
    return RequestTrace(
        arrival, rng.integers(1, 900, n).astype(float), rng.integers(1, 90, n).astype(float), start=start
    )


def test_figures_agree_with_the_rate_level_world_on_who_is_saturated() -> None:
    trace = poisson_trace()
    demand = trace.to_panel(10.0)
    capacity = 1.0  # requests/s, so that 5 replicas are just not enough

    def figures(replicas: int, name: str = "requests_per_second", scale: float = 1.0) -> dict[str, float]:
        return request_figures(
            trace, np.full(len(demand), replicas), step_s=10.0, start_s=1_000.0, replica_capacity=capacity * scale,
            demand=demand.indicators[demand.position(name)], scored_from=20,
        )  # fmt: skip

    few, enough = figures(3), figures(8)
    in_part = (trace.arrival_s >= 200.0) & (trace.arrival_s < 10.0 * len(demand))
    assert few["requests"] == enough["requests"] == in_part.sum()
    assert few["slo_miss_rate"] > 0.9
    assert few["unfinished"] > 500
    assert enough["slo_miss_rate"] < 0.02
    assert enough["ttft_p95_s"] < enough["ttft_slo_s"]
    assert 0 < enough["idle_ttft_p95_s"] <= enough["ttft_slo_s"] / 3
    by_tokens = figures(8, "prompt_tokens_per_second", float(trace.prompt_tokens.mean()))
    assert by_tokens == pytest.approx(enough)
    assert figures(8, "mean_prompt_tokens") == {}


def test_figures_use_the_trace_s_own_clock() -> None:
    trace = poisson_trace(start=500.0)
    ready, demand = np.full(30, 8), Indicator("requests_per_second", "requests/s")
    whole = request_figures(trace, ready, step_s=10.0, start_s=500.0, replica_capacity=1.0, demand=demand)
    later = request_figures(trace, ready, step_s=10.0, start_s=600.0, replica_capacity=1.0, demand=demand)
    assert whole["requests"] == (trace.arrival_s < 300).sum()
    assert later["requests"] == ((trace.arrival_s >= 100) & (trace.arrival_s < 400)).sum()
    missed = request_figures(trace, ready, step_s=10.0, start_s=9e9, replica_capacity=1.0, demand=demand)
    assert missed == {"requests": 0.0, "unfinished": 0.0}


# ---- mistakes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arrival", "prompt", "output", "words"),
    [
        ([2.0, 1.0], 1, 1, "ascending"),
        ([-5.0, 1.0], 1, 1, "before the world starts"),
        ([1.0, math.nan], 1, 1, "finite"),
        ([1.0, 2.0], -1, 1, "0 or more"),
        ([1.0, 2.0], 1, math.nan, "0 or more"),
        ([], [], [], "none"),
    ],
)
def test_unusable_requests_are_refused(arrival: Any, prompt: Any, output: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        RequestWorld(log(arrival, prompt, output), ServiceModel(), 0.0)


def test_unequal_columns_are_refused() -> None:
    with pytest.raises(DataError, match="equal length"):
        RequestWorld(Log(np.zeros(2), np.ones(3), np.ones(3)), ServiceModel(), 0.0)


@pytest.mark.parametrize(
    "settings_",
    [{"prefill_tokens_per_s": 0.0}, {"decode_tokens_per_s": INF}, {"decode_limit_tokens_per_s": 1.0},
     {"max_concurrency": 0}, {"decode_tokens_per_s": math.nan}],
)  # fmt: skip
def test_impossible_replicas_are_refused(settings_: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="service model"):
        ServiceModel(**settings_)


def test_wrong_use_is_refused() -> None:
    requests = log([0.0], 1.0, 1.0)
    world = RequestWorld(requests, ServiceModel(), 0.0)
    world.advance(5.0, 1)
    with pytest.raises(UsageError, match="already"):
        world.advance(4.0, 1)
    with pytest.raises(UsageError, match="ready replicas"):
        world.advance(6.0, -1)
    with pytest.raises(UsageError, match="positive number"):
        ServiceModel.for_capacity(requests, 0.0)
    with pytest.raises(DataError, match="no load"):
        ServiceModel.for_capacity(log([0.0], 0.0, 1.0), 1.0)
