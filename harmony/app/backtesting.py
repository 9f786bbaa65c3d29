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
from harmony.app import replaying, sweeping
from harmony.app.manifest import manifest
from harmony.app.replaying import settings_with, start_up
from harmony.app.settings import ReplayTerms, RivalSettings, SweepSettings
from harmony.app.written import loader
from harmony.durations import format_duration
from harmony.model.objective import Objective
from simulator.actual import ACTUAL, actual_run
from simulator.findings import percent_change
from simulator.output import staged, write_outputs
from simulator.pool import StartUp
from simulator.replaying import ReplayProgress, ReplaySettings
from simulator.replaying import replay as replay_trace
from simulator.result import ReplayResult
from simulator.sweep.running import SweepResult
from simulator.sweep.study import TraceChoice
from simulator.traces.trace import Trace

__all__ = ["Backtest", "HistoryQueries", "backtest", "failed", "history_of", "read_manifest", "replay_settings_of"]

OWN = "harmony"  # whose settings are recommended
LEAST_ROWS = 288  # twice what a forecast reads
LEAST_LEAD_TIMES = 12
NAME = re.compile(r"[A-Za-z_][\w.:-]*", re.ASCII)
ANNOTATED = ("HorizontalPodAutoscaler", "ScaledObject")


@dataclass(frozen=True)
class Backtest:
    """The replay (or the sweep) of a history, what is said of it, and what is recommended."""

    result: ReplayResult | None
    told: dict[str, Any]
    swept: SweepResult | None = None
    manifest: dict[str, Any] | None = None
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """`replay.json` or `sweep.json`, with what was read and what is recommended."""
        told = self.result or self.swept
        found = {} if told is None else told.to_json()
        more = {} if self.manifest is None else {"manifest": self.manifest, "advice": self.advice}
        return found | {"history": self.told} | more


def backtest(
    client: Prometheus,
    history: HistoryQueries,
    settings: ReplaySettings,
    rivals: RivalSettings,
    swept: SweepSettings,
    report: ReplayProgress,
    *,
    days: float,
    replicas: str | None,
    spec: ServiceSettings | None = None,
) -> Backtest:
    """Read the last ``days``, replay (or sweep) them and write the files.

    ``replicas`` is a query of the count that really ran. Raises `DataError` where Prometheus does not answer or has too
    little, `UsageError` for a query that it refuses.
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
        if swept.sweep:
            made, tried = _swept(past, counts, settings, rivals, swept, report)
            if stage is not None and made.swept is not None:
                sweeping.write(made.swept, stage)
        else:
            result = replayed(past, counts, rivals.names, settings, report)
            made, tried = Backtest(result, {"verdict": verdict(result)}), _tried(result)
            if stage is not None:
                write_outputs(result, stage)
    made = replace(made, told=summary(past, days) | made.told)
    if not tried:
        return made
    kept = [q for q in history.queries if q.indicator.name in past.panel.names]
    best, advice = advised(tried, settings.objective.epsilon)
    written = manifest(
        best.chosen, best.most, kept, settings, best.capacity, best.epsilon, spec=spec, prometheus_url=client.url,
        step_s=history.step_s,
    )  # fmt: skip
    return replace(made, manifest=written, advice=advice)


@dataclass(frozen=True)
class Tried:
    """HARMONY's own policy at one epsilon: what was violated, its settings, and the most it ordered."""

    epsilon: float
    violated: float
    chosen: dict[str, float | int | str]
    most: int
    capacity: float


def _tried(result: ReplayResult) -> list[Tried]:
    own = result.policies.get(OWN)
    if own is None:
        return []
    most = int(own.ordered.max())
    return [Tried(result.epsilon, own.violation_rate, own.settings, most, result.replica_capacity)]


def _swept(
    past: PastPanel,
    counts: FloatArray | None,
    settings: ReplaySettings,
    rivals: RivalSettings,
    swept: SweepSettings,
    report: ReplayProgress,
) -> tuple[Backtest, list[Tried]]:
    """The sweep of the history, and of what really ran a sentence."""
    trace = Trace(past.panel, past.panel.names[0], source="prometheus", format="prometheus", notes=past.notes)
    study = sweeping.study_of([TraceChoice(trace, past.panel.name)], settings, rivals, swept)
    found = sweeping.run(study, swept, report)
    text = swept_verdict(found, settings.objective.epsilon)
    if counts is not None:
        ran = replayed(past, counts, ["oracle"], settings, report).policies[ACTUAL]
        text += f"; what really ran cost {ran.cost:,.1f} and violated {ran.violation_rate:.2%}"
    capacity = float(found.worlds[0].about["replica_capacity"])
    own = [r.cell for r in found.rows if r.cell.policy == OWN]
    tried = [Tried(c.epsilon, c.figures.violated, c.settings, c.figures.most, capacity) for c in own]
    return Backtest(None, {"verdict": text}, found), tried


def advised(tried: list[Tried], epsilon: float) -> tuple[Tried, str]:
    """Which of them to write down, and a sentence on what to expect.

    The largest epsilon under which no more than the objective's was violated: what is asked for and what comes of it
    may differ.
    """
    kept = [t for t in tried if t.violated <= epsilon]
    if kept:
        best = max(kept, key=lambda t: t.epsilon)
        said = f"violated {best.violated:.2%} here; at most {epsilon:.2%} is asked for"
        return best, f"recommended, with epsilon {best.epsilon:g} ({said}):"
    best = min(tried, key=lambda t: t.violated)
    return best, (
        f"no epsilon that was tried kept {epsilon:.2%} on this history ({best.violated:.2%} was violated); "
        "look at what is recommended before it gets a mode that scales:"
    )


def failed(found: Backtest, rivals: RivalSettings) -> bool:
    """Whether the policy of `--fail-on` violated the objective for too long, or could not have kept it."""
    if found.swept is not None:
        return sweeping.broken(found.swept, rivals.fail_on)
    return found.result is not None and replaying.failed(found.result, rivals)


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
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), loader()))
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
    terms: ReplayTerms,
    *,
    per_replica: float | None,
) -> ReplaySettings:
    """Settings of the file with those of the command line over them."""
    promised = Objective() if spec is None else replace(spec.objective, bound=None)
    if spec is not None and per_replica is None:
        if not spec.capacity.is_known:
            raise UsageError(
                f"{spec.key.name} learns what a replica carries, so a backtest must be told; "
                f"add --per-replica, such as {spec.capacity.median:g}"
            )
        per_replica = spec.capacity.median
    starts = start_up(terms.lead_time or "5m")
    if spec is not None and terms.lead_time is None:
        starts = StartUp(spec.lead_time.median_s)
    return settings_with(
        rivals,
        replica_capacity=per_replica,
        mean_replicas=terms.mean_replicas,
        start_up=starts,
        objective=replace(promised, **terms.objective),
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


def summary(past: PastPanel, days: float) -> dict[str, Any]:
    """How much was read."""
    panel = past.panel
    had = len(panel) * panel.step_s / 86_400
    absent = float(panel.absent_share[0])
    asked = f" of the {days:g} asked for" if had < 0.99 * days else ""
    size = f"{len(panel):,} steps of {panel.step_s:g} s"
    return {
        "days": round(had, 4),
        "absent_share": absent,
        "read": f"read {had:.1f} days{asked}, {size}; demand absent in {absent:.2%}",
    }


def swept_verdict(swept: SweepResult, epsilon: float) -> str:
    """Which policy was the cheapest of those that kept the objective, and harmony beside it."""
    at = min(swept.study.epsilons, key=lambda e: abs(e - epsilon))
    foreseen = ("oracle", "oracle-free")
    rows = [r.cell for r in swept.rows if r.cell.epsilon == at and r.cell.policy not in foreseen]
    kept = [c for c in rows if c.figures.violated <= epsilon]
    if not kept:
        return f"no policy kept {epsilon:.2%} on this history"
    best = min(kept, key=lambda c: c.cost)
    text = f"of those that kept {epsilon:.2%}, {best.policy} was the cheapest: {best.cost:,.1f}"
    own = [c for c in rows if c.policy == OWN and c is not best]
    if own:
        change = percent_change(own[0].cost, best.cost)
        text += f"; {OWN} cost {own[0].cost:,.1f}, {change} that, violating {own[0].figures.violated:.2%}"
    return text


def verdict(result: ReplayResult) -> str:
    """What harmony (or the first policy) would have cost beside what ran, or beside HPA."""
    own = OWN if OWN in result.policies else next(iter(result.policies))
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
