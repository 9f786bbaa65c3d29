"""Rows, states, charts' data, sessions: without a browser."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from harmony.dashboard import figures
from harmony.dashboard.fleet import FleetQuery, fleet, sparkline, table_row
from harmony.dashboard.history import Course
from harmony.dashboard.rendering import reason_words
from harmony.dashboard.service import page_of
from harmony.dashboard.sessions import Sessions
from harmony.dashboard.sliders import sliders
from harmony.dashboard.states import Ages, service_state
from harmony.dashboard.trail import Trail
from harmony.loop.violations import ViolationCounts
from harmony.model.decision import Reason, Tried
from harmony.serving import Snapshot
from harmony.serving.points import Point
from harmony.serving.words import chance
from tests.dashboard.site import Clock, Site
from tests.serving import builders

NOW = Ages(builders.NOON_S)


def deciding(reason: Reason, **changes: object) -> Snapshot:
    """A snapshot whose decision has that reason."""
    turn = builders.record()
    stated = {"violation_probability": changes.pop("risk", 0.04), "price": changes.pop("price", math.nan)}
    turn = replace(turn, decision=replace(turn.decision, reason=reason, replicas=10, **stated))  # type: ignore[arg-type]
    return builders.snapshot(record=turn, **({"ordered": 10, "ready": 10, "desired": 10} | changes))


@pytest.mark.parametrize(
    ("snapshot", "level", "text"),
    [
        (deciding(Reason.FORECAST), "good", "Steady"),
        (deciding(Reason.FORECAST, ready=8), "info", "2 replicas starting"),
        (deciding(Reason.FORECAST, ready=9), "info", "1 replica starting"),
        (deciding(Reason.FORECAST, desired=12), "info", "Scaling up to 12"),
        (deciding(Reason.FORECAST, desired=7), "info", "Scaling down to 7"),
        (deciding(Reason.FORECAST, ordered=12, desired=12, ready=12), "info", "Would remove 2"),
        (deciding(Reason.FORECAST, held_by="paused"), "warn", "Paused"),
        (deciding(Reason.MAX_REPLICAS), "warn", "At the maximum"),
        (deciding(Reason.FORECAST, effective_mode="UpOnly"), "warn", "Stepped back to UpOnly"),
        (deciding(Reason.UNREACHABLE), "bad", "Objective out of reach"),
        (deciding(Reason.ABSENT_DATA, effective_mode="UpOnly"), "bad", "Data absent, count held"),
        (deciding(Reason.FALLBACK), "bad", "Fallback: data absent"),
        (
            deciding(Reason.FORECAST, conditions=({"type": "AbleToScale", "status": "False", "reason": "Refused"},)),
            "bad",
            "AbleToScale: Refused",
        ),
    ],
)
def test_the_most_urgent_thing_is_said(snapshot: Snapshot, level: str, text: str) -> None:
    state = service_state(snapshot, NOW)
    assert (state.level, state.text) == (level, text)


@pytest.mark.parametrize(("violated", "kept", "above", "attention"), [(200, 1, 0, 0), (210, 1, 1, 0), (500, 0, 0, 1)])
def test_what_is_red_calls_for_attention_and_chance_is_neither(
    violated: int, kept: int, above: int, attention: int
) -> None:
    """Of 4000 steps 5 % may be violated: 210 of them is within chance, 500 is not."""
    shown = fleet([builders.snapshot(violations=ViolationCounts(4000, violated))], FleetQuery(), NOW)
    assert (shown.objectives_kept, shown.objectives_above, shown.attention) == (kept, above, attention)
    assert shown.rows[0].snapshot.breaks_objective == (shown.rows[0].state.text == "Objective not kept")


def test_a_price_may_take_more_than_the_objective_at_a_time() -> None:
    assert service_state(deciding(Reason.FORECAST, risk=0.06), NOW).text == "Stated risk too high"
    assert service_state(deciding(Reason.FORECAST, risk=0.06, price=92.8), NOW).text == "Steady"
    assert service_state(deciding(Reason.FORECAST, risk=0.26, price=92.8), NOW).text == "Stated risk too high"


def test_a_price_and_a_fixed_level_give_reasons_of_their_own() -> None:
    record = builders.record()
    decision = replace(record.decision, reason=Reason.FORECAST)
    assert "worth more than it costs" in reason_words(replace(record, decision=replace(decision, price=0.5)))
    assert "keep the objective" in reason_words(replace(record, decision=replace(decision, price=math.nan)))


def test_overdue_turns_are_stale_whatever_else() -> None:
    snapshot = deciding(Reason.FORECAST)
    limit = NOW.stale_after_s(snapshot)
    assert limit >= 90
    assert service_state(snapshot, Ages(snapshot.at_s + limit)).level == "good"
    assert service_state(snapshot, Ages(snapshot.at_s + limit + 1)).text.startswith("Stale for")
    assert Ages(snapshot.at_s - 5).age_s(snapshot) == 0.0


def test_a_demo_is_as_old_as_its_viewer_is() -> None:
    site = Site()
    trail = Trail(site.hub, site.clock.monotonic_s)
    site.hub.publish([builders.snapshot(kind="Demo")])
    trail.close()
    site.clock.monotonic += 2.0
    assert trail.is_simulated
    ages = Ages(trail.now_s(60.0), 60.0)
    assert ages.age_s(builders.snapshot()) == pytest.approx(2.0)


def test_gaps_stay_gaps_in_the_sparkline() -> None:
    assert sparkline([1.0, math.nan, math.nan]) == ""
    assert sparkline([1.0, 2.0, math.nan, 3.0, 4.0]).count("M") == 2
    assert sparkline([math.inf, 1.0, 2.0]).count("M") == 1
    assert "nan" not in sparkline([0.0, 0.0, 0.0])


def test_none_of_the_paths_is_no_zero() -> None:
    assert chance(0.0, 200) == "< 0.5 %"
    assert chance(0.01, 200) == "1 %"
    assert chance(None, 200) == "unknown"


def test_savings_that_were_not_counted_are_absent() -> None:
    assert table_row(builders.snapshot(shadow_s=0.0, gpu_hours_saved=0.0), NOW).saved_hours is None
    row = table_row(builders.snapshot(), NOW)
    assert row.saved_hours == 12.25
    assert row.saved_money == 12.25 * row.snapshot.record.observation.objective.price_per_gpu_hour


def test_totals_are_over_the_whole_fleet_and_pages_hold_what_was_asked() -> None:
    many = [builders.snapshot(f"many/s{i:03d}", ordered=1, ready=1) for i in range(250)]
    shown = fleet(many, FleetQuery.of({"q": "S1", "sort": "service", "dir": "desc", "page": "9"}), NOW)
    assert (shown.total, shown.found, shown.pages, len(shown.rows)) == (250, 100, 1, 100)
    assert shown.rows[0].snapshot.service == "many/s199"
    assert shown.ready == 250


def test_missing_turns_are_gaps_in_the_charts() -> None:
    long = {"history_s": builders.NOON_S + 60.0 * np.arange(-59, 1), "history": np.full(60, 900.0)}
    snapshot = builders.snapshot(**long)
    at = snapshot.at_s
    step = snapshot.record.observation.interval_s
    points = [Point(at - t * step, 5, 5, 5, 100.0) for t in (30, 29, 28, 1, 0)]
    ready = next(t for t in figures.replicas(snapshot, points).data if t["name"] == "ready")
    assert ready["y"] == [5, 5, 5, None, 5, 5]


def test_a_turn_without_a_forecast_has_no_fan_and_says_so() -> None:
    looked = builders.seen(demand=math.nan, forecast=None)
    snapshot = builders.snapshot(record=builders.record(looked), history=np.full(5, np.nan))
    figure = figures.demand(snapshot, [Point.of(snapshot)])
    assert "There is no forecast" in figure.text
    assert {t.get("name") for t in figure.data} == {"demand", "ready replicas carry", "recommended would carry"}
    assert set(next(t for t in figure.data if t["name"] == "demand")["y"]) == {None}
    assert figures.candidates(snapshot) is None
    assert figures.calibration(builders.snapshot(coverage={0.8: math.nan})) is None


def test_what_the_forecast_is_made_of_is_one_bar_and_one_sentence() -> None:
    snapshot = builders.snapshot()
    assert figures.experts(snapshot) is None, "this model does not say"
    looked = snapshot.record.observation
    assert looked.forecast is not None
    shape = looked.forecast.paths.shape[1:]
    experts = {"newest value": np.full(shape, 0.25), "learned averages": np.full(shape, 0.75)}
    told = builders.snapshot(
        record=builders.record(replace(looked, forecast=replace(looked.forecast, experts=experts)))
    )
    figure = figures.experts(told)
    assert figure is not None
    assert figure.text == "The forecast is made of learned averages (75 %) and newest value (25 %)."
    assert [bar["x"] for bar in figure.data] == [[0.75], [0.25]]


def test_the_choice_is_among_the_candidates_that_are_shown() -> None:
    rows = figures.shown_candidates(builders.snapshot())
    assert len(rows) <= 25
    assert [r["replicas"] for r in rows if r["chosen"]] == [builders.record().decision.replicas]
    assert all(r["keeps"] == (r["violation_probability"] <= 0.05 * (1 + 1e-9)) for r in rows)


def test_sliders_hold_what_is_set() -> None:
    for slider in sliders(builders.snapshot()):
        assert slider.min <= slider.value <= slider.max
        assert slider.min < slider.max


def test_sessions_are_few_and_end() -> None:
    clock = Clock()
    sessions = Sessions(clock.monotonic_s)
    cookie = sessions.begin("key")
    other = Sessions(clock.monotonic_s)
    assert sessions.key(cookie) == "key"
    assert other.key(cookie) is None
    for _ in range(7):
        clock.monotonic += 6000
        assert (sessions.key(cookie) == "key") == (clock.monotonic <= 1000 + 12 * 3600)
    assert sessions.key(cookie) == "key"
    clock.monotonic += 6000
    assert sessions.key(cookie) is None


def test_the_error_budget_is_drawn_where_one_is_kept() -> None:
    """What is left over time, overspent or not; nothing for a policy that keeps no budget."""
    plain = builders.snapshot()
    assert figures.budget(plain, [Point.of(plain)]) is None
    turn = builders.record()
    spent = builders.snapshot(record=replace(turn, decision=replace(turn.decision, budget_left=-0.25, burn_rate=3.0)))
    now = Point.of(spent)
    before = replace(now, at_s=now.at_s - turn.observation.interval_s, budget_left=0.1)
    drawn = figures.budget(spent, [before, now])
    assert drawn is not None
    assert [line["y"] for line in drawn.data] == [[0.1, -0.25]]
    assert drawn.layout["yaxis"]["range"][0] < -0.25
    assert page_of(spent, Course([before, now]), NOW).budget == {"left": -0.25, "burn": 3.0, "price": None}


@pytest.mark.parametrize(
    ("left", "said"), [(0.97, "Within the band"), (0.99, "Less is spent"), (0.9, "More is spent than chance")]
)
def test_the_budget_lies_in_a_band_that_is_drawn_and_said(left: float, said: str) -> None:
    turn = builders.record()
    decision = replace(turn.decision, budget_left=left, budget_least=0.95, budget_most=0.98)
    shown = builders.snapshot(record=replace(turn, decision=decision))
    drawn = figures.budget(shown, [Point.of(shown)])
    assert drawn is not None
    assert [line["y"] for line in drawn.data] == [[0.95], [0.98], [left]]
    assert said in drawn.text
    assert "95 % to 98 %" in drawn.text


def test_what_else_was_tried_is_a_table_of_what_would_have_been() -> None:
    """Every family's best with what it would have cost by the hour, and why it is (not) in force."""
    turn = builders.record()
    tried = Tried(
        np.array(["price on ridge", "price on forecast", "reactive", "percentile", "percentile 90"]),
        np.array(["a", "b", "c", "d", "e"]),
        np.array([10.0, 12.0, 9.7, 8.0, 30.2]),
        np.array([0.009, 0.01, 0.01, 0.02, 0.001]),
        allowed=0.01,
    )
    rows = page_of(
        builders.snapshot(record=replace(turn, decision=replace(turn.decision, tried=tried))), Course([]), NOW
    ).tried
    hourly = turn.observation.objective.replica_price_per_hour
    assert [r["cost"] for r in rows] == pytest.approx(
        [10.0 * hourly, 12.0 * hourly, 9.7 * hourly, 8.0 * hourly, 30.2 * hourly]
    )
    assert [r["why"] for r in rows] == [
        "in force", "needs 20 % more", "saves too little: a rule of thumb must save 5 %", "breaks the budget",
        "needs 202 % more",
    ]  # fmt: skip
    assert page_of(builders.snapshot(), Course([]), NOW).tried == []
