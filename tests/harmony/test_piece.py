"""Scoring counts on a piece of the past, against plain loops; what of a budget survives a restart."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony.decision.budget import ErrorBudget
from harmony.decision.past.piece import Measure, Piece, Prices, violated_part
from harmony.decision.risk import ROUND

LAWS = settings(max_examples=200, deadline=None)
MEASURES: tuple[Measure, ...] = ("time", "window", "requests")


def looped(piece: Piece, counts: np.ndarray) -> tuple[float, float]:
    """One setting, row by row: cost and violated part."""
    rows, k = piece.load.size, piece.lead_steps
    ordered = [min(max(float(c), piece.least), piece.most) for c in counts]
    first, cost, late, short = len(ordered) - rows, 0.0, [], 0.0
    for t in range(first, len(ordered)):
        ready = min(ordered[max(0, t - k) : t + 1])
        cost += ordered[t]
        if t > 0:
            cost += piece.prices.switch * abs(ordered[t] - ordered[t - 1])
        load = float(piece.load[t - first])
        if math.isnan(load):
            continue
        cost += piece.prices.miss * max(0.0, load - ready)
        short += max(0.0, load - ready)
        late.append(load - ready > ROUND)
    if piece.measure == "requests":
        return cost, short
    if piece.measure == "window":
        return cost, float(sum(any(late[max(0, i - k + 1) : i + 1]) for i in range(len(late))))
    return cost, float(sum(late))


@LAWS
@given(
    st.integers(0, 10**6), st.integers(1, 30), st.integers(0, 8), st.integers(1, 6), st.sampled_from(MEASURES),
    st.sampled_from([0.0, 0.7, 5.0]), st.sampled_from([0.0, 2.0]),
)  # fmt: skip
def test_scores_equal_plain_loops(
    seed: int, rows: int, before: int, lead: int, measure: Measure, switch: float, miss: float
) -> None:
    rng = np.random.default_rng(seed)
    load = np.where(rng.random(rows) < 0.1, np.nan, rng.integers(0, 40, rows) / 2)
    piece = Piece(load, lead, 2, 15, measure, Prices(switch, miss))
    counts = rng.integers(0, 20, (before + rows, 3)).astype(float)
    cost, missed = piece.score(counts)
    for i in range(3):
        assert (cost[i], missed[i]) == pytest.approx(looped(piece, counts[:, i]))
    assert (missed <= piece.weight + 1e-9).all()


@LAWS
@given(st.integers(0, 10**6), st.sampled_from(MEASURES))
def test_more_replicas_never_violate_more(seed: int, measure: Measure) -> None:
    rng = np.random.default_rng(seed)
    load = rng.random(20) * 20
    counts = rng.integers(1, 20, (24, 1)).astype(float)
    more = counts + rng.integers(0, 5, (24, 1))
    piece = Piece(load, 3, 1, 100, measure)
    assert piece.score(more)[1] <= piece.score(counts)[1]


@LAWS
@given(st.floats(0.0, 100.0), st.floats(0.0, 100.0), st.sampled_from(MEASURES))
def test_a_step_is_violated_in_part_at_most(load: float, ready: float, measure: Measure) -> None:
    part = violated_part(measure, load, ready)
    assert 0.0 <= part <= 1.0
    assert (part > 0.0) == (load - ready > (0.0 if measure == "requests" else ROUND))


@LAWS
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 60), st.floats(0.0, 1.0), st.floats(0.0, 3.0)), max_size=60),
    st.sampled_from([60.0, 300.0]),
)  # fmt: skip
def test_a_budget_survives_a_restart_by_days_on_any_grid(
    turns: list[tuple[int, int, float, float]], step_s: float
) -> None:
    """Counts are equal but for the six digits that are kept; nothing is written that cannot be read."""
    budget, now_s = ErrorBudget(0.01, step_s=60.0), 0.0
    for hours, steps, share, stated in turns:
        now_s += 3600.0 * hours / 3
        budget = budget.learn(now_s, float(steps), share * steps, stated * steps)
    again = ErrorBudget(0.01, step_s=step_s).restored(json.loads(json.dumps(budget.to_json())))
    assert again.spent * step_s == pytest.approx(budget.spent * 60.0, rel=1e-4, abs=1e-3)
    assert again.counted.steps * step_s == pytest.approx(budget.counted.steps * 60.0, rel=1e-4)
    assert again.left == pytest.approx(budget.left, rel=1e-3, abs=1e-4)
    assert len(budget.to_json()) <= 32
