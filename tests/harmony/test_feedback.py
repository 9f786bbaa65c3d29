"""The promise is realised in the long run, whatever the model's miscalibration; absent data teach nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from harmony.decision.feedback import RiskFeedback
from harmony.model.observation import Outcome


@pytest.mark.slow
@pytest.mark.parametrize("true_sigma", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("epsilon", [0.01, 0.05])
def test_realised_violations_approach_epsilon(true_sigma: float, epsilon: float) -> None:
    """The model believes in N(0, 1); the truth is wider or narrower."""
    rng = np.random.default_rng(4)
    feedback, missed = RiskFeedback.start(epsilon), []
    for truth in rng.normal(0, true_sigma, 40_000):
        violated = truth > ndtri(1 - feedback.level)
        missed.append(violated)
        feedback = feedback.learn(Outcome(1, int(violated)))
    assert np.mean(missed[5000:]) == pytest.approx(epsilon, rel=0.15)


def test_nothing_seen_changes_nothing() -> None:
    feedback = RiskFeedback.start(0.01)
    assert feedback.learn(Outcome(0, 0)) is feedback


def test_the_level_stays_within_bounds() -> None:
    low = high = RiskFeedback.start(0.01)
    for _ in range(5000):
        low, high = low.learn(Outcome(10, 10)), high.learn(Outcome(10, 0))
    assert 0 < low.level < high.level <= 0.5


def test_many_steps_at_once_equal_one_by_one() -> None:
    once = RiskFeedback.start(0.02).learn(Outcome(5, 1))
    each = RiskFeedback.start(0.02)
    for violated in (0, 1, 0, 0, 0):
        each = each.learn(Outcome(1, violated))
    assert once.level == pytest.approx(each.level)
