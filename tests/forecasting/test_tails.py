"""Tails that came true, and the verdict on a forecast: beside distributions that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting import scores
from forecasting.panel import FloatArray
from forecasting.pooling import Levels
from forecasting.tails import Tails, drifted, verdict


def normal(
    rng: np.random.Generator, windows: int, samples: int = 200, horizon: int = 1, spread: float = 1.0
) -> FloatArray:
    """Rising samples of one indicator, each window about its own centre and as wide as it is."""
    wide = spread * rng.lognormal(0.0, 0.5, (windows, 1, 1, 1))
    return np.asarray(np.sort(wide * (5.0 + rng.standard_normal((windows, samples, horizon, 1))), axis=1))


def corrected(rising: FloatArray, outcome: FloatArray) -> tuple[Levels, Tails]:
    """Levels, and the tails that follow them where they pay."""
    levels = Levels.of(rising, outcome)
    return levels, Tails.tried(levels.applied(rising), outcome)


def heavy(rng: np.random.Generator, rising: FloatArray) -> FloatArray:
    """Outcomes with the tails of Student's t of three degrees of freedom, as wide as their windows in the middle."""
    wide = rising.std(axis=1)
    return np.asarray(rising.mean(axis=1) + wide * rng.standard_t(3, wide.shape))


def beyond(rising: FloatArray, outcome: FloatArray, level: float) -> tuple[float, float]:
    """Shares of the outcomes below the stated quantile and above its opposite."""
    low, high = np.quantile(rising, [1 - level, level], axis=1)
    return float((outcome < low).mean()), float((outcome > high).mean())


def test_tails_thinner_than_what_came_become_as_heavy_as_it() -> None:
    rng = np.random.default_rng(0)
    rising = normal(rng, 4000)
    outcome = heavy(rng, rising)
    levels, tails = corrected(rising[:1200], outcome[:1200])
    fresh, came = rising[1200:], outcome[1200:]
    mended = tails.applied(levels.applied(fresh))
    assert min(beyond(fresh, came, 0.99)) > 0.02, "what is stated is broken"
    assert all(0.005 < share < 0.02 for share in beyond(mended, came, 0.99))
    before, after = (scores.pinball(x, came, (0.99,)).mean() for x in (fresh, mended))
    assert after < 0.8 * before


def test_right_tails_stay_about_as_they_are() -> None:
    rng = np.random.default_rng(1)
    both = normal(rng, 4000, samples=201)
    place = rng.integers(201, size=len(both))
    outcome = np.take_along_axis(both, place[:, None, None, None], axis=1)[:, 0]
    levels, tails = corrected(both[:500], outcome[:500])
    mended = tails.applied(levels.applied(both[500:]))
    assert all(0.004 < share < 0.02 for share in beyond(mended, outcome[500:], 0.99))
    before, after = (scores.crps(x, outcome[500:]).mean() for x in (both[500:], mended))
    assert after == pytest.approx(before, rel=0.01)


def test_where_nothing_came_or_nothing_moves_nothing_changes() -> None:
    rng = np.random.default_rng(2)
    rising = normal(rng, 50)
    levels, tails = corrected(rising, np.full((50, 1, 1), np.nan))
    np.testing.assert_allclose(tails.applied(levels.applied(rising)), rising)
    plateau = np.full((50, 200, 1, 1), 7.0)
    _, still = corrected(plateau, plateau[:, 0])
    np.testing.assert_array_equal(still.applied(plateau), plateau)
    absent = np.full((1, 200, 1, 1), np.nan)
    assert np.isnan(still.applied(absent)).all()


@pytest.mark.parametrize("later", [False, True])
def test_a_tail_of_one_half_alone_is_not_believed(later: bool) -> None:
    rng = np.random.default_rng(8)
    rising = normal(rng, 600)
    outcome = rising[:, 100].copy()  # always the middle
    half = slice(300, None) if later else slice(300)
    outcome[half] = heavy(rng, rising[half])
    np.testing.assert_array_equal(Tails.tried(rising, outcome).applied(rising), rising)
    both = heavy(rng, rising)
    assert (Tails.tried(rising, both).applied(rising)[:, -1] > rising[:, -1]).mean() > 0.9


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.integers(1, 60), horizon=st.integers(1, 4))
def test_samples_still_rise(seed: int, samples: int, horizon: int) -> None:
    rng = np.random.default_rng(seed)
    rising = normal(rng, 30, samples, horizon).round(int(rng.integers(3)))
    levels, tails = corrected(rising, heavy(rng, rising))
    mended = tails.columns([0]).applied(levels.columns([0]).applied(rising))
    assert np.isfinite(mended).all()
    assert (np.diff(mended, axis=1) >= 0).all()


def test_evidence_adds_up_and_fades() -> None:
    rng = np.random.default_rng(3)
    rising = normal(rng, 400)
    outcome = heavy(rng, rising)
    whole, older, newer = (Tails.of(rising[s], outcome[s]) for s in (slice(None), slice(200), slice(200, None)))
    both = older.and_newer(newer, np.ones((1, 1)))
    assert both.windows.ravel() == pytest.approx(whole.windows.ravel())
    assert both.beyond.ravel() == pytest.approx(whole.beyond.ravel())
    assert both.mean.ravel() == pytest.approx(whole.mean.ravel(), rel=0.1)
    alone = older.and_newer(newer, np.zeros((1, 1)))
    np.testing.assert_array_equal(alone.mean, newer.mean)


def test_what_drifted_is_seen_and_what_did_not_is_not() -> None:
    rng = np.random.default_rng(4)
    rising = normal(rng, 600)
    outcome = np.take_along_axis(rising, rng.integers(200, size=(600, 1, 1, 1)), axis=1)[:, 0]
    older = Levels.of(rising[:300], outcome[:300])
    assert not drifted(older, Levels.of(rising[300:], outcome[300:])).any()
    higher = outcome[300:] + 0.6 * rising[300:].std(axis=1)
    assert drifted(older, Levels.of(rising[300:], higher)).all()


def test_a_verdict_has_figures_and_a_reason() -> None:
    rng = np.random.default_rng(5)
    rising = normal(rng, 400)
    outcome = np.take_along_axis(rising, rng.integers(200, size=(400, 1, 1, 1)), axis=1)[:, 0]
    right = verdict(rising, outcome, "rps")
    assert right.calibrated
    assert "on the newer half of 400 held-out windows of rps, central 80% intervals held" in right.reason
    few = verdict(rising[:39], outcome[:39], "rps")
    assert (few.calibrated, "only 39 held-out windows" in few.reason) == (False, True)
    assert "of 40 held-out windows" in verdict(rising[:40], outcome[:40], "rps").reason  # one more, counted alike
    later = outcome + np.where(np.arange(400) < 200, 0.0, 1.0)[:, None, None] * rising.std(axis=1)
    moved = verdict(rising, later, "rps")
    assert (moved.calibrated, "drift" in moved.reason, "higher" in moved.reason) == (False, True, True)
    wild = np.where(
        (np.arange(400) >= 200)[:, None, None], rising.mean(axis=1) + 6 * (outcome - rising.mean(axis=1)), outcome
    )
    broken = verdict(rising, wild, "rps")
    assert not broken.calibrated
    assert "drift" not in broken.reason


def test_a_plateau_is_on_all_of_its_levels_at_once() -> None:
    """Nine outcomes in ten lie on the plateau of every forecast, which covers nine levels in ten: that is right."""
    rng = np.random.default_rng(6)
    rising = np.sort(np.where(rng.random((300, 200, 1, 1)) < 0.9, 10.0, rng.uniform(20, 30, (300, 200, 1, 1))), axis=1)
    outcome = np.where(rng.random((300, 1, 1)) < 0.9, 10.0, rng.uniform(20, 30, (300, 1, 1)))
    assert verdict(rising, outcome, "rps").calibrated


def test_what_never_moved_is_said_not_to_have_moved() -> None:
    flat = np.full((50, 200, 1, 1), 7.0)
    stays = verdict(flat, flat[:, 0], "rps")
    assert stays.calibrated
    assert "rps did not move in 50 held-out windows" in stays.reason
    assert "%" not in stays.reason  # no figures that look like evidence
    wide = np.sort(np.random.default_rng(7).normal(7.0, 1.0, (50, 200, 1, 1)), axis=1)
    unsure = verdict(wide, flat[:, 0], "rps")
    assert unsure.reason.endswith("it did not move in any of them")
    elsewhere = verdict(flat + 1, flat[:, 0], "rps")
    assert not elsewhere.calibrated
    moved = verdict(wide, wide[:, 100], "rps")
    assert "did not move" not in moved.reason
