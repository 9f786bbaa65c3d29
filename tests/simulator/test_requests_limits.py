"""The request-level world where something is short: no queue, patience, memory, replicas that are lost."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import UsageError
from simulator import engine
from simulator.requests import Clients, RequestWorld, ServiceModel
from tests.simulator.test_requests import INF, erlang_c_wait, log, slots


def run(requests: Any, model: Any, ready: Any, to_s: float = 1e9, **given_: Any) -> Any:
    world = RequestWorld(requests, model, 0.0, **given_)
    world.advance(to_s, ready)
    return world.outcome()


# ---- closed forms ----------------------------------------------------------------------------------------------
def md_c_wait(rate: float, service_s: float, servers: int) -> float:
    """Mean wait of M/D/c: the stationary number in system of N(t + D) = max(N(t) - c, 0) + Poisson(rate D), exactly."""
    load, size = rate * service_s, 150
    arrivals = np.array([math.exp(k * math.log(load) - load - math.lgamma(k + 1)) for k in range(size)])
    step = np.zeros((size, size))
    for n in range(size):
        left = max(n - servers, 0)
        step[n, left:] = arrivals[: size - left]
    state = np.eye(1, size)[0]
    for _ in range(1_000):
        state = state @ step
    return float((np.maximum(np.arange(size) - servers, 0) * state).sum()) / rate


@pytest.mark.slow
@pytest.mark.parametrize("servers", [1, 4, 10])
def test_mean_wait_of_fixed_service_times_is_that_of_m_d_c(servers: int) -> None:
    rng, n, rate = np.random.default_rng(11), 300_000, 0.85 * servers
    out = run(log(np.cumsum(rng.exponential(1 / rate, n)), 0.0, 2.0), slots(1), servers)
    expected = md_c_wait(rate, 1.0, servers)
    assert out.queue_wait_s.mean() == pytest.approx(expected, rel=0.04)
    if servers == 1:
        assert expected == pytest.approx(rate / (2 * (1 - rate)), rel=1e-3)  # Pollaczek-Khinchine


def erlang_b(load: float, servers: int) -> float:
    """Share of calls that are lost, by the usual recursion."""
    lost = 1.0
    for k in range(1, servers + 1):
        lost = load * lost / (k + load * lost)
    return lost


@pytest.mark.slow
@pytest.mark.parametrize(("load", "servers"), [(3.0, 5), (12.0, 10)])
def test_who_never_waits_is_lost_as_erlang_b_says(load: float, servers: int) -> None:
    rng, n = np.random.default_rng(12), 200_000
    requests = log(np.cumsum(rng.exponential(1 / load, n)), 0.0, 1.0 + rng.exponential(1.0, n))
    out = run(requests, slots(1), servers, clients=Clients(timeout_s=1e-9))
    assert (~np.isnan(out.gave_up_s)).mean() == pytest.approx(erlang_b(load, servers), rel=0.04)


def abandoned(load: float, servers: int, patience_s: float) -> float:
    """Share that gives up in M/M/c with patience of one fixed length (Baccelli and Hebuterne 1981), service mean 1.

    The virtual wait has density load P(c-1) exp((load - c) w) up to the patience; beyond it nobody joins.
    """
    weights = [load**k / math.factorial(k) for k in range(servers)]
    drift = load - servers
    below = (math.exp(drift * patience_s) - 1) / drift if drift else patience_s
    beyond = math.exp(drift * patience_s) / servers
    last = weights[-1] * load
    return last * beyond / (sum(weights) + last * (below + beyond))


@pytest.mark.slow
@pytest.mark.parametrize(("load", "patience_s"), [(3.6, 0.5), (4.8, 2.0)])
def test_impatient_clients_leave_as_often_as_the_formula_says(load: float, patience_s: float) -> None:
    rng, n = np.random.default_rng(13), 200_000
    requests = log(np.cumsum(rng.exponential(1 / load, n)), 0.0, 1.0 + rng.exponential(1.0, n))
    out = run(requests, slots(1), 4, clients=Clients(timeout_s=patience_s))
    assert (~np.isnan(out.gave_up_s)).mean() == pytest.approx(abandoned(load, 4, patience_s), rel=0.05)
    served = ~np.isnan(out.started_s)
    assert out.queue_wait_s[served].max() <= patience_s


@pytest.mark.slow
def test_a_cache_for_so_many_requests_is_as_many_slots() -> None:
    rng, n = np.random.default_rng(14), 100_000
    requests = log(np.cumsum(rng.exponential(1 / 4.5, n)), 0.0, 1.0 + rng.exponential(1.0, n))
    requests.output_tokens[:] = 1.0 + rng.permutation(requests.output_tokens - 1.0)
    sizes = log(requests.arrival_s, 99.0, 2.0)  # 101 tokens each, one second each
    wide = ServiceModel(INF, 1.0, INF, 1_000, kv_tokens=101 * 6 + 50)
    by_memory = run(sizes, wide, 1).queue_wait_s
    np.testing.assert_array_equal(by_memory, run(sizes, slots(6), 1).queue_wait_s)
    assert by_memory.mean() == pytest.approx(md_c_wait(4.5, 1.0, 6), rel=0.05)
    assert by_memory.mean() < erlang_c_wait(4.5, 1.0, 6)


# ---- laws ------------------------------------------------------------------------------------------------------
@st.composite
def scarce(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    prompt, output = rng.integers(0, 50, n), rng.integers(0, 12, n)
    models = [
        ServiceModel(draw(st.sampled_from([20.0, 100.0])), lone, lone * 3, draw(st.integers(1, 4)), kv)
        for lone, kv in draw(st.lists(st.tuples(st.sampled_from([2.0, 10.0]), st.sampled_from([20.0, 70.0, INF])),
                                      min_size=1, max_size=2))
    ]  # fmt: skip
    kinds = len(models)
    counts = st.lists(st.integers(0, 3), min_size=kinds, max_size=kinds)
    return {
        "requests": log(np.cumsum(rng.choice([0.0, 0.5, 1.0, 3.0], n)), prompt, output),
        "models": models,
        "clients": Clients(draw(st.sampled_from([1.5, 6.0, INF])), draw(st.integers(0, 2)), 0.7),
        "steps": draw(st.lists(st.tuples(counts, counts), min_size=1, max_size=20)),
    }


@given(scarce())
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost_or_done_twice_whatever_happens(world: dict[str, Any]) -> None:
    requests, models = world["requests"], world["models"]
    live = RequestWorld(requests, models, 0.0, clients=world["clients"], ttft_slo_s=2.0)
    finished = gave_up = retried = 0
    for i, (ready, lost) in enumerate(world["steps"]):
        seen = live.advance((i + 1) * 7.0, ready, lost)
        finished, gave_up, retried = finished + seen.finished, gave_up + seen.gave_up, retried + seen.retried
        room = sum(m.max_concurrency * n for m, n in zip(models, ready, strict=True))
        assert seen.running <= room + seen.draining * max(m.max_concurrency for m in models)
        assert seen.tokens_in_flight >= 0
        assert (seen.tokens_in_flight > 0) == (seen.running > 0)
        out = live.outcome()
        away = out.arrival_s.size - finished - gave_up - seen.running - seen.queue_length
        assert away >= 0  # between two attempts
        assert away == 0 or world["clients"].retries > 0
        late, known = out.late(2.0)
        assert np.isnan(seen.late_share) or 0 <= seen.late_share <= 1
        assert (known | ~late).all()
    assert int((~np.isnan(out.finished_s)).sum()) == finished
    assert int((~np.isnan(out.gave_up_s)).sum()) == gave_up
    assert not (~np.isnan(out.finished_s) & ~np.isnan(out.gave_up_s)).any()
    assert int((out.attempts - 1).sum()) >= retried
    waited = out.ttft_s[~np.isnan(out.ttft_s)]
    patience = world["clients"]
    longest = sum(patience.timeout_s + patience.backoff_s * 2**a for a in range(patience.retries + 1))
    assert (waited <= longest + 1e-9).all()


PLAIN = """
import sys; sys.modules["numba"] = None
from tests.simulator.test_requests_limits import stormy
from simulator import engine
assert not engine.COMPILED
print(stormy())
"""


def stormy() -> str:
    """Digest of all moments of a world in which everything happens."""
    rng, n = np.random.default_rng(15), 1_500
    requests = log(np.cumsum(rng.exponential(0.05, n)), rng.integers(1, 900, n), rng.integers(1, 90, n))
    models = [ServiceModel(kv_tokens=6_000.0), ServiceModel(max_concurrency=8).scaled(2.0)]
    world = RequestWorld(requests, models, 0.0, clients=Clients(3.0, 2, 0.5))
    for i in range(30):
        world.advance(3.0 * (i + 1), [2, 70 if i == 20 else i % 2], [i == 9, 0])
    out = world.outcome()
    columns = (out.started_s, out.first_token_s, out.finished_s, out.gave_up_s)
    return " ".join(f"{np.nansum(c).hex()} {int(np.isnan(c).sum())}" for c in columns) + f" {int(out.attempts.sum())}"


def test_compiled_and_plain_loops_give_the_same_moments() -> None:
    plain = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, check=False)
    assert plain.stdout.strip() == stormy(), plain.stderr


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_the_oldest_request_waits_only_while_it_fits_nowhere(seed: int) -> None:
    """Whatever came, left, gave up or was lost in between: no replica that takes requests has room for it."""
    rng = np.random.default_rng(seed)
    n = 400
    requests = log(np.cumsum(rng.exponential(0.2, n)), rng.integers(1, 900, n), rng.integers(1, 200, n))
    models = [ServiceModel(int(rng.integers(1, 9)), kv_tokens=float(rng.integers(500, 4_000))) for _ in range(2)]
    world = RequestWorld(requests, models, 0.0, clients=Clients(float(rng.uniform(1, 9)), int(rng.integers(3)), 0.7))
    c, waited = world._columns, 0
    for i in range(40):
        seen = world.advance(2.0 * (i + 1), rng.integers(0, 4, 2).tolist(), rng.integers(0, 2, 2).tolist())
        head = c.count[engine.QUEUE_HEAD]
        assert (head >= 0) == (seen.queue_length > 0)
        waited += head >= 0
        for r in range(len(c.due) if head >= 0 else 0):
            kind = models[c.kind[r]]
            room = c.running[r] == 0 or c.kv_used[r] + c.kv[head] <= kind.kv_tokens
            assert not (c.accepting[r] and c.running[r] < kind.max_concurrency and room)
    assert waited or seed


@pytest.mark.skipif(not engine.COMPILED, reason="the extra fast is not installed")
def test_compiled_loops_count_no_references_and_leave_none_behind() -> None:
    """Counting them takes ten times as long as the loops; a numba that no longer lets it be should be noticed."""
    assert engine.UNCOUNTED
    world = RequestWorld(log(np.arange(50.0), [100] * 50, [10] * 50), ServiceModel(), 0.0, clients=Clients(3.0, 2, 0.5))
    world.advance(5.0, 1)
    before = [sys.getrefcount(column) for column in world._columns]
    for i in range(40):
        world.advance(6.0 + i, 1 + i % 3)
    assert [sys.getrefcount(column) for column in world._columns] == before


# ---- by hand ---------------------------------------------------------------------------------------------------
def test_a_client_comes_back_twice_as_late_each_time_and_then_leaves() -> None:
    out = run(log([0.0, 1.0], 0.0, [101, 2]), slots(1), 1, 1_000.0, clients=Clients(10.0, 2, 5.0))
    # the second waits 1-11, again 16-26, again 36-46; the first is answered until 100
    assert out.attempts.tolist() == [1, 3]
    np.testing.assert_allclose(out.gave_up_s, [math.nan, 46.0])
    assert out.summary()["gave_up"] == 1.0
    assert out.summary()["retries"] == 2.0
    assert out.summary()["slo_attainment"] == 0.5
    assert out.summary()["unfinished"] == 0.0
    assert out.summary()["ttft_p99_s"] == pytest.approx(45.0, rel=0.02)  # as long as it waited before it left


def test_a_client_who_cancels_frees_slot_and_prompt() -> None:
    model = ServiceModel(10.0, 1.0, 1.0, 2)
    out = run(log([0.0, 0.0, 0.0], [40, 40, 10], 1.0), model, 1, 1_000.0, clients=Clients(5.0))
    # A is read 0-4; B would be read 4-8 and cancels at 5; C waits for a slot until 4 and is read 5-6, but cancels at 5
    np.testing.assert_allclose(out.finished_s, [4.0, math.nan, math.nan])
    np.testing.assert_allclose(out.gave_up_s, [math.nan, 5.0, 5.0])
    later = run(log([0.0, 0.0, 2.0], [40, 40, 10], 1.0), model, 1, 1_000.0, clients=Clients(5.0))
    np.testing.assert_allclose(later.finished_s, [4.0, math.nan, 6.0])


def test_requests_of_a_lost_replica_begin_again_before_all_others() -> None:
    world = RequestWorld(log([0.0, 1.0, 2.0], 0.0, [11, 11, 11]), slots(1), 0.0)
    world.advance(5.0, 2)
    seen = world.advance(30.0, 1, 1)  # the older one, with the first request, goes at 5
    assert seen.draining == 0
    out = world.outcome()
    np.testing.assert_allclose(out.started_s, [11.0, 1.0, 21.0])
    np.testing.assert_allclose(out.first_token_s, [0.0, 1.0, 21.0])  # it had its first token
    np.testing.assert_allclose(out.finished_s, [21.0, 11.0, math.nan])


def test_the_less_full_of_two_kinds_takes_the_next_request() -> None:
    small, large = ServiceModel(INF, 1.0, INF, 1), ServiceModel(INF, 1.0, INF, 4)
    world = RequestWorld(log(np.arange(5.0) / 10, 0.0, 101.0), [small, large], 0.0)
    assert world.advance(1.0, [1, 1]).running == 5
    fast = ServiceModel(INF, 10.0, INF, 4)
    world = RequestWorld(log([0.0, 0.0], 0.0, 101.0), [small, fast], 0.0)
    world.advance(50.0, [0, 1])
    np.testing.assert_allclose(world.outcome().finished_s, [10.0, 10.0])


def test_impossible_clients_and_counts_are_refused() -> None:
    for wrong in ({"timeout_s": 0.0}, {"retries": -1}, {"backoff_s": INF}, {"retries": 21}):
        with pytest.raises(UsageError, match="clients"):
            Clients(**wrong)  # type: ignore[arg-type]
    world = RequestWorld(log([0.0], 0.0, 2.0), slots(1), 0.0)
    with pytest.raises(UsageError, match="kinds"):
        world.advance(1.0, [1, 1])
    with pytest.raises(UsageError, match="kv_tokens"):
        ServiceModel(kv_tokens=0.0)
