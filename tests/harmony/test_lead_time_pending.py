"""Starts that still run, failed or are long ago: against the exact posterior, and never for the shorter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from harmony.model.lead_time import LeadTime

leads = st.builds(
    lambda median, spread, starts: _after(LeadTime.measured(median, spread=spread), starts),
    st.floats(10.0, 1000.0),
    st.floats(1.1, 3.0),
    st.lists(st.floats(5.0, 2000.0), max_size=10),
)
ages = st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.floats(1.0, 20_000.0), max_size=12)


def _after(lead: LeadTime, starts: list[float]) -> LeadTime:
    for took in starts:
        lead = lead.observe(took)
    return lead


@given(leads, ages, st.floats(0.5, 0.99))
def test_pending_starts_never_shorten_what_is_expected(lead: LeadTime, pending: list[float], q: float) -> None:
    expected = lead.with_pending(pending)
    assert expected.quantile_s(q) >= lead.quantile_s(q) * (1 - 1e-9)
    assert math.isfinite(expected.median_s)


@given(leads, ages)
def test_young_starts_say_nothing(lead: LeadTime, pending: list[float]) -> None:
    young = [a for a in pending if not a > lead.median_s]
    assert lead.with_pending(young) == lead


def test_a_known_lead_time_is_not_doubted() -> None:
    known = LeadTime.known(60.0)
    assert known.with_pending([1e6]) is known
    assert known.observe_failed(1e6) is known


@pytest.mark.parametrize("pending", [(400.0,), (600.0,), (400.0, 400.0, 400.0), (900.0, 900.0)])
def test_near_the_exact_censored_posterior(pending: tuple[float, ...]) -> None:
    """Median and 90 % quantile of the predictive, by weighting posterior draws with the survival of each start."""
    rng = np.random.default_rng(11)
    lead = _after(LeadTime.measured(300.0), list(np.exp(rng.normal(math.log(300.0), 0.25, 10))))
    variance = lead.beta / rng.gamma(lead.alpha, 1.0, 400_000)
    mean = lead.mu + np.sqrt(variance / lead.kappa) * rng.standard_normal(variance.size)
    weight = np.ones_like(mean)
    for age in pending:
        weight *= norm.sf((math.log(age) - mean) / np.sqrt(variance))
    draws = np.exp(
        rng.choice(mean + np.sqrt(variance) * rng.standard_normal(mean.size), 200_000, p=weight / weight.sum())
    )
    ours = lead.with_pending(pending)
    assert ours.median_s == pytest.approx(np.median(draws), rel=0.15)
    assert ours.quantile_s(0.9) == pytest.approx(np.quantile(draws, 0.9), rel=0.25)


def test_a_stuck_node_pool_is_noticed_before_any_start_ends() -> None:
    """Ten starts that should take 5 minutes have run for 30."""
    lead = _after(LeadTime.measured(300.0), [290.0, 310.0, 300.0, 320.0])
    assert lead.with_pending([1800.0] * 10).quantile_s(0.9) > 1800.0


def test_failed_starts_are_kept_as_censored_ones() -> None:
    lead = LeadTime.measured(300.0)
    assert lead.observe_failed(100.0) == lead
    after = lead.observe_failed(900.0)
    assert after.quantile_s(0.9) > lead.quantile_s(0.9)
    assert after == lead.with_pending([900.0])


@given(leads, st.floats(1.0, 1e9))
def test_a_stuck_start_teaches_nothing_about_how_long_starts_take(lead: LeadTime, longer: float) -> None:
    assert lead.observe_failed(lead.stuck_after_s * (1.0 + longer)) == lead


@given(leads, ages)
def test_decisions_plan_with_no_more_than_what_nearly_all_starts_take(lead: LeadTime, pending: list[float]) -> None:
    expected = lead.expected(pending)
    assert lead.quantile_s(0.9) * (1 - 1e-9) <= expected.quantile_s(0.9) <= lead.stuck_after_s * (1 + 1e-9)
    longer = lead.with_pending(pending)
    if longer.quantile_s(0.9) <= lead.stuck_after_s:
        assert expected == longer


def test_old_starts_are_forgotten() -> None:
    rng = np.random.default_rng(2)
    lead = LeadTime.measured(300.0)
    for median in (300.0, 600.0):
        for took in np.exp(rng.normal(math.log(median), 0.2, 300)):
            lead = lead.observe(float(took))
        assert lead.kappa <= LeadTime.MEMORY
        assert lead.median_s == pytest.approx(median, rel=0.1)
        assert lead.quantile_s(0.9) == pytest.approx(median * math.exp(0.2 * 1.2816), rel=0.15)
    halfway = _after(_after(LeadTime.measured(300.0), [300.0] * 200), [600.0] * 35)
    assert halfway.median_s == pytest.approx(math.sqrt(300.0 * 600.0), rel=0.05)


def test_without_a_memory_nothing_is_forgotten() -> None:
    assert _after(LeadTime.prior(300.0), [300.0] * 200).kappa == 202.0
