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
    batch = WindowBatch.from_panel(panel, ends, lookback)
    padded = np.concatenate([np.full((lookback, 2), np.nan), panel.values])
    for end, window, at in zip(ends, batch.values, batch.end_s, strict=True):
        np.testing.assert_array_equal(window, padded[end + 1 : end + 1 + lookback])
        assert at == panel.times_s[end]
    assert batch.seasonal is None


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 60))
def test_seasonal_values_are_the_newest_of_that_phase_already_seen(lag: int, horizon: int, end: int) -> None:
    panel = panel_of(np.arange(61.0)[:, None], step_s=DAY_S / lag)
    batch = WindowBatch.from_panel(panel, [end], 3, horizon=horizon, seasons_s=(DAY_S,))
    assert batch.seasonal is not None
    for h in range(1, horizon + 1):
        known = [row for row in range(end + 1) if (end + h - row) % lag == 0]
        value = batch.seasonal[0, 0, h - 1, 0]
        assert value == known[-1] if known else np.isnan(value)


def test_ends_outside_the_panel_are_refused() -> None:
    panel = wavy(10, 1)
    for ends in ([-1], [10]):
        with pytest.raises(DataError, match=r"rows 0\.\.9"):
            WindowBatch.from_panel(panel, ends, 3)
    with pytest.raises(DataError, match="at least 1 row"):
        WindowBatch.from_panel(panel, [3], 0)
    assert WindowBatch.from_panel(panel, [], 3).values.shape == (0, 3, 1)


def test_windows_of_several_panels_must_match() -> None:
    a, b = wavy(10, 2, seed=1), wavy(15, 2, seed=2)
    batch = WindowBatch.from_panels([a, b], 4, horizon=2)
    np.testing.assert_array_equal(batch.values, np.stack([a.values[-4:], b.values[-4:]]))
    assert batch.end_s.tolist() == [a.end_s, b.end_s]
    for other in (wavy(10, 3), b.replace(step_s=1.0), b.replace(calendar=False)):
        with pytest.raises(DataError, match="differ in"):
            WindowBatch.from_panels([a, other], 4)
    with pytest.raises(DataError, match="no panels"):
        WindowBatch.from_panels([], 4)
    with pytest.raises(DataError, match="empty panel"):
        WindowBatch.from_panels([a.rows(0, 0)], 4)


@given(st.integers(1, 9))
def test_chunks_put_together_are_the_batch(size: int) -> None:
    batch = WindowBatch.from_panel(wavy(20, 2), np.arange(7, 15), 5, horizon=3)
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
