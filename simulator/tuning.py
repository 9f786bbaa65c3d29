"""Tuning: a policy's settings chosen on the past alone, the same way for HARMONY and for every rival."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["Score", "choose_setting"]

P = TypeVar("P")

# (replica-steps, share of steps violated) of one run on the tuning part
Score = tuple[float, float]


def choose_setting(ladders: Sequence[Sequence[P]], run: Callable[[P], Score], epsilon: float) -> P:
    """The cheapest setting that meets the objective on the tuning part; the safest tried when none does.

    Each ladder goes from cheapest to safest, so the rung where the objective begins to be met is found by bisection
    (violations fall along a ladder but for noise). ``run`` scores one setting; ties go to fewer violations.
    """
    tried: list[tuple[Score, P]] = []
    for ladder in ladders:
        low, high = 0, len(ladder) - 1  # the objective is taken to be met at `high`
        scores: dict[int, Score] = {}
        while low < high:
            middle = (low + high) // 2
            scores[middle] = run(ladder[middle])
            if scores[middle][1] <= epsilon:
                high = middle
            else:
                low = middle + 1
        if high not in scores:
            scores[high] = run(ladder[high])
        tried += [(score, ladder[i]) for i, score in scores.items()]
    keeping = [t for t in tried if t[0][1] <= epsilon]
    if keeping:
        return min(keeping, key=lambda t: t[0])[1]
    return min(tried, key=lambda t: (t[0][1], t[0][0]))[1]
