"""`harmony replay`: policies over a trace, with a table, `replay.json`, `replicas.csv` and `report.html`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from harmony.model.record import Record
    from simulator.result import ReplayResult

__all__ = ["Decisions", "print_table", "progress", "replay", "start_up"]


def replay(
    trace: Annotated[str, typer.Argument(help="A trace file, or the bundled one: synthetic.")],
    policy: Annotated[
        list[str] | None, typer.Option("--policy", "-p", help="Policy to run (repeat); all of them by default.")
    ] = None,
    demand: Annotated[str | None, typer.Option(help="Column that replicas are counted for.")] = None,
    step: Annotated[str | None, typer.Option(help="Seconds per step for request traces, such as 15s.")] = None,
    replica_capacity: Annotated[
        float | None, typer.Option(help="Demand that one ready replica carries, in the demand's unit.")
    ] = None,
    mean_replicas: Annotated[
        float, typer.Option(help="Without --replica-capacity: replicas that the mean demand shall need.")
    ] = 20.0,
    lead_time: Annotated[
        str, typer.Option(help="Order to ready: 5m, or a lognormal distribution as median and spread: 5m*1.4.")
    ] = "5m",
    epsilon: Annotated[float, typer.Option(help="Tolerated share of violated time.")] = 0.01,
    test_fraction: Annotated[float, typer.Option(help="Share of the trace, at its end, that is scored.")] = 0.4,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose every policy's settings on the part before the scored one.")
    ] = False,
    decide_every: Annotated[
        str | None, typer.Option(help="How often forecasting policies decide, such as 5m; every step by default.")
    ] = None,
    forecaster: Annotated[
        str, typer.Option(help="What harmony forecasts with: base, a model folder, or a method such as ridge.")
    ] = "base",
    samples: Annotated[int, typer.Option(help="Sample paths per forecast.")] = 200,
    lookback: Annotated[
        int | None, typer.Option(help="Rows of history that a forecast reads; what the model reads by default.")
    ] = None,
    min_replicas: Annotated[int, typer.Option(help="Never fewer replicas than this.")] = 1,
    max_replicas: Annotated[int, typer.Option(help="Never more replicas than this.")] = 100_000,
    gpus_per_replica: Annotated[int, typer.Option(help="GPUs that one replica occupies.")] = 1,
    price: Annotated[float, typer.Option(help="Price of one GPU-hour.")] = 1.0,
    miss_price: Annotated[float, typer.Option(help="Money lost per hour and missing replica.")] = 0.0,
    ttft_slo: Annotated[
        str | None, typer.Option(help="Promised time to first token (request traces), such as 2s.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for replay.json, replicas.csv and report.html.")] = None,
    decisions: Annotated[
        bool, typer.Option("--decisions", help="Also write decisions.jsonl: every decision with all its candidates.")
    ] = False,
    fail_on: Annotated[
        str | None, typer.Option(help="Exit with 1 if this policy misses more than epsilon, or cannot but.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print replay.json instead of the table.")] = False,
) -> int:
    """Replay a trace under each policy and compare cost and misses.

    Examples:
    `harmony replay synthetic --tune --out out/demo`

    `harmony replay requests.csv.gz --policy harmony --policy hpa --lead-time 3m`

    `harmony replay usage.csv --demand rps --replica-capacity 25 --epsilon 0.005 --json`
    """
    from forecasting.errors import UsageError
    from harmony.durations import parse_duration
    from harmony.model.objective import Objective
    from harmony.policies.registry import create_policy, policy_names
    from simulator.output import staged, write_outputs
    from simulator.replaying import ReplaySettings
    from simulator.replaying import replay as run_replay
    from simulator.traces.registry import load_trace

    names = list(dict.fromkeys(policy or policy_names()))
    for name in [*names, *([fail_on] if fail_on else [])]:
        create_policy(name)
    if fail_on and fail_on not in names:
        raise UsageError(f"--fail-on {fail_on}: that policy is not replayed; add --policy {fail_on}")
    if decisions and out is None:
        raise UsageError("--decisions needs a folder to write to: add --out DIR")
    settings = ReplaySettings(
        replica_capacity=replica_capacity,
        mean_replicas=mean_replicas,
        start_up=start_up(lead_time),
        objective=Objective(
            epsilon=epsilon,
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            gpus_per_replica=gpus_per_replica,
            price_per_gpu_hour=price,
            miss_price_per_replica_hour=miss_price,
        ),
        test_fraction=test_fraction,
        tune=tune,
        decide_every_s=None if decide_every is None else parse_duration(decide_every),
        forecaster=forecaster,
        lookback=lookback,
        samples=samples,
        ttft_slo_s=None if ttft_slo is None else parse_duration(ttft_slo),
        seed=seed,
    )
    loaded = load_trace(trace, demand=demand, step_s=None if step is None else parse_duration(step))
    with staged(out) as stage:
        sink = None if stage is None or not decisions else Decisions(stage / "decisions.jsonl")
        with progress() as report:
            result = run_replay(loaded, names, settings, on_progress=report, journal=sink)
        if sink is not None:
            sink.close()
        if stage is not None:
            write_outputs(result, stage)
    if as_json:
        print(json.dumps(result.to_json(), sort_keys=True, indent=2, allow_nan=False))
    else:
        print_table(result)
        if out is not None:
            print(f"\nreport: {out / 'report.html'}   figures: {out / 'replay.json'}   series: {out / 'replicas.csv'}")
    if fail_on:
        run = result.policies[fail_on]
        return 1 if run.violation_rate > epsilon or not run.objective_met else 0
    return 0


def start_up(text: str) -> Any:  # noqa: ANN401 - simulator types are imported lazily
    """``5m`` or ``5m*1.4`` (lognormal: median times a spread factor)."""
    from forecasting.errors import UsageError
    from harmony.durations import parse_duration
    from simulator.pool import StartUp

    median, star, spread = text.partition("*")
    try:
        factor = float(spread) if star else 1.0
    except ValueError:
        raise UsageError(f"--lead-time {text!r}: expected a duration (5m) or median*spread (5m*1.4)") from None
    return StartUp(parse_duration(median), factor)


class Decisions:
    """Writes every record of a replay as one JSON line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def __call__(self, policy: str, record: Record) -> None:
        """Write one record."""
        line = {"policy": policy, **record.to_json()}
        self._file.write(json.dumps(line, sort_keys=True) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class progress:  # noqa: N801 - used as a context manager function
    """A progress line on stderr while it is a terminal; silent otherwise."""

    def __enter__(self) -> Any:  # noqa: ANN401
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar.start()
        task = self._bar.add_task("replay", total=1)

        def report(what: str, done: int, total: int) -> None:
            self._bar.update(task, description=what, completed=done, total=max(1, total))

        return report

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def print_table(result: ReplayResult) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    hours = (result.demand.size - result.scored_from) * result.step_s / 3600
    console.print(
        f"[bold]{result.trace}[/bold]: {result.demand_name} ({result.unit or 'no unit'}), "
        f"{result.demand.size - result.scored_from:,} steps of {result.step_s:g} s scored ({hours:,.1f} h); "
        f"a replica carries {result.replica_capacity:.4g}, ready after {result.lead_time_s:g} s; "
        f"promise: at most {100 * result.epsilon:g} % of the time missed",
        highlight=False,
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    titles = ("policy", "GPU-hours", "vs oracle", "cost", "violated", "stated", "scalings", "seconds")
    for title in titles:
        table.add_column(title, justify="left" if title == "policy" else "right", no_wrap=True)
    oracle = result.policies.get("oracle")
    for run in sorted(result.policies.values(), key=lambda r: r.gpu_hours):
        kept = run.violation_rate <= result.epsilon
        table.add_row(
            run.name,
            f"{run.gpu_hours:,.1f}",
            f"{run.gpu_hours / oracle.gpu_hours:.3f}" if oracle and oracle.gpu_hours else "-",
            f"{run.cost:,.1f}",
            f"[{'green' if kept else 'red'}]{run.violation_rate:.3%}[/]",
            "-" if run.stated_risk is None else f"{run.stated_risk:.3%}",
            f"{run.scale_events:,}",
            f"{run.seconds:.1f}",
        )
    console.print(table, highlight=False)
    console.print("settings, tuned on the part before the scored one:" if result.tuned else "settings:", style="dim")
    for run in result.policies.values():
        shown = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in run.settings.items())
        if shown:
            console.print(f"  {run.name}: {shown}", style="dim", highlight=False)
    for run in result.policies.values():
        if not run.objective_met:
            console.print(
                f"[yellow]{run.name}: objective not reachable at {run.unreachable_steps:,} decisions; "
                "no permitted replica count keeps the promise there[/yellow]",
                highlight=False,
            )
    if any(run.requests for run in result.policies.values()):
        _print_requests(console, result)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False)


def _print_requests(console: Any, result: ReplayResult) -> None:  # noqa: ANN401
    """Latency figures of a request-level world."""
    from rich.table import Table

    runs = [run for run in result.policies.values() if run.requests]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("requests")
    for run in runs:
        table.add_column(run.name, justify="right")
    for key in runs[0].requests:
        table.add_row(key, *(f"{run.requests[key]:.4g}" for run in runs))
    console.print()
    console.print(table, highlight=False)
