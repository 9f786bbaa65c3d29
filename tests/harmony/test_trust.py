"""Authority is lost by realising far more than was stated, and only by that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from harmony.decision.trust import Trust
from harmony.model.authority import Mode
from harmony.model.observation import Outcome

YEAR = 525_600  # minutes


def missed_blocks(steps: int, block: int, rate: float, run: float, seed: int) -> list[int]:
    """Missed steps in each block of a service that misses ``rate`` of its time in runs of ``run`` steps on average."""
    rng = np.random.default_rng(seed)
    missed = np.zeros(steps, dtype=bool)
    at = 0
    while True:
        at += 1 + int(rng.exponential(run * (1 - rate) / rate))
        if at >= steps:
            break
        length = int(rng.geometric(1 / run))
        missed[at : at + length] = True
        at += length
    counted: list[int] = missed.reshape(-1, block).sum(axis=1).tolist()
    return counted


def changes(trust: Trust, blocks: list[int], block: int) -> tuple[Trust, list[tuple[int, int]]]:
    """The trust at the end and every change of its level as (step of time, new level)."""
    seen = []
    for i, missed in enumerate(blocks):
        after = trust.learn(Outcome(block, missed))
        if after.step != trust.step:
            seen.append((i * block, after.step))
        trust = after
    return trust, seen


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "block", "run"), [(0.01, 5, 5), (0.05, 5, 5), (0.01, 20, 20), (0.01, 5, 10)])
def test_a_calibrated_service_is_demoted_less_than_once_in_a_year_of_minutes(
    epsilon: float, block: int, run: float
) -> None:
    """Runs of misses as long as a lead time, or twice that."""
    demotions = 0
    for seed in range(3):
        blocks = missed_blocks(YEAR, block, epsilon, run, seed)
        _, seen = changes(Trust.start(epsilon, block), blocks, block)
        demotions += sum(1 for (_, now), before in zip(seen, [0, *(s for _, s in seen)], strict=False) if now > before)
    assert demotions / 3 < 1


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "block", "within"), [(0.01, 5, 5_000), (0.05, 5, 1_000), (0.01, 1, 1_000)])
def test_a_service_that_misses_five_times_as_much_loses_authority(epsilon: float, block: int, within: int) -> None:
    """Nine of ten services within that many steps, and all of them for good."""
    lost, kept_lost = 0, 0
    for seed in range(10):
        blocks = missed_blocks(20_000, block, 5 * epsilon, block, seed)
        trust, seen = changes(Trust.start(epsilon, block), blocks, block)
        lost += bool(seen) and seen[0][0] <= within
        kept_lost += trust.step == 2
    assert lost >= 9
    assert kept_lost == 10


def test_it_recovers_one_level_at_a_time() -> None:
    trust, seen = changes(Trust.start(0.01, 5), missed_blocks(30_000, 5, 0.08, 5, 1), 5)
    assert trust.mode(Mode.FULL) is Mode.RECOMMEND
    trust, seen = changes(trust, missed_blocks(60_000, 5, 0.005, 5, 2), 5)
    assert [level for _, level in seen][:2] == [1, 0]
    assert seen[0][0] >= 500  # not after one quiet afternoon
    assert trust.mode(Mode.FULL) is Mode.FULL


def test_the_excess_is_the_beta_posteriors_tail() -> None:
    trust = Trust.start(0.02, 5).learn(Outcome(100, 10))
    blocks, missed = 20.0, 2.0
    expected = beta.sf(0.04, 1 + missed, 49 + blocks - missed)
    assert trust.excess_probability == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
@given(st.sampled_from(Mode), st.integers(0, 2))
def test_never_more_than_granted_and_never_below_recommend(granted: Mode, step: int) -> None:
    left = Trust(0.01, step=step).mode(granted)
    assert left.rank <= granted.rank
    assert left.rank >= min(granted.rank, Mode.RECOMMEND.rank)


outcomes = st.lists(
    st.tuples(st.integers(0, 500), st.floats(0, 1)).map(lambda o: Outcome(o[0], int(o[0] * o[1]))), max_size=40
)


@given(st.floats(1e-4, 0.5), st.integers(1, 60), outcomes)
def test_levels_move_one_at_a_time_and_counts_stay_sane(epsilon: float, block: int, came: list[Outcome]) -> None:
    trust = Trust.start(epsilon, block)
    for outcome in came:
        after = trust.learn(outcome, block)
        assert abs(after.step - trust.step) <= 1
        assert 0 <= after.step <= 2
        assert 0 <= after.missed <= after.evidence + 1e-9
        assert after.realized is None or 0 <= after.realized <= 1
        assert 0 <= after.excess_probability <= 1
        trust = after


def test_absent_steps_teach_nothing() -> None:
    trust = Trust.start(0.01)
    assert trust.learn(Outcome(0, 0)) is trust
    assert Trust.start(0.0).learn(Outcome(10, 10)).mode(Mode.FULL) is Mode.FULL
    assert (trust.realized, trust.stated) == (None, None)


def test_stated_is_the_mean_over_the_steps_that_followed() -> None:
    trust = Trust.start(0.01)
    for probability, steps in ((0.004, 3), (0.008, 1), (float("nan"), 5)):
        trust = trust.state(probability).learn(Outcome(steps, 0))
    assert trust.stated == pytest.approx((3 * 0.004 + 0.008) / 4, rel=0.01)
    assert trust.realized == 0.0
