"""The part of time that a service's charts show: what the address says, and which turns there are."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import UsageError
from harmony.dashboard import figures
from harmony.dashboard.history import MOST, Course, History
from harmony.dashboard.service import page_of
from harmony.dashboard.states import Ages
from harmony.dashboard.timerange import RECENT, TimeRange
from harmony.dashboard.trail import Trail
from harmony.serving import Hub, Snapshot
from harmony.serving.points import Point
from tests.api.memory import MemoryJournal
from tests.serving import builders

HOUR_S = 3600.0
USUAL = (builders.NOON_S - HOUR_S, builders.NOON_S + 300.0)


def turn(at_s: float) -> Snapshot:
    looked = builders.seen(now_s=at_s)
    return builders.snapshot(record=builders.record(looked))


@given(st.none() | st.integers(60, 400 * 86_400).map(float), st.none() | st.integers(0, 4_000_000_000).map(float))
def test_an_address_says_the_range_that_it_was_made_of(length_s: float | None, until_s: float | None) -> None:
    asked = TimeRange(length_s, until_s)
    read = TimeRange.of(dict(parse_qsl(asked.key)))
    assert read == (asked if length_s or until_s is None else replace(asked, length_s=21_600.0))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"range": "soon"}, "range: 'soon' is no duration; expected a positive one such as 15s"),
        ({"range": "1s"}, "expected from 1m to 400d"),
        ({"range": "9999d"}, "expected from 1m to 400d"),
        ({"to": "yesterday"}, "expected one such as 2026-03-01T12:00:00Z"),
        ({"to": "1969-01-01T00:00:00Z"}, "expected one such as"),
    ],
)
def test_what_is_no_range_is_refused_with_what_would_be(params: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match="expected") as caught:
        TimeRange.of(params)
    assert said in str(caught.value)


def test_earlier_and_later_join_without_gap_and_end_at_the_present() -> None:
    snapshot = turn(builders.NOON_S)
    shown, ends = TimeRange(6 * HOUR_S), []
    for _ in range(3):
        earlier = shown.links(snapshot, USUAL, "/x")[1][0]
        before = TimeRange.of(dict(parse_qsl(earlier.url.partition("?")[2])))
        assert before.span_s(snapshot, USUAL)[1] == shown.span_s(snapshot, USUAL)[0]
        shown = before
        ends.append(before)
    later = [next(link for link in e.links(snapshot, USUAL, "/x")[1] if link.label == "Later").url for e in ends]
    assert later == ["/x?range=6h", f"/x?{ends[0].key}", f"/x?{ends[1].key}"]
    assert [link.label for link in RECENT.links(snapshot, USUAL, "/x")[0] if link.is_current] == ["Recent"]


def test_what_memory_does_not_hold_comes_from_the_journal_once() -> None:
    """A server that has just begun shows what was before it; turns that both know stand once."""
    hub, journal = Hub(), MemoryJournal()
    past = [turn(builders.NOON_S - 60.0 * t) for t in range(120, 0, -1)]
    journal.append(past)
    trail = Trail(hub, lambda: 0.0)
    history = History(trail, journal)
    newest = turn(builders.NOON_S)
    journal.append([newest])
    course = history.of(newest, builders.NOON_S - HOUR_S, builders.NOON_S)
    assert repr(course) == repr(Course([Point.of(s) for s in (*past[59:], newest)]))
    journal.broken = True
    assert history.of(newest, builders.NOON_S - HOUR_S, builders.NOON_S).points == course.points
    trail.close()


def test_a_journal_that_cannot_be_read_is_said_and_memory_is_shown() -> None:
    journal = MemoryJournal()
    journal.broken = True
    trail = Trail(Hub(), lambda: 0.0)
    newest = turn(builders.NOON_S)
    course = History(trail, journal).of(newest, builders.NOON_S - HOUR_S, builders.NOON_S)
    trail.close()
    assert [p.at_s for p in course.points] == [builders.NOON_S]
    assert "cannot be read" in page_of(newest, course, Ages(builders.NOON_S)).note


def test_of_a_week_so_many_turns_are_drawn_as_can_be_seen_and_it_is_said() -> None:
    journal = MemoryJournal()
    newest = turn(builders.NOON_S)
    week_s = 7 * 24 * HOUR_S
    for t in range(1, 7 * 24 * 4):
        journal.append([turn(builders.NOON_S - 900.0 * t)])
    trail = Trail(Hub(), lambda: 0.0)
    newest = turn(builders.NOON_S)
    course = History(trail, journal).of(newest, builders.NOON_S - week_s, builders.NOON_S)
    trail.close()
    assert course.every_s == 1800.0
    assert MOST / 8 < len(course.points) <= MOST
    view = figures.View(builders.NOON_S - week_s, builders.NOON_S)
    page = page_of(newest, course, Ages(builders.NOON_S), view)
    assert "One turn of every 30 min is drawn" in page.note
    ready = next(t for t in page.figures["replicas"].data if t["name"] == "ready")
    assert None not in ready["y"]  # thinned is no gap


def test_a_past_range_has_neither_forecast_nor_present() -> None:
    newest = turn(builders.NOON_S)
    points = [replace(Point.of(newest), at_s=builders.NOON_S - 60.0 * t, ready=t) for t in range(180, 0, -1)]
    view = figures.View(builders.NOON_S - 3 * HOUR_S, builders.NOON_S - 2 * HOUR_S)
    demand, replicas = (draw(newest, points, view) for draw in (figures.demand, figures.replicas))
    assert [t["name"] for t in demand.data] == ["demand", "ready replicas carry"]
    assert "At most" in demand.text
    assert "120 to 180 ready" in replicas.text
    assert "shapes" not in demand.layout
    assert figures.replicas(newest, [], view).text == "Nothing is kept of this time."
    assert "None is known" in figures.demand(newest, [], view).text
