"""Capacity learned from an indicator bound: calibrated on simulated services, honest at low load, able to relearn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from forecasting.errors import UsageError
from harmony.decision.learning import LearningGate
from harmony.model.capacity import Capacity


def held_at(load: float, truth: float, rng: np.random.Generator, wrong: float = 0.0) -> bool:
    """What a service with capacity ``truth`` shows at that load (with a share of wrong labels)."""
    held = rng.random() < 0.5 * math.erfc(-math.log(truth / load) / Capacity.TAU / math.sqrt(2))
    return bool(held) != (rng.random() < wrong)


def covered(
    services: int, steps: int, load: tuple[float, float], *, of_belief: bool, wrong: float, seed: int
) -> tuple[float, float]:
    """Share of services whose 90 % interval covers the truth, and median |log error|.

    Loads are uniform between the two multiples of what is believed at the time (or of the prior's median); truths
    come from the prior.
    """
    rng = np.random.default_rng(seed)
    hits, errors = 0, []
    for _ in range(services):
        capacity = Capacity.prior(100.0)
        truth = 100.0 * math.exp(capacity.sigma * rng.standard_normal())
        for _ in range(steps):
            x = (capacity.median if of_belief else 100.0) * rng.uniform(*load)
            capacity = capacity.observe_held(x, held_at(x, truth, rng, wrong)).drift(60.0)
        low, high = capacity.interval(0.9)
        hits += low <= truth <= high
        errors.append(abs(math.log(capacity.median / truth)))
    return hits / services, float(np.median(errors))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "of_belief", "wrong"),
    [((0.5, 1.0), True, 0.0), ((0.5, 1.0), True, 0.02), ((0.2, 0.4), False, 0.0), ((0.6, 1.2), False, 0.02)],
)
def test_ninety_percent_intervals_cover_ninety_percent(
    load: tuple[float, float], of_belief: bool, wrong: float
) -> None:
    """500 services: the standard error of a share of 0.9 is 0.013; four of them, rounded, are tolerated."""
    share, error = covered(500, 60, load, of_belief=of_belief, wrong=wrong, seed=7)
    assert share == pytest.approx(0.9, abs=0.055)
    if of_belief:
        assert error < 0.05


def test_it_converges_within_an_hour_of_minutes_near_capacity() -> None:
    for steps, at_most in ((5, 0.25), (20, 0.10), (60, 0.045)):
        assert covered(150, steps, (0.6, 1.1), of_belief=True, wrong=0.0, seed=3)[1] < at_most


def test_steps_at_very_low_load_teach_almost_nothing() -> None:
    capacity = Capacity.prior(100.0)
    for _ in range(5000):
        capacity = capacity.observe_held(5.0, held=True).drift(60.0)
    assert capacity.median == pytest.approx(100.0, rel=0.01)
    assert capacity.sigma == pytest.approx(math.log(2.0), rel=0.01)


def test_thousands_of_expected_labels_cut_the_prior_and_do_not_creep() -> None:
    """Always held at 60: what is left is the prior above 60, however often it was said."""
    capacity = Capacity.prior(100.0)
    seen = []
    for _ in range(4000):
        capacity = capacity.observe_held(60.0, held=True).drift(60.0)
        seen.append(capacity.median)
    sigma = math.log(2.0)
    above = norm.cdf(math.log(0.6) / sigma)
    cut = 100.0 * math.exp(sigma * norm.ppf(above + (1 - above) / 2))
    assert seen[-1] == pytest.approx(cut, rel=0.2)
    assert seen[-1] == pytest.approx(seen[1000], rel=0.05)


def test_one_wrong_label_moves_a_settled_belief_little() -> None:
    rng = np.random.default_rng(0)
    capacity = Capacity.prior(100.0)
    for _ in range(300):
        x = rng.uniform(70, 130)
        capacity = capacity.observe_held(x, held_at(x, 100.0, rng))
    assert capacity.observe_held(20.0, held=False).median == pytest.approx(capacity.median, rel=0.01)


@pytest.mark.parametrize(("factor", "steps"), [(0.5, 20), (1.5, 250)])
def test_a_changed_model_is_learned_anew(factor: float, steps: int) -> None:
    """Fewer: some surprises suffice. More: only loads near the old capacity can tell."""
    rng = np.random.default_rng(5)
    for _ in range(10):
        capacity, truth = Capacity.prior(100.0), 100.0
        for step in range(300 + steps):
            truth = 100.0 * (factor if step >= 300 else 1.0)
            x = capacity.median * rng.uniform(0.5, 1.0)
            capacity = capacity.observe_held(x, held_at(x, truth, rng)).drift(60.0)
        assert capacity.median == pytest.approx(truth, rel=0.15)


def test_forgetting_goes_back_to_the_prior() -> None:
    learned = Capacity.prior(100.0)
    for _ in range(50):
        learned = learned.observe_held(200.0, held=True).observe_held(280.0, held=False)
    assert learned.median == pytest.approx(237, rel=0.05)
    spreads = [learned.drift(86_400.0 * days).sigma for days in (0.001, 1, 7, 30)]
    assert spreads == sorted(spreads)
    forgotten = learned.drift(86_400.0 * 365)
    assert forgotten.median == pytest.approx(100.0, rel=0.01)
    assert forgotten.sigma == pytest.approx(math.log(2.0), rel=0.01)
    assert learned.drift(0.0) is learned
    assert learned.drift(-3600.0) is learned
    assert Capacity.prior(100.0).drift(3600.0) == Capacity.prior(100.0)


def test_what_is_known_learns_nothing() -> None:
    known = Capacity.known(25.0)
    assert known.observe_held(100.0, held=False) is known
    assert known.drift(1e9) is known
    assert known.interval() == (25.0, 25.0)


@given(
    st.floats(1e-6, 1e9),
    st.floats(1.05, 10.0),
    st.lists(st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.booleans()), max_size=8),
)
def test_no_label_breaks_the_belief(median: float, spread: float, labels: list[tuple[float, bool]]) -> None:
    capacity = Capacity.prior(median, spread)
    for load, held in labels:
        capacity = capacity.observe_held(load, held)
        low, high = capacity.interval()
        assert 0 < low <= capacity.median <= high < math.inf
        assert 0 < capacity.sigma < 10 * math.log(spread)
        if capacity.weights:
            assert sum(capacity.weights) == pytest.approx(1.0)
    assert np.all(np.isfinite(capacity.draws(50)))


@given(st.floats(10.0, 1000.0), st.floats(10.0, 1000.0))
def test_held_never_lowers_and_missed_never_raises(one: float, two: float) -> None:
    start = Capacity.prior(100.0).observe_held(one, held=True)
    assert start.observe_held(two, held=True).median >= start.median * (1 - 1e-9)
    assert start.observe_held(two, held=False).median <= start.median * (1 + 1e-9)


def test_the_grid_agrees_with_the_lognormal_it_begins_as() -> None:
    lognormal = Capacity.prior(100.0)
    grid = lognormal.observe_held(1e-3, held=True)
    q = np.array([0.01, 0.05, 0.5, 0.95, 0.99])
    assert grid.weights
    np.testing.assert_allclose(grid.quantile(q), lognormal.quantile(q), rtol=0.02)
    np.testing.assert_allclose(grid.draws(200), lognormal.draws(200), rtol=0.05)


def test_a_lognormal_without_a_prior_becomes_its_own() -> None:
    seen = Capacity(10.0, 0.3).observe_held(12.0, held=True)
    assert (seen.prior_median, seen.prior_sigma) == (10.0, 0.3)
    assert seen.median > 10.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Capacity.prior(10.0, 1.0), "spread 1.0"),
        (lambda: Capacity(10.0, 0.1, -1.0, 0.1), "prior"),
        (lambda: Capacity(10.0, 0.1, 10.0, 0.1, (0.5, 0.5)), "2 weights"),
        (lambda: Capacity(10.0, 0.1, weights=(1.0,)), "1 weights"),
    ],
)
def test_mistakes_are_named(make: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()  # type: ignore[operator]


# ---- which steps may teach -----------------------------------------------------------------------------------
def test_the_gate_opens_when_all_that_was_ordered_has_served_for_a_while() -> None:
    gate, seen = LearningGate(120.0), []
    for i, (ordered, ready) in enumerate([(3, 3), (3, 3), (3, 3), (4, 3), (4, 3), (4, 4), (4, 4), (4, 4), (3, 3)]):
        gate = gate.see(60.0 * i, ordered, ready)
        seen.append(gate.is_open(60.0 * i))
    assert seen == [False, False, True, False, False, False, False, True, False]


@given(st.lists(st.tuples(st.floats(-3600, 3600), st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_the_gate_is_open_only_after_steady_seconds(looks: list[tuple[float, int, int]]) -> None:
    gate, now, steady_s, last = LearningGate(300.0), 0.0, 0.0, None
    for dt, ordered, ready in looks:
        now += dt
        same = ordered == ready > 0 and last == (ordered, ready)
        steady_s = steady_s + max(dt, 0.0) if same else 0.0
        last = (ordered, ready)
        gate = gate.see(now, ordered, ready)
        if gate.is_open(now):
            assert steady_s >= 300.0 - 1e-6
