"""`harmony backtest`: what the policies would have done on the history that Prometheus keeps of a service."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harmony.cli.extras import needing

if TYPE_CHECKING:
    from controller.prometheus.client import Prometheus
    from controller.prometheus.panel import PastPanel
    from controller.resource.settings import IndicatorQuery, ServiceSettings
    from forecasting.panel import FloatArray
    from simulator.replaying import ReplaySettings
    from simulator.result import ReplayResult

__all__ = ["backtest"]

LEAST_ROWS = 288  # twice what a forecast reads
LEAST_LEAD_TIMES = 12
NAME = re.compile(r"[A-Za-z_][\w.:-]*", re.ASCII)


@needing("controller")
def backtest(
    prometheus: Annotated[
        str | None, typer.Option(envvar="HARMONY_PROMETHEUS_URL", help="Address of Prometheus, with any path prefix.")
    ] = None,
    demand: Annotated[str | None, typer.Option(help="PromQL of what replicas are counted for: one series.")] = None,
    indicator: Annotated[
        list[str] | None, typer.Option(help="Further indicator for the forecast, NAME=PROMQL (repeat).")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="Take queries and settings from this GPUAutoscaler (YAML).")
    ] = None,
    days: Annotated[float, typer.Option(help="How far back to read, in days.")] = 14.0,
    step: Annotated[str | None, typer.Option(help="Seconds per step, such as 30s; 1m by default.")] = None,
    per_replica: Annotated[float | None, typer.Option(help="Demand that one ready replica carries.")] = None,
    mean_replicas: Annotated[
        float, typer.Option(help="Without --per-replica: replicas that the mean demand shall need.")
    ] = 20.0,
    lead_time: Annotated[
        str | None, typer.Option(help="Order to ready: 5m (the default), or median and spread: 5m*1.4.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Tolerated share of violated time; 0.01 by default.")] = None,
    replicas: Annotated[
        str | None, typer.Option(help="PromQL of the replicas that really ran: a row 'actual' to compare with.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", "-p", help="Policy to run (repeat); all of them by default.")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose every policy's settings on the part before the scored one.")
    ] = False,
    test_fraction: Annotated[float, typer.Option(help="Share of the history, at its end, that is scored.")] = 0.4,
    forecaster: Annotated[
        str, typer.Option(help="What harmony forecasts with: base, a model folder, or a method such as ridge.")
    ] = "base",
    samples: Annotated[int, typer.Option(help="Sample paths per forecast.")] = 200,
    min_replicas: Annotated[int | None, typer.Option(help="Never fewer replicas than this; 1 by default.")] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="Never more replicas than this; no limit by default.")
    ] = None,
    gpus_per_replica: Annotated[int | None, typer.Option(help="GPUs that one replica occupies; 1 by default.")] = None,
    price: Annotated[float | None, typer.Option(help="Price of one GPU-hour; 1 by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    token_file: Annotated[
        str, typer.Option("--prometheus-token-file", envvar="HARMONY_PROMETHEUS_TOKEN_FILE", help="Bearer token.")
    ] = "",
    ca_file: Annotated[
        str, typer.Option("--prometheus-ca-file", envvar="HARMONY_PROMETHEUS_CA_FILE", help="CA bundle (PEM).")
    ] = "",
    query_param: Annotated[
        list[str] | None,
        typer.Option("--prometheus-query-param", help="KEY=VALUE added to every query (repeat), such as a tenant."),
    ] = None,
    timeout: Annotated[str, typer.Option(help="How long one request to Prometheus may take.")] = "60s",
    out: Annotated[Path | None, typer.Option(help="Folder for replay.json, replicas.csv and report.html.")] = None,
    fail_on: Annotated[
        str | None, typer.Option(help="Exit with 1 if this policy misses more than epsilon, or cannot but.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print replay.json instead of the table.")] = False,
) -> int:
    """Replay a service's own history, read from Prometheus, under each policy: what would it have cost and missed?

    Examples:
    `harmony backtest --prometheus http://localhost:9090 --demand 'sum(rate(http_requests_total{service="chat"}[1m]))'
    --per-replica 25 --replicas 'sum(kube_deployment_status_replicas_ready{deployment="chat"})'`

    `harmony backtest --prometheus http://localhost:9090 -f gpuautoscaler.yaml --days 7 --out out/chat`
    """
    from controller.prometheus.client import Prometheus
    from forecasting.errors import UsageError
    from harmony.cli.replay import print_table, progress
    from harmony.durations import parse_duration
    from harmony.policies.registry import create_policy, policy_names
    from simulator.output import staged, write_outputs

    names = list(dict.fromkeys(policy or policy_names()))
    for name in [*names, *([fail_on] if fail_on else [])]:
        create_policy(name)
    if fail_on and fail_on not in names:
        raise UsageError(f"--fail-on {fail_on}: that policy is not replayed; add --policy {fail_on}")
    if not 0 < days <= 400:
        raise UsageError(f"--days {days:g}: expected more than 0 and at most 400")
    spec = _read_spec(file) if file is not None else None
    plan = _plan(spec, demand, indicator or [], None if step is None else parse_duration(step))
    settings = _settings(
        spec, per_replica, mean_replicas, lead_time, epsilon=epsilon, min_replicas=min_replicas,
        max_replicas=max_replicas, gpus_per_replica=gpus_per_replica, price_per_gpu_hour=price,
    )  # fmt: skip
    settings = replace(
        settings, tune=tune, test_fraction=test_fraction, forecaster=forecaster, samples=samples, seed=seed
    )
    if replicas is not None and settings.replica_capacity is None:
        raise UsageError(
            "--replicas compares with what really ran, so it needs --per-replica: what one replica carries"
        )
    url = prometheus or (spec.prometheus_url if spec is not None else "")
    if not url:
        raise UsageError("no Prometheus given; add --prometheus URL, such as http://localhost:9090")
    client = Prometheus(
        url, token_file, ca_file, _params(query_param or []), parse_duration(timeout),
        points_per_request=min(11_000, max(1, round(86_400 / plan.step_s))),
    )  # fmt: skip
    with staged(out) as stage:
        with progress() as report:
            past, counts = asyncio.run(_read(client, plan, days, replicas, report))
            _enough(past, settings.start_up.median_s)
            result = _replayed(past, counts, names, settings, report)
        if stage is not None:
            write_outputs(result, stage)
    summary = _summary(result, past, days)
    if as_json:
        told = result.to_json() | {"history": summary}
        print(json.dumps(told, sort_keys=True, indent=2, allow_nan=False))
    else:
        print_table(result)
        print(f"\n{summary['read']}\n{summary['verdict']}")
        if out is not None:
            print(f"report: {out / 'report.html'}   figures: {out / 'replay.json'}   series: {out / 'replicas.csv'}")
    if fail_on:
        run = result.policies[fail_on]
        return 1 if run.violation_rate > result.epsilon or not run.objective_met else 0
    return 0


# ---- what to read and what to replay ------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Plan:
    """Which queries are read, in which step, and what the panel is called."""

    queries: tuple[IndicatorQuery, ...]
    step_s: float
    name: str


def _read_spec(path: Path) -> ServiceSettings:
    """The first GPUAutoscaler, or opted-in HPA or ScaledObject, of a YAML file."""
    import yaml

    from controller.resource.parsing import parse_annotated, parse_autoscaler
    from forecasting.errors import UsageError

    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    for document in documents:
        if not isinstance(document, dict):
            continue
        # What the API server would have filled in.
        given = document.get("metadata")
        metadata = {"uid": "", "generation": 1, "namespace": "default"} | (given if isinstance(given, dict) else {})
        filled = document | {"metadata": metadata}
        if document.get("kind") == "GPUAutoscaler":
            return parse_autoscaler(filled)
        annotated = parse_annotated(filled) if document.get("kind") in ANNOTATED else None
        if annotated is not None:
            return annotated
    raise UsageError(f"{path}: holds no GPUAutoscaler, nor an annotated HorizontalPodAutoscaler or ScaledObject")


ANNOTATED = ("HorizontalPodAutoscaler", "ScaledObject")


def _plan(spec: ServiceSettings | None, demand: str | None, indicators: list[str], step_s: float | None) -> _Plan:
    """Queries of the command line; else those of the file."""
    from controller.resource.settings import IndicatorQuery
    from forecasting.errors import UsageError
    from forecasting.panel import Indicator

    queries = list(spec.queries) if spec is not None else []
    if demand is not None:
        queries = [IndicatorQuery(Indicator("demand", level=1, kind="gauge"), demand), *queries[1:]]
    if not queries:
        raise UsageError("nothing to count replicas for; add --demand PROMQL, or -f with a GPUAutoscaler")
    for given in indicators:
        name, _, promql = given.partition("=")
        if not NAME.fullmatch(name.strip()) or not promql.strip():
            raise UsageError(
                f"--indicator {given!r}: expected NAME=PROMQL, such as queue='sum(vllm:num_requests_waiting)'"
            )
        queries = [q for q in queries if q.indicator.name != name.strip()]
        queries.append(IndicatorQuery(Indicator(name.strip(), level=2, kind="gauge"), promql.strip()))
    step_s = step_s or (spec.step_s if spec is not None else 60.0)
    if not 1 <= step_s <= 3600:
        raise UsageError(f"--step {step_s:g} s: expected 1 s to 1 h")
    return _Plan(tuple(queries), step_s, "history" if spec is None else f"{spec.key.namespace}/{spec.key.name}")


def _settings(
    spec: ServiceSettings | None,
    per_replica: float | None,
    mean_replicas: float,
    lead_time: str | None,
    **objective: float | int | None,
) -> ReplaySettings:
    """Settings of the file with those of the command line over them."""
    from forecasting.errors import UsageError
    from harmony.cli.replay import start_up
    from harmony.model.objective import Objective
    from simulator.pool import StartUp
    from simulator.replaying import ReplaySettings

    promised = Objective() if spec is None else replace(spec.objective, bound=None)
    given: dict[str, Any] = {k: v for k, v in objective.items() if v is not None}
    if spec is not None and per_replica is None:
        if not spec.capacity.is_known:
            raise UsageError(
                f"{spec.key.name} learns what a replica carries, so a backtest must be told; "
                f"add --per-replica, such as {spec.capacity.median:g}"
            )
        per_replica = spec.capacity.median
    starts = start_up(lead_time or "5m")
    if spec is not None and lead_time is None:
        starts = StartUp(spec.lead_time.median_s)
    return ReplaySettings(
        replica_capacity=per_replica,
        mean_replicas=mean_replicas,
        start_up=starts,
        objective=replace(promised, **given),
    )


def _params(pairs: list[str]) -> list[tuple[str, str]]:
    from forecasting.errors import UsageError

    out = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"--prometheus-query-param {pair!r}: expected KEY=VALUE")
        out.append((key, value))
    return out


# ---- reading ------------------------------------------------------------------------------------------------------
async def _read(
    client: Prometheus, plan: _Plan, days: float, replicas: str | None, report: Callable[[str, int, int], None]
) -> tuple[PastPanel, FloatArray | None]:
    """The panel, and the replica counts on its rows; Prometheus's faults become one line for the user."""
    from controller.prometheus.errors import PrometheusError, QueryRefused
    from controller.prometheus.panel import read_column, read_panel
    from forecasting.errors import DataError, UsageError

    async with client:
        try:
            now = await client.now_s()
            past = await read_panel(
                client, plan.queries, now, days * 86_400, plan.step_s, name=plan.name, on_part=report
            )
            if replicas is None:
                return past, None
            first = round(past.panel.start_s / plan.step_s)
            last = first + len(past.panel) - 1
            counts = await read_column(client, replicas, first, last, plan.step_s, what="replicas", on_part=report)
        except QueryRefused as error:
            raise UsageError(str(error)) from error
        except PrometheusError as error:
            raise DataError(str(error)) from error
    if not (counts >= 0).any():
        raise DataError("--replicas: the query gives no value in this time; check metric name and label matchers")
    return past, counts


def _enough(past: PastPanel, lead_time_s: float) -> None:
    """Raises `DataError` if there is too little to learn from and to score."""
    from forecasting.errors import DataError
    from harmony.durations import format_duration

    panel = past.panel
    needed_s = max(LEAST_ROWS * panel.step_s, LEAST_LEAD_TIMES * lead_time_s)
    if len(panel) * panel.step_s < needed_s:
        raise DataError(
            f"too little history: the demand goes back {format_duration(len(panel) * panel.step_s)}, a backtest needs "
            f"at least {format_duration(needed_s)} in steps of {format_duration(panel.step_s)}; "
            "read more --days, take a finer --step, or wait"
        )


# ---- replaying ----------------------------------------------------------------------------------------------------
def _replayed(
    past: PastPanel,
    counts: FloatArray | None,
    names: list[str],
    settings: ReplaySettings,
    report: Callable[[str, int, int], None],
) -> ReplayResult:
    """The replay, with what really ran as one more row."""
    import numpy as np

    from simulator.actual import ACTUAL, actual_run
    from simulator.replaying import replay
    from simulator.traces.trace import Trace

    notes = list(past.notes)
    if counts is not None and np.isnan(counts).any():
        notes.append(f"actual: the count is unknown in {np.isnan(counts).mean():.1%} of the steps, not judged there")
    trace = Trace(past.panel, past.panel.names[0], source="prometheus", format="prometheus", notes=tuple(notes))
    result = replay(trace, names, settings, on_progress=report)
    if counts is None:
        return result
    objective = settings.objective
    actual = actual_run(
        result,
        counts,
        gpus_per_replica=objective.gpus_per_replica,
        price_per_gpu_hour=objective.price_per_gpu_hour,
    )
    return replace(result, policies=result.policies | {ACTUAL: actual})


def _summary(result: ReplayResult, past: PastPanel, days: float) -> dict[str, Any]:
    """How much was read, and the verdict in a sentence."""
    panel = past.panel
    had = len(panel) * panel.step_s / 86_400
    absent = float(panel.absent_share[0])
    asked = f" of the {days:g} asked for" if had < 0.99 * days else ""
    size = f"{len(panel):,} steps of {panel.step_s:g} s"
    return {
        "days": round(had, 4),
        "absent_share": absent,
        "read": f"read {had:.1f} days{asked}, {size}; demand absent in {absent:.2%}",
        "verdict": _verdict(result),
    }


def _verdict(result: ReplayResult) -> str:
    """What harmony (or the first policy) would have cost beside what ran, or beside HPA."""
    from simulator.findings import percent_change

    own = "harmony" if "harmony" in result.policies else next(iter(result.policies))
    rivals = [n for n in ("actual", "hpa", "reactive", "static") if n in result.policies and n != own]
    run = result.policies[own]
    scored = (result.demand.size - result.scored_from) * result.step_s / 86_400
    text = f"over the {scored:.1f} scored days {own} would have cost {run.cost:,.1f}"
    kept = f"missing demand {run.violation_rate:.2%} of the time ({result.epsilon:.2%} promised)"
    if not rivals:
        return f"{text}, {kept}"
    other = result.policies[rivals[0]]
    change = percent_change(run.cost, other.cost)
    who = "what really ran" if rivals[0] == "actual" else rivals[0]
    return f"{text}, {change} {who} ({other.cost:,.1f}), {kept}; {who} missed {other.violation_rate:.2%}"
