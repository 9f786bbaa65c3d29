"""The data model: posteriors against closed forms, and mistakes that are named."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecasting.errors import UsageError
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Behavior, Objective, ScalingPolicy, ScalingRules


def test_lead_time_learns_the_true_distribution() -> None:
    rng = np.random.default_rng(0)
    lead = LeadTime.prior(60.0, spread=2.0)
    for took in np.exp(rng.normal(math.log(240), 0.3, 2000)):
        lead = lead.observe(float(took))
    assert lead.median_s == pytest.approx(240, rel=0.03)
    assert lead.quantile_s(0.9) == pytest.approx(240 * math.exp(0.3 * 1.2816), rel=0.05)


def test_lead_time_posterior_does_not_depend_on_the_order() -> None:
    one = two = LeadTime.prior(100.0)
    for took in (50.0, 200.0, 400.0):
        one = one.observe(took)
    for took in (400.0, 50.0, 200.0):
        two = two.observe(took)
    assert one.quantile_s(0.95) == pytest.approx(two.quantile_s(0.95))


def test_a_known_lead_time_stays() -> None:
    lead = LeadTime.known(300.0)
    assert lead.observe(500.0) is lead
    assert (lead.steps(60.0), lead.steps(600.0), lead.steps(299.0)) == (5, 1, 2)


def test_capacity_draws_are_its_quantiles_in_a_fixed_order() -> None:
    draws = Capacity(10.0, 0.3).draws(2001)
    assert np.array_equal(draws, Capacity(10.0, 0.3).draws(2001))
    assert np.median(draws) == pytest.approx(10.0)
    assert np.quantile(np.log(draws), 0.8413) - math.log(10) == pytest.approx(0.3, rel=0.01)
    assert abs(np.corrcoef(np.arange(2001), draws)[0, 1]) < 0.05


def test_capacity_posterior_is_the_conjugate_one() -> None:
    readings = np.log([12.0, 13.0, float("nan"), 11.0])
    after = Capacity(10.0, 0.5).observe(readings, noise_sigma=0.2)
    precision = 1 / 0.5**2 + 3 / 0.2**2
    mean = (math.log(10) / 0.5**2 + np.nansum(readings) / 0.2**2) / precision
    assert (after.median, after.sigma) == (pytest.approx(math.exp(mean)), pytest.approx(precision**-0.5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Objective(epsilon=1.0), "epsilon 1.0"),
        (lambda: Objective(epsilon=float("nan")), "epsilon nan"),
        (lambda: Objective(min_replicas=5, max_replicas=4), "5..4"),
        (lambda: Objective(price_per_gpu_hour=-1), "price per gpu hour"),
        (lambda: Objective(gpus_per_replica=0), "gpus per replica"),
        (lambda: Objective(measure="mean"), "'time', 'window' or 'requests'"),  # type: ignore[arg-type]
        (lambda: Capacity.known(0.0), "replica capacity 0.0"),
        (lambda: Capacity.known(float("inf")), "replica capacity inf"),
        (lambda: LeadTime.known(-3.0), "lead time -3.0"),
        (lambda: LeadTime.prior(10.0).observe(0.0), "observed start"),
        (lambda: ScalingRules(-1.0), "stabilization window"),
        (lambda: ScalingRules(select="Most"), "selectPolicy"),  # type: ignore[arg-type]
        (lambda: ScalingPolicy("Pods", 0, 15.0), "must be positive"),
        (lambda: ScalingPolicy("Nodes", 1, 15.0), "Pods or Percent"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_named(make: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()  # type: ignore[operator]


def test_defaults_are_hpas_own() -> None:
    """kubernetes/pkg/apis/autoscaling/v2/defaults.go."""
    behavior = Behavior()
    assert behavior.scale_down.stabilization_window_s == 300.0
    assert behavior.scale_up.stabilization_window_s == 0.0
    assert {(p.type, p.value, p.period_s) for p in behavior.scale_up.policies} == {
        ("Pods", 4, 15),
        ("Percent", 100, 15),
    }
