"""`harmony plan`: how many replicas of which GPU type for which service."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harmony.app.planning import Fleet, Planned

__all__ = ["plan"]


def plan(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML file with types, services, and price or epsilon.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON instead of a table.")] = False,
) -> int:
    """Plan a fleet: the cheapest replicas of every GPU type for every service, exactly.

    All services pay the same price for a violated hour, times their priority; types have prices and numbers. Exits with
    1 where nothing that keeps floors, caps and budget exists; then the plan is what there is now.

    Examples:
    `harmony plan -f fleet.yaml`

    `harmony plan -f fleet.yaml --json`
    """
    from harmony.app.planning import planned, read_fleet

    fleet = read_fleet(file)
    made = planned(fleet)
    if as_json:
        print(json.dumps(made.to_json(), sort_keys=True, indent=2, allow_nan=False))
    else:
        _print(fleet, made)
    return 1 if made.plan.kept else 0


def _print(fleet: Fleet, made: Planned) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("service")
    names = [t.name for t in fleet.types]
    for title in (*names, "cost per hour", "violated"):
        table.add_column(title, justify="right")
    for service in fleet.services:
        served = made.plan.services[service.name]
        risk = "unknown" if math.isnan(served.risk) else f"{served.risk:.3%}"
        table.add_row(service.name, *(f"{served.replicas[n]:,}" for n in names), f"{served.cost:,.2f}", risk)
    table.add_row(
        "all",
        *(f"{sum(s.replicas[n] for s in made.plan.services.values()):,}" for n in names),
        f"{made.plan.cost:,.2f}",
        "",
        style="bold",
    )
    console.print(table, highlight=False)
    if made.plan.kept:
        console.print(f"[yellow]kept as it is: {made.plan.kept}[/yellow]", highlight=False)
        return
    console.print(f"price of a violated hour at priority 1: {made.violation_price:,.2f}", highlight=False)
    for name, cost in made.alone.items():
        said = "cannot serve all of them" if cost is None else f"{cost:,.2f} per hour"
        console.print(f"{name} alone, if there were enough: {said}", highlight=False, style="dim")
