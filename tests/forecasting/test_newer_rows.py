"""What methods learn of rows that stand behind a past that they know: neither less nor more than of all at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.baselines.analogues import Analogues
from forecasting.baselines.clock_ridge import ClockRidge
from forecasting.baselines.common import POOL_ROWS, behind, join_pools, pool_every, training_chunks
from forecasting.baselines.last_value import ScaledLastValue
from forecasting.baselines.ridge import Ridge
from forecasting.baselines.seasonal_naive import SeasonalNaive
from forecasting.baselines.seasonal_shape import SeasonalShape
from forecasting.baselines.thinned import thinned
from forecasting.ensemble import ANEW, HELD_OUT, Ensemble
from forecasting.windows import WindowBatch
from tests.forecasting.builders import panel_of, wavy

LOOKBACK, HORIZON = 24, 5
PANEL = wavy(1600, 2)
CUT = 1300
PAST = [CUT - HORIZON + 1]  # the first window behind those that end within the older rows, targets and all


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 4), st.integers(0, 70), st.integers(1, 9))
def test_windows_behind_the_past_are_those_that_end_with_it_or_later(
    rows: int, lookback: int, horizon: int, past: int, size: int
) -> None:
    panel = panel_of(np.arange(2.0 * rows).reshape(rows, 2))
    ends = np.arange(max(lookback, past) - 1, rows - horizon)
    chunks = list(training_chunks([panel], lookback, horizon, past=[past], size=size))
    found = WindowBatch.concat([c.windows for c in chunks]) if chunks else None
    assert (0 if found is None else len(found)) == max(0, len(ends))
    if found is None:
        return
    expected = WindowBatch.of(panel, ends, lookback, horizon=horizon)
    for name in ("values", "end_s", "seasonal"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    targets = panel.values[ends[:, None] + np.arange(1, horizon + 1)]
    np.testing.assert_array_equal(np.concatenate([c.targets for c in chunks]), targets)
    assert {c.total for c in chunks} == {len(ends)}
    rest = behind([panel], [past], lookback)
    again = list(training_chunks(rest, lookback, horizon, size=size))
    np.testing.assert_array_equal(np.concatenate([c.targets for c in again]), targets)


def test_windows_behind_the_past_are_spaced_as_all_would_be() -> None:
    panel = panel_of(np.arange(100.0)[:, None])
    (whole, _), (newer, targets) = (thinned([panel], 10, 3, 20, past) for past in (None, [60]))
    assert whole is not None
    assert newer is not None
    assert targets is not None
    late = whole.end_s >= 59 * panel.step_s
    assert 0 < late.sum() < len(whole)
    np.testing.assert_array_equal(newer.end_s, whole.end_s[late])
    np.testing.assert_array_equal(newer.values, whole.values[late])
    np.testing.assert_array_equal(targets[:, 0, 0], newer.values[:, -1, 0] + 1)
    assert thinned([panel], 10, 3, 20, [99]) == (None, None)


def test_newer_rows_stand_in_a_pool_as_densely_as_older_ones() -> None:
    older = 3 * POOL_ROWS + LOOKBACK + HORIZON - 1
    assert pool_every([older, 5], LOOKBACK, HORIZON) == 3
    assert pool_every(None, LOOKBACK, HORIZON) == pool_every([100], LOOKBACK, HORIZON) == 1
    joined = join_pools(np.zeros((10, 1)), np.arange(1.0, 8.0)[:, None], every=3)
    assert joined[-3:, 0].tolist() == [1.0, 4.0, 7.0]


def test_a_ridge_has_the_moments_of_all_rows_seasons_included() -> None:
    whole = Ridge().fit([PANEL], lookback=LOOKBACK, horizon=HORIZON)
    parts = Ridge().fit([PANEL.rows(0, CUT)], lookback=LOOKBACK, horizon=HORIZON).update([PANEL], past=PAST)
    for seasons in (False, True):
        for a, b in zip(whole._moments[seasons], parts._moments[seasons], strict=True):
            np.testing.assert_allclose(b.terms, a.terms, rtol=1e-9, atol=1e-6)
            np.testing.assert_allclose(b.cross, a.cross, rtol=1e-9, atol=1e-6)
        assert len(parts._pools[seasons]) == len(whole._pools[seasons])


def test_other_specialists_have_as_many_windows_as_of_all_rows() -> None:
    for make in (ClockRidge, SeasonalShape, Analogues, ScaledLastValue, SeasonalNaive):
        whole = make().fit([PANEL], lookback=LOOKBACK, horizon=HORIZON)
        parts = make().fit([PANEL.rows(0, CUT)], lookback=LOOKBACK, horizon=HORIZON).update([PANEL], past=PAST)
        assert _sizes(parts) == _sizes(whole), make
        windows = WindowBatch.of(PANEL, np.arange(1400, 1590), LOOKBACK, horizon=HORIZON)
        a, b = (m.predict(windows, HORIZON, samples=200).paths[..., 0].mean(axis=1) for m in (whole, parts))
        assert np.abs(a - b).mean() < 0.1 * a.std()


def _sizes(model: object) -> list[int]:
    if isinstance(model, ClockRidge):
        return [len(f.pool) for fits in model._fits.values() for f in fits if f]
    if isinstance(model, Analogues):
        return [len(p.points) for p in model._past if p]
    if isinstance(model, SeasonalNaive):
        return [len(pool) for pool in model._pools.values()]
    assert isinstance(model, ScaledLastValue)
    return [len(model._pool)]


@pytest.mark.parametrize("rows", [ANEW, ANEW + 600])
def test_without_validation_the_ensembles_specialists_know_all_rows(rows: int) -> None:
    panel = wavy(rows, 1)
    found = Ensemble().fit([panel], lookback=LOOKBACK, horizon=HORIZON)
    whole = Ridge().fit([panel], lookback=LOOKBACK, horizon=HORIZON)
    ridge = next(m for m in found._members if isinstance(m, Ridge))
    for seasons in (False, True):
        for a, b in zip(whole._moments[seasons], ridge._moments[seasons], strict=True):
            np.testing.assert_allclose(b.terms, a.terms, rtol=1e-9, atol=1e-6)
    anew = np.array_equal(ridge._pools[True], whole._pools[True])
    assert anew == (rows <= ANEW), "few rows are learned anew, of many those held out are added"
    shaped = SeasonalShape().fit([panel], lookback=LOOKBACK, horizon=HORIZON)
    shape = next(m for m in found._members if isinstance(m, SeasonalShape))
    np.testing.assert_array_equal(shape._shapes[0].day, shaped._shapes[0].day)
    assert found._earned is not None
    held = rows - round((1 - HELD_OUT) * rows) - HORIZON + 1
    assert found._earned.windows.max() <= held


def test_newer_rows_of_wide_windows_count_for_less_in_a_clock_ridge() -> None:
    rng = np.random.default_rng(0)
    scale = np.where(np.arange(2000) < 1500, 1.0, 8.0)  # who is louder from now on
    panel = panel_of((100 + scale * rng.normal(size=2000))[:, None])
    first = ClockRidge().fit([panel.rows(0, 1500)], lookback=LOOKBACK, horizon=1)
    counted = []
    for _ in range(2):
        fit = first._fits[False][0]
        assert fit is not None
        counted.append(float(fit.moments.terms[0, 0, 0]))
        first.update([panel], past=[1500])
    assert counted[0] == pytest.approx(1500 - LOOKBACK)
    assert 0 < counted[1] - counted[0] < 0.7 * 500
