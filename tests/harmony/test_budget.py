"""The error budget: what is spent, what is left, and at which pace to go on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from forecasting.errors import UsageError
from harmony.decision.budget import HOUR_S, ErrorBudget, Hour

LAWS = settings(max_examples=200, deadline=None)
DAY_S = 86_400.0

histories = st.lists(
    st.tuples(st.floats(-600, 9000), st.integers(0, 60), st.floats(0, 1), st.floats(0, 0.2)), min_size=1, max_size=60
)


def lived(budget: ErrorBudget, history: list[tuple[float, int, float, float]]) -> tuple[ErrorBudget, float]:
    """The budget after (seconds since the last look, steps, violated share, stated share) each; and the time."""
    now = 1.6e9
    for dt, steps, share, stated in history:
        now += dt
        budget = budget.learn(now, steps, round(share * steps), stated * steps)
    return budget, now


@LAWS
@given(histories, st.sampled_from([0.001, 0.01, 0.1]))
def test_spent_and_seen_are_the_sums_over_the_window(history: list, epsilon: float) -> None:
    budget, _ = lived(ErrorBudget(epsilon, window_s=DAY_S), history)
    assert budget.counted.steps == pytest.approx(sum(h.steps for h in budget.hours))
    assert budget.spent == pytest.approx(sum(h.violated for h in budget.hours))
    if budget.hours:
        assert budget.hours[-1].start_s - budget.hours[0].start_s < DAY_S
    starts = [h.start_s for h in budget.hours]
    assert starts == sorted(set(starts))


@LAWS
@given(histories, st.sampled_from([0.0, 0.001, 0.01, 0.1]))
def test_the_pace_stays_within_its_bounds(history: list, epsilon: float) -> None:
    budget, _ = lived(ErrorBudget(epsilon), history)
    assert ErrorBudget.SLOWEST * epsilon <= budget.pace <= budget.fastest * epsilon
    assert 1 / ErrorBudget.SCALE <= budget.realised_over_stated <= ErrorBudget.SCALE


def test_a_rare_objective_is_aimed_at_with_more_room() -> None:
    """Of ten violations one standard error is three: who aims at all ten breaks the promise every other time."""
    assert ErrorBudget(0.001).learn(0.0, 60, 0).pace == pytest.approx(0.0007)
    assert ErrorBudget(0.01).learn(0.0, 60, 0).pace == pytest.approx(0.0095)


@LAWS
@given(histories, st.integers(1, 60))
def test_more_violations_never_quicken_the_pace(history: list, more: int) -> None:
    budget, now = lived(ErrorBudget(0.01), history)
    assert budget.learn(now, more, more).pace <= budget.learn(now, more, 0).pace


@LAWS
@given(st.integers(1, 24), st.floats(0, 1))
def test_no_hour_counts_for_more_than_its_share(hours: int, share: float) -> None:
    """However bad one hour is, the pace falls by at most a quarter of the budget."""
    budget = ErrorBudget(0.01)
    for hour in range(hours):
        budget = budget.learn(hour * HOUR_S, 60, 0)
    before, after = budget.pace, budget.learn(hours * HOUR_S, 3600, round(3600 * share)).pace
    whole = budget.window_s / budget.step_s
    assert after >= min(before, budget.FASTEST * 0.01) - ErrorBudget.HOUR_SHARE * budget.total / whole - 1e-12


def test_a_budget_kept_to_the_step_is_spent_by_the_end_of_the_window() -> None:
    budget = ErrorBudget(0.01, window_s=10 * DAY_S)
    for hour in range(240):
        budget = budget.learn(hour * HOUR_S, 60, 1 if hour % 5 < 3 else 0)  # 1 % of the steps
    assert budget.left == pytest.approx(0.0, abs=1e-9)
    assert budget.pace == pytest.approx(ErrorBudget.FASTEST * 0.01)
    assert budget.burn_rate(DAY_S) == pytest.approx(1.0, rel=0.1)


def test_what_left_the_window_is_forgotten() -> None:
    budget = ErrorBudget(0.01, window_s=DAY_S).learn(0.0, 60, 60)
    assert budget.left < 0
    assert budget.learn(2 * DAY_S, 60, 0).left == 1.0


def test_an_unspent_budget_makes_good_what_was_overspent_but_never_aims_above_the_promise() -> None:
    fresh = ErrorBudget(0.01, window_s=2 * DAY_S)
    idle, busy = fresh, fresh
    for hour in range(24):
        idle, busy = idle.learn(hour * HOUR_S, 60, 0), busy.learn(hour * HOUR_S, 60, 2)
    assert idle.pace == ErrorBudget.FASTEST * 0.01 > busy.pace
    for hour in range(24, 48):
        busy = busy.learn(hour * HOUR_S, 60, 0)
    assert busy.pace == pytest.approx(0.01 * 9.6 / 28.8)  # 48 are spent of what two windows of 28.8 allow


def test_a_bad_day_slows_at_once_and_is_forgotten_for_it_after_some_days() -> None:
    """Three times what is allowed for a day, after three weeks without: the whole window would hardly notice."""
    budget = ErrorBudget(0.01)
    for hour in range(21 * 24):
        budget = budget.learn(hour * HOUR_S, 60, 0)
    for hour in range(21 * 24, 24 * 24):
        budget = budget.learn(hour * HOUR_S, 60, 2)
    assert budget.left > 0.5
    assert budget.pace == ErrorBudget.SLOWEST * 0.01
    for hour in range(24 * 24, 27 * 24):
        budget = budget.learn(hour * HOUR_S, 60, 0)
    assert budget.pace == ErrorBudget.FASTEST * 0.01


def test_statements_of_the_first_day_are_forgotten_within_days() -> None:
    """Six percent stated on the first day, when residuals are few, and one realised ever since."""
    budget = ErrorBudget(0.01)
    for hour in range(10 * 24):
        violated = hour % 5 < 3  # of 60 steps one, three hours of five: one percent
        budget = budget.learn(hour * HOUR_S, 60, violated, 60 * (0.06 if hour < 24 else 0.01))
        if hour == 23:
            assert budget.realised_over_stated < 0.3
    assert budget.realised_over_stated == pytest.approx(1.0, abs=0.05)


def test_an_hour_without_known_steps_changes_nothing() -> None:
    budget = ErrorBudget(0.01).learn(0.0, 60, 3)
    assert budget.learn(HOUR_S, 0, 0) is budget


@pytest.mark.parametrize("counts", [(10, 11, 0.0), (10, -1, 0.0), (10, 1, -0.1)])
def test_impossible_counts_are_refused(counts: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError):
        ErrorBudget(0.01).learn(0.0, *counts)


@pytest.mark.parametrize("bad", [{"epsilon": 1.0}, {"epsilon": 0.01, "window_s": 60.0}])
def test_impossible_budgets_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ErrorBudget(**bad)


@LAWS
@given(st.integers(6, 40_000), st.integers(1, 20), st.sampled_from([0.001, 0.01, 0.1]))
def test_the_band_is_the_central_part_of_the_binomial(steps: int, together: int, epsilon: float) -> None:
    """By blocks of steps, against SciPy's own quantiles; what an objective of 0 leaves is not chance's."""
    budget = replace(ErrorBudget(epsilon), counted=Hour(0.0, float(steps)))
    least, most = budget.band(together)
    draws = steps // together
    if draws == 0:
        assert math.isnan(least)
        return
    few, many = binom.ppf([0.025, 0.975], draws, epsilon) * together / budget.total
    assert (least, most) == pytest.approx((1.0 - many, 1.0 - few))
    assert math.isnan(ErrorBudget(0.0).band(1)[0])
