"""A sweep as the command line asks for it: the study of flags or of a file, its workers, and its files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harmony.app.settings import RivalSettings, SweepSettings
from harmony.app.written import Fields, read_fields
from simulator.replaying import ReplayProgress, ReplaySettings
from simulator.sweep.running import SweepResult, sweep
from simulator.sweep.study import SWEPT, PolicyChoice, Study, TraceChoice
from simulator.sweep.workers import Processes, RayCluster, Workers

__all__ = ["broken", "choices", "read_study", "run", "study_in", "study_of", "write"]


def choices(names: Iterable[str]) -> tuple[PolicyChoice, ...]:
    """The policies named, each once; those of a sweep where none is."""
    return tuple(PolicyChoice(name) for name in dict.fromkeys(names)) or tuple(PolicyChoice(n) for n in SWEPT)


def study_of(
    traces: Iterable[TraceChoice], settings: ReplaySettings, rivals: RivalSettings, swept: SweepSettings
) -> Study:
    """The study that flags describe."""
    return Study(
        tuple(traces),
        choices(rivals.policies),
        swept.objectives or (settings.objective.epsilon,),
        settings,
        rungs=swept.rungs,
        resamples=swept.resamples,
    )


def run(study: Study, swept: SweepSettings, report: ReplayProgress) -> SweepResult:
    """Do it, by the workers that were chosen."""
    workers: Workers = Processes(swept.workers) if swept.ray is None else RayCluster(swept.ray, swept.workers)
    return sweep(study, workers, report)


def write(result: SweepResult, folder: Path) -> None:
    """Write `sweep.json` and `sweep.html` into ``folder``."""
    from simulator.sweep.report import render_sweep  # draws, so it takes a moment to import

    text = json.dumps(result.to_json(), sort_keys=True, indent=2, allow_nan=False)
    (folder / "sweep.json").write_text(text + "\n", encoding="utf-8")
    (folder / "sweep.html").write_text(render_sweep(result), encoding="utf-8")


def broken(result: SweepResult, policy: str | None) -> bool:
    """Whether the policy of `--fail-on` violated an objective for too long on any trace."""
    return policy is not None and any(
        row.cell.policy == policy and (row.cell.figures.violated > row.cell.epsilon or not row.cell.objective_met)
        for row in result.rows
    )


# ---- a study's file ------------------------------------------------------------------------------------------------
def read_study(path: Path) -> Study:
    """The study of a YAML file; raises as `study_in`."""
    fields = read_fields(path)
    with fields.here():
        return study_in(fields, path.parent)


def study_in(given: Fields, folder: Path) -> Study:
    """The study that a file says; traces by path are looked for in ``folder`` first.

    Its fields are called like the flags; `traces` and `policies` hold names, or fields with settings of their own.
    Raises `UsageError` saying where and what.
    """
    traces = tuple(_trace(one, folder) for one in given.named("traces", "trace"))
    policies = tuple(_policy(one) for one in given.named("policies", "policy")) or choices(())
    epsilons = given.numbers("epsilons")
    usual = ReplaySettings()
    objective = dataclasses.replace(
        usual.objective,
        min_replicas=given.whole("minReplicas", usual.objective.min_replicas),
        max_replicas=given.whole("maxReplicas", usual.objective.max_replicas),
        gpus_per_replica=given.whole("gpusPerReplica", 1),
        price_per_gpu_hour=given.number("price", 1.0),
        miss_price_per_replica_hour=given.number("missPrice", 0.0),
    )
    settings = dataclasses.replace(
        usual,
        objective=objective,
        test_fraction=given.number("testFraction", usual.test_fraction),
        tune=given.flag("tune", usual.tune),
        forecaster=given.text("forecaster", usual.forecaster),
        samples=given.whole("samples", usual.samples),
        lookback=given.whole("lookback") if given.has("lookback") else None,
        decide_every_s=given.seconds("decideEvery") if given.has("decideEvery") else None,
        seed=given.whole("seed", usual.seed),
        **dict(_world(given)),
    )
    rungs, resamples = given.whole("rungs", 0), given.whole("resamples", 200)
    given.done()
    return Study(traces, policies, tuple(dict.fromkeys(epsilons or (objective.epsilon,))), settings, rungs, resamples)


def _world(given: Fields) -> list[tuple[str, Any]]:
    """What a study, or one of its traces, says of the world."""
    out: list[tuple[str, Any]] = []
    for name, field in (("replicaCapacity", "replica_capacity"), ("meanReplicas", "mean_replicas")):
        if given.has(name):
            out.append((field, given.number(name)))
    lead_time = given.distribution("leadTime")
    if lead_time is not None:
        out.append(("start_up", lead_time))
    return out


def _trace(given: Fields, folder: Path) -> TraceChoice:
    named = given.text("trace")
    beside = folder / named
    choice = TraceChoice(
        str(beside) if beside.is_file() else named,
        label=given.text("label", named),
        demand=given.text("demand") if given.has("demand") else None,
        step_s=given.seconds("step") if given.has("step") else None,
        surgery=tuple(given.texts("surgery")),
        changes=tuple(_world(given)),
    )
    given.done()
    return choice


def _policy(given: Fields) -> PolicyChoice:
    name, label = given.text("policy"), given.text("label", " ").strip()
    with given.here():
        return PolicyChoice(name, label, tuple(given.rest().items()))
