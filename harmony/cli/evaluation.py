"""`harmony evaluate`: forecasting methods against each other, on one folder of series or on the known data sets."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmony.app.settings import TraceSettings
from harmony.cli.options import with_settings

if TYPE_CHECKING:
    from forecasting.evaluation import EvaluationReport

__all__ = ["evaluate"]

FOLDERS = {"fisher": "fisher-paper", "traces": "split"}
HORIZONS = (1, 6, 24)
EVIDENCE = Path("evidence/forecasts")


@dataclass(frozen=True)
class Choice:
    """What is scored and how, as far as the command line says it; None leaves it to the way it is run."""

    methods: list[str] | None
    series: list[str] | None
    horizons: list[int] | None
    lookback: int | None
    samples: int | None
    windows: int | None
    seed: int
    jobs: int


@with_settings
def evaluate(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SET... | fisher DIR | traces DIR",
            help="Known data sets (--data; all of them: all), or a folder with Fisher containers or any trace files.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of all known data sets; scores are kept, and a run goes on.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", "-m", help="Method to score (repeat); harmony by default, with --data every one installed."
        ),
    ] = None,
    series: Annotated[
        list[str] | None, typer.Option("--series", "-s", help="Only this series (repeat); all by default.")
    ] = None,
    demand: Annotated[str | None, typer.Option(help="Column that replicas are counted for.")] = None,
    reading: TraceSettings = TraceSettings(),
    lookback: Annotated[
        int | None, typer.Option(help="Rows of history that a forecast reads; 72, with --data the set's own.")
    ] = None,
    horizon: Annotated[list[int] | None, typer.Option(help="Steps ahead; 1, with --data 1, 6 and 24 (repeat).")] = None,
    samples: Annotated[int | None, typer.Option(help="Sample paths per forecast; 200, with --data 1000.")] = None,
    windows: Annotated[
        int | None,
        typer.Option(
            help="Score at most so many windows of a series, evenly spaced; all, with --data 300.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; by default 2, or 1 on a single core.")] = None,
    evidence: Annotated[Path, typer.Option(help="With --data: the folder that scores are kept in.")] = EVIDENCE,
    again: Annotated[bool, typer.Option("--again", help="With --data: score anew what stands already.")] = False,
    page: Annotated[
        Path | None, typer.Option(help="With --data: write the page (Markdown) of all that is kept to this file.")
    ] = None,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Score nothing: write --page of what is kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Fit forecasting methods on the first 70 % of every series and score them on the last 20 %.

    Scores are in the MinMax scale of the first 70 %; validation is the 10 % between.

    Examples:
    `harmony evaluate fisher data/fisher --method ridge --method window_quantiles --method last_value`

    `harmony evaluate traces my-traces --method ridge --lookback 144 --horizon 12 --json`

    `harmony evaluate fisher nasa nab --data data --horizon 6 --method ridge --method harmony`

    `harmony evaluate --page-only --page docs/forecast-results.md`
    """
    from forecasting.errors import UsageError
    from harmony.app.forecast_page import write_page

    if page_only:
        if what or page is None:
            raise UsageError("--page-only scores nothing: give --page FILE, and no data set")
        write_page(evidence, page)
        print(f"page: {page}")
        return
    if not what:
        raise UsageError("nothing to score: give known data sets and --data FOLDER, or fisher DIR, or traces DIR")
    if page is not None and data is None:
        raise UsageError("--page goes with --data, whose scores are kept")
    choice = Choice(
        methods=None if method is None else list(dict.fromkeys(method)),
        series=series,
        horizons=horizon,
        lookback=lookback,
        samples=samples,
        windows=windows,
        seed=seed,
        jobs=min(2, os.cpu_count() or 1) if jobs is None else jobs,
    )
    if data is not None:
        found = _known_sets(what, data, choice, evidence, again)
        if page is not None:
            write_page(evidence, page)
    else:
        found = [_one_folder(what, choice, reading, demand)]
    if as_json:
        told = found[0].to_json() if data is None else {"reports": [one.to_json() for one in found]}
        print(json.dumps(told, sort_keys=True, indent=2, allow_nan=False))
        return
    for one in found:
        _print_scores(one)


def _one_folder(what: Sequence[str], choice: Choice, reading: TraceSettings, demand: str | None) -> EvaluationReport:
    """``fisher DIR`` or ``traces DIR``."""
    from forecasting.errors import UsageError, suggest
    from forecasting.evaluation import PROTOCOLS, Settings
    from forecasting.evaluation import evaluate as run_evaluation
    from forecasting.methods import DEFAULT_METHOD
    from harmony.app.datasets import ALL, DATASETS
    from harmony.cli.series import long_enough, read_series
    from harmony.cli.showing import progress

    if what[0] not in FOLDERS and what[0] not in {*DATASETS, ALL}:
        raise UsageError(f"no dataset {what[0]!r}; {suggest(what[0], dict.fromkeys((*FOLDERS, *DATASETS)))}")
    if what[0] not in FOLDERS or len(what) != 2:
        raise UsageError(
            f"{' '.join(what)}: expected fisher or traces and one folder, or known sets and --data FOLDER, which holds "
            "all of them"
        )
    if len(choice.horizons or ()) > 1:
        raise UsageError("several --horizon go with --data; give one")
    dataset, directory = what
    panels = read_series(dataset, Path(directory), choice.series, reading, demand, raw=dataset == "fisher")
    lookback, horizon = 72 if choice.lookback is None else choice.lookback, (choice.horizons or [1])[0]
    if dataset == "traces" and not choice.series:
        panels = long_enough(panels, Settings(PROTOCOLS[FOLDERS[dataset]], lookback, horizon))
    with progress("evaluate") as report:
        return run_evaluation(
            panels,
            methods=choice.methods or [DEFAULT_METHOD],
            protocol=FOLDERS[dataset],
            lookback=lookback,
            horizon=horizon,
            samples=200 if choice.samples is None else choice.samples,
            windows=choice.windows,
            seed=choice.seed,
            jobs=choice.jobs,
            dataset=dataset,
            progress=lambda done, total, now: report(now, done, total),
        )


def _known_sets(what: Sequence[str], data: Path, choice: Choice, evidence: Path, again: bool) -> list[EvaluationReport]:
    """Score what is not kept yet, then all that was asked for, from what is kept."""
    from forecasting.errors import UsageError
    from harmony.app.datasets import chosen
    from harmony.app.forecast_evidence import gather, installed_methods, plan, read_lines, reports
    from harmony.cli.showing import progress

    if choice.jobs < 1:
        raise UsageError(f"jobs {choice.jobs}: expected 1 or more")
    there, absent = installed_methods() if choice.methods is None else (choice.methods, [])
    planned = plan(
        chosen(what),
        data,
        evidence,
        methods=there,
        horizons=choice.horizons or HORIZONS,
        series=choice.series or (),
        lookback=choice.lookback,
        samples=1000 if choice.samples is None else choice.samples,
        windows=300 if choice.windows is None else choice.windows,
        seed=choice.seed,
        again=again,
    )
    if absent:
        print(
            f"note: left out, as their packages are not installed: {', '.join(absent)} "
            "(pip install 'harmony-autoscaler[trees,evaluate,deep]')",
            file=sys.stderr,
        )
    with progress("evaluate", estimate=True) as report:
        gather(planned, evidence, jobs=choice.jobs, progress=lambda done, total, now: report(now, done, total))
    asked = {*planned.calls, *planned.kept}
    return reports(line for line in read_lines(evidence) if line.asked in asked)


def _print_scores(report: EvaluationReport) -> None:
    from rich.console import Console
    from rich.table import Table

    series = len(next(iter(report.methods.values())))
    console = Console()
    console.print(
        f"[bold]{report.dataset}[/bold], protocol {report.protocol}: {series} series, lookback {report.lookback}, "
        f"horizon {report.horizon}, {report.samples} samples\nmeans over the series; errors in the MinMax scale of the "
        "training part; 80%: share of outcomes inside that central interval; part: with outcomes "
        "on a plateau counted by the part of its levels inside; p99: quantile loss at 0.99",
        highlight=False,
        soft_wrap=True,
    )
    titles = {
        "crps": "CRPS",
        "crps_load": "load",
        "crps_forecastable": "forec.",
        "mse": "MSE",
        "pinball_99": "p99",
        "coverage_80": "80%",
        "randomised_80": "part",
        "fit_seconds": "fit s",
        "predict_seconds": "pred s",
    }
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))  # as wide as a terminal
    table.add_column("method", no_wrap=True)
    for title in titles.values():
        table.add_column(title, justify="right", no_wrap=True)
    means = {name: report.mean(name) for name in report.methods}
    for name, mean in sorted(means.items(), key=lambda item: item[1]["crps"]):
        table.add_row(name, *(_cell(key, mean[key]) for key in titles))
    console.print(table, highlight=False)


def _cell(key: str, value: float) -> str:
    if value != value:
        return "-"
    if key.startswith(("coverage", "randomised")):
        return f"{value:.0%}"
    return f"{value:.2f}" if key.endswith("seconds") else f"{value:.4f}"
