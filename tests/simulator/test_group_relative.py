"""Group-relative optimisation: its advantages, and that it finds the level that pays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecasting.errors import UsageError
from simulator.group_relative import LevelPolicy, advantages, learn


@settings(max_examples=100)
@given(arrays(float, (3, 8), elements=st.floats(-1e3, 1e3)))
def test_advantages_have_mean_0_and_spread_1_or_are_0(rewards: np.ndarray) -> None:
    found = advantages(rewards)
    assert np.isfinite(found).all()
    for row, given_ in zip(found, rewards, strict=True):
        if given_.std() > 1e-6 * max(1.0, np.abs(given_).max()):
            assert row.mean() == pytest.approx(0.0, abs=1e-6)
            assert row.std() == pytest.approx(1.0, rel=1e-6)
    assert not advantages(np.full((2, 5), 7.3)).any()


def test_rare_but_costly_outcomes_count_only_over_the_spread_of_all() -> None:
    """One state in fifty where the low level costs a hundred: worth avoiding, which a group's own spread hides."""
    rewards = np.tile([-1.0, -2.0], (1000, 1))
    rewards[::50, 0] -= 100.0
    ones = np.ones((1000, 1))
    assert learn(ones, rewards, divergence=0.0).choose(ones[:1]).tolist() == [0]
    assert learn(ones, rewards, divergence=0.0, by_group=False).choose(ones[:1]).tolist() == [1]


def test_equal_rewards_teach_nothing() -> None:
    ones = np.ones((20, 1))
    assert not learn(ones, np.full((20, 4), -3.0), rounds=5).weights.any()


def test_it_finds_the_level_that_pays_in_each_kind_of_state() -> None:
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 2, 400)
    features = np.column_stack([np.ones(400), kind])
    rewards = rng.normal(0.0, 0.3, (400, 5))
    rewards[np.arange(400), np.where(kind == 1, 3, 1)] += 1.0
    policy = learn(features, rewards, seed=2)
    assert policy.choose(np.array([[1.0, 0.0], [1.0, 1.0]])).tolist() == [1, 3]


def test_divergence_holds_it_near_an_even_choice() -> None:
    rewards = np.tile([0.0, 1.0, 0.0], (50, 1))
    ones = np.ones((50, 1))
    free, held = (learn(ones, rewards, divergence=d).log_shares(ones[:1]).max() for d in (0.0, 1.0))
    assert np.exp(held) < np.exp(free)
    assert np.exp(held) > 1 / 3


def test_a_step_is_the_gradient_of_what_is_maximised() -> None:
    """One round and one pass, against the objective differentiated numerically."""
    rng = np.random.default_rng(3)
    features, rewards = rng.normal(size=(6, 2)), rng.normal(size=(6, 3))
    rate = 0.1
    moved = learn(features, rewards, rounds=1, passes=1, rate=rate, seed=4, divergence=0.3).weights / rate
    noise = np.random.default_rng(4).gumbel(size=(6, 8, 3))
    even = np.full((6, 3), np.log(1 / 3))
    chosen = (even[:, None, :] + noise).argmax(axis=2)
    rows = np.arange(6)[:, None]
    gain = advantages(rewards[rows, chosen])

    def objective(weights: np.ndarray) -> float:
        log = LevelPolicy(weights).log_shares(features)[rows, chosen]
        ratio, away = np.exp(log - even[rows, chosen]), even[rows, chosen] - log
        kept = np.minimum(ratio * gain, np.clip(ratio, 0.8, 1.2) * gain)
        return float((kept - 0.3 * (np.exp(away) - away - 1.0)).mean())

    for at in np.ndindex(2, 3):
        step = np.zeros((2, 3))
        step[at] = 1e-5
        assert moved[at] == pytest.approx((objective(step) - objective(-step)) / 2e-5, abs=1e-6)


def test_shapes_and_holes_are_refused() -> None:
    with pytest.raises(UsageError, match="a row of both"):
        learn(np.ones((3, 1)), np.ones((4, 2)))
    with pytest.raises(UsageError, match="finite"):
        learn(np.ones((3, 1)), np.full((3, 2), np.nan))
