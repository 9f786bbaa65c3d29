"""`harmony windows`: a window for every attention head of a trained forecaster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from harmony.app.settings import TraceSettings
from harmony.cli.options import with_settings
from harmony.cli.showing import noted

__all__ = ["windows"]


@with_settings
def windows(
    model: Annotated[str, typer.Argument(help="A model folder, trained with --temporal-attention sdpa.")],
    trace: Annotated[str, typer.Argument(help="A trace file, or the bundled one: synthetic.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write the plan to, as JSON.")],
    save: Annotated[
        Path | None, typer.Option("--save-model", help="Also save the model with these windows, in this folder.")
    ] = None,
    demand: Annotated[str | None, typer.Option(help="Column that replicas are counted for.")] = None,
    reading: TraceSettings = TraceSettings(),
    density: Annotated[float, typer.Option(help="Share of the tokens that a head may see on average.")] = 0.5,
    lookbacks: Annotated[
        str | None,
        typer.Option(help="Rows to measure at, separated by commas; a quarter and half of the model's by default."),
    ] = None,
    count: Annotated[
        int, typer.Option("--windows", help="Windows of each lookback that are measured, and judged.")
    ] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Choose a window per head of a forecaster: measure influence, optimise, judge at a longer lookback (MoA).

    Example:
    `harmony windows models/dense metrics.csv --demand rps --out plan.json --save-model models/windowed`
    """
    from forecasting.errors import DataError
    from forecasting.forecaster import Forecaster
    from forecasting.spans import plan_windows

    rows = None if lookbacks is None else _rows(lookbacks)
    forecaster = Forecaster.load(model)
    panel = noted(reading.load(trace, demand)).panel
    plan = plan_windows(forecaster, panel, lookbacks=rows, density=density, windows=count)
    told = {"model": model, "version": forecaster.version, "trace": trace, **plan.to_json()}
    text = json.dumps(told, sort_keys=True, indent=2, allow_nan=False)
    beside = out.with_name(out.name + ".part")
    try:
        beside.write_text(text + "\n")
        beside.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error
    if save is not None:
        forecaster.with_temporal_attention("elastic_window", plan.options).save(save)
    if as_json:
        print(text)
        return
    judged = plan.judged
    print(f"wrote {out}: the best of {plan.plans} plans at a density of {plan.densities[judged.rows]:.2f}")
    print(f"on {judged.windows} windows of {judged.rows} rows that were not measured, CRPS (smaller is better):")
    for name, value in (
        ("all tokens", judged.dense_crps),
        ("a window per head", judged.plan_crps),
        ("one window for all heads", judged.uniform_crps),
    ):
        print(f"  {name:<26}{value:.4f}")
    if save is not None:
        print(f"saved {save}")


def _rows(text: str) -> list[int]:
    """Rows from ``96,192``; `UsageError` for anything else."""
    from forecasting.errors import UsageError

    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise UsageError(f"--lookbacks {text!r}: expected whole numbers of rows such as 96,192")
    return found
