"""`harmony slo`: what an OpenSLO document becomes, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.resource.parsing import parse_autoscaler
from harmony.cli.main import run
from tests.controller.resource.builders import autoscaler

SLO = """
apiVersion: openslo/v1
kind: Service
metadata: {name: chat}
spec: {description: answers}
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: chat-capacity, labels: {team: serving}}
spec:
  description: enough replicas
  service: chat
  indicatorRef: chat-latency
  timeWindow:
    - {duration: 28d, isRolling: true}
  budgetingMethod: Timeslices
  objectives:
    - {target: 0.995, timeSliceTarget: 0.95, timeSliceWindow: 1m}
"""


def told(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    (folder / "slo.yaml").write_text(text)
    assert run(["slo", str(folder / "slo.yaml"), "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_target_and_window_are_epsilon_and_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(tmp_path, SLO, capsys) == [
        {
            "name": "chat-capacity",
            "service": "chat",
            "target": 0.995,
            "epsilon": 0.005,
            "measure": "Time",
            "window_s": 28 * 86400.0,
            "error_budget_s": 12096.0,  # 0.5 % of 28 days: 3 h 21 min 36 s
        }
    ]
    percent = SLO.replace("target: 0.995, timeSliceTarget: 0.95, timeSliceWindow: 1m", "targetPercent: 99.9")
    requests = percent.replace("Timeslices", "Occurrences").replace("28d", "1M")
    (one,) = told(tmp_path, requests, capsys)
    assert (one["epsilon"], one["measure"], one["window_s"]) == (0.001, "Requests", 30 * 86400.0)


def test_what_is_printed_is_an_objective_of_a_gpuautoscaler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "slo.yaml").write_text(SLO)
    assert run(["slo", str(tmp_path / "slo.yaml")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# chat-capacity: 0.995 of the time over 4w; error budget 3h21m36s\n")
    assert "over 4w2d; epsilon is the same share" in text
    given = yaml.safe_load(text)["objective"]
    made = autoscaler()
    made["spec"]["objective"] |= given
    settings = parse_autoscaler(made)
    assert (settings.objective.epsilon, settings.objective.measure) == (0.005, "time")


def test_several_objectives_have_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = SLO.replace("    - {target", "    - {displayName: strict, target: 0.999}\n    - {target")
    assert [(o["name"], o["epsilon"]) for o in told(tmp_path, both, capsys)] == [
        ("chat-capacity: strict", 0.001),
        ("chat-capacity: 2", 0.005),
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("openslo/v1", "openslo/v2alpha", "apiVersion 'openslo/v2alpha': expected openslo/v1"),
        ("kind: SLO", "kind: SLI", "expected a document of kind SLO, got only SLI, Service"),
        ("target: 0.995", "target: 1", "target 1: expected 0.5 or more, and below 1"),
        ("target: 0.995", "targetPercent: 5", "targetPercent 5: expected 50 or more, and below 100"),
        ("target: 0.995", "target: 0.99, targetPercent: 99", "expected either target (such as 0.99) or targetPercent"),
        ("target: 0.995,", "", "expected either target (such as 0.99) or targetPercent (such as 99)"),
        ("target: 0.995", "target: most", "target 'most': expected a number of 0 or more and at most 1"),
        ("28d", "28 days", "duration '28 days': expected a number and one of m h d w M Q Y, as 28d"),
        ("isRolling: true", "isRolling: false", "aligned with the calendar: expected isRolling: true"),
        ("isRolling: true", "calendar: {timeZone: UTC}", "aligned with the calendar: expected isRolling: true"),
        ("Timeslices", "Errors", "budgetingMethod 'Errors': expected Timeslices or Occurrences"),
        ("budgetingMethod", "budgetMethod", "budgetingMethod is missing: expected a text"),
        ("timeSliceTarget", "timeSliceTargt", "no field 'timeSliceTargt'; did you mean 'timeSliceTarget'"),
        ("  objectives:\n", "  goals:\n", "objectives is missing: expected a list with a target"),
        ("kind: SLO", "kind: [", "not YAML"),
    ],
)
def test_one_line_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str) -> None:
    (tmp_path / "slo.yaml").write_text(SLO.replace(old, new))
    assert run(["slo", str(tmp_path / "slo.yaml")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert str(tmp_path / "slo.yaml") in captured.err
