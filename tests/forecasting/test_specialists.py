"""Specialists: what they read is the past alone, in whatever pieces it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import UsageError
from forecasting.specialists import TARGETS, Features, LeadGrid, Target, fit_specialists, targets_of

LAWS = settings(max_examples=200, deadline=None)
targets = st.sampled_from(["point", "max"])


def walk(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 100.0 * np.exp(0.1 * np.cumsum(rng.standard_normal(n)) / np.sqrt(np.arange(1, n + 1)))


@LAWS
@given(st.integers(0, 10**6), st.integers(1, 12), targets, st.integers(0, 60), st.integers(1, 40))
def test_targets_equal_a_plain_loop(seed: int, k: int, target: Target, start: int, rows: int) -> None:
    demand = walk(seed, 80)
    stop = min(80, start + rows)
    got = targets_of(demand, LeadGrid(60.0, k), target, start, stop)
    for i, t in enumerate(range(start, stop)):
        ahead = demand[t + 1 : t + k + 1]
        if ahead.size < k:
            assert np.isnan(got[i])
        else:
            assert got[i] == (ahead[-1] if target == "point" else ahead.max())


@LAWS
@given(st.integers(0, 10**6), st.integers(1, 6), targets, st.sampled_from([300.0, 1800.0, 3600.0]), st.data())
def test_a_row_reads_its_past_alone_and_is_the_same_in_any_piece(
    seed: int, k: int, target: Target, step_s: float, data: st.DataObject
) -> None:
    demand = walk(seed, 1200)
    features = Features.for_past(demand[:800], LeadGrid(step_s, k))
    now = data.draw(st.integers(0, 1150))
    whole, level = features.design(demand, target, max(0, now - 20), now + 1)
    alone, its_level = features.design(demand, target, now, now + 1)
    assert alone[0] == pytest.approx(whole[-1], abs=1e-8)
    assert its_level[0] == pytest.approx(level[-1])
    assert np.array_equal(features.designs(demand, TARGETS, max(0, now - 20), now + 1)[0][target], whole)
    changed = demand.copy()
    changed[now + 1 :] = 7.0
    assert np.array_equal(features.design(changed, target, now, now + 1)[0], alone)


@pytest.mark.parametrize("method", ["ridge", "boosted"])
@pytest.mark.parametrize("target", ["point", "max"])
def test_a_daily_rhythm_is_learned(method: str, target: Target) -> None:
    grid = LeadGrid(1800.0, 2)
    at = np.arange(48 * 30)
    rng = np.random.default_rng(0)
    demand = 100.0 * np.exp(0.8 * np.sin(2 * np.pi * at / 48) + 0.05 * rng.standard_normal(at.size))
    features = Features.for_past(demand[:1200], grid)
    predict = fit_specialists((method,), demand[:1200], grid, features)[method, target]  # type: ignore[arg-type, index]
    design, level = features.design(demand, target, 1200, 1400)
    location, scale = predict(design)
    truth = np.log((targets_of(demand, grid, target, 1200, 1400) + features.offset) / level)
    persistence = np.log((demand[1200:1400] + features.offset) / level)
    assert np.abs(location - truth).mean() < 0.4 * np.abs(persistence - truth).mean()
    assert (scale > 0).all()


def test_an_unknown_method_is_refused() -> None:
    demand, grid = walk(0, 300), LeadGrid(60.0, 1)
    with pytest.raises(UsageError, match="expected ridge or boosted"):
        fit_specialists(("magic",), demand, grid, Features.for_past(demand, grid))  # type: ignore[arg-type]
