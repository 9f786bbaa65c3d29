"""`harmony slo`: an OpenSLO document as the objective of a GPUAutoscaler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["slo"]


def slo(
    file: Annotated[Path, typer.Argument(help="YAML file of OpenSLO documents (openslo/v1); kind SLO is read.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Read SLOs in the OpenSLO format: epsilon, measure and error budget of each, as `spec.objective`.

    Target and rolling window are taken. The indicator is not: HARMONY bounds how often demand exceeds what the ready
    replicas carry, which is what an indicator of users' latency depends on.

    Examples:
    `harmony slo slo.yaml`

    `harmony slo slo.yaml --json`
    """
    from harmony.app.openslo import USUAL_WINDOW_S, read_objectives
    from harmony.durations import format_duration

    found = read_objectives(file)
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2))
        return
    for one in found:
        what = "of the time" if one.measure == "Time" else "of the demand"
        print(f"# {one.name}: {one.target:.10g} {what} over {format_duration(one.window_s)}", end="")
        print(f"; error budget {format_duration(round(one.budget_s))}" if one.measure == "Time" else "")
        if one.window_s != USUAL_WINDOW_S:
            print(
                f"# HARMONY keeps its error budget over {format_duration(USUAL_WINDOW_S)}; epsilon is the same share."
            )
        print(f"objective:\n  epsilon: {one.epsilon:.10g}\n  measure: {one.measure}")
