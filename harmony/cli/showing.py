"""What several verbs show on a terminal: a bar while they work, and the table of a replay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.result import ReplayResult
    from simulator.sweep.running import SweepResult
    from simulator.traces.trace import Trace

__all__ = ["files", "noted", "print_sweep", "print_table", "progress", "sweep_files"]


class progress:  # noqa: N801 - used as a context manager function
    """A progress line on stderr while that is a terminal, moved by (what, how much of it, of how much); else silent.

    ``estimate``: also say how long it will take at the present pace; for work that may end earlier, not later.
    """

    def __init__(self, title: str, *, estimate: bool = False) -> None:
        self._title = title
        self._estimate = estimate

    def __enter__(self) -> Any:  # noqa: ANN401
        """Begin it; gives the function that moves it."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn()]
        columns.append(TimeElapsedColumn())
        if self._estimate:
            columns += [TextColumn("left, at most:"), TimeRemainingColumn()]
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar.start()
        task = self._bar.add_task(self._title, total=1)

        def report(what: str, done: int, total: int) -> None:
            self._bar.update(task, description=what or self._title, completed=done, total=max(1, total))

        return report

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._bar.stop()


def noted(trace: Trace) -> Trace:
    """The trace itself, after its notes were told on stderr: what was sorted, averaged, or taken for a counter."""
    for note in trace.notes:
        print(f"note: {note}", file=sys.stderr)
    return trace


def files(out: Path) -> str:
    """Where the files of a replay are."""
    return f"report: {out / 'report.html'}   figures: {out / 'replay.json'}   series: {out / 'replicas.csv'}"


def print_table(result: ReplayResult) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    from simulator.findings import judged

    console = Console()
    hours = (result.demand.size - result.scored_from) * result.step_s / 3600
    console.print(
        f"[bold]{result.trace}[/bold]: {result.demand_name} ({result.unit or 'no unit'}), "
        f"{result.demand.size - result.scored_from:,} steps of {result.step_s:g} s scored ({hours:,.1f} h); "
        f"a replica carries {result.replica_capacity:.4g}, ready after {result.lead_time_s:g} s; "
        f"objective: at most {100 * result.epsilon:g} % of the time violated",
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
        if said := judged(result, run):
            found = result.agreement(run)
            assert found is not None  # it was judged
            console.print(
                f"[yellow]{run.name}: stated {found.stated:.3%}, realised {found.realised:.3%} (95 % interval "
                f"{found.low:.2%} to {found.high:.2%}): {said}[/yellow]",
                highlight=False,
            )
    for run in result.policies.values():
        if not run.objective_met:
            console.print(
                f"[yellow]{run.name}: objective not reachable at {run.unreachable_steps:,} decisions; "
                "no permitted replica count meets the objective there[/yellow]",
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
    for key in dict.fromkeys(key for run in runs for key in run.requests):
        table.add_row(key, *(f"{run.requests[key]:.4g}" if key in run.requests else "-" for run in runs))
    console.print()
    console.print(table, highlight=False)


def sweep_files(out: Path) -> str:
    """Where the files of a sweep are."""
    return f"report: {out / 'sweep.html'}   figures: {out / 'sweep.json'}"


def print_sweep(result: SweepResult) -> None:
    """A sweep's table: every policy over all traces, for each objective."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    titles = ("policy", "hours", "5-95 %", "worst", "/ hpa", "/ oracle", "violated", "longest", "stated")
    for epsilon in result.study.epsilons:
        count = len(result.worlds)
        console.print(
            f"[bold]at most {100 * epsilon:g} % violated[/bold], {count} trace{'s' if count != 1 else ''}; hours over "
            "the best rule of thumb tuned in hindsight to the same violations (geometric mean)",
            highlight=False,
        )
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in titles:
            table.add_column(title, justify="left" if title == "policy" else "right", no_wrap=True)
        rows = [(result.summary(policy, epsilon), policy) for policy in result.policies]
        for found, policy in sorted(rows, key=lambda pair: _or_last(pair[0]["over the best rule of thumb"])):
            low, high = result.interval(policy, epsilon)
            table.add_row(
                policy,
                _ratio(found["over the best rule of thumb"]),
                f"{_ratio(low)}-{_ratio(high)}",
                _ratio(found["over the best rule of thumb, worst trace"]),
                _ratio(found["over HPA, default window"]),
                _ratio(found["over perfect foresight"]),
                f"{found['realised, median (%)']:.2f}%",
                f"{found['longest violation, median (minutes)']:.0f}m",
                result.judged(policy, epsilon),
            )
        console.print(table, highlight=False)


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value == value else "-"


def _or_last(value: float) -> float:
    return value if value == value else float("inf")
