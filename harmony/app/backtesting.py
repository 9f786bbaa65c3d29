"""A backtest: a service's own history, read from Prometheus, replayed under each policy beside what really ran."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from controller.prometheus.client import Prometheus
from controller.prometheus.errors import PrometheusError, QueryRefused
from controller.prometheus.panel import PastPanel, read_column, read_panel
from controller.resource.parsing import parse_annotated, parse_autoscaler
from controller.resource.settings import IndicatorQuery, ServiceSettings
from forecasting.errors import DataError, UsageError
from forecasting.panel import FloatArray, Indicator
from harmony.app.replaying import settings_with, start_up
from harmony.app.settings import RivalSettings
from harmony.durations import format_duration
from harmony.model.objective import Objective
from simulator.actual import ACTUAL, actual_run
from simulator.findings import percent_change
from simulator.output import staged, write_outputs
from simulator.pool import StartUp
from simulator.replaying import ReplayProgress, ReplaySettings
from simulator.replaying import replay as replay_trace
from simulator.result import ReplayResult
from simulator.traces.trace import Trace

__all__ = ["Backtest", "HistoryQueries", "backtest", "history_of", "read_manifest", "replay_settings_of"]

LEAST_ROWS = 288  # twice what a forecast reads
LEAST_LEAD_TIMES = 12
NAME = re.compile(r"[A-Za-z_][\w.:-]*", re.ASCII)
ANNOTATED = ("HorizontalPodAutoscaler", "ScaledObject")


@dataclass(frozen=True)
class Backtest:
    """The replay of a history, and what is said of how much was read and of the outcome."""

    result: ReplayResult
    told: dict[str, Any]


def backtest(
    client: Prometheus,
    history: HistoryQueries,
    settings: ReplaySettings,
    rivals: RivalSettings,
    report: ReplayProgress,
    *,
    days: float,
    replicas: str | None,
) -> Backtest:
    """Read the last ``days``, replay them and write the files; ``replicas`` is a query of the count that really ran.

    Raises `DataError` where Prometheus does not answer or has too little, `UsageError` for a query that it refuses.
    """
    if not 0 < days <= 400:
        raise UsageError(f"--days {days:g}: expected more than 0 and at most 400")
    if replicas is not None and settings.replica_capacity is None:
        raise UsageError(
            "--replicas compares with what really ran, so it needs --per-replica: what one replica carries"
        )
    with staged(rivals.out) as stage:
        past, counts = asyncio.run(read(client, history, days, replicas, report))
        enough(past, settings.start_up.median_s)
        result = replayed(past, counts, rivals.names, settings, report)
        if stage is not None:
            write_outputs(result, stage)
    return Backtest(result, summary(result, past, days))


# ---- what to read and what to replay ------------------------------------------------------------------------------
@dataclass(frozen=True)
class HistoryQueries:
    """Which queries are read, in which step, and what the panel is called."""

    queries: tuple[IndicatorQuery, ...]
    step_s: float
    name: str


def read_manifest(path: Path) -> ServiceSettings:
    """The first GPUAutoscaler, or opted-in HPA or ScaledObject, of a YAML file."""
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


def history_of(
    spec: ServiceSettings | None, demand: str | None, indicators: list[str], step_s: float | None
) -> HistoryQueries:
    """Queries of the command line; else those of the file."""
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
    return HistoryQueries(
        tuple(queries), step_s, "history" if spec is None else f"{spec.key.namespace}/{spec.key.name}"
    )


def replay_settings_of(
    spec: ServiceSettings | None,
    rivals: RivalSettings,
    *,
    per_replica: float | None,
    mean_replicas: float,
    lead_time: str | None,
    **objective: float | int | None,
) -> ReplaySettings:
    """Settings of the file with those of the command line over them; of ``objective`` what is not None."""
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
    return settings_with(
        rivals,
        replica_capacity=per_replica,
        mean_replicas=mean_replicas,
        start_up=starts,
        objective=replace(promised, **given),
    )


# ---- reading ------------------------------------------------------------------------------------------------------
async def read(
    client: Prometheus, history: HistoryQueries, days: float, replicas: str | None, report: ReplayProgress
) -> tuple[PastPanel, FloatArray | None]:
    """The panel, and the replica counts on its rows; Prometheus's faults become one line for the user."""
    async with client:
        try:
            now = await client.now_s()
            past = await read_panel(
                client, history.queries, now, days * 86_400, history.step_s, name=history.name, on_part=report
            )
            if replicas is None:
                return past, None
            first = round(past.panel.start_s / history.step_s)
            last = first + len(past.panel) - 1
            counts, missing = await read_column(
                client, replicas, first, last, history.step_s, what="replicas", on_part=report
            )
        except QueryRefused as error:
            raise UsageError(str(error)) from error
        except PrometheusError as error:
            raise DataError(str(error)) from error
    if not (counts >= 0).any():
        raise DataError("--replicas: the query gives no value in this time; check metric name and label matchers")
    said = (f"replicas: Prometheus says that its answer is incomplete ({warning})" for warning in missing)
    return replace(past, notes=(*past.notes, *said)), counts


def enough(past: PastPanel, lead_time_s: float) -> None:
    """Raises `DataError` if there is too little to learn from and to score."""
    panel = past.panel
    needed_s = max(LEAST_ROWS * panel.step_s, LEAST_LEAD_TIMES * lead_time_s)
    if len(panel) * panel.step_s < needed_s:
        raise DataError(
            f"too little history: the demand goes back {format_duration(len(panel) * panel.step_s)}, a backtest needs "
            f"at least {format_duration(needed_s)} in steps of {format_duration(panel.step_s)}; "
            "read more --days, take a finer --step, or wait"
        )


# ---- replaying ----------------------------------------------------------------------------------------------------
def replayed(
    past: PastPanel,
    counts: FloatArray | None,
    names: list[str],
    settings: ReplaySettings,
    report: ReplayProgress,
) -> ReplayResult:
    """The replay, with what really ran as one more row."""
    notes = list(past.notes)
    if counts is not None and np.isnan(counts).any():
        notes.append(f"actual: the count is unknown in {np.isnan(counts).mean():.1%} of the steps, not judged there")
    trace = Trace(past.panel, past.panel.names[0], source="prometheus", format="prometheus", notes=tuple(notes))
    result = replay_trace(trace, names, settings, on_progress=report)
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


def summary(result: ReplayResult, past: PastPanel, days: float) -> dict[str, Any]:
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
        "verdict": verdict(result),
    }


def verdict(result: ReplayResult) -> str:
    """What harmony (or the first policy) would have cost beside what ran, or beside HPA."""
    own = "harmony" if "harmony" in result.policies else next(iter(result.policies))
    rivals = [n for n in ("actual", "hpa", "reactive", "static") if n in result.policies and n != own]
    run = result.policies[own]
    scored = (result.demand.size - result.scored_from) * result.step_s / 86_400
    text = f"over the {scored:.1f} scored days {own} would have cost {run.cost:,.1f}"
    kept = f"violating {run.violation_rate:.2%} of the time (objective: at most {result.epsilon:.2%})"
    if not rivals:
        return f"{text}, {kept}"
    other = result.policies[rivals[0]]
    change = percent_change(run.cost, other.cost)
    who = "what really ran" if rivals[0] == "actual" else rivals[0]
    return f"{text}, {change} {who} ({other.cost:,.1f}), {kept}; {who} violated {other.violation_rate:.2%}"
