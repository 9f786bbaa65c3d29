"""A replay as the command line asks for it: its policies, its files, and the answer of `--fail-on`."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from harmony.app.settings import RivalSettings
from harmony.app.written import start_up
from harmony.model.record import Record
from simulator.output import staged, write_outputs
from simulator.replaying import ReplayProgress, ReplaySettings
from simulator.replaying import replay as replay_trace
from simulator.result import ReplayResult
from simulator.traces.trace import Trace

__all__ = ["failed", "replay", "settings_with", "start_up"]


def replay(
    trace: Trace, settings: ReplaySettings, rivals: RivalSettings, report: ReplayProgress, *, decisions: bool = False
) -> ReplayResult:
    """Replay ``trace`` under each policy and write the files, all of them or none; with ``decisions`` those too."""
    with staged(rivals.out) as stage:
        with contextlib.ExitStack() as stack:
            sink = None
            if stage is not None and decisions:
                sink = Decisions(stage / "decisions.jsonl")
                stack.callback(sink.close)
            result = replay_trace(trace, rivals.names, settings, on_progress=report, journal=sink)
        if stage is not None:
            write_outputs(result, stage)
    return result


def settings_with(rivals: RivalSettings, **given: Any) -> ReplaySettings:  # noqa: ANN401 - fields of the settings
    """Settings of a replay: what the person chose of its rivals, and the rest as ``given``."""
    chosen = ReplaySettings(**given)
    return replace(
        chosen,
        tune=rivals.tune,
        test_fraction=rivals.test_fraction,
        forecaster=rivals.forecaster,
        refresh_s=rivals.refresh_s,
        samples=rivals.samples,
        seed=rivals.seed,
    )


def failed(result: ReplayResult, rivals: RivalSettings) -> bool:
    """Whether the policy of `--fail-on` violated the objective for too long, or could not have kept it."""
    if not rivals.fail_on:
        return False
    run = result.policies[rivals.fail_on]
    return run.violation_rate > result.epsilon or not run.objective_met


class Decisions:
    """Writes every record of a replay as one JSON line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def __call__(self, policy: str, record: Record) -> None:
        """Write one record."""
        line = {"policy": policy, **record.to_json()}
        self._file.write(json.dumps(line, sort_keys=True) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
