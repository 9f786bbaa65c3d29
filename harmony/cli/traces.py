"""`harmony traces list|show|convert|generate`: look at traces, make them tidy, make new ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmony.app.settings import TraceSettings
from harmony.cli.options import with_settings

if TYPE_CHECKING:
    from rich.console import Console

    from simulator.traces.summary import IndicatorSummary
    from simulator.traces.trace import Trace

__all__ = ["traces_app"]

traces_app = typer.Typer(
    help="List, show, convert and generate traces.", no_args_is_help=True, rich_markup_mode="markdown"
)

TraceArgument = Annotated[str, typer.Argument(metavar="TRACE", help="A trace file, or the bundled one: synthetic.")]
Demand = Annotated[str | None, typer.Option(help="Indicator that replicas are counted for.")]
Raw = Annotated[bool, typer.Option("--raw", help="Keep cumulative counters as recorded levels.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@traces_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the bundled traces and the formats that are recognised, with their licences.

    Example: `harmony traces list --json`
    """
    from simulator.traces.registry import list_traces

    infos = list_traces()
    if as_json:
        rows = [
            {"name": i.name, "kind": i.kind, "title": i.title, "licence": i.licence, "address": i.address}
            for i in infos
        ]
        print(json.dumps({"traces": rows}, indent=2, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table("name", "kind", "what it is", "licence", box=None, pad_edge=False)
    for info in infos:
        table.add_row(info.name, info.kind, info.title, info.licence)
    _console().print(table)


@traces_app.command("show")
@with_settings
def show_command(
    trace: TraceArgument,
    demand: Demand = None,
    reading: TraceSettings = TraceSettings(),
    raw: Raw = False,
    as_json: AsJson = False,
) -> None:
    """Show the indicators of a trace: units, levels, what is absent, statistics and a sketch.

    Examples:
    `harmony traces show synthetic`

    `harmony traces show usage.csv --column rps=http_rps:requests/s:1:rate --json`
    """
    from simulator.traces.summary import summarise, weekday_over_weekend

    loaded = reading.load(trace, demand, raw=raw)
    panel = loaded.panel
    summaries = summarise(panel)
    if as_json:
        answer = {
            **_facts(loaded),
            "weekday_over_weekend": weekday_over_weekend(panel, panel.column(loaded.demand)),
            "indicators": [s.to_json() for s in summaries],
        }
        print(json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False))
        return
    _print_trace(_console(), loaded, summaries)


@traces_app.command("convert")
@with_settings
def convert_command(
    trace: TraceArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .csv, .csv.gz or .parquet.")],
    demand: Demand = None,
    reading: TraceSettings = TraceSettings(),
    raw: Raw = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Leave out the line that describes units, levels and kinds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a trace as tidy CSV or Parquet, which every command reads; the file appears whole or not at all.

    Examples:
    `harmony traces convert AzureLLMInferenceTrace_code.csv azure.parquet --step 1m`

    `harmony traces convert answer.json load.csv.gz --demand http_requests_total`
    """
    from simulator.traces.write import write_trace

    loaded = reading.load(trace, demand, raw=raw)
    write_trace(loaded.panel, out, plain=plain, licence=loaded.licence)
    _report_written(loaded, out, as_json)


@traces_app.command("generate")
def generate_command(
    out: Annotated[Path, typer.Option("--out", help="File to write: .csv, .csv.gz or .parquet.")],
    profile: Annotated[str, typer.Option(help="Kind of service: chat, code, batch or web.")] = "chat",
    days: Annotated[float, typer.Option(help="Length in days.")] = 14.0,
    step: Annotated[str, typer.Option(help="Time between rows, such as 1m.")] = "1m",
    seed: Annotated[int, typer.Option(help="Seed; the same arguments give the same values.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Generate a synthetic service, calibrated on public traces of its kind.

    Example: `harmony traces generate --profile code --days 7 --step 15s --seed 3 --out code.parquet`
    """
    from harmony.durations import parse_duration
    from simulator.traces.generate import generate
    from simulator.traces.trace import Trace
    from simulator.traces.write import write_trace

    panel = generate(profile=profile, days=days, step_s=parse_duration(step), seed=seed)
    write_trace(panel, out, licence="Apache-2.0")
    _report_written(Trace(panel, panel.names[0], source=profile, licence="Apache-2.0"), out, as_json)


def _facts(trace: Trace) -> dict[str, object]:
    """What is said of a trace as a whole."""
    panel = trace.panel
    return {
        "trace": panel.name,
        "source": trace.source,
        "format": trace.format,
        "licence": trace.licence,
        "demand": trace.demand,
        "rows": len(panel),
        "step_seconds": panel.step_s,
        "start": panel.start.isoformat() if panel.calendar else None,
        "span_seconds": len(panel) * panel.step_s,
        "requests": None if trace.requests is None else len(trace.requests),
        "absent_share": float(panel.absent_share.mean()),
        "notes": list(trace.notes),
    }


def _report_written(trace: Trace, out: Path, as_json: bool) -> None:
    """One line, or JSON, on the file that was written."""
    panel = trace.panel
    if as_json:
        print(json.dumps({**_facts(trace), "out": str(out), "digest": panel.digest()}, indent=2, ensure_ascii=False))
        return
    for note in trace.notes:
        print(f"note: {note}")
    print(f"wrote {out}: {len(panel)} rows, {len(panel.names)} indicators, demand {trace.demand}")


def _console() -> Console:
    """A console that wraps to the terminal, and to 120 columns where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def _print_trace(console: Console, trace: Trace, summaries: tuple[IndicatorSummary, ...]) -> None:
    """The trace as a table, its demand as a sketch, and the notes."""
    from rich.markup import escape
    from rich.table import Table

    from harmony.durations import format_duration
    from simulator.traces.summary import text_sparkline

    panel = trace.panel
    when = f"from {panel.start:%Y-%m-%d %H:%M} UTC" if panel.calendar else "no calendar"
    span = format_duration(len(panel) * panel.step_s)
    console.print(f"[bold]{escape(panel.name)}[/bold]  {trace.format}, licence: {escape(trace.licence)}")
    console.print(f"{len(panel)} rows of {format_duration(panel.step_s)}, {span}, {when}")
    table = Table(box=None, pad_edge=False)
    for head in ("indicator", "unit", "level"):
        table.add_column(head, overflow="fold")
    for head in ("absent", "mean", "cv", "p50", "p99", "max", "day lag"):
        table.add_column(head, justify="right", no_wrap=True)
    for s in summaries:
        name = f"[bold]{escape(s.name)}[/bold]" if s.name == trace.demand else escape(s.name)
        figures = (_figure(v) for v in (s.mean, s.cv, s.p50, s.p99, s.max, s.lag_day))
        table.add_row(name, escape(s.unit), str(s.level), f"{100 * s.absent_share:.2f}%", *figures)
    console.print(table)
    console.print(f"{escape(trace.demand)}: {text_sparkline(panel.column(trace.demand), min(console.width - 30, 84))}")
    for note in trace.notes:
        console.print(f"note: {escape(note)}")


def _figure(value: float | None) -> str:
    """Four significant digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"
