"""`History` against a plain dict of rows, and its windows against those of a panel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.prometheus.history import SLACK_ROWS, History
from forecasting.errors import DataError
from forecasting.panel import Indicator, Panel
from forecasting.windows import WEEK_S, WindowBatch

DEMAND = Indicator("requests", "requests/s", 1, "rate")
QUEUE = Indicator("queue", "requests", 2)
T0 = 1_760_000_040.0 // 60 * 60


def array(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float64)


class Model:
    """The same promises kept slowly: a dict row -> value per column, nothing ever forgotten but what is too old."""

    def __init__(self, columns: int, step: float, lookback: int) -> None:
        self.rows: list[dict[int, float]] = [{} for _ in range(columns)]
        self.newest = [(-math.inf, math.nan)] * columns
        self.head: int | None = None
        self.step, self.keep = step, [lookback + SLACK_ROWS, max(round(WEEK_S / step), lookback) + SLACK_ROWS]

    def write(self, column: int, readings: list[tuple[float, float]]) -> None:
        known = sorted(((t, v) for t, v in readings if math.isfinite(v)), key=lambda r: r[0])
        if not known:
            return
        top = max(math.ceil(t / self.step) for t, _ in known)
        self.head = top if self.head is None else max(self.head, top)
        for t, v in known:
            self.rows[column][math.ceil(t / self.step)] = v
        if known[-1][0] >= self.newest[column][0]:
            self.newest[column] = known[-1]

    def value(self, column: int, row: int, ring: int) -> float:
        if self.head is None or not self.head - self.keep[ring] < row <= self.head:
            return math.nan
        return self.rows[column].get(row, math.nan)


# Times around now, with long gaps, going back, and far too old; on and off the grid of 3600 s.
def window_batch(histories: Sequence[History], now_s: float, horizon: int = 0) -> WindowBatch:
    """The newest windows of these histories, as forecasts read them."""
    return WindowBatch.concat([WindowBatch.of(h, [h.row_at(now_s)], h.lookback, horizon=horizon) for h in histories])


jumps = st.integers(-300 * 3600, 300 * 3600).map(float)
reading = st.tuples(jumps, st.one_of(st.integers(-1000, 1000).map(float), st.just(math.nan)))
calls = st.lists(st.tuples(st.integers(0, 1), st.lists(reading, max_size=6)), max_size=12)


@settings(max_examples=200, deadline=None)
@given(calls=calls, now=jumps, horizon=st.integers(1, 200))
def test_history_keeps_what_a_dict_would(calls: list, now: float, horizon: int) -> None:
    step, lookback = 3600.0, 24
    history, model = History((DEMAND, QUEUE), step, lookback), Model(2, step, lookback)
    base = T0
    for column, readings in calls:
        at = [(base + t, v) for t, v in readings]
        history.write(column, array(*(t for t, _ in at)), array(*(v for _, v in at)))
        model.write(column, at)
    batch = window_batch([history], base + now, horizon)
    row = math.floor((base + now) / step)
    assert batch.end_s[0] == row * step
    expected = [[model.value(c, r, 0) for c in (0, 1)] for r in range(row - lookback + 1, row + 1)]
    np.testing.assert_array_equal(batch.values[0], np.array(expected))
    assert batch.seasonal is not None
    assert np.isnan(batch.seasonal[..., 1]).all()
    for season, lag in enumerate((24, 168)):
        for ahead in range(1, horizon + 1):
            back = row + ahead - lag * math.ceil(ahead / lag)
            np.testing.assert_equal(batch.seasonal[0, season, ahead - 1, 0], model.value(0, back, 1))
    for column in (0, 1):
        np.testing.assert_equal(history.newest(column), model.newest[column])


@settings(max_examples=100, deadline=None)
@given(calls=calls, now=jumps)
def test_forgetting_the_future_leaves_the_past_alone(calls: list, now: float) -> None:
    history = History((DEMAND, QUEUE), 3600.0, 24)
    for column, readings in calls:
        history.write(column, array(*(T0 + t for t, _ in readings)), array(*(v for _, v in readings)))
    before = window_batch([history], T0 + now, 24)
    forgot = history.forget_after(T0 + now)
    after = window_batch([history], T0 + now, 24)
    np.testing.assert_array_equal(after.values, before.values)
    np.testing.assert_array_equal(after.seasonal, before.seasonal)
    assert all(history.newest(c)[0] <= (math.floor((T0 + now) / 3600) + 1) * 3600 for c in (0, 1))
    assert not history.forget_after(T0 + now)
    ahead = window_batch([history], T0 + now + 24 * 3600, 0)
    if forgot:
        assert np.isnan(ahead.values[0, -22:]).all()


def test_windows_equal_those_of_a_panel() -> None:
    rng = np.random.default_rng(3)
    n = 8 * 1440
    values = rng.uniform(0, 100, (n, 2)).astype(np.float32).astype(np.float64)
    values[rng.uniform(size=(n, 2)) < 0.1] = np.nan
    panel = Panel(values, (DEMAND, QUEUE), T0, 60.0)
    history = History((DEMAND, QUEUE), 60.0)
    for column in (0, 1):
        assert history.write(column, panel.times_s, panel.values[:, column]) > 0
    got = window_batch([history, history], panel.end_s + 59.0, 30)
    want = WindowBatch.of(panel, [n - 1], 144, horizon=30)
    np.testing.assert_array_equal(got.values[1], want.values[0])
    assert got.seasonal is not None
    assert want.seasonal is not None
    np.testing.assert_array_equal(got.seasonal[1, ..., 0], want.seasonal[0, ..., 0])
    assert got.end_s.tolist() == [panel.end_s] * 2
    assert got.indicators == panel.indicators


def test_a_step_takes_its_newest_reading_and_ends_with_its_row() -> None:
    history = History((DEMAND,), 60.0, 3)
    history.write(0, array(T0 + 50, T0 + 10, T0 + 61), array(5, 1, 9))
    assert window_batch([history], T0 + 60).values[0, -1, 0] == 5
    assert window_batch([history], T0 + 119).values[0, -1, 0] == 5  # the step of the reading at 61 s is not over
    assert window_batch([history], T0 + 120).values[0, -1, 0] == 9
    assert history.newest(0) == (T0 + 61, 9)
    assert history.demand_at(T0 + 100, 60) == 9
    assert math.isnan(history.demand_at(T0 + 122, 60))
    assert math.isnan(history.demand_at(T0 - 100, 60))
    times, values = history.demand_between(T0, T0 + 180)
    assert times.tolist() == [T0 + 60, T0 + 120, T0 + 180]
    np.testing.assert_array_equal(values, [5, 9, np.nan])


def test_what_is_no_reading_changes_nothing() -> None:
    history = History((DEMAND,), 60.0, 3)
    history.write(0, array(T0), array(4))
    for bad in (math.nan, math.inf, -math.inf, 1e300):
        assert history.write(0, array(T0, T0 + 60), array(bad, bad)) == 0
    for when in (math.nan, math.inf, 1e300):
        assert history.write(0, array(when), array(1)) == 0
    assert history.write(0, array(T0 - 2 * WEEK_S), array(1)) == 0
    assert window_batch([history], T0).values[0, :, 0].tolist()[-1] == 4
    assert history.newest(0) == (T0, 4)


def test_a_source_whose_clock_was_a_year_ahead() -> None:
    history = History((DEMAND,), 60.0, 10)
    history.write(0, T0 + 60 * np.arange(10.0), np.arange(10.0))
    history.write(0, array(T0 + 365 * 86_400), array(99))
    assert history.forget_after(T0 + 600)
    assert math.isnan(history.demand_at(T0 + 600, 1e9))
    history.write(0, T0 + 60 * np.arange(10.0), np.arange(10.0))
    assert history.demand_at(T0 + 600, 60) == 9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: History((), 60.0), "at least one indicator"),
        (lambda: History((DEMAND,), 0.5), "1 to 3600"),
        (lambda: History((DEMAND,), 60.0, 0), "at least 1 row"),
    ],
)
def test_histories_that_cannot_be(make: Callable[[], object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        make()


def test_a_counter_is_kept_as_its_rate() -> None:
    kept = History((Indicator("hits", "requests", 1, "counter"),), 60.0).indicators[0]
    assert (kept.kind, kept.unit) == ("rate", "requests/s")


def test_a_week_of_a_service_takes_45_kb() -> None:
    grid = T0 + 60 * np.arange(7 * 1440.0)
    history = History((DEMAND, QUEUE, Indicator("cache", "", 2)), 60.0)
    assert history.nbytes == 0
    history.write(0, grid, grid % 97)
    for column in (1, 2):
        history.write(column, grid[-144:], grid[-144:] % 11)
    assert history.nbytes <= 45_000
    batch = window_batch([history, history], float(grid[-1]), 30)
    assert not np.isnan(batch.values).any()
