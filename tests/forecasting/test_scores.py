from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecasting import scores
from forecasting.errors import DataError
from forecasting.panel import FloatArray


def cases(
    seed: int, *, windows: int = 5, samples: int = 9, horizon: int = 3, indicators: int = 2
) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(windows, samples, horizon, indicators)), rng.normal(size=(windows, horizon, indicators))


def one(samples: list[float], outcome: float) -> tuple[FloatArray, FloatArray]:
    return np.array(samples).reshape(1, -1, 1, 1), np.array(outcome).reshape(1, 1, 1)


# ---- CRPS -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("samples", "outcome", "expected"),
    [
        ([3.0], 5.0, 2.0),  # one sample: the absolute error
        ([1.0, 3.0], 2.0, 0.5),  # mean |x-y| = 1, less half the mean pair distance 1
        ([0.0, 0.0, 3.0], 0.0, 1.0 - 4.0 / 6.0),  # 1 - (4 * 3 / 9) / 2
        ([2.0, 2.0], 2.0, 0.0),  # a constant that is forecast exactly
    ],
)
def test_crps_by_hand(samples: list[float], outcome: float, expected: float) -> None:
    assert scores.crps(*one(samples, outcome))[0, 0, 0] == pytest.approx(expected, abs=1e-15)


@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(max_examples=30)
def test_crps_is_the_mean_error_less_half_the_mean_pair_distance(seed: int, samples: int) -> None:
    paths, outcome = cases(seed, samples=samples)
    error = np.abs(paths - outcome[:, None]).mean(axis=1)
    pairs = np.abs(paths[:, :, None] - paths[:, None]).mean(axis=(1, 2))
    np.testing.assert_allclose(scores.crps(paths, outcome), error - pairs / 2, atol=1e-12)


@pytest.mark.parametrize("outcome", [-2.0, 0.0, 0.7])
def test_crps_of_a_gaussian_is_the_closed_form(outcome: float) -> None:
    # Gneiting and Raftery 2007, eq. 21: sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)).
    mean, sd = 0.3, 1.7
    z = (outcome - mean) / sd
    exact = sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    quantiles = mean + sd * stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    assert scores.crps(*one(list(quantiles), outcome))[0, 0, 0] == pytest.approx(exact, rel=1e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_blocks_change_nothing(seed: int) -> None:
    paths, outcome = cases(seed, windows=7)
    whole = [f(paths, outcome) for f in (scores.crps, scores.energy_score, scores.pit)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "BLOCK", 2 * paths[0].size)
        pieces = [f(paths, outcome) for f in (scores.crps, scores.energy_score, scores.pit)]
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


# ---- energy score -----------------------------------------------------------------------------------------------
def test_energy_score_by_hand() -> None:
    paths = np.array([[[0.0, 0.0]], [[3.0, 4.0]]])[None]  # two samples, one step, two indicators
    outcome = np.array([[[0.0, 0.0]]])
    # mean distance to the outcome 2.5, mean pair distance (0 + 5 + 5 + 0) / 4
    assert scores.energy_score(paths, outcome).tolist() == [2.5 - 1.25]


def test_energy_score_of_one_component_is_its_crps() -> None:
    paths, outcome = cases(3, horizon=1, indicators=1)
    np.testing.assert_allclose(scores.energy_score(paths, outcome), scores.crps(paths, outcome)[:, 0, 0])


def test_energy_score_tells_joint_paths_from_shuffled_ones() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(300, 100, 1, 1))
    joint = np.concatenate([common, common], axis=2)
    shuffled = np.concatenate([common, rng.permuted(common, axis=1)], axis=2)
    truth = np.repeat(rng.normal(size=(300, 1, 1)), 2, axis=1)
    assert scores.energy_score(joint, truth).mean() < 0.97 * scores.energy_score(shuffled, truth).mean()


def test_energy_score_leaves_absent_components_out() -> None:
    paths, outcome = cases(1)
    outcome[0, 0, 0] = np.nan
    outcome[1] = np.nan
    paths[2, 0, 1, 1] = np.nan
    found = scores.energy_score(paths, outcome)
    keep = np.ones(6, dtype=bool)
    keep[0] = False
    flat, target = paths[:1].reshape(1, 9, 1, 6)[..., keep], outcome[:1].reshape(1, 1, 6)[..., keep]
    assert found[0] == pytest.approx(scores.energy_score(flat, target)[0])
    assert np.isnan(found[1])
    assert np.isfinite(found[2:]).all()


# ---- pinball, error, coverage, PIT ------------------------------------------------------------------------------
def test_pinball_by_hand_and_its_sum_is_the_crps() -> None:
    paths, outcome = one([0.0, 1.0, 2.0], 2.0)
    # median 1, outcome 1 above: tau * 1; at 0.9 the quantile 1.8 leaves 0.2 * 0.9.
    np.testing.assert_allclose(scores.pinball(paths, outcome, [0.5, 0.9])[:, 0, 0, 0], [0.5, 0.18])
    rng = np.random.default_rng(0)
    many, truth = rng.normal(size=(20, 2_000, 1, 1)), rng.normal(size=(20, 1, 1))
    levels = (np.arange(200) + 0.5) / 200
    twice = 2 * scores.pinball(many, truth, levels).mean(axis=0)
    np.testing.assert_allclose(twice, scores.crps(many, truth), rtol=0.03)


def test_squared_error_is_of_the_mean() -> None:
    assert scores.mean_squared_error(*one([1.0, 2.0, 6.0], 5.0))[0, 0, 0] == 4.0


def test_coverage_counts_outcomes_inside_the_central_interval() -> None:
    samples = list(np.arange(101.0))
    for outcome, inside in [
        (50.0, [1, 1]),
        (25.0, [1, 1]),
        (24.9, [0, 1]),
        (10.0, [0, 1]),
        (9.9, [0, 0]),
        (91.0, [0, 0]),
    ]:
        found = scores.coverage(*one(samples, outcome), [0.5, 0.8])
        assert found[:, 0, 0, 0].tolist() == inside


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_wider_intervals_cover_more(seed: int) -> None:
    found = scores.coverage(*cases(seed), [0.5, 0.8, 0.95])
    assert (np.diff(found, axis=0) >= 0).all()


def test_a_constant_forecast_exactly_is_covered_whatever_its_size() -> None:
    for value in (0.0, 0.1, 68_719_476_736.3):
        assert scores.coverage(*one([value] * 7, value), [0.5])[0, 0, 0, 0] == 1.0


def test_right_forecasts_cover_their_share_and_have_uniform_pit() -> None:
    rng = np.random.default_rng(1)
    paths, outcome = rng.normal(size=(4_000, 99, 1, 1)), rng.normal(size=(4_000, 1, 1))
    for level, share in zip(
        (0.5, 0.8, 0.95), scores.coverage(paths, outcome, [0.5, 0.8, 0.95]).mean(axis=(1, 2, 3)), strict=True
    ):
        assert share == pytest.approx(level, abs=0.03)
    assert stats.kstest(scores.pit(paths, outcome, rng).ravel(), "uniform").pvalue > 0.01


def test_pit_with_atoms() -> None:
    paths, outcome = one([0.0, 0.0, 1.0, 2.0], 0.0)
    assert scores.pit(paths, outcome)[0, 0, 0] == 0.25  # half of the two equal ones
    rng = np.random.default_rng(2)
    zeros = np.zeros((3_000, 8, 1, 1))
    assert stats.kstest(scores.pit(zeros, zeros[:, 0], rng).ravel(), "uniform").pvalue > 0.01


# ---- absent and wrong -------------------------------------------------------------------------------------------
def test_absent_is_never_scored() -> None:
    paths, outcome = cases(5)
    outcome[0, 1, 0] = np.nan
    paths[1, 4, 2, 1] = np.nan
    gone = np.zeros(outcome.shape, dtype=bool)
    gone[0, 1, 0] = gone[1, 2, 1] = True
    for found in (
        scores.crps(paths, outcome),
        scores.mean_squared_error(paths, outcome),
        scores.pit(paths, outcome),
        scores.coverage(paths, outcome, 0.8)[0],
        scores.pinball(paths, outcome, 0.3)[0],
    ):
        np.testing.assert_array_equal(np.isnan(found), gone)


def test_what_does_not_belong_together_is_refused() -> None:
    paths, outcome = cases(0)
    for bad_paths, bad_outcome in [(paths, outcome[:, :2]), (paths[0], outcome), (paths[:, :0], outcome)]:
        with pytest.raises(DataError, match="do not belong together"):
            scores.crps(bad_paths, bad_outcome)
    for level in (0.0, 1.0, []):
        with pytest.raises(DataError, match="between 0 and 1"):
            scores.coverage(paths, outcome, level)
        with pytest.raises(DataError, match="between 0 and 1"):
            scores.pinball(paths, outcome, level)


# ---- absolute error, outcomes above a quantile ------------------------------------------------------------------
def test_absolute_error_is_that_of_the_median() -> None:
    assert scores.mean_absolute_error(*one([0.0, 1.0, 9.0], 3.0)).tolist() == [[[2.0]]]
    assert scores.mean_absolute_error(*one([0.0, 1.0], 3.0)).tolist() == [[[2.5]]]
    assert np.isnan(scores.mean_absolute_error(*one([1.0], math.nan))).all()


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_no_other_sample_has_less_absolute_error_than_the_median_on_the_samples_themselves(seed: int) -> None:
    samples = np.random.default_rng(seed).normal(size=9)
    by_median = np.mean([scores.mean_absolute_error(*one(list(samples), y)) for y in samples])
    assert by_median <= np.abs(samples[:, None] - samples).mean(axis=1).min() + 1e-12


def test_the_share_above_a_right_quantile_is_what_is_left() -> None:
    rng = np.random.default_rng(1)
    paths = np.broadcast_to(rng.normal(size=(1, 4000, 1, 1)), (5000, 4000, 1, 1))
    over = scores.above(paths, rng.normal(size=(5000, 1, 1)), [0.9, 0.99]).mean(axis=(1, 2, 3))
    assert over == pytest.approx([0.1, 0.01], abs=0.012)


def test_an_outcome_at_the_quantile_is_not_above_it_and_an_absent_one_is_neither() -> None:
    third = [0.1 + 0.2] * 3  # interpolating between equal samples may be off by a rounding step
    assert scores.above(*one(third, 0.30000000000000004), [0.9, 0.999]).ravel().tolist() == [0.0, 0.0]
    assert scores.above(*one(third, 0.31), [0.9]).ravel().tolist() == [1.0]
    assert np.isnan(scores.above(*one(third, math.nan), [0.9])).all()
    with pytest.raises(DataError, match="between 0 and 1"):
        scores.above(*one(third, 0.0), [1.0])


def test_an_outcome_on_a_plateau_counts_by_the_part_of_its_levels_inside() -> None:
    paths = np.array([0.0] * 6 + [1.0, 2.0, 3.0, 4.0]).reshape(1, 10, 1, 1)
    found = [
        float(scores.randomised_coverage(paths, np.full((1, 1, 1), y), 0.8)[0, 0, 0, 0]) for y in (0, 2, 3.5, 4, 9)
    ]
    # the plateau has the levels 0 to 0.6, of which 0.1 to 0.6 lie inside; 4 has 0.9 to 1, none of them inside
    assert found == pytest.approx([5 / 6, 1.0, 1.0, 0.0, 0.0])
    plain = [float(scores.coverage(paths, np.full((1, 1, 1), y), 0.8)[0, 0, 0, 0]) for y in (0, 2, 3.5, 4, 9)]
    assert plain == [1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("atom", [0.0, 0.05, 0.4, 0.97])
def test_of_a_right_forecast_with_an_atom_intervals_hold_what_they_say_by_part(atom: float) -> None:
    rng = np.random.default_rng(3)

    def drawn(*shape: int) -> FloatArray:
        return np.where(rng.random(shape) < atom, 0.0, rng.exponential(1.0, shape))

    paths, outcome = np.broadcast_to(drawn(1, 4000, 1, 1), (20_000, 4000, 1, 1)), drawn(20_000, 1, 1)
    some = slice(0, 20_000, 10)
    levels = (0.5, 0.8, 0.95, 0.99)
    found = scores.randomised_coverage(paths[some], outcome[some], levels).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found, levels, atol=0.03)
    plain = scores.coverage(paths[some], outcome[some], levels).mean(axis=(1, 2, 3))
    assert (plain[1] > 0.87) == (atom > 0.1)  # the whole of the atom lies on the interval's lower end
    draws = np.stack([scores.pit(paths[some], outcome[some], np.random.default_rng(k)) for k in range(20)])
    by_chance = [np.mean(np.abs(draws - 0.5) <= p / 2) for p in levels]
    np.testing.assert_allclose(found, by_chance, atol=0.01)


def test_a_constant_forecast_exactly_has_by_part_what_intervals_say() -> None:
    paths, outcome = np.full((2, 50, 1, 1), 1e9 / 3), np.full((2, 1, 1), 1e9 / 3)
    np.testing.assert_allclose(scores.randomised_coverage(paths, outcome, (0.5, 0.99))[:, :, 0, 0].T, [[0.5, 0.99]] * 2)
    outcome[1] = np.nan
    assert np.isnan(scores.randomised_coverage(paths, outcome, 0.5)[0, 1, 0, 0])
