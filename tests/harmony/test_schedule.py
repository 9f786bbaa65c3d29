"""Bounds for hours of the week: midnight, daylight saving on named dates, several at once."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import UsageError
from harmony.model.objective import Objective
from harmony.model.schedule import Schedule, bounds_in_force

BERLIN = "Europe/Berlin"
EVERY_DAY = frozenset(range(7))


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def window(start: str, end: str, days: frozenset[int] = EVERY_DAY, zone: str = BERLIN, **bounds: int) -> Schedule:
    def minutes(text: str) -> int:
        return int(text[:2]) * 60 + int(text[3:])

    return Schedule("test", zone, days, minutes(start), minutes(end), **(bounds or {"min_replicas": 5}))


@pytest.mark.parametrize(
    ("moment", "active"),
    [
        ("2026-03-02T21:59:59", False),  # a Monday
        ("2026-03-02T22:00:00", True),
        ("2026-03-03T05:59:59", True),  # Tuesday morning belongs to Monday's window
        ("2026-03-03T06:00:00", False),
        ("2026-03-03T23:00:00", False),  # Tuesday's own does not exist
        ("2026-03-02T03:00:00", False),  # nor does Sunday's
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_began(moment: str, active: bool) -> None:
    assert window("22:00", "06:00", frozenset({0})).is_active(at(moment)) is active


def test_equal_ends_are_a_whole_day() -> None:
    monday = window("08:00", "08:00", frozenset({0}))
    assert monday.is_active(at("2026-03-02T08:00"))
    assert monday.is_active(at("2026-03-03T07:59"))
    assert not monday.is_active(at("2026-03-03T08:00"))
    assert window("00:00", "24:00", frozenset({6})).is_active(at("2026-03-01T23:59"))


def test_clocks_going_forward() -> None:
    """In Berlin, 02:00 to 03:00 on 2026-03-29 does not exist."""
    early = window("02:30", "04:00")
    before = at("2026-03-29T01:59:59")
    assert not early.is_active(before)
    assert early.is_active(before + 1)  # 03:00: the window begins when the missing hour is over
    assert not early.is_active(at("2026-03-29T04:00"))
    assert not any(window("02:00", "03:00").is_active(before + s) for s in range(0, 7200, 60))


def test_clocks_going_back() -> None:
    """In Berlin, 02:00 to 03:00 on 2026-10-25 comes twice."""
    late = window("02:00", "03:00")
    active = [late.is_active(at("2026-10-25T01:30") + 60 * m) for m in range(240)]
    assert sum(active) == 120
    assert active.index(True) == 30
    assert late.is_active(at("2026-10-25T02:30", fold=0))
    assert late.is_active(at("2026-10-25T02:30", fold=1))


def test_each_schedule_has_its_own_zone() -> None:
    noon_utc = at("2026-07-01T12:00", "UTC")
    assert window("21:00", "21:01", zone="Asia/Tokyo").is_active(noon_utc)
    assert window("14:00", "14:01").is_active(noon_utc)  # summer time
    assert not window("13:00", "13:01").is_active(noon_utc)


@given(
    st.floats(-1e9, 4e9),
    st.integers(0, 1439),
    st.integers(0, 1440),
    st.sampled_from([BERLIN, "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"]),
)
def test_at_every_moment_a_window_or_its_complement_is_active(now: float, start: int, end: int, zone: str) -> None:
    inside = Schedule("in", zone, EVERY_DAY, start, end, 5)
    if start != end % 1440:
        outside = Schedule("out", zone, EVERY_DAY, end % 1440, start or 1440, 5)
        assert inside.is_active(now) != outside.is_active(now)
    else:
        assert inside.is_active(now)


bound_pairs = st.tuples(st.none() | st.integers(0, 30), st.none() | st.integers(1, 30)).filter(
    lambda b: b != (None, None) and (b[0] is None or b[1] is None or b[0] <= b[1])
)


@given(st.lists(bound_pairs, max_size=4), st.integers(0, 20), st.integers(1, 20))
def test_schedules_only_narrow_and_the_minimum_wins(
    pairs: list[tuple[int | None, int | None]], low: int, extra: int
) -> None:
    high = low + extra
    all_day = [Schedule(str(i), "UTC", EVERY_DAY, 0, 1440, *p) for i, p in enumerate(pairs)]
    least, most = bounds_in_force(all_day, low, high, 0.0)
    assert low <= least <= most <= high
    assert least == min(high, max([low, *(p[0] for p in pairs if p[0] is not None)]))
    assert most == max(least, min([high, *(p[1] for p in pairs if p[1] is not None)]))
    assert bounds_in_force(reversed(all_day), low, high, 0.0) == (least, most)


def test_the_objective_in_force() -> None:
    plain = Objective(min_replicas=1, max_replicas=20)
    assert plain.at(0.0) is plain
    busy = Objective(min_replicas=1, max_replicas=20, schedules=(window("08:00", "18:00", min_replicas=6),))
    assert busy.at(at("2026-03-02T07:59")) is busy
    assert busy.at(at("2026-03-02T08:00")).min_replicas == 6
    assert busy.at(at("2026-03-02T08:00")).at(at("2026-03-02T08:00")).min_replicas == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timezone": "Europe/Berlijn"}, "Berlijn"),
        ({"timezone": "/etc/passwd"}, "time zone"),
        ({"timezone": ""}, "time zone"),
        ({"timezone": "../UTC"}, "time zone"),
        ({"days": frozenset()}, "days"),
        ({"days": frozenset({7})}, "days"),
        ({"start_min": 1440}, "times 1440"),
        ({"min_replicas": None}, "minReplicas, maxReplicas or both"),
        ({"min_replicas": 6, "max_replicas": 5}, "6..5"),
        ({"min_replicas": -1}, "-1"),
        ({"max_replicas": 0, "min_replicas": None}, "0"),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], words: str) -> None:
    values: dict[str, object] = {
        "name": "x", "timezone": "UTC", "days": EVERY_DAY, "start_min": 0, "end_min": 60, "min_replicas": 1
    }  # fmt: skip
    with pytest.raises(UsageError, match=words):
        Schedule(**(values | changes))  # type: ignore[arg-type]
