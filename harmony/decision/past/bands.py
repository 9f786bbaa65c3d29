"""Counts on a whole past where changes have a price: every setting's course between two held edges, row by row.

`harmony.decision.switching` says why there are edges; here they are held, cut and followed for all holds and ceilings
of a rule at once, piece after piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray
from harmony.decision.past.packed import Packed, shortest
from harmony.decision.past.portfolio import held
from harmony.decision.switching import hull_risk, standing

__all__ = ["Banded", "banded", "cut_at"]

Counts = npt.NDArray[Any]


class Banded(NamedTuple):
    """Of a rule's settings, packed: the newest upper edges before holding, and what was set in the newest rows."""

    upper: Packed
    set: Packed


def banded(
    edges: Sequence[tuple[Counts, Counts]],
    most: FloatArray,
    holds: Sequence[int],
    ceilings: Sequence[bool],
    bounds: tuple[int, int],
    was: Counts | None,
    lead_steps: int,
) -> tuple[list[FloatArray], Packed, Banded]:
    """Counts of every ceiling and hold, (rows, knobs) with the lead's rows before them, that stand between two edges.

    With them the newest lower edges and what else the next piece goes on from.

    To hold the edges is to hold the counts: one falls when nothing within the hold asked for it, or was worth it.

    Args:
        edges: of the lower and of the upper edge (old, knobs) newest rows of the piece before, and (rows, knobs) new.
        most: (rows and at least old,) what a ceiling cuts the newest rows at.
        holds: rows, the present one among them, within which the highest count stands.
        ceilings: whether edges are cut, for each block of columns.
        bounds: least and most replicas.
        was: (some rows, settings) what was set in the piece before; None where this is the first.
        lead_steps: rows of what is set that the next piece needs.
    """
    carried, courses = [], []
    for old, new in edges:
        whole = np.concatenate([old, new.astype(np.float32)])
        carried.append(Packed.of(shortest(whole[-(max(holds) - 1 + lead_steps) :])))
        top = most[len(most) - len(whole) :].astype(np.float32)[:, None]
        cuts = [np.minimum(whole, top) if ceiling else whole for ceiling in ceilings]
        every = [held(cut, hold)[len(old) :] for cut in cuts for hold in holds]
        courses.append(np.clip(np.concatenate(every, axis=1), *bounds))
    lower, upper = courses
    before = lower[:0] if was is None else was.astype(np.float32)
    now = standing(lower, upper, before[-1] if len(before) else lower[0])
    whole = np.concatenate([before, now])
    columns = np.split(whole, len(ceilings) * len(holds), axis=1)
    return columns, carried[0], Banded(carried[1], Packed.of(shortest(whole[-lead_steps:])))


def cut_at(
    most: float, counts: FloatArray, risks: FloatArray, picked: float, upper: float
) -> tuple[FloatArray, FloatArray]:
    """A table of ascending ``counts`` that ends at ``most``, which states no more risk than what was ``picked``.

    What lies beyond is not believed in, so a count that is cut risks what the forecast's own choice would have; and
    the table's cheapest count is the one that was picked, or ``most`` instead of it. Where changes have a price that
    holds for both edges, ``picked`` and ``upper``; without one these are the same.
    """
    if most >= counts[-1]:
        return counts, risks
    within = int(np.searchsorted(counts, most, side="left"))
    least = risks[max(0, int(np.searchsorted(counts, max(most, picked), side="right")) - 1)]
    if picked <= most < upper:
        least = hull_risk(counts, risks, most)
    return np.append(counts[:within], most), np.append(risks[:within], least)
