"""`harmony report`: two replays side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from simulator.comparing import Comparison

__all__ = ["report"]


def report(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of `harmony replay --out`, or its replay.json.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The one to hold against it.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write a page to this folder: compare.html, compare.json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Set two replays side by side: what differed between them, and what came of it.

    Examples:
    `harmony report out/before out/after`

    `harmony report out/5m out/3m --out out/lead-time`
    """
    from simulator.comparing import compare, read_run, render_comparison
    from simulator.output import staged

    found = compare(read_run(a), read_run(b), (str(a), str(b)))
    text = json.dumps(found.to_json(), sort_keys=True, indent=2, allow_nan=False)
    with staged(out) as stage:
        if stage is not None:
            (stage / "compare.json").write_text(text + "\n", encoding="utf-8")
            (stage / "compare.html").write_text(render_comparison(found), encoding="utf-8")
    if as_json:
        print(text)
        return
    _print(found)
    if out is not None:
        print(f"\nreport: {out / 'compare.html'}   figures: {out / 'compare.json'}")


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    from simulator.comparing import TERMS

    console = Console()
    console.print(f"A: {found.names[0]}\nB: {found.names[1]}", highlight=False, markup=False, soft_wrap=True)
    for key, (was, now) in found.terms.items():
        console.print(f"{TERMS[key]}: {was} in A, {now} in B", highlight=False, markup=False, soft_wrap=True)
    if not found.comparable:
        console.print(
            "note: the two did not score the same demand under the same objective: their figures answer different "
            "questions",
            highlight=False,
            soft_wrap=True,
        )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("policy", "GPU-hours A", "B", "change", "violated A", "B", "stated A", "B"):
        table.add_column(title, justify="left" if title == "policy" else "right", no_wrap=True)
    for pair in found.pairs:
        change = pair.change("gpu_hours")
        hours, violated, stated = (
            ["-" if run is None or run.get(key) is None else f"{run[key]:{form}}" for run in (pair.a, pair.b)]
            for key, form in (("gpu_hours", ",.1f"), ("violation_rate", ".3%"), ("stated_risk", ".3%"))
        )
        table.add_row(pair.policy, *hours, "-" if change is None else f"{change:+.1%}", *violated, *stated)
    console.print(table, highlight=False)
    for pair in found.pairs:
        for key, (was, now) in pair.settings.items():
            console.print(f"  {pair.policy}: {key} {was} in A, {now} in B", style="dim", highlight=False, markup=False)
