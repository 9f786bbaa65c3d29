from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import DataError
from forecasting.windows import DAY_S, WindowBatch
from tests.forecasting.builders import panel_of, wavy


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 10_000))
def test_windows_are_the_rows_before_and_absent_before_the_first(rows: int, lookback: int, seed: int) -> None:
    panel = wavy(rows, 2, seed=seed)
    ends = np.random.default_rng(seed).integers(0, rows, size=4)
    batch = WindowBatch.of(panel, ends, lookback)
    padded = np.concatenate([np.full((lookback, 2), np.nan), panel.values])
    for end, window, at in zip(ends, batch.values, batch.end_s, strict=True):
        np.testing.assert_array_equal(window, padded[end + 1 : end + 1 + lookback])
        assert at == panel.times_s[end]
    assert batch.seasonal is None


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 60))
def test_seasonal_values_are_the_newest_of_that_phase_already_seen(lag: int, horizon: int, end: int) -> None:
    panel = panel_of(np.arange(61.0)[:, None], step_s=DAY_S / lag)
    batch = WindowBatch.of(panel, [end], 3, horizon=horizon, seasons_s=(DAY_S,))
    assert batch.seasonal is not None
    for h in range(1, horizon + 1):
        known = [row for row in range(end + 1) if (end + h - row) % lag == 0]
        value = batch.seasonal[0, 0, h - 1, 0]
        assert value == known[-1] if known else np.isnan(value)


def test_rows_that_a_panel_does_not_have_are_absent() -> None:
    panel = wavy(10, 1)
    batch = WindowBatch.of(panel, [-1, 11], 3, horizon=1)
    np.testing.assert_array_equal(batch.values[..., 0], [[np.nan] * 3, [panel.values[9, 0], np.nan, np.nan]])
    assert WindowBatch.of(panel.rows(0, 0), [0], 3, horizon=1).values.shape == (1, 3, 1)
    assert WindowBatch.of(panel, [], 3).values.shape == (0, 3, 1)
    with pytest.raises(DataError, match="at least 1 row"):
        WindowBatch.of(panel, [3], 0)


@given(st.integers(-3, 12), st.integers(0, 999))
def test_a_panels_last_complete_row(row: int, part: int) -> None:
    panel = wavy(10, 1).replace(start_s=1_700_000_000.0)
    assert panel.row_at(panel.start_s + (row + part / 1000) * panel.step_s) == row


def test_windows_of_several_services_must_match() -> None:
    a, b = wavy(10, 2, seed=1), wavy(15, 2, seed=2)
    batch = WindowBatch.concat([WindowBatch.of(p, [len(p) - 1], 4, horizon=2) for p in (a, b)])
    np.testing.assert_array_equal(batch.values, np.stack([a.values[-4:], b.values[-4:]]))
    assert batch.end_s.tolist() == [a.end_s, b.end_s]
    first = WindowBatch.of(a, [9], 4)
    for other in (wavy(10, 3), b.replace(step_s=1.0), b.replace(calendar=False)):
        with pytest.raises(DataError, match="differ in"):
            WindowBatch.concat([first, WindowBatch.of(other, [9], 4)])
    with pytest.raises(DataError, match="lookback"):
        WindowBatch.concat([first, WindowBatch.of(a, [9], 5)])
    with pytest.raises(DataError, match="no windows"):
        WindowBatch.concat([])


@given(st.integers(1, 9))
def test_chunks_put_together_are_the_batch(size: int) -> None:
    batch = WindowBatch.of(wavy(20, 2), np.arange(7, 15), 5, horizon=3)
    parts = list(batch.chunks(size))
    assert max(len(p) for p in parts) <= size
    whole = WindowBatch.concat(parts)
    assert whole.seasonal is not None
    assert batch.seasonal is not None
    np.testing.assert_array_equal(whole.values, batch.values)
    np.testing.assert_array_equal(whole.seasonal, batch.seasonal)
    np.testing.assert_array_equal(whole.end_s, batch.end_s)
    assert len(whole) == 8
    assert whole.lookback == 5


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    panel = wavy(5, 2)
    with pytest.raises(DataError, match="expected \\(batch, lookback, 2"):
        WindowBatch(np.ones((1, 3, 1)), panel.indicators, np.zeros(1), 1.0)
    with pytest.raises(DataError, match="end times"):
        WindowBatch(np.ones((2, 3, 2)), panel.indicators, np.zeros(1), 1.0)
