"""How much of a demand a reading covers: answers that say they lack a part, and series that come and go."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.prometheus.answers import Series, at_each_moment
from controller.prometheus.coverage import Reporting
from controller.prometheus.feed import Feed, FeedReason, FeedState
from controller.prometheus.history import History
from controller.prometheus.panel import read_panel
from controller.resource.settings import IndicatorQuery
from forecasting.errors import DataError
from forecasting.panel import Indicator, Kind
from tests.prom.lying import Found, Lying, Saying, level

NOW = 1_700_000_040.0
STEP = 60.0
AWAY = "No StoreAPIs matched for this query"
MIXED = "PromQL warning: encountered a mix of histograms and floats"
INCOMPLETE: list[tuple[dict[str, Any], str]] = [
    ({"warnings": [AWAY]}, AWAY),
    ({"warnings": ["PromQL info: metric might not be a counter", AWAY]}, AWAY),
    ({"isPartial": True}, "isPartial"),
    ({"warnings": [MIXED, AWAY], "infos": ["harmless"]}, f"{MIXED} and 1 more"),
]
HARMLESS: list[dict[str, Any]] = [
    {"infos": ["PromQL info: metric might not be a counter, name does not end in _total"]},
    {"warnings": ["PromQL info: input to histogram_quantile needed to be fixed for monotonicity"]},
    {"isPartial": False, "warnings": [], "infos": None},
]


def feed(source: Saying, *kinds: Kind, lookback: int = 40) -> Feed:
    queries = [
        IndicatorQuery(Indicator(f"i{n}", "", 1, kind), f"sum(m{n})") for n, kind in enumerate(kinds or ("gauge",))
    ]
    return Feed(Lying(source), queries, History([q.indicator for q in queries], STEP, lookback))


def refreshed(made: Feed, *minutes: float) -> list[FeedState]:
    async def run() -> list[FeedState]:
        return [await made.refresh(NOW + 60 * m) for m in minutes]

    return asyncio.run(run())


@pytest.mark.parametrize(("beside", "words"), INCOMPLETE)
def test_an_answer_that_says_it_is_incomplete_is_kept_out_and_told(beside: dict[str, Any], words: str) -> None:
    source = Saying(level(200.0))
    made = feed(source)
    (before,) = refreshed(made, 0)
    assert (before.demand.reason, before.incomplete, math.isnan(before.at_least)) == (FeedReason.FRESH, "", True)
    source.series, source.beside = level(50.0), beside
    soon, late = refreshed(made, 1, 6)
    assert [s.demand.reason for s in (soon, late)] == [FeedReason.INCOMPLETE] * 2
    assert (soon.available, late.available) == (True, False), "the last complete reading counts as long as ever"
    assert (late.incomplete, late.at_least) == (late.demand.message, 50.0)
    assert words in late.message
    times, values = made.history.demand_between(NOW - 600, NOW + 360)
    assert values[times <= NOW].tolist() == [200.0] * 10
    assert np.isnan(values[times > NOW]).all()
    source.series, source.beside = level(210.0), {}
    (after,) = refreshed(made, 60)
    assert (after.demand.reason, after.incomplete, math.isnan(after.at_least)) == (FeedReason.FRESH, "", True)
    times, values = made.history.demand_between(NOW, NOW + 3600)
    assert values[times > NOW].tolist() == [210.0] * 60, "what was missed has been read once it is whole"


@pytest.mark.parametrize("beside", HARMLESS)
def test_infos_change_nothing(beside: dict[str, Any]) -> None:
    (state,) = refreshed(feed(Saying(level(3.0), beside)), 0)
    assert (state.demand.reason, state.incomplete, state.available) == (FeedReason.FRESH, "", True)


def test_an_incomplete_past_is_read_again_later_and_not_learned_from() -> None:
    source = Saying(level(70.0), {"warnings": [AWAY]})
    made = feed(source)
    refreshed(made, 0, 1)
    assert made.history.newest(0)[0] == -math.inf
    source.beside = {}
    span_s = [float(a["end"]) - float(a["start"]) for a in source.asked]
    refreshed(made, 2)
    assert len(source.asked) == len(span_s) + 2, "the lookback and the week"
    assert set(made.history.demand_between(NOW - 86_400, NOW)[1]) == {70.0}


def test_a_piece_of_the_past_that_lacks_a_part_is_not_taken() -> None:
    source = Saying(level(70.0))

    away = [True]

    def answer(form: dict[str, str]) -> tuple[int, bytes]:
        long = float(form["end"]) - float(form["start"]) > 86_400
        source.beside = {"isPartial": True} if long and away[0] else {}
        return Saying.answer(source, form)

    source.answer = answer  # type: ignore[method-assign]
    made = feed(source)
    refreshed(made, 0)
    day_ago = made.history.demand_between(NOW - 86_400, NOW - 80_000)[1]
    assert np.isnan(day_ago).all()
    away[0] = False
    refreshed(made, 10)
    assert not np.isnan(made.history.demand_between(NOW - 86_400, NOW - 80_000)[1]).any()


def test_other_indicators_lack_alone() -> None:
    source = Saying(level(4.0))

    def answer(form: dict[str, str]) -> tuple[int, bytes]:
        source.beside = {"warnings": [AWAY]} if "m1" in form["query"] else {}
        return Saying.answer(source, form)

    source.answer = answer  # type: ignore[method-assign]
    made = feed(source, "gauge", "gauge")
    (state,) = refreshed(made, 0)
    assert [i.reason for i in state.indicators] == [FeedReason.FRESH, FeedReason.INCOMPLETE]
    assert (state.available, state.incomplete) == (True, "")
    assert "i1: Prometheus warns" in state.message
    assert math.isnan(made.history.newest(1)[1])


# ---- series that come and go --------------------------------------------------------------------------------
def following(*lives: tuple[float, float, float], grows: float = 0.0) -> Any:
    """Series one after the other: (first minute, last minute, value) of each, by a label of their own."""

    def say(_: str, times: Sequence[float]) -> list[Found]:
        minutes = [(t - NOW) / 60 for t in times]
        return [
            ({"pod": f"p{n}"}, [value + grows * 60 * (m - first) if first <= m <= last else None for m in minutes])
            for n, (first, last, value) in enumerate(lives)
        ]

    return say


@pytest.mark.parametrize(
    ("lives", "overlap"),
    [
        ([(-1e5, -11, 8.0), (-10, 1e5, 9.0)], 0),
        ([(-1e5, -7, 8.0), (-10, 1e5, 9.0)], 4),
        ([(-1e5, -31, 7.0), (-30, -16, 8.0), (-15, 1e5, 9.0)], 0),
        ([(-1e5, 1e5, 8.0), (-20, -18, 2.0)], 3),
    ],
)
def test_series_that_follow_each_other_are_one(lives: list[tuple[float, float, float]], overlap: int) -> None:
    made = feed(Saying(following(*lives)))
    (state,) = refreshed(made, 0)
    assert state.demand.reason is FeedReason.FRESH
    values = made.history.demand_between(NOW - 39 * 60, NOW)[1]
    assert int(np.isnan(values).sum()) == overlap, "only where two are there at once nobody knows which is meant"
    assert values[-1] == lives[-1 if lives[-1][1] > 0 else 0][2]
    assert int(np.isnan(made.history.demand_between(NOW - 86_400, NOW)[1]).sum()) == overlap


def test_series_that_stay_side_by_side_are_refused() -> None:
    (state,) = refreshed(feed(Saying(following((-1e5, 1e5, 8.0), (-5, 1e5, 9.0)))), 0)
    assert (state.demand.reason, state.available) == (FeedReason.MANY_SERIES, False)
    assert "returns 2 series; wrap it in sum(...)" in state.demand.message


def test_a_label_that_changes_in_service_costs_no_more_than_it_overlaps() -> None:
    source = Saying(following((-1e5, 1e5, 8.0)))
    made = feed(source)
    refreshed(made, 0)
    source.series = following((-1e5, 3, 8.0), (2, 1e5, 8.0))
    states = refreshed(made, 1, 2, 3, 4, 5)
    assert [str(s.demand.reason) for s in states] == ["Fresh", "ManySeries", "ManySeries", "Fresh", "Fresh"]
    assert all(s.available for s in states)
    assert np.isnan(made.history.demand_between(NOW - 60, NOW + 300)[1]).tolist() == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


def test_counters_that_follow_each_other_never_mix_their_levels() -> None:
    lives = ((-1e5, -11, 9e6), (-10, 1e5, 0.0))
    made = feed(Saying(following(*lives, grows=3.0)), "counter")
    (state,) = refreshed(made, 0)
    assert state.demand.reason is FeedReason.FRESH
    values = made.history.demand_between(NOW - 39 * 60, NOW)[1]
    assert set(values[~np.isnan(values)]) == {3.0}
    assert int(np.isnan(values).sum()) == 1, "the first level of a new counter has grown from nothing known"


@given(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=5))
def test_the_merged_series_say_at_each_moment_what_one_says_alone(points: list[set[int]]) -> None:
    series = [
        Series({"n": str(n)}, np.array(sorted(p), dtype=float), np.array([n * 100.0 + t for t in sorted(p)]))
        for n, p in enumerate(points)
    ]
    times, values, count = at_each_moment(series)
    assert times.tolist() == sorted(set().union(*points))
    for at, value, found in zip(times, values, count, strict=True):
        here = [n for n, p in enumerate(points) if at in p]
        assert found == len(here)
        assert value == here[0] * 100 + at if len(here) == 1 else math.isnan(value)


# ---- panels for replays and training --------------------------------------------------------------------------
def test_a_panel_of_the_past_says_what_its_answers_lack() -> None:
    query = IndicatorQuery(Indicator("requests", "", 1, "gauge"), "sum(m)")
    source = Saying(following((-1e5, -11, 8.0), (-10, 1e5, 9.0)), {"warnings": [AWAY]})
    past = asyncio.run(read_panel(Lying(source), [query], NOW, 3600, STEP, name="x"))
    assert past.panel.absent_share.tolist() == [0.0]
    assert past.notes == (f"requests: Prometheus says that its answer is incomplete ({AWAY})",)
    source.series = following((-1e5, 1e5, 8.0), (-1e5, 1e5, 9.0))
    with pytest.raises(DataError, match="2 series at a time"):
        asyncio.run(read_panel(Lying(source), [query], NOW, 3600, STEP, name="x"))


# ---- pods that should report ----------------------------------------------------------------------------------
class Pods:
    """A demand of 20 from each of the pods that are scraped; a count beside it."""

    def __init__(self, scraped: int) -> None:
        self.scraped: int | None = scraped
        self.counted = True
        self.alive = 0
        self.source = Saying(self.say)
        own = Reporting("count(count by (pod) (m0))")
        query = IndicatorQuery(Indicator("requests", "", 1, "gauge"), "sum(m0)", reporting=own)
        self.feed = Feed(Lying(self.source), [query], History([query.indicator], STEP, 40))
        self.feed.reads_past = False
        self.past: dict[float, int] = {}

    lie = 0.0

    def say(self, promql: str, times: list[float]) -> list[Found]:
        if "count" in promql and not self.counted:
            return []
        each = 1.0 if "count" in promql else 20.0
        each = self.lie or each
        values = [each * self.past.get(t, self.scraped or 0) or None for t in times]
        return [({}, values)]

    def turn(self, minute: float, ready: int, settled: int | None = None) -> FeedState:
        now_s = NOW + 60 * minute
        self.feed.expect(now_s, self.alive or ready, ready, ready if settled is None else settled)
        state = asyncio.run(self.feed.refresh(now_s))
        self.past.setdefault(now_s // 60 * 60, self.scraped or 0)
        return state


def test_a_sum_over_some_of_the_pods_is_incomplete_however_long_and_afterwards_too() -> None:
    pods = Pods(8)
    assert pods.turn(0, 8).demand.reason is FeedReason.FRESH
    pods.scraped = 2
    for minute in range(1, 9):
        state = pods.turn(minute, 8)
        assert (state.demand.reason, state.at_least) == (FeedReason.INCOMPLETE, 40.0)
        assert "2 of 8 ready pods report" in state.message
    pods.scraped = 8
    assert pods.turn(9, 8).demand.reason is FeedReason.FRESH
    values = pods.feed.history.recent_between(0, NOW - 60, NOW + 540)[1]
    assert [None if math.isnan(v) else v for v in values] == [160.0, *[None] * 8, 160.0]


def test_pods_that_go_with_the_count_lack_nothing() -> None:
    pods = Pods(8)
    pods.turn(0, 8)
    pods.scraped = 3
    assert pods.turn(1, 3).demand.reason is FeedReason.FRESH
    assert pods.feed.history.demand_at(NOW + 60, 60) == 60.0


def test_pods_that_are_just_ready_need_not_report_yet() -> None:
    pods = Pods(2)
    pods.turn(0, 2)
    states = [pods.turn(m, 6, 2) for m in (1, 2, 3)]
    assert [(s.demand.reason, s.at_least) for s in states] == [(FeedReason.SETTLING, 40.0)] * 3
    assert all("2 of 6 ready pods report; the others have just become ready" in s.message for s in states)
    assert np.isnan(pods.feed.history.recent_between(0, NOW, NOW + 180)[1]).all(), "their share is not in it"
    assert pods.turn(6, 6, 6).demand.reason is FeedReason.INCOMPLETE, "they should by now"


def test_pods_that_reported_a_moment_ago_should_go_on() -> None:
    pods = Pods(8)
    pods.turn(0, 8, 0)
    pods.scraped = 7
    assert pods.turn(1, 8, 0).demand.reason is FeedReason.INCOMPLETE


def test_a_count_that_stays_away_is_no_proof_of_a_whole() -> None:
    pods = Pods(8)
    pods.turn(0, 8)
    pods.counted = False
    state = pods.turn(1, 8)
    assert state.demand.reason is FeedReason.INCOMPLETE
    assert "how many of 8 ready pods report is not known" in state.message


def test_one_false_count_does_not_last() -> None:
    """What once answered for the count may have been something else; it is believed for ten minutes at most."""
    pods = Pods(8)
    pods.scraped, pods.alive = 1, 8
    pods.turn(0, 8)
    pods.counted = False
    reasons = [pods.turn(m, 8).demand.reason for m in range(1, 14)]
    assert reasons[:10] == [FeedReason.INCOMPLETE] * 10
    assert reasons[-1] is FeedReason.FRESH


def test_more_pods_than_there_can_be_are_no_count() -> None:
    pods = Pods(8)
    pods.lie = 50.0
    assert pods.turn(0, 8).demand.reason is FeedReason.FRESH
    pods.lie, pods.counted = 0.0, False
    assert pods.turn(1, 8).demand.reason is FeedReason.FRESH


def test_a_demand_that_is_not_the_pods_own_lacks_nothing() -> None:
    pods = Pods(3)
    pods.counted = False
    assert [pods.turn(m, 8).demand.reason for m in range(3)] == [FeedReason.FRESH] * 3


def test_who_starts_amid_a_partial_scrape_knows_it_at_once() -> None:
    pods = Pods(2)
    state = pods.turn(0, 8)
    assert (state.demand.reason, state.available) == (FeedReason.INCOMPLETE, True)
    assert pods.feed.history.newest(0)[0] < NOW


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_a_reading_that_is_kept_covers_every_pod_that_has_long_been_ready(turns: list[tuple[int, int]]) -> None:
    pods, before = Pods(6), 6
    pods.turn(0, 6)
    for minute, (scraped, ready) in enumerate(turns, 1):
        pods.scraped = scraped
        state = pods.turn(minute, ready)
        kept = pods.feed.history.demand_at(NOW + 60 * minute, 30)
        settled = min(before, ready)
        assert math.isnan(kept) or kept == 20.0 * scraped
        if scraped < settled:
            assert math.isnan(kept)
            assert state.demand.reason is not FeedReason.FRESH or scraped == 0
        elif scraped >= max(ready, 1):
            assert kept == 20.0 * scraped
        before = ready


# ---- sums with an absent part -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("promql", "there", "named"),
    [
        ("sum(busy) + sum(queued)", {"busy"}, ["queued"]),
        ('sum(rate(ok{a="b"}[2m])) + sum(rate(failed{a="b"}[2m])) + sum(lost)', {"ok"}, ['failed{a="b"}', "lost"]),
        ("sum(busy) / scalar(limit)", {"limit"}, ["busy"]),
        ("sum(busy) + sum(queued)", set(), []),
        ("sum(busy)", set(), []),
    ],
)
def test_the_part_that_is_absent_is_named(promql: str, there: set[str], named: list[str]) -> None:
    def say(asked: str, times: list[float]) -> list[Found]:
        part = asked.removeprefix("group(").partition("{")[0].rstrip(")")
        return [({}, [1.0] * len(times))] if asked.startswith("group(") and part in there else []

    source = Saying(say)
    indicator = Indicator("requests", "", 1, "gauge")
    made = Feed(Lying(source), [IndicatorQuery(indicator, promql)], History([indicator], STEP, 40))
    made.reads_past = False
    first, *_, last = refreshed(made, *(m / 2 for m in range(8)))
    for state in (first, last):
        assert state.demand.reason is FeedReason.EMPTY
        assert all(name in state.message for name in named)
        assert ("of its parts" in state.message) is bool(named)
    looks = [a for a in source.asked if a["query"].startswith("group(")]
    assert len(looks) == (len(named) + len(there) if len(named) + len(there) else 2 * ("+" in promql)), "once"
