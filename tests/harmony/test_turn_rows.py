"""Rows of the past in blocks: the same numbers as plain arrays, in little memory."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.specialists import LeadGrid
from harmony.decision.budget import HOUR_S, ErrorBudget
from harmony.decision.past.blocks import Blocks
from harmony.decision.past.own_past import Keeping, OwnPast, TurnRow
from harmony.decision.past.portfolio import Portfolio
from harmony.decision.past.turn_rows import TurnRows
from harmony.policies.harmony import SERVED, HarmonyPolicy

LAWS = settings(max_examples=100, deadline=None)
STEP_S, DAY = 60.0, 1440
BYTES = 225_000  # of one service's past after some weeks of minutes
BYTES_AT_START = 120_000  # ... and when a week of demand has just been replayed

doings = st.lists(
    st.tuples(st.sampled_from(["more", "equal", "newest", "blank", "branch"]), st.integers(0, 40)), max_size=12
)


@LAWS
@given(doings, st.sampled_from([np.float64, np.float32, np.float16]))
def test_blocks_are_the_rows_that_were_put_in(did: list[tuple[str, int]], kind: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    series, plain, before = Blocks.empty(2, kind, block=8), np.empty((0, 2), kind), []
    for what, n in did:
        if what in ("more", "equal"):
            more = (np.full((n, 2), n) if what == "equal" else rng.random((n, 2))).astype(kind)
            series, plain = series.extended(more), np.concatenate([plain, more])
        elif what == "newest":
            series, plain = series.newest(n), plain[max(0, len(plain) - n) :]
        elif what == "blank":
            series = series.blank_before(n)
            gone = np.isnan(series.rows[:, 0])
            assert np.array_equal(gone[n:], np.isnan(plain[n:, 0]))
            plain = np.where(gone[:, None], np.nan, plain).astype(kind)
        elif before:
            series, plain = before[n % len(before)]
        before.append((series, plain))
        for old, rows in before:
            assert len(old) == len(rows)
            assert np.array_equal(old.rows, rows, equal_nan=True)
            for start, stop in ((0, None), (n // 2, n), (n, None)):
                assert np.array_equal(old.column(1, start, stop), rows[start:stop, 1], equal_nan=True)


def test_blanks_and_equal_rows_take_no_memory() -> None:
    rows = np.random.default_rng(0).random((100, 4))
    gone = Blocks.empty(4, block=10).extended(rows).blank_before(57)
    assert np.isnan(gone.rows[:50]).all()
    assert np.array_equal(gone.rows[50:], rows[50:])
    assert gone.blank_before(57) is gone
    level = Blocks.empty(4, block=10).extended(np.ones((100, 4)))
    assert all(block.strides[0] == 0 for block in level._full)


demands = st.lists(st.none() | st.sampled_from([0.0, -0.0, 1e-9, 1e12]) | st.floats(0, 1e6), min_size=1, max_size=60)


@LAWS
@given(demands, st.lists(st.integers(1, 20), max_size=6), st.integers(1, 60))
def test_a_history_is_what_a_plain_loop_remembers(seen: list[float | None], pieces: list[int], kept: int) -> None:
    demand = np.array([np.nan if d is None else d for d in seen])
    forecast = np.random.default_rng(0).random((demand.size, 4))
    history, at = TurnRows.empty(), 0
    for n in [*pieces, demand.size]:
        part = slice(at, at + n)
        history = history.extended(demand[part], np.full(demand[part].size, 7.0), forecast[part])
        at += n
    filled, peak, last, most = [], [], 0.0, 0.0
    for d in demand.astype(np.float32).tolist():
        last = last if d != d else d
        most = max(most, last)
        filled.append(last)
        peak.append(most)
    short = history.newest(kept)
    for found, since in ((history, 0), (short, max(0, demand.size - kept))):
        n = len(found)
        assert n == demand.size - since
        assert np.array_equal(found.demand(), demand[since:].astype(np.float32), equal_nan=True)
        assert found.filled().tolist() == filled[since:]
        for start in (n // 2, n - 1):
            assert found.peak(start, n).tolist() == peak[since + start :]
        assert np.array_equal(found.rows[:, 2:], forecast[since:].astype(np.float32))
        assert (found.rows[:, 1] == 7.0).all()


def minutes(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Demand of minutes with a rhythm of a day, and what was forecast of it."""
    rng = np.random.default_rng(seed)
    demand = 2000.0 * np.exp(0.5 * np.sin(2 * np.pi * np.arange(rows) / DAY) + 0.1 * rng.standard_normal(rows))
    return demand, demand[:, None] * np.array([1.0, 1.2, 1.1, 1.3])


def begun(kept: Keeping, portfolio: Portfolio | None = None) -> OwnPast:
    budget = ErrorBudget(0.02, step_s=STEP_S)
    return OwnPast.start(portfolio or HarmonyPolicy().portfolio, LeadGrid(STEP_S, 5), budget, cap=0.1, kept=kept)


def test_forecasts_that_were_replayed_can_go() -> None:
    """They are needed no more: the same settings, tallied alike, say the same."""
    demand, forecast = minutes(900)
    few = SERVED._replace(forecasts=50)
    pasts = [begun(kept).backfilled(899 * STEP_S, demand, 100.0, forecast, piece=0.1) for kept in (SERVED, few)]
    assert np.isnan(pasts[1].history.forecast(0)).sum() > 500
    assert not np.isnan(pasts[1].history.forecast(0, 850)).any()
    assert np.array_equal(pasts[0].tally.cost, pasts[1].tally.cost)
    assert np.array_equal(pasts[0].tally.missed, pasts[1].tally.missed)
    rows = [p.seen(900 * STEP_S, TurnRow(2000.0, 100.0, (2000.0, 2500.0, 2100.0, 2600.0))).guess() for p in pasts]
    assert rows[0] is not None
    assert repr(rows[0]) == repr(rows[1])


def test_a_review_that_is_put_off_keeps_the_forecasts_that_it_needs() -> None:
    demand, forecast = minutes(1000)
    past = begun(Keeping(forecasts=10)).backfilled(599 * STEP_S, demand[:600], 100.0, forecast[:600], piece=0.1)
    reviewed = past.reviewed
    for i in range(600, 1000):
        past = past.seen(i * STEP_S, TurnRow(float(demand[i]), 100.0, tuple(forecast[i])), review=False)
    assert not np.isnan(past.history.forecast(0, reviewed - 5)).any()


def test_an_hour_of_the_budget_that_is_over_stays_as_it_was() -> None:
    budget = ErrorBudget(0.01, window_s=100 * HOUR_S)
    for hour in range(300):
        budget = budget.learn(hour * HOUR_S, 60, hour % 7, 0.1)
    assert [h.start_s / HOUR_S for h in budget.hours] == list(range(200, 300))
    assert [h.violated for h in budget.hours] == [hour % 7 for hour in range(200, 300)]
    assert budget.spent == pytest.approx(sum(hour % 7 for hour in range(200, 300)))
    assert len(budget.anew().hours) == 0


def test_what_a_served_service_keeps_is_small() -> None:
    """Bytes that come free with one past, as a controller keeps it."""
    demand, forecast = minutes(12_600 + 3_000)
    begun(SERVED).backfilled(399 * STEP_S, demand[:400], 100.0, forecast[:400])  # what is shared by all services
    tracemalloc.start()
    try:
        started = begun(SERVED).backfilled(10_079 * STEP_S, demand[:10_080], 100.0, piece=0.2)
        budget = started.budget
        for hour in range(720):
            budget = budget.learn(hour * HOUR_S, 60, 0.0, 0.3)
        lived = replace(started, budget=budget)
        lived = lived.backfilled(15_599 * STEP_S, demand[10_080:], 100.0, forecast[10_080:], piece=0.02)
        rows, scores = len(lived.history), [len(s) for s in lived.learned.scores.values()]
        del started, budget
        held = traced()
        del lived
        freed = held - traced()
        fresh = begun(SERVED).backfilled(10_079 * STEP_S, demand[:10_080], 100.0, piece=0.2)
        assert fresh.chosen is not None
        held = traced()
        del fresh
        freed_at_start = held - traced()
    finally:
        tracemalloc.stop()
    assert rows > 14_000
    assert min(scores) > 5000
    assert 50_000 < freed_at_start <= BYTES_AT_START
    assert 100_000 < freed <= BYTES


def traced() -> int:
    """Bytes that are held now."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
