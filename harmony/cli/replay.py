"""`harmony replay`: policies over a trace, with a table, `replay.json`, `replicas.csv` and `report.html`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from harmony.app.settings import RivalSettings
from harmony.cli.options import with_settings

__all__ = ["replay"]


@with_settings
def replay(
    trace: Annotated[str, typer.Argument(help="A trace file, or the bundled one: synthetic.")],
    demand: Annotated[str | None, typer.Option(help="Column that replicas are counted for.")] = None,
    step: Annotated[str | None, typer.Option(help="Seconds per step for request traces, such as 15s.")] = None,
    replica_capacity: Annotated[
        float | None, typer.Option(help="Demand that one ready replica carries, in the demand's unit.")
    ] = None,
    mean_replicas: Annotated[
        float, typer.Option(help="Without --replica-capacity: replicas that the mean demand shall need.")
    ] = 20.0,
    lead_time: Annotated[
        str,
        typer.Option(
            help="Time a replica takes to become ready: 5m, or a lognormal distribution as median and spread: 5m*1.4."
        ),
    ] = "5m",
    epsilon: Annotated[float, typer.Option(help="Tolerated share of violated time.")] = 0.01,
    decide_every: Annotated[
        str | None, typer.Option(help="How often forecasting policies decide, such as 5m; every step by default.")
    ] = None,
    lookback: Annotated[
        int | None, typer.Option(help="Rows of history that a forecast reads; what the model reads by default.")
    ] = None,
    min_replicas: Annotated[int, typer.Option(help="Never fewer replicas than this.")] = 1,
    max_replicas: Annotated[int, typer.Option(help="Never more replicas than this.")] = 100_000,
    gpus_per_replica: Annotated[int, typer.Option(help="GPUs that one replica occupies.")] = 1,
    price: Annotated[float, typer.Option(help="Price of one GPU-hour.")] = 1.0,
    miss_price: Annotated[float, typer.Option(help="Money lost per hour and replica too few.")] = 0.0,
    ttft_slo: Annotated[
        str | None, typer.Option(help="Bound on the time to first token (request traces), such as 2s.")
    ] = None,
    world: Annotated[
        Literal["rates", "requests"],
        typer.Option(
            help="rates: demand against capacity. requests: single requests queue, are served or leave, and policies "
            "decide among them; drawn for a trace that has rates only."
        ),
    ] = "rates",
    world_file: Annotated[
        Path | None, typer.Option(help="YAML file of a world of requests: replica, clients, supply of nodes.")
    ] = None,
    decisions: Annotated[
        bool, typer.Option("--decisions", help="Also write decisions.jsonl: every decision with all its candidates.")
    ] = False,
    rivals: RivalSettings = RivalSettings(),
    as_json: Annotated[bool, typer.Option("--json", help="Print replay.json instead of the table.")] = False,
) -> int:
    """Replay a trace under each policy and compare cost and violations.

    Examples:
    `harmony replay synthetic --tune --out out/demo`

    `harmony replay requests.csv.gz --policy harmony --policy hpa --lead-time 3m`

    `harmony replay usage.csv --demand rps --replica-capacity 25 --epsilon 0.005 --json`

    `harmony replay requests.csv.gz --world requests --world-file examples/simulator/world.yaml`
    """
    from forecasting.errors import UsageError
    from harmony.app import replaying, worldfile
    from harmony.cli.showing import files, print_table, progress
    from harmony.durations import parse_duration
    from harmony.model.objective import Objective
    from simulator.traces.registry import load_trace

    if decisions and rivals.out is None:
        raise UsageError("--decisions needs a folder to write to: add --out DIR")
    if world_file is not None and world != "requests":
        raise UsageError("--world-file describes a world of requests: add --world requests")
    slo_s = None if ttft_slo is None else parse_duration(ttft_slo)
    settings = replaying.settings_with(
        rivals,
        replica_capacity=replica_capacity,
        mean_replicas=mean_replicas,
        start_up=replaying.start_up(lead_time),
        objective=Objective(
            epsilon=epsilon,
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            gpus_per_replica=gpus_per_replica,
            price_per_gpu_hour=price,
            miss_price_per_replica_hour=miss_price,
        ),
        decide_every_s=None if decide_every is None else parse_duration(decide_every),
        lookback=lookback,
        ttft_slo_s=slo_s,
        world=worldfile.read_world(world_file, slo_s) if world == "requests" else None,
    )
    loaded = load_trace(trace, demand=demand, step_s=None if step is None else parse_duration(step))
    with progress("replay") as report:
        result = replaying.replay(loaded, settings, rivals, report, decisions=decisions)
    if as_json:
        print(json.dumps(result.to_json(), sort_keys=True, indent=2, allow_nan=False))
    else:
        print_table(result)
        if rivals.out is not None:
            print(f"\n{files(rivals.out)}")
    return 1 if replaying.failed(result, rivals) else 0
