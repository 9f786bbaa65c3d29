"""Which heads to change: greedily, as HeadHunter does (arXiv 2506.10978), or one by one, as ACT (arXiv 2406.15765)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kernels.checks import positive
from kernels.errors import KernelError

__all__ = ["Head", "Round", "helpful_heads", "hunt_heads"]

Head = tuple[int, int]
"""Layer and head."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a round of the hunt took, and the value of the set with it."""

    taken: tuple[Head, ...]
    chosen: frozenset[Head]
    value: float


def hunt_heads(
    value: Callable[[frozenset[Head]], float], candidates: Sequence[Head], *, rounds: int = 5, take: int = 1
) -> list[Round]:
    """The set of heads that grows by the best ``take`` of a round, until nothing is gained; the rounds in order.

    In each round every candidate that is left is tried together with the set so far, and the best ones join it if the
    set with them is worth more. The first round is the empty set, so that values never fall. Equal ones are taken in
    the order of ``candidates``. It asks ``value`` about candidates times rounds; measure the set on other data after.

    Args:
        value: what a set of heads, changed at once, is worth; larger is better. It has to give the same for the same.
        candidates: layer and head of those that may be changed.
        rounds: at most.
        take: heads of a round.

    Raises:
        KernelError: for candidates that are there twice.
    """
    positive("rounds", rounds, least=0)
    positive("take", take)
    left = list(candidates)
    if len(set(left)) != len(left):
        raise KernelError("some candidates are there twice")
    found = [Round((), frozenset(), value(frozenset()))]
    for _ in range(rounds):
        before = found[-1]
        worth = {head: value(before.chosen | {head}) for head in left}
        best = sorted(left, key=lambda head: -worth[head])[:take]
        if not best:
            break
        chosen = before.chosen | set(best)
        total = worth[best[0]] if len(best) == 1 else value(chosen)
        # Several that help alone may not help together; the best alone is tried then.
        if len(best) > 1 and not total > before.value:
            best = best[:1]
            chosen, total = before.chosen | set(best), worth[best[0]]
        if not total > before.value:
            break
        found.append(Round(tuple(best), frozenset(chosen), total))
        left = [head for head in left if head not in chosen]
    return found


def helpful_heads(
    value: Callable[[frozenset[Head]], float], candidates: Sequence[Head], *, least: float = 0.0
) -> tuple[Head, ...]:
    """The candidates that, changed alone, are worth more than no change by more than ``least``, in their order."""
    plain = value(frozenset())
    return tuple(head for head in candidates if value(frozenset({head})) > plain + least)
