"""Reduction of long series, ticks in words, colours, and the part of a trace that is shown close up."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecasting.distribution import ForecastDistribution
from forecasting.panel import Indicator, Panel
from simulator.charts.axes import amount_label, duration_label, moment, percent_label, time_ticks
from simulator.charts.forecast import forecast_figure
from simulator.charts.palette import KNOWN, ROLES, policy_styles
from simulator.charts.svg import draw
from simulator.charts.thinning import bin_edges, bin_extremes, bins_with, extreme_rows
from simulator.charts.timelines import demand_figure
from simulator.charts.view import WIDE, ChartView, busiest_window, display_name, fan_with_gaps
from tests.simulator.fake_result import fake_result

SERIES = hnp.arrays(np.float64, st.integers(1, 400), elements=st.floats(-1e6, 1e6) | st.just(np.nan))


# ---- thinning ---------------------------------------------------------------------------------------------------
@given(SERIES, st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_every_bin_shows_its_extremes_and_its_gaps(values: Any, bins: int) -> None:
    rows = extreme_rows(values, bins)
    assert (np.diff(rows) > 0).all()
    assert rows[0] == 0
    assert rows[-1] == values.size - 1
    assert rows.size <= max(2 * bins + 2, 1) or values.size <= 2 * bins
    for lo, hi in itertools.pairwise(bin_edges(values.size, bins)):
        part = values[lo:hi]
        kept = values[rows[(rows >= lo) & (rows < hi)]]
        assert kept.size
        if np.isnan(part).all():
            assert np.isnan(kept).all()
        else:
            assert np.nanmin(kept) == np.nanmin(part)
            assert np.nanmax(kept) == np.nanmax(part)


@given(SERIES, st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_bands_never_lose_width(values: Any, bins: int) -> None:
    starts, low, high = bin_extremes(values - 1.0, values + 1.0, bins)
    assert starts.size == low.size == high.size <= max(2 * bins, bins)
    if not np.isnan(values).all():
        assert np.nanmin(low) == np.nanmin(values) - 1.0
        assert np.nanmax(high) == np.nanmax(values) + 1.0
    else:
        assert np.isnan(low).all()


@given(hnp.arrays(np.bool_, st.integers(0, 300)), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_marks_cover_every_miss_and_nothing_far_from_one(flags: Any, bins: int) -> None:
    covered = np.zeros(flags.size, dtype=bool)
    runs = bins_with(flags, bins)
    for start, stop in runs:
        assert flags[start:stop].any()
        covered[start:stop] = True
    assert covered[flags].all()
    assert len(runs) <= bins + 1
    if flags.size <= 2 * bins:
        np.testing.assert_array_equal(covered, flags)


def test_absent_demand_is_a_gap_in_the_drawing_never_zero() -> None:
    for steps in (1_000, 20_000):
        result = fake_result(steps, step_s=60.0, absent=(100, 250))
        view = ChartView(result, result.scored_from, steps, WIDE)
        figure = draw(lambda view=view: demand_figure(view, []))
        (line,) = [a for a in figure.axes[0].lines if a.get_color() == ROLES["demand"][0]]
        x, y = line.get_xdata(), line.get_ydata()
        inside = (x >= 110 * 60) & (x < 240 * 60)
        assert inside.any()
        assert np.isnan(y[inside]).all()
        assert np.nanmin(y) > 0


def test_forecasts_that_pause_leave_a_gap() -> None:
    x, y = fan_with_gaps(np.array([0, 5, 10, 100, 105]), np.arange(5.0))
    np.testing.assert_array_equal(x, [0, 5, 10, 10, 100, 105])
    assert np.isnan(y[3])
    assert fan_with_gaps(np.array([3]), np.ones(1))[0].size == 1


# ---- words ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.25, "0.25 s"), (42, "42 s"), (300, "5 min"), (5_400, "1 h 30 min"), (86_400, "1 d"),
     (97_200, "1 d 3 h"), (86_460, "1 d"), (8_640_000, "100 d"), (float("nan"), "-")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration_label(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0%"), (0.01, "1%"), (0.0082, "0.82%"), (0.1244, "12.4%"), (0.5, "50%"), (1, "100%"), (0.00004, "0.004%"),
     (1e-9, "under 0.0001%"), (0.001, "0.1%"), (0.2, "20%")],
)  # fmt: skip
def test_percentages(share: float, text: str) -> None:
    assert percent_label(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (950, "950"), (1_500, "1,500"), (35_000, "35k"), (2.5e6, "2.5M"), (1e-5, "1.0e-05")],
)
def test_amounts(value: float, text: str) -> None:
    assert amount_label(value) == text


@given(st.floats(0, 2e9), st.floats(1.0, 1e8), st.integers(3, 12), st.booleans())
@settings(max_examples=200, deadline=None)
def test_ticks_are_few_round_and_inside(start: float, span: float, most: int, calendar: bool) -> None:
    ticks = time_ticks(start, span, most, calendar=calendar)
    assert len(ticks) <= most + 1
    assert len(ticks) >= 1 or span < 5
    assert all(-1e-3 <= at <= span + 1e-3 for at, _ in ticks)
    gaps = np.diff([at for at, _ in ticks])
    assert gaps.size == 0 or np.ptp(gaps) < 1e-3


def test_tick_labels() -> None:
    midnight = 1_709_251_200.0  # 1 March 2024
    assert [t for _, t in time_ticks(midnight - 3 * 3600, 12 * 3600, 5, calendar=True)] == [
        "21:00", "1 Mar", "03:00", "06:00", "09:00",
    ]  # fmt: skip
    assert [t for _, t in time_ticks(36 * 3600, 86_400, 2, calendar=False)] == ["36 h", "48 h", "60 h"]
    assert time_ticks(36 * 3600, 5 * 86_400, 3, calendar=False) == [
        (43_200.0, "2 d"),
        (216_000.0, "4 d"),
        (388_800.0, "6 d"),
    ]
    assert moment(midnight, calendar=True) == "1 Mar 2024 00:00 UTC"
    assert moment(90_000.0, calendar=False) == "1 d 1 h"


def test_names_are_made_fit_for_pictures() -> None:
    assert display_name("harmony") == "HARMONY"
    assert display_name("x" * 50) == "x" * 27 + "…"
    assert display_name("a\x00\nb") == "a  b"
    assert display_name("\ud800") == "?"
    assert display_name(" ") == "(no name)"


# ---- colours ----------------------------------------------------------------------------------------------------
def contrast(a: str, b: str) -> float:
    """WCAG contrast of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("role", [r for r in ROLES if r not in ("grid", "axis")])
def test_colours_can_be_read_in_both_themes(role: str) -> None:
    light, dark = ROLES[role]
    assert contrast(light, "#ffffff") >= 4.5
    assert contrast(dark, "#171c24") >= 4.5


def test_policies_differ_in_more_than_colour() -> None:
    styles = policy_styles([*KNOWN, "a", "b", "c", "d"])
    looks = [(s.dash, s.role) for s in styles.values()]
    assert len(set(looks)) == len(looks)
    assert len({s.dash for n, s in styles.items() if n in KNOWN}) == len(KNOWN)
    assert len({s.marker for s in styles.values()}) == len(styles)
    assert policy_styles(["hpa"])["hpa"] == styles["hpa"]  # whatever else is in the picture


# ---- close up ---------------------------------------------------------------------------------------------------
def test_close_up_holds_the_steepest_rise() -> None:
    result = fake_result(20_000, step_s=60.0)
    demand = result.demand.copy()
    at = 17_000
    demand[at : at + 60] += 500.0
    found = busiest_window(replace(result, demand=demand))
    assert found is not None
    assert found[0] < at < found[1]
    assert result.scored_from <= found[0] < found[1] <= 20_000
    assert 6 <= (found[1] - found[0]) / 60 <= 24


def test_no_close_up_without_rise_or_room() -> None:
    assert busiest_window(fake_result(100, step_s=60.0)) is None
    long = fake_result(20_000, step_s=60.0)
    assert busiest_window(replace(long, demand=np.full(20_000, np.nan))) is None
    assert busiest_window(replace(long, demand=np.full(20_000, 3.0))) is None
    assert busiest_window(replace(long, demand=np.linspace(500, 3, 20_000))) is None


@given(seed=st.integers(0, 1000), slope=st.floats(-0.2, 0.2), wobble=st.floats(0, 30))
@settings(max_examples=30, deadline=None)
def test_what_is_shown_as_a_rise_leads_higher_than_before(seed: int, slope: float, wobble: float) -> None:
    result = fake_result(2_500, step_s=60.0)
    rng = np.random.default_rng(seed)
    demand = 600 + slope * np.arange(2_500) + wobble * rng.normal(size=2_500)
    found = busiest_window(replace(result, demand=demand))
    if found is None:
        return
    shown, half = demand[slice(*found)], (found[1] - found[0]) // 2
    lead = round(result.lead_time_s / 60)
    rises = [
        i for i in range(result.scored_from, 2_500 - lead)
        if demand[i + lead] > demand[i]
        and demand[i : i + half].max() > demand[max(result.scored_from, i - half + 1) : i + 1].max()
    ]  # fmt: skip
    steepest = max(rises, key=lambda i: demand[i + lead] - demand[i])
    assert found[0] <= steepest < steepest + lead < found[1]
    assert shown.size >= 48


def test_a_wobble_of_a_fall_is_no_rise() -> None:
    result = fake_result(2_500, step_s=60.0)
    demand = np.concatenate([np.full(1_200, 50.0), np.linspace(50, 90, 100), np.linspace(900, 100, 1_200)])
    demand[1_290:1_300] = np.linspace(90, 900, 10)  # before the scored part, or at its edge
    demand[2_000] += 60.0  # what the steepest gain is, halfway down
    found = busiest_window(replace(result, demand=demand, scored_from=1_300))
    assert found is None


# ---- a forecast -------------------------------------------------------------------------------------------------
def forecast_axes(absent: int, *, calendar: bool = True) -> list[Any]:
    """Of a picture after ``absent`` rows of ten minutes in which nothing was read."""
    values = 50 + 10 * np.sin(np.arange(1000) / 20)[:, None]
    values[len(values) - absent :] = np.nan
    panel = Panel(values, (Indicator("rps"),), 1.6e9, 600.0, calendar=calendar)
    paths = np.full((5, 6, 1), 50.0)
    found = ForecastDistribution(paths, panel.indicators, float(panel.times_s[-1]), 600.0)
    return list(draw(lambda: forecast_figure(panel, found, [0.1, 0.5, 0.9])).axes)


@pytest.mark.parametrize(("absent", "rows", "visible"), [(0, 36, 36), (10, 36, 26), (300, 445, 145), (1000, 36, 0)])
def test_what_was_seen_last_is_in_the_picture_after_an_outage(absent: int, rows: int, visible: int) -> None:
    seen = forecast_axes(absent)[0].lines[0]
    assert seen.get_label() == "seen"
    drawn = np.asarray(seen.get_ydata())
    assert (len(drawn), int(np.isfinite(drawn).sum())) == (rows, visible)


def test_the_axis_says_utc_where_there_is_a_calendar() -> None:
    assert forecast_axes(0)[-1].get_xlabel() == "UTC"
    assert forecast_axes(0, calendar=False)[-1].get_xlabel() == ""
