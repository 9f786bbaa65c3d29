"""A budget of GPUs that services share: who may grow when there are not enough for all, at one price everywhere.

Nobody is made smaller: a budget that is cut below what is in use stops growth and takes nothing away. What is left
goes, GPU by GPU, to whoever lowers the stated risk most per GPU; so the risk that the last GPU prevents, the *price*,
is the same for all, and no exchange between two services would lower the sum of their risks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harmony.model.decision import Candidates

__all__ = ["Asking", "Granted", "share_gpus"]


@dataclass(frozen=True, slots=True)
class Asking:
    """One service: replicas there are and wanted, GPUs of a replica, and the risk of every count (None: not stated)."""

    current: int
    wanted: int
    gpus: int = 1
    candidates: Candidates | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """Replicas by service, the GPUs that they take, and the price: risk per GPU that the next one would have prevented.

    The price is 0 where everybody got what they asked for.
    """

    replicas: Mapping[str, int]
    used: int
    price: float = 0.0


def share_gpus(asking: Mapping[str, Asking], budget: int, *, others: int = 0) -> Granted:
    """What each may have of ``budget`` GPUs, of which ``others`` are in use by services that ask for nothing now."""
    granted = {name: min(a.current, a.wanted) for name, a in asking.items()}
    used = others + sum(a.gpus * granted[name] for name, a in asking.items())
    if used + sum(a.gpus * (a.wanted - granted[name]) for name, a in asking.items()) <= budget:
        full = {name: a.wanted for name, a in asking.items()}
        return Granted(full, others + sum(a.gpus * n for a, n in zip(asking.values(), full.values(), strict=True)))
    wishes = [
        (-gain / a.gpus, name, replicas)
        for name, a in sorted(asking.items())
        if a.wanted > a.current
        for gain, replicas in _steps(a)
    ]
    price, closed = 0.0, set[str]()
    for worth, name, replicas in sorted(wishes):
        if name in closed:
            continue
        size = asking[name].gpus
        fits = min(replicas, max(0, budget - used) // size)
        granted[name] += fits
        used += fits * size
        if fits < replicas:  # what comes later of it is worth less
            price = max(price, -worth)
            closed.add(name)
    return Granted(granted, used, price)


def _steps(asking: Asking) -> Sequence[tuple[float, int]]:
    """(risk that each replica prevents, so many replicas) from the present count to the wanted one, falling.

    Along the lower convex hull of the risks; where none are stated all replicas together prevent all of it.
    """
    current, wanted, table = asking.current, asking.wanted, asking.candidates
    if table is None or not len(table):
        return [(1.0 / (wanted - current), wanted - current)]
    inside = (table.replicas > current) & (table.replicas < wanted)
    counts = [current, *table.replicas[inside].tolist(), wanted]
    risks = [_risk(table, n) for n in counts]
    hull: list[tuple[int, float]] = []
    for point in zip(counts, risks, strict=True):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return [(max(0.0, -_slope(a, b)), b[0] - a[0]) for a, b in itertools.pairwise(hull)]


def _risk(table: Candidates, count: int) -> float:
    """Stated risk of a count: that of the largest one weighed that is not above it, all of it below the first."""
    at = int(np.searchsorted(table.replicas, count, side="right")) - 1
    return 1.0 if at < 0 else float(table.violation_probability[at])


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
