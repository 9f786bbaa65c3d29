"""`Feed` on back-dated data of a real Prometheus: every reason, what is asked, and what ends up in the history."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.prometheus.client import Prometheus
from controller.prometheus.coverage import Reporting
from controller.prometheus.families import Kin
from controller.prometheus.feed import Feed, FeedReason, FeedState
from controller.prometheus.history import History
from forecasting.errors import DataError
from forecasting.panel import Indicator, Kind
from forecasting.windows import WindowBatch
from tests.controller.prometheus.data import DAYS, END, ROWS, demand
from tests.prom.exporter import Exporter
from tests.prom.proxy import Fault, FaultyProxy
from tests.prom.real import RealPrometheus, free_port, need_prometheus


@dataclass(frozen=True)
class Query:
    indicator: Indicator
    promql: str
    kin: Kin | None = None
    reporting: Reporting | None = None


def query(promql: str, kind: Kind = "gauge", level: int = 1) -> Query:
    return Query(Indicator(promql[:20], "", level, kind), promql)


def feed(client: Prometheus, *queries: Query, step: float = 60.0, stale: float | None = None) -> Feed:
    return Feed(client, queries, History([q.indicator for q in queries], step), stale_after_s=stale)


def window(history: History, now_s: float, horizon: int = 0) -> WindowBatch:
    """The newest window of a history, as a forecast reads it."""
    return WindowBatch.of(history, [history.row_at(now_s)], history.lookback, horizon=horizon)


def refreshed(
    url: str, queries: Sequence[Query], times: Sequence[float], **options: float
) -> tuple[list[FeedState], Feed]:
    """Refresh one feed at each of the times."""

    async def run() -> tuple[list[FeedState], Feed]:
        async with Prometheus(url, timeout_s=options.get("timeout", 10.0)) as client:
            made = feed(client, *queries)
            return [await made.refresh(t) for t in times], made

    return asyncio.run(run())


def through_proxy(
    prom: RealPrometheus, use: Callable[[FaultyProxy, Prometheus], Awaitable[None]], timeout: float = 60.0
) -> None:
    async def run() -> None:
        async with FaultyProxy(prom.url) as proxy, Prometheus(proxy.url, timeout_s=timeout) as client:
            await use(proxy, client)

    asyncio.run(run())


def test_the_past_is_read_once_and_then_what_is_new(prom: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        made = feed(client, query("demand"), query("queue", level=2))
        first = await made.refresh(END - 600)
        assert [i.reason for i in first.indicators] == [FeedReason.FRESH, FeedReason.FRESH]
        assert (first.available, first.demand_age_s, first.message) == (True, 0.0, "")
        spans = sorted((p["query"].split()[0][1:], float(p["end"]) - float(p["start"])) for _, _, p, _ in proxy.seen)
        assert spans == [("demand", 146 * 60), ("demand", 7 * 86_400 + 3600 - 146 * 60), ("queue", 146 * 60)]
        state = await made.refresh(END - 480 + 25)
        assert state.demand_age_s == 25
        later = [float(p["end"]) - float(p["start"]) for _, _, p, _ in proxy.seen[3:]]
        assert later == [4 * 60, 4 * 60]
        times, values = made.history.demand_between(END - DAYS * 86_400, END - 480)
        assert not np.isnan(values).any()
        np.testing.assert_allclose(values, [demand(t) for t in times], rtol=1e-6)
        batch = window(made.history, END - 480, 30)
        assert not np.isnan(batch.values).any()
        assert batch.seasonal is not None
        assert not np.isnan(batch.seasonal[0, 0, :, 0]).any()
        assert made.history.demand_at(END - 480, 60) == demand(END - 480)

    through_proxy(prom, use, timeout=10.0)


def test_a_service_that_nobody_decides_on_keeps_no_week_and_gets_it_back(prom: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        made = feed(client, query("demand"))
        made.reads_past = False
        await made.refresh(END - 600)
        assert made.history.nbytes < 1000, "the newest rows only"
        assert made.history.demand_at(END - 600, 60) == demand(END - 600)
        made.reads_past = True
        await made.refresh(END - 480)
        times, values = made.history.demand_between(END - DAYS * 86_400, END - 480)
        assert not np.isnan(values).any()
        np.testing.assert_allclose(values, [demand(t) for t in times], rtol=1e-6)

    through_proxy(prom, use, timeout=10.0)


@pytest.mark.parametrize(
    ("promql", "reason", "words"),
    [
        ("demand", FeedReason.FRESH, ""),
        ("no_such_metric", FeedReason.EMPTY, "check metric name"),
        ("ratio", FeedReason.NAN, "counts as absent"),
        ("demand / 0", FeedReason.NAN, "division by zero"),
        ("pods", FeedReason.MANY_SERIES, r"returns 3 series; wrap it in sum\(...\)"),
        ("sum(", FeedReason.QUERY_ERROR, "parse error"),
        ("negative", FeedReason.QUERY_ERROR, "returns -3"),
    ],
)
def test_reasons(prom: RealPrometheus, promql: str, reason: FeedReason, words: str) -> None:
    (state,), made = refreshed(prom.url, [query(promql)], [END])
    assert state.demand.reason is reason
    assert re.search(words, state.demand.message)
    assert state.available is (reason is FeedReason.FRESH)
    assert math.isnan(made.history.demand_at(END, 120)) is (reason is not FeedReason.FRESH)


def test_a_renamed_series_grows_stale_then_empty_and_never_zero(prom: RealPrometheus) -> None:
    gone = END - 7200
    times_s = [gone, gone + 60, gone + 600, gone + 2400, gone + 3600]
    states, made = refreshed(prom.url, [query("renamed_before")], times_s)
    assert [s.demand.reason for s in states] == ["Fresh", "Fresh", "Stale", "Stale", "Empty"]
    assert [s.available for s in states] == [True, True, False, False, False]
    assert "7 min old" in states[2].demand.message
    assert "the last reading was 57 min ago" in states[4].demand.message
    times, values = made.history.demand_between(gone - 600, gone + 3600)
    assert set(values[times <= gone]) == {5.0}
    assert np.isnan(values[times > gone + 180]).all()
    assert math.isnan(made.history.demand_at(gone + 3600, 180))


def test_old_answers_served_again_are_stale(prom: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        made = feed(client, query("demand"))
        assert (await made.refresh(END - 3600)).available
        proxy.fault = "replay"
        for minutes, reason in ((1, "Fresh"), (3, "Fresh"), (4, "Stale"), (30, "Stale")):
            state = await made.refresh(END - 3600 + 60 * minutes)
            assert (state.demand.reason, state.available) == (reason, reason == "Fresh")
        proxy.fault = "pass"
        assert (await made.refresh(END)).available
        _, values = made.history.demand_between(END - 7200, END)
        assert not np.isnan(values).any()  # what was missed meanwhile has been read

    through_proxy(prom, use)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "Unreachable"),
        ("503", "Unreachable"),
        ("429", "Unreachable"),
        ("cut", "Unreachable"),
        ("html", "Unreachable"),
        ("truncate", "Unreachable"),
        ("hang", "Timeout"),
        ("nan", "NaN"),
        ("empty", "Empty"),
        ("many", "ManySeries"),
    ],
)
def test_a_fault_after_good_data_never_lasts_nor_lies(prom: RealPrometheus, fault: Fault, reason: str) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        made = feed(client, query("demand"), query("queue", level=2))
        await made.refresh(END - 1800)
        proxy.fault = fault
        soon = await made.refresh(END - 1740)
        assert soon.available  # one reading that failed does not make the last one old
        late = await made.refresh(END - 1200)
        assert [i.reason for i in late.indicators] == [reason, reason]
        assert all(i.message for i in late.indicators)
        assert not late.available
        assert math.isnan(made.history.demand_at(END - 1200, 180))
        assert np.isnan(made.history.demand_between(END - 1800, END - 1200)[1]).all()
        proxy.fault = "pass"
        back = await made.refresh(END - 1140)
        assert [i.reason for i in back.indicators] == ["Fresh", "Fresh"]
        times, values = made.history.demand_between(END - 7200, END - 1140)
        np.testing.assert_allclose(values, [demand(t) for t in times], rtol=1e-6)

    through_proxy(prom, use, timeout=2.0 if fault == "hang" else 60.0)


def test_another_series_of_another_name_is_still_the_querys_answer(prom: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        made = feed(client, query("demand"))
        proxy.fault = "other"
        assert (await made.refresh(END)).available
        proxy.fault = "backwards"
        assert (await made.refresh(END)).available
        assert made.history.demand_at(END, 60) == demand(END)

    through_proxy(prom, use)


def test_a_query_that_bears_no_age_limit_is_asked_as_it_is(prom: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        given = "count({__name__=~'demand|queue'})"  # two names, equal labels: `and` refuses them
        made = feed(client, query(given))
        made.reads_past = False
        for minute in range(5):
            assert (await made.refresh(END - 300 + 60 * minute)).available
            assert made.history.demand_at(END - 300 + 60 * minute, 60) == 2
            assert proxy.seen[-1][2]["query"] == given
        assert len(proxy.seen) == 3 * 2 + 2, "known after three refusals"
        assert not (await made.refresh(END + 7200)).available
        assert len(proxy.seen) == 3 * 2 + 2 + 2, "and tried again later"

    through_proxy(prom, use)


def test_a_passing_refusal_changes_nothing(prom: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        made = feed(client, query("demand"))
        made.reads_past = False
        for minute in range(9):
            if minute % 3 != 2:
                proxy.next.append("422")
            assert (await made.refresh(END - 540 + 60 * minute)).available
            last = proxy.seen[-1][2]["query"]
            assert last == "demand" if minute % 3 != 2 else "present_over_time" in last

    through_proxy(prom, use)


def test_each_indicator_fails_alone(prom: RealPrometheus) -> None:
    queries = [query("demand"), query("pods", level=2), query("queue", level=2), query("nope(", level=3)]
    (state,), made = refreshed(prom.url, queries, [END])
    assert [i.reason for i in state.indicators] == ["Fresh", "ManySeries", "Fresh", "QueryError"]
    assert state.available
    assert "pods: the query returns 3 series" in state.message
    values = window(made.history, END).values[0]
    assert np.isnan(values).all(axis=0).tolist() == [False, True, False, True]


def test_nobody_there() -> None:
    (state,), _ = refreshed(f"http://127.0.0.1:{free_port()}", [query("demand")], [END])
    assert (state.demand.reason, state.available, state.demand_age_s) == (FeedReason.UNREACHABLE, False, math.inf)


def test_a_counter_becomes_a_rate_and_a_restart_no_dip(prom: RealPrometheus) -> None:
    states, made = refreshed(prom.url, [query("hits", "counter")], [END - 1200, END - 660, END - 600, END - 540, END])
    assert all(s.available for s in states)
    times, values = made.history.demand_between(END - 7200, END)
    restart = END - (9 * 60)
    assert set(values[times < restart]) == {3.0}
    assert set(values[times > restart]) == {3.0}
    assert np.isnan(values[times == restart]).all()  # it came back at 60: less than it rose by
    assert made.history.indicators[0].kind == "rate"


def test_a_counter_that_is_not_scraped_is_absent_not_zero(prom: RealPrometheus) -> None:
    _, made = refreshed(prom.url, [query("gappy_total", "counter")], [END])
    times, values = made.history.demand_between(END - 3600, END)
    gap = (times >= END - 29 * 60) & (times <= END - 19 * 60)
    assert np.isnan(values[gap]).all()
    assert set(values[~gap]) == {3.0}


def test_a_sum_of_counters_that_loses_a_part_is_absent_there(prom: RealPrometheus) -> None:
    _, made = refreshed(prom.url, [query("sum(hits)", "counter")], [END])
    times, values = made.history.demand_between(END - 3600, END)
    restart = END - 9 * 60
    assert np.isnan(values[times == restart]).all()
    assert set(values[times != restart]) == {3.0}


def test_equal_queries_of_a_tick_are_asked_once(prom: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        feeds = [feed(client, query("demand"), query("queue", level=2)) for _ in range(20)]
        states = await asyncio.gather(*(f.refresh(END - 60) for f in feeds))
        assert all(s.available for s in states)
        assert len(proxy.seen) == 3
        await asyncio.gather(*(f.refresh(END) for f in feeds))
        assert len(proxy.seen) == 5
        waiting = asyncio.ensure_future(feeds[0].refresh(END + 60))
        other = asyncio.ensure_future(feeds[1].refresh(END + 60))
        await asyncio.sleep(0)
        waiting.cancel()  # one service giving up takes nothing from the other
        assert (await other).available
        with pytest.raises(asyncio.CancelledError):
            await waiting

    through_proxy(prom, use)


def test_a_week_that_is_too_much_comes_in_pieces(prom: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        made = feed(client, query("demand"))
        start = END - 7200
        proxy.next.extend(["pass", "hang"])
        assert (await made.refresh(start)).available  # the lookback is there, the week is not
        past = (END - ROWS * 60, start - 150 * 60)
        assert np.isnan(made.history.demand_between(*past)[1]).all()
        await made.refresh(start + 60)
        assert len(proxy.seen) == 3  # an overloaded Prometheus is left alone for a while
        for again in range(1, 7):
            await made.refresh(start + 310 * again)
        assert not np.isnan(made.history.demand_between(*past)[1]).any()
        before = len(proxy.seen)
        await made.refresh(END)
        assert len(proxy.seen) == before + 1

    through_proxy(prom, use, timeout=2.0)


def test_the_past_waits_while_a_tick_is_short_of_time(prom: RealPrometheus) -> None:
    async def run() -> None:
        clock = {"now": 0.0, "step": 10.0}

        def monotonic() -> float:
            clock["now"] += clock["step"]
            return clock["now"]

        async with Prometheus(prom.url, monotonic=monotonic) as client:
            made = feed(client, query("demand"))
            assert (await made.refresh(END - 60)).available
            assert client.requests == 1
            clock["step"] = 0.0
            assert (await made.refresh(END)).available
            assert client.requests == 3
            assert not np.isnan(made.history.demand_between(END - (ROWS - 1) * 60, END)[1]).any()

    asyncio.run(run())


def test_a_first_call_that_is_cancelled_is_not_in_vain(prom: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        made = feed(client, query("demand"))
        proxy.next.extend(["pass", "hang"])
        first = asyncio.create_task(made.refresh(END - 600))
        async with asyncio.timeout(60):
            while len(proxy.seen) < 2:
                await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await made.refresh(END - 540)).available
        assert not np.isnan(made.history.demand_between(END - (ROWS - 20) * 60, END - 540)[1]).any()
        assert len(proxy.seen) == 4

    through_proxy(prom, use)


def test_a_clock_that_was_a_day_ahead_loses_nothing(prom: RealPrometheus) -> None:
    states, made = refreshed(prom.url, [query("demand")], [END - 3600, END + 86_400, END - 3000, END])
    assert [s.demand.reason for s in states] == ["Fresh", "Stale", "Fresh", "Fresh"]
    assert not np.isnan(made.history.demand_between(END - 7200, END)[1]).any()


def test_queries_and_history_must_fit() -> None:
    with pytest.raises(DataError, match="2 queries for a history of 1"):
        Feed(Prometheus("http://x"), [query("a"), query("b")], History([query("a").indicator], 60.0))


@pytest.mark.slow
@pytest.mark.prometheus
def test_live_scrapes_pauses_and_restarts(tmp_path: Path) -> None:
    need_prometheus()
    with Exporter() as exporter, RealPrometheus(tmp_path / "p", targets={"job": exporter.address}) as real:
        exporter.set({"rps": 3})

        async def until(made: Feed, reason: str, seconds: float = 120.0) -> FeedState:
            for _ in range(int(seconds / 0.25)):
                state = await made.refresh(await made.prometheus.now_s())
                if state.demand.reason == reason:
                    return state
                await asyncio.sleep(0.25)
            raise AssertionError(f"never {reason}: {state}")

        async def run() -> None:
            async with Prometheus(real.url, timeout_s=1.0) as client:
                made = feed(client, query("rps"), step=1.0, stale=3.0)
                assert (await until(made, "Fresh")).available
                real.configure({})
                real.reload()  # it answers, but scrapes no more
                assert not (await until(made, "Stale")).available
                real.configure({"job": exporter.address})
                real.reload()
                await until(made, "Fresh")
                real.pause()
                paused = await until(made, "Timeout")
                await asyncio.sleep(3.5 - min(paused.demand_age_s, 3.0))
                assert not (await made.refresh(await client.now_s())).available
                real.resume()
                await until(made, "Fresh")
                real.kill()
                await until(made, "Unreachable")
                await asyncio.to_thread(real.start)
                exporter.set({"rps": 8})
                await until(made, "Fresh")
                assert (await until(made, "Fresh")).available

        asyncio.run(run())


faults = st.sampled_from(["pass", "500", "429", "html", "nan", "empty", "many", "truncate", "cut", "other"])


@settings(max_examples=15, deadline=None)
@given(script=st.lists(st.tuples(faults, st.integers(-40, 90)), max_size=8))
def test_whatever_happens_a_refresh_never_raises_nor_invents(prom: RealPrometheus, script: list) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        made = feed(client, query("demand"), query("queue", level=2))
        now = END - 86_400
        for fault, minutes in script:
            proxy.fault = fault
            now = min(now + 60 * minutes, END)
            state = await made.refresh(now)
            assert len(state.indicators) == 2
            assert state.available is not math.isnan(made.history.demand_at(now, made.stale_after_s))
        proxy.fault = "pass"
        assert (await made.refresh(now + 1)).available  # another tick: within one, nothing is asked twice
        times, values = made.history.demand_between(END - DAYS * 86_400, END)
        known = ~np.isnan(values)
        np.testing.assert_allclose(values[known], [demand(t) for t in times[known]], rtol=1e-6)

    through_proxy(prom, use)
