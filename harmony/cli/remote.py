"""`harmony services`, `decisions`, `what-if`: a running server from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harmony.cli.extras import needing

if TYPE_CHECKING:
    from harmony.api.models import Side
    from harmony.client import Client

__all__ = ["decisions", "services", "what_if"]

Url = Annotated[str, typer.Option(envvar="HARMONY_URL", help="Address of `harmony serve`.")]
Key = Annotated[str, typer.Option(envvar="HARMONY_API_KEY", help="API key or Kubernetes token.", show_envvar=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Service = Annotated[str, typer.Argument(help="NAMESPACE/NAME, such as serving/chat.")]
URL = "http://127.0.0.1:8000"
WIDE = 200


def _client(url: str, key: str) -> Client:
    from harmony.client import Client

    return Client(url, key)


@needing("api")
def services(
    url: Url = URL,
    key: Key = "",
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this namespace.")] = None,
    mode: Annotated[str | None, typer.Option(help="Only this mode in force, such as Recommend.")] = None,
    sort: Annotated[str, typer.Option(help="Column to sort by, such as violation_probability.")] = "service",
    descending: Annotated[bool, typer.Option("--desc", help="Largest first.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the services of a running server: replicas, stated risk, violations, bill.

    Examples:
    `harmony services`

    `harmony services --sort violation_probability --desc --json`
    """
    order = "desc" if descending else "asc"
    with _client(url, key) as client:
        rows = list(client.services(namespace=namespace, mode=mode, sort=sort, order=order))
    if as_json:
        _print_json([row.model_dump() for row in rows])
        return
    from rich.table import Table

    from harmony.serving.words import allowed, chance, percent

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("service", "mode"):
        table.add_column(title, no_wrap=True)
    titles = ("demand", "ready", "current", "recommended", "risk", "objective", "violated", "shadow", "bill/h")
    for title in (*titles, "would save GPUh"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("reason")
    for row in rows:
        demand = f"{_figure(row.demand)} {row.unit}".strip()
        risk, objective = chance(row.violation_probability, row.paths, row.epsilon), allowed(row.epsilon)
        counts = (str(row.ready), str(row.ordered), str(row.recommended))
        violated = tuple("-" if part is None else percent(part.rate, row.epsilon) for part in (row.real, row.shadow))
        bill = "-" if row.bill_per_hour is None else f"{row.bill_per_hour:,.2f} {row.currency}".rstrip()
        saved = "-" if row.shadow is None else _figure(row.gpu_hours_saved)
        figures = (risk, objective, *violated, bill, saved)
        table.add_row(row.service, row.effective_mode, demand, *counts, *figures, row.reason)
    _print(table)


@needing("api")
def decisions(
    service: Service,
    url: Url = URL,
    key: Key = "",
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 10,
    as_json: AsJson = False,
) -> None:
    """List the newest decisions about a service, in words.

    Examples:
    `harmony decisions serving/chat`

    `harmony decisions serving/chat --limit 100 --json`
    """
    with _client(url, key) as client:
        found = list(client.decisions(service, limit))
    if as_json:
        _print_json([d.model_dump(exclude={"candidates", "quantiles"}) for d in found])
        return
    for decision in found:
        _print(f"[bold]{decision.at}[/bold]  {decision.id}\n  {decision.sentence}")
    if not found:
        _print(f"the journal has no decision about {service}")


@needing("api")
def what_if(
    service: Service,
    url: Url = URL,
    key: Key = "",
    epsilon: Annotated[float | None, typer.Option(help="Tolerated violation probability.")] = None,
    price: Annotated[float | None, typer.Option(help="Price of one GPU-hour.")] = None,
    miss_price: Annotated[float | None, typer.Option(help="Money lost per hour and missing replica.")] = None,
    min_replicas: Annotated[int | None, typer.Option(help="Never fewer replicas than this.")] = None,
    max_replicas: Annotated[int | None, typer.Option(help="Never more replicas than this.")] = None,
    ordered: Annotated[int | None, typer.Option(help="As if so many were the current replicas.")] = None,
    measure: Annotated[str | None, typer.Option(help="time, window or requests.")] = None,
    guards: Annotated[bool, typer.Option("--guards", help="Also apply stabilisation and rate limits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask what would be decided for a service with another objective, price or bound; changes nothing.

    Examples:
    `harmony what-if serving/chat --epsilon 0.001`

    `harmony what-if serving/chat --max-replicas 12 --price 2.5 --json`
    """
    changes: dict[str, Any] = {
        "epsilon": epsilon,
        "price_per_gpu_hour": price,
        "miss_price_per_replica_hour": miss_price,
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "ordered": ordered,
        "measure": measure,
        "guards": guards or None,
    }
    with _client(url, key) as client:
        found = client.what_if(service, **{name: value for name, value in changes.items() if value is not None})
    if as_json:
        _print_json(found.model_dump())
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for title in ("now", "then"):
        table.add_column(title, justify="right")
    for title, cell in _sides(found.currency).items():
        table.add_row(title, cell(found.old), cell(found.new))
    _print(f"[bold]{service}[/bold], {found.current} replicas now, from what was seen at {found.at}")
    _print(table)


def _sides(currency: str) -> dict[str, Any]:
    from harmony.serving.words import allowed, chance

    def cost(side: Side) -> str:
        return "-" if side.expected_cost is None else f"{side.expected_cost:,.2f} {currency}/h"

    return {
        "replicas": lambda side: str(side.replicas),
        "stated risk": lambda side: chance(side.violation_probability, side.paths, side.epsilon),
        "objective": lambda side: allowed(side.epsilon),
        "weighed cost": cost,
        "bounds": lambda side: f"{side.min_replicas}..{side.max_replicas}",
        "reason": lambda side: f"{side.reason}{f' ({side.bound_by})' if side.bound_by else ''}",
    }


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def _print(what: Any) -> None:  # noqa: ANN401
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)  # a file or a pipe has no edge to wrap at
    console.print(what, highlight=False, soft_wrap=True)


def _print_json(value: Any) -> None:  # noqa: ANN401
    print(json.dumps(value, sort_keys=True, indent=2, allow_nan=False))
