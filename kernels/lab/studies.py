"""A study: rows that are measured one by one, each of which a file may hold already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kernels.lab.rows import RowFile

__all__ = ["Unit", "rows_of"]


@dataclass(frozen=True)
class Unit:
    """One row to come: its title, its share of the work, what is settled before, and how to get the rest."""

    what: str
    weight: float
    asked: Mapping[str, Any]
    measure: Callable[[], Mapping[str, Any]]


def rows_of(
    units: Sequence[Unit], file: RowFile, report: Callable[[str, float, float], None] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of all units in order; each is measured, and appended to the file, unless that has it.

    `report(what, done, total)` is told of the work before each.
    """
    total, done = sum(unit.weight for unit in units), 0.0
    for unit in units:
        if report is not None:
            report(unit.what, done, total)
        row = file.kept(unit.asked)
        if row is None:
            row = {**unit.asked, **unit.measure()}
            file.append(row)
        done += unit.weight
        yield row
