"""Stated against realised risk: a binomial test over blocks of one lead time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from harmony.decision.agreement import Judgement, agreement


@given(st.integers(20, 400), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 12))
def test_the_interval_is_that_of_clopper_and_pearson(blocks: int, share: float, stated: float, block: int) -> None:
    hits = round(share * blocks)
    found = agreement(stated, float(hits * block), float(blocks * block), block)
    assert found is not None
    right = binomtest(hits, blocks).proportion_ci(0.95)
    assert (found.low, found.high) == pytest.approx((right.low, right.high), abs=1e-9)
    if stated < right.low - 1e-9:
        assert found.judgement is Judgement.UNDERSTATED
    elif stated > right.high + 1e-9:
        assert found.judgement is Judgement.OVERSTATED


def test_a_calibrated_service_is_rarely_accused_though_its_violations_come_in_runs() -> None:
    """Runs as long as the lead time: were steps counted, far more than one in twenty would be."""
    rng = np.random.default_rng(4)
    accused = 0
    for _ in range(400):
        hits = int((rng.random(300) < 0.05).sum())
        found = agreement(0.05, 5.0 * hits, 5.0 * 300, 5)
        assert found is not None
        accused += found.judgement is not Judgement.AGREES
    assert accused <= 0.06 * 400


def test_nothing_is_said_before_enough_was_seen() -> None:
    assert agreement(None, 0.0, 100.0, 5) is None
    assert agreement(float("nan"), 0.0, 100.0, 5) is None
    assert agreement(0.01, 0.0, 0.0, 5) is None
    early = agreement(0.01, 95.0, 95.0, 5)
    assert early is not None
    assert early.judgement is None
