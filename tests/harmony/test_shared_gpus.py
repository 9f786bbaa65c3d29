"""A shared budget of GPUs: nobody loses, nobody gets more than asked, and no exchange would be better."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony.decision.shared_gpus import Asking, share_gpus
from harmony.model.decision import Candidates

LAWS = settings(max_examples=200, deadline=None)


def table(seed: int, most: int = 8) -> Candidates:
    """Risks that fall with the count, by less and less."""
    drops = np.sort(np.random.default_rng(seed).random(most))[::-1]
    risk = 1.0 - np.cumsum(drops) / drops.sum()
    counts = np.arange(1, most + 1)
    return Candidates(counts, risk, risk, risk, np.zeros(most))


services = st.dictionaries(
    st.sampled_from("abc"),
    st.builds(
        Asking, st.integers(0, 8), st.integers(0, 8), st.integers(1, 3), st.none() | st.integers(0, 999).map(table)
    ),
    min_size=1,
)


@LAWS
@given(services, st.integers(0, 60), st.integers(0, 10))
def test_nobody_loses_or_gets_more_than_asked_and_the_budget_holds(
    asking: dict[str, Asking], budget: int, others: int
) -> None:
    found = share_gpus(asking, budget, others=others)
    kept = others + sum(min(a.current, a.wanted) * a.gpus for a in asking.values())
    for name, a in asking.items():
        assert min(a.current, a.wanted) <= found.replicas[name] <= a.wanted
    assert found.used == others + sum(found.replicas[n] * a.gpus for n, a in asking.items())
    assert found.used <= max(budget, kept)
    assert (found.price > 0) <= any(found.replicas[n] < a.wanted for n, a in asking.items())


@LAWS
@given(st.lists(st.integers(0, 999), min_size=2, max_size=3), st.integers(0, 30))
def test_of_all_ways_to_share_it_leaves_the_least_risk(seeds: list[int], budget: int) -> None:
    """Services of one size, against every way there is."""
    asking = {str(i): Asking(1, 6, 2, table(seed)) for i, seed in enumerate(seeds)}

    def total(counts: tuple[int, ...]) -> float:
        return sum(
            float(a.candidates.violation_probability[n - 1])  # type: ignore[union-attr]
            for a, n in zip(asking.values(), counts, strict=True)
        )

    found = share_gpus(asking, budget)
    every = itertools.product(range(1, 7), repeat=len(asking))
    allowed = [c for c in every if 2 * sum(c) <= max(budget, 2 * len(asking))]
    assert total(tuple(found.replicas.values())) == pytest.approx(min(map(total, allowed)))


def test_more_budget_never_gives_anybody_less() -> None:
    asking = {str(i): Asking(1, 7, 1, table(i)) for i in range(4)}
    before = share_gpus(asking, 0)
    for budget in range(1, 30):
        found = share_gpus(asking, budget)
        assert all(found.replicas[n] >= before.replicas[n] for n in asking)
        assert found.price <= before.price + 1e-12
        before = found
    assert (before.price, before.used) == (0.0, 28)
