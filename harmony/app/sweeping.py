"""A sweep as the command line asks for it: the study of flags or of a file, its workers, and its files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from forecasting.errors import UsageError, suggest
from harmony.app.replaying import start_up
from harmony.app.settings import RivalSettings, SweepSettings
from harmony.durations import parse_duration
from simulator.replaying import ReplayProgress, ReplaySettings
from simulator.sweep.running import SweepResult, sweep
from simulator.sweep.study import SWEPT, PolicyChoice, Study, TraceChoice
from simulator.sweep.workers import Processes, RayCluster, Workers

__all__ = ["broken", "choices", "read_study", "run", "study_in", "study_of", "write"]

WORLD_KEYS = ("replica-capacity", "mean-replicas", "lead-time")
TRACE_KEYS = ("trace", "label", "demand", "step", "surgery", *WORLD_KEYS)
STUDY_KEYS = (
    "traces", "policies", "epsilons", "min-replicas", "max-replicas", "gpus-per-replica", "price", "miss-price", "tune",
    "test-fraction", "forecaster", "samples", "lookback", "decide-every", "seed", "rungs", "resamples", *WORLD_KEYS,
)  # fmt: skip


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
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    return study_in(given, path)


def study_in(given: object, path: Path) -> Study:
    """The study that ``path`` says, by its content; paths of traces are relative to it.

    Its keys are called like the flags; `traces` and `policies` hold names, or maps with settings of their own. Raises
    `UsageError` saying where and what.
    """
    if not isinstance(given, dict):
        raise UsageError(f"{path}: expected a map with traces and policies")
    _known(f"{path}", given, STUDY_KEYS)
    settings = _settings(path, given)
    kept = {key: given[key] for key in ("rungs", "resamples") if key in given}
    epsilons = _list(path, given, "epsilons") or [settings.objective.epsilon]
    try:
        return Study(
            tuple(_trace(path, i, one) for i, one in enumerate(_list(path, given, "traces"))),
            tuple(_policy(path, i, one) for i, one in enumerate(_list(path, given, "policies"))) or choices(()),
            tuple(float(e) for e in epsilons),
            settings,
            **{key: _number(path, key, value, int) for key, value in kept.items()},
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error


def _settings(path: Path, given: Mapping[str, Any]) -> ReplaySettings:
    """The settings of every replay."""
    base = ReplaySettings()
    objective = {
        field: _number(path, key, given[key], kind)
        for key, field, kind in (
            ("min-replicas", "min_replicas", int),
            ("max-replicas", "max_replicas", int),
            ("gpus-per-replica", "gpus_per_replica", int),
            ("price", "price_per_gpu_hour", float),
            ("miss-price", "miss_price_per_replica_hour", float),
        )
        if key in given
    }
    plain = {
        field: _number(path, key, given[key], kind)
        for key, field, kind in (
            ("test-fraction", "test_fraction", float),
            ("samples", "samples", int),
            ("lookback", "lookback", int),
            ("seed", "seed", int),
            ("tune", "tune", bool),
            ("forecaster", "forecaster", str),
        )
        if key in given
    }
    if "decide-every" in given:
        plain["decide_every_s"] = parse_duration(str(given["decide-every"]))
    return dataclasses.replace(
        base, objective=dataclasses.replace(base.objective, **objective), **plain, **dict(_world(path, given))
    )


def _world(path: Path, given: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a study or one of its traces says of the world."""
    out: list[tuple[str, Any]] = []
    for key, field in (("replica-capacity", "replica_capacity"), ("mean-replicas", "mean_replicas")):
        if key in given:
            out.append((field, _number(path, key, given[key], float)))
    if "lead-time" in given:
        out.append(("start_up", start_up(str(given["lead-time"]))))
    return out


def _trace(path: Path, number: int, given: object) -> TraceChoice:
    where = f"{path}: traces[{number}]"
    if isinstance(given, str):
        given = {"trace": given}
    if not isinstance(given, dict) or not isinstance(given.get("trace"), str):
        raise UsageError(f"{where}: expected a trace's name, or a map with `trace`")
    _known(where, given, TRACE_KEYS)
    named = given["trace"]
    beside = path.parent / named
    surgery = given.get("surgery", [])
    return TraceChoice(
        str(beside) if beside.is_file() else named,
        label=str(given.get("label", named)),
        demand=given.get("demand"),
        step_s=parse_duration(str(given["step"])) if "step" in given else None,
        surgery=tuple(str(s) for s in ([surgery] if isinstance(surgery, str) else surgery)),
        changes=tuple(_world(path, given)),
    )


def _policy(path: Path, number: int, given: object) -> PolicyChoice:
    if isinstance(given, str):
        return PolicyChoice(given)
    if not isinstance(given, dict) or not isinstance(given.get("policy"), str):
        raise UsageError(f"{path}: policies[{number}]: expected a policy's name, or a map with `policy` and settings")
    rest = tuple((k, v) for k, v in given.items() if k not in ("policy", "label"))
    return PolicyChoice(given["policy"], str(given.get("label", "")), rest)


def _known(where: str, given: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in given:
        if key not in keys:
            raise UsageError(f"{where}: no key {key!r}; {suggest(str(key), list(keys))}")


def _list(path: Path, given: Mapping[str, Any], key: str) -> list[Any]:
    found = given.get(key, [])
    if not isinstance(found, list):
        raise UsageError(f"{path}: {key}: expected a list")
    return found


def _number(path: Path, key: str, value: object, kind: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - of that kind
    wanted = (int, float) if kind is float else (kind,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):  # type: ignore[arg-type]
        raise UsageError(f"{path}: {key}: {value!r} is no {kind.__name__}")
    return kind(value)
