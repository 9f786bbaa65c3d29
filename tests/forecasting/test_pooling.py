from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting import scores
from forecasting.panel import FloatArray
from forecasting.pooling import GRID, Earned, Levels, arranged, bands, pooled, sharing, without_crumbs, worth

FLAT = np.array([0.5, 0.5])


def paths(rng: np.random.Generator, centre: float, spread: float, windows: int = 40, samples: int = 64) -> FloatArray:
    return centre + spread * rng.standard_normal((windows, samples, 3, 2))


def outcomes(rng: np.random.Generator, centre: float = 0.0, spread: float = 1.0, windows: int = 40) -> FloatArray:
    return centre + spread * rng.standard_normal((windows, 3, 2))


def test_leads_share_weights_by_doublings() -> None:
    assert bands(9).tolist() == [0, 1, 1, 2, 2, 2, 2, 3, 3]


def test_a_pool_has_the_score_that_its_members_distances_give() -> None:
    rng = np.random.default_rng(0)
    a, b, y = paths(rng, 0.0, 1.0), paths(rng, 0.7, 2.0), outcomes(rng)
    earned = Earned.of([a, b], y)
    w = np.array([0.25, 0.75])
    stated = earned.near @ w - 0.5 * np.einsum("...jk,j,k->...", earned.apart, w, w)
    weights = np.broadcast_to(w, (3, 2, 2))
    found = scores.crps(pooled([a, b], weights), y).sum(axis=0)  # (horizon, indicators)
    np.testing.assert_allclose(stated[0], found[0], rtol=0.02)
    np.testing.assert_allclose(stated[1], found[1:].mean(axis=0), rtol=0.02)
    assert earned.windows.tolist() == [[40.0, 40.0], [40.0, 40.0]]


@pytest.mark.parametrize("seed", range(3))
def test_the_weights_are_those_of_least_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    many = 2000
    members = [paths(rng, c, s, many, 32) for c, s in ((0.0, 0.6), (0.4, 1.5), (-2.0, 0.5))]
    earned = Earned.of(members, outcomes(rng, spread=1.2, windows=many))
    found = earned.weights(np.full(3, 1 / 3))

    def loss(w: FloatArray) -> FloatArray:
        out: FloatArray = earned.near @ w - 0.5 * np.einsum("...jk,j,k->...", earned.apart, w, w)
        return out

    grid = [np.array([i, j, 20 - i - j]) / 20 for i in range(21) for j in range(21 - i)]
    least = np.min([loss(w) for w in grid], axis=0)
    for b in range(found.shape[0]):
        for i in range(found.shape[1]):
            assert loss(found[b, i])[b, i] <= least[b, i] * 1.003
    np.testing.assert_allclose(found.sum(axis=-1), 1.0)


def test_few_windows_move_the_prior_less_than_many_and_none_not_at_all() -> None:
    rng = np.random.default_rng(1)
    good, bad, y = paths(rng, 0.0, 1.0, 400), paths(rng, 3.0, 1.0, 400), outcomes(rng, windows=400)
    few, many = (Earned.of([good[:n], bad[:n]], y[:n]).weights(FLAT)[0, 0, 0] for n in (4, 400))
    assert 0.5 < few < many
    assert many > 0.95
    none = Earned.of([good, bad], np.full_like(y, np.nan)).weights(np.array([0.3, 0.7]))
    np.testing.assert_array_equal(none, np.broadcast_to([0.3, 0.7], none.shape))


def test_what_was_earned_lately_outweighs_what_has_faded() -> None:
    rng = np.random.default_rng(2)
    a, b = paths(rng, 0.0, 1.0, 100), paths(rng, 2.0, 1.0, 100)
    old, new = Earned.of([a, b], outcomes(rng, 0.0, windows=100)), Earned.of([a, b], outcomes(rng, 2.0, windows=100))
    even, faded = old.and_newer(new).weights(FLAT), old.and_newer(new, 0.1).weights(FLAT)
    assert (faded[..., 1] > even[..., 1]).all()
    assert (faded[..., 1] > 0.8).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([1.0, 1e9]))
def test_distances_are_those_of_all_pairs_of_quantiles(seed: int, far: float) -> None:
    rng = np.random.default_rng(seed)
    members = [np.round(far + rng.normal(k, 1 + k, (3, GRID, 1, 2)), 1) for k in range(3)]  # ties, and a far level
    y = far + rng.normal(size=(3, 1, 2))
    found = Earned.of(members, y)
    levels = (np.arange(GRID) + 0.5) / GRID
    at = [np.quantile(m, levels, axis=1) for m in members]
    for j, a in enumerate(at):
        np.testing.assert_allclose(found.near[0, :, j], np.abs(a - y).mean(axis=0).sum(axis=0)[0], rtol=1e-6)
        for k, b in enumerate(at):
            pairs = np.abs(a[:, None] - b[None]).mean(axis=(0, 1)).sum(axis=0)[0]
            np.testing.assert_allclose(found.apart[0, :, j, k], pairs, rtol=1e-6, atol=1e-9)


def test_what_is_worked_out_some_windows_at_a_time_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    members, y = [paths(rng, c, 1.0) for c in (0.0, 0.5)], outcomes(rng)
    weights = np.broadcast_to([0.4, 0.6], (3, 2, 2))
    whole, pool = Earned.of(members, y), pooled(members, weights)
    monkeypatch.setattr("forecasting.pooling.AT_ONCE", 1000)
    np.testing.assert_allclose(Earned.of(members, y).apart, whole.apart, rtol=1e-12)
    np.testing.assert_array_equal(pooled(members, weights), pool)


def test_absent_outcomes_and_forecasts_count_for_nothing() -> None:
    rng = np.random.default_rng(3)
    a, b, y = paths(rng, 0.0, 1.0), paths(rng, 1.0, 1.0), outcomes(rng)
    some = y.copy()
    some[:10, :, 0] = np.nan
    holed = b.copy()
    holed[10:15] = np.nan
    found = Earned.of([a, holed], some)
    assert found.windows.tolist() == [[25.0, 35.0], [25.0, 35.0]]
    rest = np.r_[0:10, 15:40]
    np.testing.assert_allclose(found.near[:, 1], Earned.of([a[rest], b[rest]], y[rest]).near[:, 1])


def test_a_pool_keeps_plateaus_where_they_are() -> None:
    low, high = np.zeros((1, 10, 1, 1)), np.ones((1, 10, 1, 1))
    found = pooled([low, high], np.array([[[0.3, 0.7]]]))
    assert found[0, :, 0, 0].tolist() == [0.0] * 3 + [1.0] * 7


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 4))
def test_a_pool_rises_is_made_of_its_members_and_has_as_many_samples(seed: int, samples: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    members = [rng.normal(k, 1.0, (3, samples, 2, 2)) for k in range(count)]
    weights = rng.dirichlet(np.ones(count), (2, 2))
    found = pooled(members, weights)
    assert found.shape == members[0].shape
    assert (np.diff(found, axis=1) >= 0).all()
    for w in range(3):
        assert np.isin(found[w, :, 1, 0], np.concatenate([m[w, :, 1, 0] for m in members])).all()


def test_where_a_member_has_no_forecast_the_first_stands_in() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(2, 8, 1, 2)), rng.normal(size=(2, 8, 1, 2))
    second[0, :, 0, 1] = np.nan
    found = pooled([first, second], np.broadcast_to([0.0, 1.0], (1, 2, 2)))
    np.testing.assert_array_equal(found[0, :, 0, 1], np.sort(first[0, :, 0, 1]))
    np.testing.assert_array_equal(found[1, :, 0, 1], np.sort(second[1, :, 0, 1]))


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_arranged_samples_have_the_templates_order_and_their_own_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rising, template = np.sort(rng.normal(size=(2, 9, 3, 2)), axis=1), rng.normal(size=(2, 9, 3, 2))
    found = arranged(rising, template)
    np.testing.assert_array_equal(np.sort(found, axis=1), rising)
    np.testing.assert_array_equal(np.argsort(found, axis=1), np.argsort(template, axis=1))


def test_what_the_template_does_not_forecast_is_absent() -> None:
    template = np.zeros((1, 4, 1, 2))
    template[..., 1] = np.nan
    found = arranged(np.ones((1, 4, 1, 2)), template)
    assert np.isnan(found[..., 1]).all()
    assert (found[..., 0] == 1).all()


def test_too_wide_a_forecast_is_narrowed_and_too_narrow_a_one_widened() -> None:
    rng = np.random.default_rng(5)
    y, later = outcomes(rng, windows=2000), outcomes(rng, windows=2000)
    for spread in (0.5, 2.0):
        stated = np.sort(np.broadcast_to(paths(rng, 0.0, spread, 1, 400), (2000, 400, 3, 2)), axis=1)
        before = scores.coverage(stated, later, (0.8,)).mean()
        after = scores.coverage(Levels.of(stated, y).applied(stated), later, (0.8,)).mean()
        assert abs(before - 0.8) > 0.1
        assert abs(after - 0.8) < 0.06  # sixty windows speak for what is stated, more so farther ahead


def test_levels_of_few_outcomes_change_little_and_of_none_nothing() -> None:
    rng = np.random.default_rng(6)
    stated = np.sort(paths(rng, 0.0, 3.0, 50, 200), axis=1)
    y = outcomes(rng, windows=50)
    np.testing.assert_allclose(Levels.of(stated, np.full_like(y, np.nan)).applied(stated), stated)
    few, more = (np.abs(Levels.of(stated[:n], y[:n]).applied(stated) - stated).mean() for n in (3, 50))
    assert few < 0.5 * more


def test_levels_farther_ahead_take_more_windows_to_move() -> None:
    rng = np.random.default_rng(7)
    stated = np.sort(np.repeat(paths(rng, 0.0, 3.0, 200, 100)[:, :, :1], 15, axis=2), axis=1)
    y = np.repeat(outcomes(rng, windows=200)[:, :1], 15, axis=1)  # every lead has the same outcome
    found = Levels.of(stated, y)
    np.testing.assert_allclose(found.windows[:, 0], 200 / np.sqrt([1, 3, 7, 15]))
    moved = np.abs(found.applied(stated) - stated).mean(axis=(0, 1, 3))
    assert (np.diff(moved[[0, 1, 3, 7]]) < 0).all()


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 50))
def test_recalibrated_samples_rise_and_stay_within_the_stated_ones(seed: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    stated = np.sort(rng.normal(size=(5, samples, 3, 2)), axis=1)
    found = Levels.of(stated, rng.normal(scale=2.0, size=(5, 3, 2))).applied(stated)
    assert (np.diff(found, axis=1) >= -1e-12).all()
    assert (found >= stated[:, :1] - 1e-12).all()
    assert (found <= stated[:, -1:] + 1e-12).all()


# ---- the naive forms, which say what comes out --------------------------------------------------------------------
def naive_pool(members: list[FloatArray], weights: FloatArray) -> FloatArray:
    """Cell by cell: every member gives its share of samples by largest remainder, evenly over its sorted ones."""
    windows, samples, horizon, indicators = members[0].shape
    out = np.empty_like(members[0])
    for w, h, i in np.ndindex(windows, horizon, indicators):
        exact = weights[h, i] * samples
        shares = np.floor(exact).astype(int)
        for k in np.argsort(shares - exact, kind="stable")[: samples - shares.sum()]:
            shares[k] += 1
        parts = []
        for member, share in zip(members, shares, strict=True):
            own = member if not np.isnan(member[w, :, h, i]).any() else members[0]
            parts += [np.sort(own[w, :, h, i])[int((j + 0.5) / share * samples)] for j in range(share)]
        out[w, :, h, i] = np.sort(parts)
    return out


def naive_arranged(rising: FloatArray, template: FloatArray) -> FloatArray:
    place = np.argsort(np.argsort(template, axis=1, kind="stable"), axis=1, kind="stable")
    return np.where(np.isnan(template), np.nan, np.take_along_axis(rising, place, axis=1))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 4))
def test_pool_and_order_are_those_of_the_naive_form(seed: int, samples: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    members = [rng.normal(k, 1.0, (4, samples, 3, 2)).round(1) for k in range(count)]  # rounded: plateaus and ties
    members[-1][1, 0, 2, 1] = np.nan
    weights = rng.dirichlet(np.full(count, 0.4), (3, 2))
    found = pooled(members, weights)
    np.testing.assert_array_equal(found, naive_pool(members, weights))
    np.testing.assert_array_equal(arranged(found, members[0]), naive_arranged(found, members[0]))
    some = sharing(weights, samples)
    some[0] = True
    kept = [m for m, gives in zip(members, some, strict=True) if gives]
    np.testing.assert_array_equal(pooled(kept, weights[..., some]), found)


def test_distances_are_those_of_quantiles_as_numpy_has_them() -> None:
    rng = np.random.default_rng(7)
    a, b, y = paths(rng, 0.0, 1.0, 12, 25).round(1), paths(rng, 1.0, 2.0, 12, 25), outcomes(rng, windows=12)
    levels = (np.arange(32) + 0.5) / 32
    grids = [np.quantile(m, levels, axis=1) for m in (a, b)]
    found = Earned.of([a, b], y)
    near = np.stack([np.abs(g - y).mean(axis=0) for g in grids]).sum(axis=1)  # (members, horizon, indicators)
    np.testing.assert_allclose(found.near[0], near[:, 0].T)
    apart = np.abs(grids[0][:, None] - grids[1][None]).mean(axis=(0, 1)).sum(axis=0)  # (horizon, indicators)
    np.testing.assert_allclose(found.apart[0, :, 0, 1], apart[0])
    np.testing.assert_allclose(found.apart[1, :, 0, 1], apart[1:].mean(axis=0))


def test_with_few_windows_the_first_member_is_believed_and_with_many_the_best() -> None:
    rng = np.random.default_rng(8)
    first, best, y = paths(rng, 1.0, 1.5, 600), paths(rng, 0.0, 0.3, 600), outcomes(rng, spread=0.3, windows=600)
    shares = [Earned.of([first[:n], best[:n]], y[:n]).weights(FLAT, trust=20.0)[0, :, 0] for n in (1, 10, 40, 600)]
    assert (np.diff(shares, axis=0) < 0).all(), "the more windows, the less"
    assert (shares[0] > 0.9).all()
    assert (shares[-1] < 0.05).all()
    sure = Earned.of([first[:10], best[:10]], np.broadcast_to(best[:10, :1].mean(axis=1), (10, 3, 2)))
    assert (sure.weights(FLAT)[..., 1] > 0.9).all()
    assert (sure.weights(FLAT, trust=20.0)[..., 0] > 0.7).all(), "even of a member that was exact so far"


def test_believing_the_first_adds_windows_in_which_the_outcome_was_its_own() -> None:
    rng = np.random.default_rng(9)
    members = [paths(rng, c, s, 30, 400) for c, s in ((0.0, 1.0), (0.3, 0.8), (1.0, 2.0))]
    y, prior = outcomes(rng, 0.2, windows=30), np.full(3, 1 / 3)
    told = Earned.of(members, y)
    again = [Earned.of(members, members[0][:, k]) for k in range(400)]  # every sample once, as the outcome
    more = Earned(*(np.mean([getattr(e, n) for e in again], axis=0) for n in ("near", "apart", "windows")))
    trust = 30.0  # beside 30 windows as many more
    np.testing.assert_allclose(told.weights(prior, trust), told.and_newer(more).weights(prior), atol=0.02)


def test_windows_that_lie_near_each_other_count_as_fewer() -> None:
    np.testing.assert_allclose(worth(6, 60.0, 60.0), [1 / 30, 1 / 30, 1 / 30])
    np.testing.assert_allclose(worth(9, 1200.0, 1800.0), [1.0, 1.5 / 3**0.5, 1.5 / 7**0.5, 0.5])
    np.testing.assert_allclose(worth(1, 3600.0, 86_400.0), [1.0])
    rng = np.random.default_rng(10)
    members, y = [paths(rng, 0.0, 1.0), paths(rng, 1.0, 1.0)], outcomes(rng)
    whole, half = Earned.of(members, y), Earned.of(members, y, np.array([0.5, 0.25]))
    np.testing.assert_allclose(half.windows, whole.windows * [[0.5], [0.25]])
    np.testing.assert_allclose(half.crps, whole.crps)


def test_crumbs_go_to_the_others_in_proportion() -> None:
    found = without_crumbs(np.array([[0.6, 0.36, 0.04], [0.96, 0.02, 0.02]]))
    np.testing.assert_allclose(found, [[0.625, 0.375, 0.0], [1.0, 0.0, 0.0]])
    many = np.full(40, 1 / 40)  # all are crumbs
    assert without_crumbs(many).sum() == pytest.approx(1.0)
