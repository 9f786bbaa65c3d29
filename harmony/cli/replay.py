"""`harmony replay`: policies over a trace, or swept over many and compared at equal violation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from harmony.app.settings import ReplayTerms, RivalSettings, SweepSettings, TraceSettings
from harmony.cli.extras import needing
from harmony.cli.options import flags_given, with_settings

__all__ = ["replay"]

BESIDE_A_STUDY = ("--study", "--sweep", "--workers", "--ray", "--out", "--fail-on", "--json")  # the file says the rest


@with_settings
def replay(
    context: typer.Context,
    trace: Annotated[
        list[str] | None,
        typer.Argument(
            help="A trace file, or a bundled one: synthetic, scenario:flash-crowd (`harmony traces list`); "
            "several with --sweep."
        ),
    ] = None,
    study: Annotated[
        Path | None, typer.Option("-f", "--study", help="Sweep what this file (YAML) says: traces, policies, settings.")
    ] = None,
    demand: Annotated[str | None, typer.Option(help="Column that replicas are counted for.")] = None,
    reading: TraceSettings = TraceSettings(),
    surgery: Annotated[
        list[str] | None,
        typer.Option(help="Change the demand first (repeat), such as spike:at=9d14h,height=4,length=20m."),
    ] = None,
    replica_capacity: Annotated[
        float | None, typer.Option(help="Demand that one ready replica carries, in the demand's unit.")
    ] = None,
    terms: ReplayTerms = ReplayTerms(),
    decide_every: Annotated[
        str | None, typer.Option(help="How often forecasting policies decide, such as 5m; every step by default.")
    ] = None,
    lookback: Annotated[
        int | None, typer.Option(help="Rows of history that a forecast reads; what the model reads by default.")
    ] = None,
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
    swept: SweepSettings = SweepSettings(),
    as_json: Annotated[bool, typer.Option("--json", help="Print replay.json instead of the table.")] = False,
) -> int:
    """Replay a trace under each policy and compare cost and violations.

    Examples:
    `harmony replay synthetic --tune --out out/demo`

    `harmony replay requests.csv.gz --policy harmony --policy hpa --lead-time 3m`

    `harmony replay usage.csv --demand rps --replica-capacity 25 --epsilon 0.005 --json`

    `harmony replay requests.csv.gz --world requests --world-file examples/simulator/world.yaml`

    `harmony replay synthetic scenario:flash-crowd --sweep --out out/sweep`
    """
    from forecasting.errors import UsageError
    from harmony.app import replaying, worldfile
    from harmony.cli.showing import files, print_table, progress
    from harmony.durations import parse_duration
    from harmony.model.objective import Objective
    from simulator.sweep.study import TraceChoice

    traces = trace or []
    if study is not None:
        if traces:
            raise UsageError(f"--study {study} names its traces itself; leave out {traces[0]!r}")
        return _study(study, flags_given(context), swept, rivals, as_json=as_json)
    swept.goes_with(flags_given(context))
    if not traces:
        raise UsageError("no trace given; name a file or a bundled one, such as synthetic")
    if world_file is not None and world != "requests":
        raise UsageError("--world-file describes a world of requests: add --world requests")
    slo_s = None if ttft_slo is None else parse_duration(ttft_slo)
    settings = replaying.settings_with(
        rivals,
        replica_capacity=replica_capacity,
        mean_replicas=terms.mean_replicas,
        start_up=replaying.start_up(terms.lead_time or "5m"),
        objective=Objective(**terms.objective, miss_price_per_replica_hour=miss_price),
        decide_every_s=None if decide_every is None else parse_duration(decide_every),
        lookback=lookback,
        ttft_slo_s=slo_s,
        world=worldfile.read_world(world_file, slo_s) if world == "requests" else None,
    )
    read, done = tuple(reading.reading.items()), tuple(surgery or ())
    chosen = [TraceChoice(name, demand=demand, step_s=reading.step_s, surgery=done, reading=read) for name in traces]
    if swept.sweep:
        from harmony.app.sweeping import study_of

        if decisions:
            raise UsageError("--decisions writes those of a single replay: leave it out, or --sweep")
        asked = study_of(chosen, settings, rivals, swept)
        rivals.fails_on_one_of(p.title for p in asked.policies)
        return _sweep(asked, swept, rivals, as_json=as_json)
    rivals.fails_on_one_of(rivals.names)
    if len(chosen) > 1:
        raise UsageError(f"{len(chosen)} traces: several are compared by --sweep; add it")
    if decisions and rivals.out is None:
        raise UsageError("--decisions needs a folder to write to: add --out DIR")
    loaded = chosen[0].loaded()
    if ttft_slo is not None and world == "rates" and loaded.requests is None:
        raise UsageError(f"--ttft-slo: {traces[0]} has no single requests; --world requests draws them")
    with progress("replay") as report:
        result = replaying.replay(loaded, settings, rivals, report, decisions=decisions)
    if as_json:
        print(json.dumps(result.to_json(), sort_keys=True, indent=2, allow_nan=False))
    else:
        print_table(result)
        if rivals.out is not None:
            print(f"\n{files(rivals.out)}")
    return 1 if replaying.failed(result, rivals) else 0


def _study(path: Path, given: list[str], swept: SweepSettings, rivals: RivalSettings, *, as_json: bool) -> int:
    """Do what a file says; flags ``given`` that would say something else are refused."""
    from forecasting.errors import UsageError
    from harmony.app.sweeping import read_study

    for flag in given:
        if flag not in BESIDE_A_STUDY:
            raise UsageError(f"--study {path} says itself how it is done; leave out {flag}")
    study = read_study(path)
    rivals.fails_on_one_of((p.title for p in study.policies), str(path))
    return _sweep(study, swept, rivals, as_json=as_json)


def _sweep(study: object, swept: SweepSettings, rivals: RivalSettings, *, as_json: bool) -> int:
    """Do a study, show it, and answer `--fail-on`."""
    from harmony.app import sweeping
    from harmony.cli.showing import print_sweep, progress, sweep_files
    from simulator.output import staged
    from simulator.sweep.study import Study

    assert isinstance(study, Study)
    with staged(rivals.out) as stage:
        with progress("sweep") as report, needing("ray"):
            result = sweeping.run(study, swept, report)
        if stage is not None:
            sweeping.write(result, stage)
    if as_json:
        print(json.dumps(result.to_json(), sort_keys=True, indent=2, allow_nan=False))
    else:
        print_sweep(result)
        if rivals.out is not None:
            print(f"\n{sweep_files(rivals.out)}")
    return 1 if sweeping.broken(result, rivals.fail_on) else 0
