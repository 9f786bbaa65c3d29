from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecasting.errors import DataError, InputError, suggest
from forecasting.panel import Indicator, Panel
from tests.forecasting.builders import panel_of

readings = st.one_of(st.floats(-1e6, 1e6), st.just(float("nan")))
tables = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=readings)


def test_values_are_read_only_and_the_callers_array_is_left_alone() -> None:
    mine = np.ones((3, 1))
    panel = panel_of(mine)
    with pytest.raises(ValueError, match="read-only"):
        panel.values[0, 0] = 2.0
    mine[0, 0] = 5.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.ones((2, 2))}, r"shape \(2, 2\), expected \(times, 1"),
        ({"values": np.array([[1.0], [np.inf]])}, "a is infinite at row 1"),
        ({"step_s": 0.0}, "step 0.0 s is not a positive"),
        ({"step_s": float("nan")}, "not a positive"),
        ({"start_s": float("inf")}, "not a time"),
        ({"indicators": (Indicator("a"), Indicator("a")), "values": np.ones((1, 2))}, "twice: a"),
    ],
)
def test_what_cannot_be_a_panel_is_refused(changes: dict[str, object], message: str) -> None:
    good = panel_of(np.ones((2, 1)))
    with pytest.raises(DataError, match=message):
        good.replace(**changes)


@pytest.mark.parametrize(
    ("bad", "message"), [({"name": ""}, "needs a name"), ({"level": 4}, "level 4"), ({"kind": "x"}, "kind 'x'")]
)
def test_what_cannot_be_an_indicator_is_refused(bad: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Indicator(**({"name": "a"} | bad))  # type: ignore[arg-type]


def test_times_follow_the_grid() -> None:
    panel = panel_of(np.ones((4, 1)), start_s=1000.0, step_s=60.0)
    assert panel.times_s.tolist() == [1000.0, 1060.0, 1120.0, 1180.0]
    assert panel.end_s == 1180.0
    assert panel.start.isoformat() == "1970-01-01T00:16:40+00:00"


@given(tables, st.integers(-15, 15), st.integers(-15, 15))
def test_rows_are_a_slice_with_its_own_start(values: np.ndarray, start: int, stop: int) -> None:
    panel = panel_of(values, names="abcdefghijklmnop")
    part = panel.rows(start, stop)
    np.testing.assert_array_equal(part.values, values[start:stop])
    if len(part):
        assert part.start_s == panel.times_s[slice(start, stop)][0]


def test_an_unknown_column_is_answered_with_near_names() -> None:
    panel = panel_of(np.ones((1, 2)), names=("requests", "memory"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"no indicator 'request'; did you mean 'requests'\?"):
        panel.column("request")
    with pytest.raises(InputError):
        panel.select(["memory", "gone"])


def test_demand_comes_first_and_nothing_else_changes() -> None:
    panel = panel_of(np.arange(6.0).reshape(2, 3))
    turned = panel.with_demand("c")
    assert turned.names == ("c", "a", "b")
    assert turned.indicators[0].level == 1
    np.testing.assert_array_equal(turned.values, panel.values[:, [2, 0, 1]])


def test_counters_become_rates_and_resets_are_handled() -> None:
    values = np.array([[10.0, 1.0], [70.0, 2.0], [np.nan, 3.0], [90.0, 4.0], [30.0, 5.0]])
    indicators = (Indicator("n", "requests", 1, "counter"), Indicator("g", "x", 2))
    rates = Panel(values, indicators, 0.0, 60.0).counters_as_rates()
    # 60 more in 60 s; two steps with a missing end; a fall to 30 is a restart: 30 since then.
    np.testing.assert_allclose(rates.column("n"), [np.nan, 1.0, np.nan, np.nan, 0.5])
    np.testing.assert_array_equal(rates.column("g"), values[:, 1])
    assert rates.indicators[0].kind == "rate"
    assert rates.indicators[0].unit == "requests/s"
    assert rates.counters_as_rates() is rates


@given(tables, st.integers(1, 5))
def test_coarsening_is_the_mean_of_what_was_seen(values: np.ndarray, factor: int) -> None:
    coarse = panel_of(values, names="abcdefghijklmnop").coarsened(factor)
    assert len(coarse) == len(values) // factor
    for i, row in enumerate(coarse.values):
        block = values[i * factor : (i + 1) * factor]
        for k, mean in enumerate(row):
            seen = block[~np.isnan(block[:, k]), k]
            assert np.isnan(mean) if not len(seen) else mean == pytest.approx(seen.mean(), abs=1e-9)


def test_coarsening_needs_a_whole_number_of_rows() -> None:
    with pytest.raises(DataError, match="expected 1 or more"):
        panel_of(np.ones((2, 1))).coarsened(0)


def test_absent_share_counts_missing_readings() -> None:
    assert panel_of(np.array([[1.0, np.nan], [np.nan, np.nan]])).absent_share.tolist() == [0.5, 1.0]
    assert panel_of(np.empty((0, 2))).absent_share.tolist() == [1.0, 1.0]


@given(tables)
def test_equal_data_give_equal_digests(values: np.ndarray) -> None:
    panel = panel_of(values, names="abcdefghijklmnop")
    negative_nan = np.where(np.isnan(values), -np.nan, values)
    assert panel.digest() == panel_of(negative_nan, names="abcdefghijklmnop").digest()
    assert panel.digest() != panel.replace(start_s=1.0).digest()
    changed = np.where(np.isnan(values), 0.0, values + 1)
    assert panel.digest() != panel_of(changed, names="abcdefghijklmnop").digest()


@pytest.mark.parametrize(
    ("name", "choices", "said"),
    [
        ("lod", ["load", "cpu"], "did you mean 'load'?"),
        ("memory", ["mem", "cpu"], "did you mean 'mem'?"),
        ("xyz", ["load", "cpu"], "known: load, cpu"),
        ("xyz", [], ""),
    ],
)
def test_suggestions(name: str, choices: list[str], said: str) -> None:
    assert suggest(name, choices) == said
