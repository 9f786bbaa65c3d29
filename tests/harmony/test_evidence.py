"""What settings violate where hardly anything can be counted."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.specialists import LeadGrid
from harmony.decision.past.evidence import DRAW, Ladder, drawn_together, ladders_of, memory_misses
from harmony.decision.past.portfolio import Portfolio

LAWS = settings(max_examples=200, deadline=None)
PORTFOLIO = Portfolio(experts=(("ridge",),), rules=("price", "quantile"))
TRIED = PORTFOLIO.settings(LeadGrid(300.0, 2), 0.05)
LADDERS = ladders_of(TRIED)

counts = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).poisson(2.0, len(TRIED)).astype(float))


def test_every_expert_setting_is_a_rung_of_one_ladder_and_each_rung_is_stricter() -> None:
    numbers = np.concatenate([ladder.numbers.reshape(-1) for ladder in LADDERS])
    assert sorted(numbers) == [i for i, s in enumerate(TRIED) if s.rule != "margin"]
    for ladder in LADDERS:
        assert (ladder.falls < 1.0).all()
        first = [TRIED[i] for i in ladder.numbers[0]]
        at_risk = [1.0 / one.knob if one.rule == "price" else one.knob for one in first]
        assert np.allclose(at_risk[0] * np.cumprod(ladder.falls), at_risk[1:])
        for row in ladder.numbers:
            assert len({(TRIED[i].expert, TRIED[i].target, TRIED[i].rule, TRIED[i].hold) for i in row}) == 1


@LAWS
@given(counts, st.floats(0.01, 100.0), st.integers(0, len(TRIED) - 1))
def test_no_stricter_rung_is_expected_to_violate_more(missed: np.ndarray, unit: float, at: int) -> None:
    found = drawn_together(missed * unit, LADDERS, unit)
    for ladder in LADDERS:
        rungs = found[ladder.numbers]
        assert (np.diff(rungs, axis=1) <= 1e-9 * unit).all()
        assert np.array_equal(rungs[:, 0], missed[ladder.numbers[:, 0]] * unit)
    assert np.allclose(found, unit * drawn_together(missed, LADDERS))  # whatever it is counted in
    more = missed.copy()
    more[at] += 1.0
    assert (drawn_together(more * unit, LADDERS, unit) >= found - 1e-9 * unit).all()  # one violation more harms nobody


def test_luck_is_not_believed_and_many_violations_are() -> None:
    ladder = (Ladder(np.array([[0, 1]]), np.array([0.5])),)
    lucky = drawn_together(np.array([10.0, 0.0, 0.0]), ladder)
    assert lucky.tolist() == [10.0, DRAW / 2, 1.0]  # 5 expected, none seen: half way; a rule of thumb has one more
    certain = drawn_together(np.array([1000.0, 900.0, 0.0]), ladder)
    assert abs(certain[1] - 900.0) < 0.01 * 900.0


def test_a_rare_objective_remembers_more() -> None:
    assert memory_misses(0.001) / 0.001 == 30_000
    assert memory_misses(0.01) / 0.01 == 200
