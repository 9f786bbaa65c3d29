"""`harmony train` and `harmony forecast`: the forecaster and its baselines on the command line."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harmony.app.settings import TraceSettings
from harmony.cli.options import with_settings
from harmony.cli.showing import noted

if TYPE_CHECKING:
    from forecasting.base import ForecastModel
    from forecasting.config import ModelConfig
    from forecasting.distribution import ForecastDistribution
    from forecasting.explaining import Explanation
    from forecasting.panel import Panel
    from forecasting.series_scores import SeriesScores
    from forecasting.tails import Verdict

__all__ = ["forecast", "train"]

Lookback = Annotated[int, typer.Option(help="Rows of history that a forecast reads.")]
Horizon = Annotated[int, typer.Option(help="Steps ahead.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Demand = Annotated[str | None, typer.Option(help="Column that replicas are counted for.")]


MOST_NUMBERS = 100_000_000
"""Samples x steps x indicators of a forecast: its paths are held in memory."""


# ---- harmony train ----------------------------------------------------------------------------------------------
@with_settings
def train(
    trace: Annotated[str, typer.Argument(help="A trace file, or the bundled one: synthetic.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to save the model in.")],
    demand: Demand = None,
    reading: TraceSettings = TraceSettings(),
    base: Annotated[
        bool | None,
        typer.Option(
            "--base/--from-scratch",
            help="Start from the bundled model (the default unless the shape is given), or from random weights.",
        ),
    ] = None,
    lookback: Lookback = 144,
    horizon: Horizon = 24,
    validation: Annotated[float, typer.Option(help="Share of the rows, at the end, that training is judged on.")] = 0.2,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps at most; by default the forecaster's own.")] = None,
    temporal_attention: Annotated[
        str | None,
        typer.Option(help="Attention among the rows of a window, for long lookbacks: wersa, mala, sliding_window, ..."),
    ] = None,
    temporal_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of that attention, such as window=128.")
    ] = None,
    patch: Annotated[int | None, typer.Option(help="Rows per token of the attention over time; 12 by default.")] = None,
    near_rows: Annotated[
        int | None,
        typer.Option(help="Newest rows that a window is normalised by; those of a day where the lookback is longer."),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train the forecaster on a trace and save it; an interrupted run saves nothing.

    Examples:
    `harmony train metrics.csv --demand rps --out models/chat`

    `harmony train synthetic --from-scratch --horizon 12 --out models/demo --json`

    `harmony train metrics.csv --lookback 4032 --temporal-attention wersa --patch 4 --out models/two-weeks`
    """
    from harmony.app.training import TrainingChoice, train_on

    shape = _shape(temporal_attention, temporal_option or (), patch, near_rows)
    chosen = TrainingChoice(out, shape, base, lookback, horizon, validation, steps, seed)
    panel = noted(reading.load(trace, demand)).panel
    with _progress("train", estimate=True) as report:
        found = train_on(panel, chosen, report)
    if as_json:
        _print_json({"trace": trace, **found.to_json()})
        return
    print(f"saved {found.saved} (version {found.version}), trained on {found.rows:,} rows of {trace}")
    print(f"on the {found.judged:,} rows after them: {_validation_line(found.scores)}")


def _shape(method: str | None, options: Sequence[str], patch: int | None, near_rows: int | None) -> ModelConfig | None:
    """The network's shape as the command line gives it; None where it says nothing about it."""
    from forecasting.config import ModelConfig
    from forecasting.errors import UsageError

    found: dict[str, Any] = {}
    for option in options:
        name, given, text = option.partition("=")
        if not given:
            raise UsageError(f"--temporal-option {option!r}: expected NAME=VALUE such as window=128")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    if method is None and patch is None and near_rows is None and not found:
        return None
    rows = ModelConfig().patch if patch is None else patch
    return ModelConfig(temporal_attention=method, temporal_options=found, patch=rows, near_rows=near_rows)


def _validation_line(scores: SeriesScores) -> str:
    return (
        f"CRPS {scores.crps:.4f} (demand {scores.crps_load:.4f}), MSE {scores.mse:.4f} in the MinMax scale; central "
        f"intervals of 50/80/95 % hold {scores.coverage_50:.1%} / {scores.coverage_80:.1%} / {scores.coverage_95:.1%}"
    )


# ---- harmony forecast -------------------------------------------------------------------------------------------
@with_settings
def forecast(
    trace: Annotated[str, typer.Argument(help="A trace file, or the bundled one: synthetic.")],
    model: Annotated[
        str, typer.Option(help="base (bundled), a model folder, or a method fitted on the trace, such as ridge.")
    ] = "base",
    demand: Demand = None,
    reading: TraceSettings = TraceSettings(),
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only this indicator (repeat); all by default.")
    ] = None,
    lookback: Annotated[
        int | None, typer.Option(help="Rows of history that a forecast reads; what the model reads by default.")
    ] = None,
    horizon: Horizon = 12,
    samples: Annotated[int, typer.Option(help="Sample paths.")] = 500,
    quantiles: Annotated[str, typer.Option(help="Quantile levels, separated by commas.")] = "0.05,0.5,0.95",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the quantiles to this file: .csv or .parquet.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the last rows and the forecast: a file that ends in .png or .svg.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Also say what moved it: experts, indicators, levels, past steps (of demand, or --only)."
        ),
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Forecast the steps after the end of a trace: quantiles of every indicator at every step.

    Examples:
    `harmony forecast synthetic --horizon 6`

    `harmony forecast metrics.csv --demand rps --model ridge --quantiles 0.1,0.5,0.9,0.99 --json`

    `harmony forecast last.csv --timezone Europe/Berlin --decimal , --out forecast.csv`

    `harmony forecast synthetic --only requests_per_second --horizon 48 --plot forecast.png`

    `harmony forecast synthetic --model ensemble --explain`
    """
    from forecasting.base import LOOKBACK
    from forecasting.errors import UsageError
    from forecasting.explaining import explain as explained
    from forecasting.fleet import forecast_rows

    levels = _levels(quantiles)
    _check_paths(out, plot)
    for what, number in (
        ("--lookback", 1 if lookback is None else lookback),
        ("--horizon", horizon),
        ("--samples", samples),
    ):
        if number < 1:
            raise UsageError(f"{what} {number}: expected 1 or more")
    panel = noted(reading.load(trace, demand)).panel
    for name in only or ():
        panel.position(name)
    _check_size(samples, horizon, len(panel.names))
    with _progress("fit") as report:
        fitted = _model(model, panel, LOOKBACK if lookback is None else lookback, horizon, seed, report)
    last = [len(panel) - 1]
    found = forecast_rows(fitted, panel, last, horizon, samples=samples, seed=seed, lookback=lookback, only=only)[0]
    if out is not None:
        _write_forecast(out, found, levels, calendar=panel.calendar)
    if plot is not None:
        _plot_forecast(plot, panel, found, levels)
    judged: Verdict | None = getattr(fitted, "verdict", None)
    left_out = _left_out(fitted)
    _say_stale(panel, found.names)
    named = _explainable(found, only or panel.names[:1]) if explain else []
    why = [explained(fitted, panel, horizon, name, seed=seed, lookback=lookback) for name in named]
    if as_json:
        told: dict[str, Any] = {"explanations": [e.to_json() for e in why]} if explain else {}
        _print_json(
            _forecast_json(trace, found, levels, calendar=panel.calendar) | told | left_out | _verdict_json(judged)
        )
        return
    _print_forecast(trace, found, levels, calendar=panel.calendar)
    print(_verdict_line(judged), end="")
    for found_why in why:
        _print_explanation(found_why)


def _check_paths(out: Path | None, plot: Path | None) -> None:
    """`UsageError` for a file that cannot be written: before the fit, which may take minutes."""
    from forecasting.errors import UsageError

    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: expected a file that ends in .csv or .parquet")
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: expected a file that ends in .png or .svg")
    for option, path in (("--out", out), ("--plot", plot)):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{option} {path}: there is no folder {path.parent}")


def _check_size(samples: int, horizon: int, indicators: int) -> None:
    """`UsageError` for paths that no memory would hold."""
    from forecasting.errors import UsageError

    numbers = samples * horizon * indicators
    if numbers > MOST_NUMBERS:
        raise UsageError(
            f"--samples {samples} over --horizon {horizon} of {indicators} indicators are {numbers:,} numbers; "
            f"expected at most {MOST_NUMBERS:,}"
        )


def _say_stale(panel: Panel, names: Sequence[str]) -> None:
    """A note of every indicator whose newest rows are absent: forecasts of it begin that much farther ahead."""
    for name in names:
        column = panel.column(name)
        seen = (column == column).nonzero()[0]
        rows = len(panel) - 1 - int(seen[-1]) if len(seen) else 0
        if rows:
            print(
                f"note: the newest {rows:,} rows of {name} are absent: its forecast goes on from what was seen last",
                file=sys.stderr,
            )


def _left_out(fitted: ForecastModel) -> dict[str, dict[str, str]]:
    """The members that failed and why, as JSON has them, and a note of each; empty where all forecast."""
    failed: dict[str, str] = getattr(fitted, "left_out", {})
    for name, why in failed.items():
        print(f"note: {name} has no part in this forecast: {why}", file=sys.stderr)
    return {"left_out": failed} if failed else {}


def _explainable(found: ForecastDistribution, names: Sequence[str]) -> list[str]:
    """Those of which there is a forecast; of the others a note says that there is none."""
    known = [name for name in names if (found.of(name) == found.of(name)).any()]
    for name in names:
        if name not in known:
            print(f"note: {name} is absent all through the window: no forecast of it to explain", file=sys.stderr)
    return known


def _levels(text: str) -> list[float]:
    """Quantile levels from ``0.05,0.5``; `UsageError` for anything that is not between 0 and 1."""
    from forecasting.errors import UsageError

    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or not all(0 < q < 1 for q in levels):
        raise UsageError(f"--quantiles {text!r}: expected numbers between 0 and 1 such as 0.05,0.5,0.95")
    return sorted(set(levels))


def _model(name: str, panel: Panel, lookback: int, horizon: int, seed: int, progress: Any) -> ForecastModel:  # noqa: ANN401
    """A saved model by folder or bundled name, else a method fitted on the panel (its last fifth validates)."""
    from forecasting.errors import UsageError, suggest
    from forecasting.methods import create_method, method_names

    if name in method_names():
        cut = len(panel) * 4 // 5
        late = [panel.rows(cut - lookback, len(panel))] if cut >= lookback + horizon else []
        early = panel.rows(0, cut) if late else panel
        return create_method(name).fit(
            [early], lookback=lookback, horizon=horizon, validation=late, seed=seed, progress=progress
        )
    if name != "base" and not Path(name).exists():
        known = ("base", *method_names())
        raise UsageError(f"--model {name}: neither a model folder nor a method; {suggest(name, known)}")
    from forecasting.forecaster import Forecaster

    return Forecaster.load(name)


def _origin(found: ForecastDistribution, calendar: bool) -> str:
    """Time of the last row: ISO 8601 in UTC, or seconds where the trace has no calendar."""
    from datetime import UTC, datetime

    if not calendar:
        return f"{found.origin_s:.15g}"
    return datetime.fromtimestamp(found.origin_s, tz=UTC).isoformat().replace("+00:00", "Z")


def _forecast_json(trace: str, found: ForecastDistribution, levels: list[float], *, calendar: bool) -> dict[str, Any]:
    values = found.quantile(levels)
    return {
        "trace": trace,
        "model": found.model,
        "origin": _origin(found, calendar),
        "step_seconds": found.step_s,
        "horizon": found.horizon,
        "samples": found.samples,
        "indicators": {
            indicator.name: {
                "unit": indicator.unit,
                "level": int(indicator.level),
                "quantiles": {f"{q:g}": [_number(v) for v in values[i, :, k]] for i, q in enumerate(levels)},
            }
            for k, indicator in enumerate(found.indicators)
        },
    }


def _write_forecast(out: Path, found: ForecastDistribution, levels: list[float], *, calendar: bool) -> None:
    """One row per indicator and step: time, indicator, unit and a column per quantile; the file appears whole."""
    from datetime import UTC, datetime

    import polars as pl

    from forecasting.errors import DataError

    values = found.quantile(levels)
    times = found.times_s.tolist()
    stamps = [datetime.fromtimestamp(t, tz=UTC) for t in times] if calendar else times
    parts = [
        pl.DataFrame(
            {"time": stamps, "indicator": about.name, "unit": about.unit}
            | {f"q{q:g}": values[i, :, k] for i, q in enumerate(levels)}
        )
        for k, about in enumerate(found.indicators)
    ]
    frame, beside = pl.concat(parts), out.with_name(out.name + ".part")
    try:
        if out.suffix == ".csv":
            frame.write_csv(beside, datetime_format="%Y-%m-%dT%H:%M:%SZ")
        else:
            frame.write_parquet(beside)
        beside.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error


def _plot_forecast(plot: Path, panel: Panel, found: ForecastDistribution, levels: list[float]) -> None:
    """Draw it; the file appears whole."""
    from forecasting.errors import DataError
    from simulator.charts.forecast import forecast_figure
    from simulator.charts.svg import draw, save_png, save_svg

    figure = draw(lambda: forecast_figure(panel, found, levels))
    beside = plot.with_name(plot.name + ".part")
    try:
        (save_png if plot.suffix == ".png" else save_svg)(figure, beside)
        beside.replace(plot)
    except OSError as error:
        raise DataError(f"{plot}: cannot be written ({error.strerror or error})") from error


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def _print_forecast(trace: str, found: ForecastDistribution, levels: list[float], *, calendar: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"[bold]{trace}[/bold] after {_origin(found, calendar)}, {found.horizon} steps of {found.step_s:g} s, "
        f"model {found.model}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("indicator")
    table.add_column("unit")
    table.add_column("step", justify="right")
    for q in levels:
        table.add_column(f"{q:g}", justify="right")
    values = found.quantile(levels)
    shown = sorted({1, *(round(found.horizon * part / 4) for part in (1, 2, 3)), found.horizon} - {0})
    for k, indicator in enumerate(found.indicators):
        for row, step in enumerate(shown):
            cells = ["absent" if v != v else f"{v:,.4g}" for v in values[:, step - 1, k]]
            head = (indicator.name, indicator.unit) if row == 0 else ("", "")
            table.add_row(*head, str(step), *cells)
    console.print(table, highlight=False)


def _verdict_json(judged: Verdict | None) -> dict[str, Any]:
    return {} if judged is None else {"calibrated": judged.calibrated, "calibrated_reason": judged.reason}


def _verdict_line(judged: Verdict | None) -> str:
    """The verdict on a method that has one; empty for others."""
    return "" if judged is None else f"\n{'calibrated' if judged.calibrated else 'not calibrated'}: {judged.reason}\n"


def _print_explanation(why: Explanation) -> None:
    """The sentence, and the shares side by side."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"\n{why.sentence}", highlight=False, soft_wrap=True)
    if why.beyond_habit is not None:
        console.print(why.beyond_habit.sentence, highlight=False, soft_wrap=True)
    made_of: dict[str, dict[str, float]] = {
        "expert": why.experts,
        "indicator": why.indicators,
        "level": {str(level): share for level, share in why.levels.items()},
    }
    looked_at: dict[str, dict[str, float]] = {"past": {s.label: s.share for s in why.past}}
    if why.beyond_habit is not None:
        looked_at["beyond habit"] = {s.label: s.share for s in why.beyond_habit.stretches}
    for groups in (made_of, looked_at):  # two tables, for all five side by side are wider than a terminal
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in groups:
            table.add_column(title)
            table.add_column("share", justify="right")
        columns = [[(name, f"{share:.1%}") for name, share in shares.items()] for shares in groups.values()]
        for row in range(max(map(len, columns))):
            cells = [column[row] if row < len(column) else ("", "") for column in columns]
            table.add_row(*(text for cell in cells for text in cell))
        console.print(table, "", sep="\n", highlight=False)


# ---- shared -----------------------------------------------------------------------------------------------------
def _print_json(value: Any) -> None:  # noqa: ANN401 - any JSON tree
    print(json.dumps(value, sort_keys=True, indent=2, allow_nan=False))


def _progress(title: str, *, estimate: bool = False) -> contextlib.AbstractContextManager[Any]:
    """The bar, told in the order in which fitting tells: how much is done, of how much, and what."""

    @contextlib.contextmanager
    def shown() -> Iterator[Any]:
        from harmony.cli.showing import progress

        with progress(title, estimate=estimate) as report:
            yield lambda done, total, what: report(what, done, total)

    return shown()
