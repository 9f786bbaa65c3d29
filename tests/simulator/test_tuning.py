"""Tuning: the cheapest setting that meets the objective, found with few runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simulator.tuning import Score, choose_setting


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=40, unique=True), min_size=1, max_size=4))
def test_finds_the_optimum_where_misses_fall_along_each_ladder(ladders: list[list[int]]) -> None:
    """A rung costs its number; it meets the objective from 20 up."""
    rungs = [sorted(ladder) for ladder in ladders]
    tried: list[int] = []

    def run(rung: int) -> Score:
        tried.append(rung)
        return float(rung), 1.0 / (1 + rung)

    picked = choose_setting(rungs, run, epsilon=1 / 21)
    keeping = [r for ladder in rungs for r in ladder if r >= 20]
    assert picked == (min(keeping) if keeping else max(max(ladder) for ladder in rungs))
    assert len(tried) <= sum(len(ladder).bit_length() + 1 for ladder in rungs)


def test_the_safest_is_taken_when_none_keeps_the_promise() -> None:
    scores = {"a": (5.0, 0.3), "b": (9.0, 0.1), "c": (7.0, 0.1)}
    assert choose_setting([["a", "b"], ["c"]], lambda p: scores[p], 0.01) == "c"
