"""Panels from the frames that people have: pandas (the real one), polars, and Nixtla's long shape."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting import Forecaster, Panel
from forecasting.errors import DataError
from forecasting.frames import panels_of

START = datetime(2026, 1, 5, tzinfo=UTC)
Maker = Callable[[dict[str, Any]], Any]
MAKERS: list[Maker] = [pd.DataFrame, pl.DataFrame]


def minutes(*at: float, zone: bool = True) -> list[datetime]:
    return [(START if zone else START.replace(tzinfo=None)) + timedelta(minutes=m) for m in at]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("zone", [True, False])
def test_rows_in_any_order_gaps_and_empty_cells_are_absent(make: Maker, zone: bool) -> None:
    frame = make({"rps": [4.0, 1.0, 2.0], "time": minutes(3, 0, 1, zone=zone), "busy": [7, 5, None]})
    panel = Panel.of(frame)
    assert (panel.names, panel.start_s, panel.step_s) == (("rps", "busy"), START.timestamp(), 60.0)
    assert [i.level for i in panel.indicators] == [1, 2]
    np.testing.assert_array_equal(panel.column("rps"), [1, 2, np.nan, 4])
    np.testing.assert_array_equal(panel.column("busy"), [5, np.nan, np.nan, 7])
    assert Panel.of(frame, demand="busy").names == ("busy", "rps")
    assert len(Panel.of(frame, step_s=30)) == 7


def test_pandas_times_may_be_the_index_and_local() -> None:
    index = pd.DatetimeIndex(minutes(0, 5, 10)).tz_convert("Asia/Tokyo")
    panel = Panel.of(pd.DataFrame({"rps": [1.0, 2.0, 3.0]}, index=index))
    assert (panel.start_s, panel.step_s) == (START.timestamp(), 300.0)


@given(seed=st.integers(0, 10_000), rows=st.integers(2, 40), holes=st.floats(0, 0.5))
@settings(max_examples=40, deadline=None)
def test_a_frame_of_a_panel_is_that_panel(seed: int, rows: int, holes: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 2))
    values[rng.random(values.shape) < holes] = np.nan
    stamps = np.datetime64("2026-01-05", "ns") + np.arange(rows) * np.timedelta64(15, "s")
    turn = rng.permutation(rows)
    frames = [make({"ds": stamps[turn], "a": values[turn, 0], "b": values[turn, 1]}) for make in MAKERS]
    for panel in map(Panel.of, frames):
        np.testing.assert_array_equal(panel.values, values)
        assert panel.step_s == 15.0


@pytest.mark.parametrize("make", MAKERS)
def test_a_long_frame_is_a_panel_a_service(make: Maker) -> None:
    stamps = minutes(0, 1, 0, 1, 2)
    frame = make({"unique_id": list("bbaaa"), "ds": stamps, "x": [9, 8, 7, 6, 5], "y": [1.0, 2.0, 3.0, 4.0, 5.0]})
    found = panels_of(frame)
    assert list(found) == ["b", "a"]
    assert [p.names for p in found.values()] == [("y", "x")] * 2
    np.testing.assert_array_equal(found["a"].values, [[3, 7], [4, 6], [5, 5]])
    with pytest.raises(DataError, match="holds 2 services"):
        Panel.of(frame)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"rps": [1.0, 2.0]}, "no columns of dates; expected one, named ds, timestamp"),
    ({"ds": [1, 2], "y": [1.0, 2.0]}, "expected dates such as pandas.to_datetime"),
    ({"ds": ["2026-01-01", "2026-01-02"], "y": [1.0, 2.0]}, "expected dates such as"),
    ({"ds": minutes(0, 1)}, "no column besides the time"),
    ({"ds": minutes(0, 1), "who": ["a", "b"]}, "column 'who' is of type .*expected numbers"),
    ({"ds": minutes(0, 0), "y": [1.0, 2.0]}, "2026-01-05T00:00:00Z comes 2 times"),
    ({"ds": minutes(0), "y": [1.0]}, "do not say what the step is"),
    ({"ds": minutes(0, 1, 2, 2.5), "y": [1.0] * 4}, "00:02:30Z lies between two steps of 60 s"),
    ({"ds": minutes(0, 1, 2, 9e6), "y": [1.0] * 4}, "nearly all of the steps of 60 s empty"),
    ({"ds": [START, None, START], "y": [1.0] * 3}, "a row without a time"),
    ({"ds": minutes(0, 1), "y": [1.0, float("inf")]}, "y is infinite at row 1"),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("columns", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_what_cannot_be_read_is_told_in_one_line(make: Maker, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Panel.of(make(columns))
    assert "\n" not in str(caught.value)


def test_predict_takes_a_panel_and_every_frame() -> None:
    base = Forecaster.base()
    stamps = [START + timedelta(minutes=m) for m in range(200)]
    load = [20 + m % 30 for m in range(200)]
    frame = {"ds": stamps, "y": load}
    panel = Panel.of(pl.DataFrame(frame))
    expected = base.predict(panel, 4, samples=20)
    assert (expected.horizon, expected.samples, expected.names) == (4, 20, ("y",))
    assert expected.origin_s == stamps[-1].timestamp()
    for make in MAKERS:
        wide = base.predict(make(frame), 4, samples=20)
        np.testing.assert_array_equal(wide.paths, expected.paths)
        long = base.predict(make(frame | {"unique_id": ["chat"] * 200}), 4, samples=20)
        assert list(long) == ["chat"]
        np.testing.assert_array_equal(long["chat"].paths, expected.paths)
    with pytest.raises(DataError, match="a list cannot be forecast from; expected a Panel"):
        base.predict([1.0, 2.0], 4)  # type: ignore[call-overload]


def test_a_service_that_cannot_be_read_costs_no_other_its_forecast() -> None:
    stamps, load = minutes(*range(60)), [20.0 + m % 30 for m in range(60)]
    whole = {"unique_id": ["chat"] * 60, "ds": stamps, "y": load}
    more = {"unique_id": ["new", *whole["unique_id"]], "ds": [START, *stamps], "y": [1.0, *load]}
    base = Forecaster.base()
    expected = base.predict(pl.DataFrame(whole), 2, samples=10)
    with pytest.warns(UserWarning, match="services without a forecast: new: .*do not say what the step is"):
        found = base.predict(pl.DataFrame(more), 2, samples=10)
    assert isinstance(found, dict)
    assert isinstance(expected, dict)
    assert list(found) == ["chat"]
    np.testing.assert_array_equal(found["chat"].paths, expected["chat"].paths)
    with pytest.raises(DataError, match=r"new: .*do not say what the step is"):
        base.predict(pl.DataFrame(more)[:1], 2)  # nobody is left
    with pytest.raises(DataError, match="do not say what the step is"):
        panels_of(pl.DataFrame(more))
    with pytest.raises(DataError, match="no indicator 'z'"):
        base.predict(pl.DataFrame(whole), 2, only=["z"])


ODD: list[tuple[Any, str]] = [
    (pl.LazyFrame({"ds": minutes(0, 1), "y": [1.0, 2.0]}), "a LazyFrame holds no rows yet; give what its collect"),
    (pd.DataFrame([[1.0], [2.0]], index=pd.to_datetime(minutes(0, 1))), "column 1 is named 0; expected text"),
    (
        pd.DataFrame([[1.0, 2.0]] * 2, index=pd.to_datetime(minutes(0, 1)), columns=["a", "a"]),
        "two columns are named 'a'",
    ),
    (pl.DataFrame({"unique_id": ["a", None], "ds": minutes(0, 1), "y": [1.0, 2.0]}), "a row without a service"),
    (pd.DataFrame({"unique_id": ["a", None], "ds": minutes(0, 1), "y": [1.0, 2.0]}), "a row without a service"),
]


@pytest.mark.filterwarnings("ignore:Determining the column names")
@pytest.mark.parametrize(("frame", "message"), ODD, ids=[message[:20] for _, message in ODD])
def test_frames_by_whose_names_nothing_is_found_are_told(frame: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Forecaster.base().predict(frame, 2)


def test_only_lists_of_panels_are_learned_from() -> None:
    frame = pl.DataFrame({"ds": minutes(*range(200)), "y": [float(m % 30) for m in range(200)]})
    for learn in (lambda what: Forecaster().fit(what, lookback=24, horizon=2), Forecaster.base().update):
        for what, message in (
            ([frame], r"a DataFrame cannot .* list of panels, such as \[Panel.of\(frame\)\]"),
            (frame, r"a DataFrame cannot .* list of panels, such as \[Panel.of\(frame\)\]"),
            (Panel.of(frame), r"a Panel cannot .* such as \[panel\]"),
        ):
            with pytest.raises(DataError, match=message):
                learn(what)
    for only in ("y", []):
        with pytest.raises(DataError, match=r"only is .*; expected a list of names"):
            Forecaster.base().predict(frame, 2, only=only)


def test_what_was_always_zero_is_foretold_without_dust() -> None:
    stamps = [START + timedelta(minutes=m) for m in range(200)]
    found = Forecaster.base().predict(pl.DataFrame({"ds": stamps, "never_seen": [0.0] * 200}), 6, samples=50)
    assert (found.paths == 0).all()
