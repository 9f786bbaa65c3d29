"""Markdown tables of the studies of `harmony bench kernels`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TABLES", "Table"]


@dataclass(frozen=True)
class Table:
    """The head of a table, and what a row of a study adds to it."""

    head: tuple[str, ...]
    lines: Callable[[Mapping[str, Any]], list[str]]


def _cab(row: Mapping[str, Any]) -> list[str]:
    time, memory = (_from(row[f"efficiency_length_{what}"], row["lengths"]) for what in ("time", "memory"))
    measured = "never" if row["faster_from"] is None else f"{row['faster_from']:,}"
    cells = [f"`{row['method']}`", *row["supports"].values(), time, measured, memory]
    return [f"| {' | '.join(cells)} |"]


def _from(length: float | None, measured: list[int]) -> str:
    """An efficiency length; far beyond what was measured it says only that."""
    if length is None:
        return "never"
    most = 4 * max(measured)
    return f"{length:,.0f}" if length <= most else f"over {most:,}"


def _masks(row: Mapping[str, Any]) -> list[str]:
    dense = row["forward_ms"]["sdpa without one"]
    told = []
    for backend, ms in row["forward_ms"].items():
        if backend == "sdpa without one":
            continue
        cells = (
            f"`{row['pattern']}`",
            f"{row['length']:,}",
            f"{row['density']:.0%}",
            backend,
            f"{ms:,.1f}",
            f"{dense / ms:.2f} x",
            f"{row['flops_per_s'][backend] / 1e9:,.0f}",
            f"{row['peak_bytes'][backend] / 1e6:,.1f}",
            f"{row['rel_error'][backend]:.1e}",
        )
        told.append(f"| {' | '.join(cells)} |")
    return told


TABLES: Mapping[str, Table] = {
    "cab": Table(
        (
            "Can it be called, and does no output look ahead? Then the length from which it is faster than SDPA: by "
            "the fit of CAB, and as measured; and that from which it takes less memory.",
            "",
            "| method | self | causal self | step by step | cross | causal cross | faster from | measured "
            "| less memory from |",
            "|---|---|---|---|---|---|---|---|---|",
        ),
        _cab,
    ),
    "masks": Table(
        (
            "| mask | length | seen | backend | forward ms | faster than SDPA without a mask | GFLOP/s of what is seen "
            "| peak MB | error |",
            "|---|---|---|---|---|---|---|---|---|",
        ),
        _masks,
    ),
}
