"""`harmony report A B`: figures of two runs side by side, what differed between them, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harmony.cli.main import run
from simulator.charts.scatter import cost_limits
from simulator.comparing import compare, read_run, render_comparison


def figures(hours: float, violated: float, **settings: float) -> dict[str, Any]:
    return {
        "settings": settings, "gpu_hours": hours, "cost": 2 * hours, "violation_rate": violated, "stated_risk": None,
        "scale_events": 10,
    }  # fmt: skip


def replayed(folder: Path, policies: dict[str, Any], **terms: Any) -> Path:
    about = {
        "trace": "chat",
        "trace_digest": "d",
        "demand": "rps",
        "step_seconds": 60.0,
        "scored_steps": 100,
        "seed": 0,
    }
    about |= {"replica_capacity": 5.0, "lead_time_seconds": 300.0, "epsilon": 0.01, "tuned": False, "world": "rates"}
    folder.mkdir(exist_ok=True)
    (folder / "replay.json").write_text(json.dumps(about | terms | {"policies": policies}))
    return folder


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return replayed(tmp_path / "before", {"hpa": figures(400, 0.012, target=0.7), "oracle": figures(300, 0.0)})


@pytest.fixture
def after(tmp_path: Path) -> Path:
    runs = {"hpa": figures(360, 0.015, target=0.8), "<static>": figures(500, 0.0)}
    return replayed(tmp_path / "after", runs, lead_time_seconds=180.0)


def test_two_runs_side_by_side(before: Path, after: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page"
    assert run(["report", str(before), str(after / "replay.json"), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "lead time, s: 300.0 in A, 180.0 in B" in shown
    assert [*next(line for line in shown.splitlines() if line.startswith("hpa")).split()] == [
        "hpa", "400.0", "360.0", "-10.0%", "1.200%", "1.500%", "-", "-",
    ]  # fmt: skip
    assert "hpa: target 0.7 in A, 0.8 in B" in shown
    assert "different questions" not in shown
    found = json.loads((out / "compare.json").read_text())
    assert found["policies"]["hpa"]["cost"] == {"a": 800, "b": 720, "change": pytest.approx(-0.1)}
    assert found["policies"]["oracle"]["gpu_hours"] == {"a": 300, "b": None, "change": None}
    page = (out / "compare.html").read_text()
    assert "−10.0%" in page
    assert "+0.300 points" in page
    assert "<static>" not in page.replace("&lt;static&gt;", "")
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert run(["report", str(before), str(after), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "b": found["b"]} == found


def test_different_questions_are_told(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = replayed(tmp_path / "other", {"hpa": figures(1, 0.0)}, trace="web", trace_digest="e")
    assert run(["report", str(before), str(other)]) == 0
    assert "different questions" in " ".join(capsys.readouterr().out.split())
    assert "different questions" in render_comparison(compare(read_run(before), read_run(other)))


def test_a_run_beside_itself_differs_in_nothing(before: Path) -> None:
    found = compare(read_run(before), read_run(before))
    assert (found.terms, found.comparable) == ({}, True)
    assert {pair.change("cost") for pair in found.pairs} == {0.0}
    assert "The same of both." in render_comparison(found)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"policies": {"hpa": 1}}', '{"policies": {}, "epsilon": "1"}'])
def test_what_is_no_replay_is_refused_in_one_line(
    text: str, before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text(text)
    for wrong in (tmp_path / "bad.json", tmp_path / "nowhere"):
        assert run(["report", str(before), str(wrong)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert "harmony replay --out" in said.err


def test_a_small_difference_looks_small() -> None:
    for low, high in ((428.0, 438.0), (428.0, 428.0), (0.0, 0.0), (100.0, 300.0)):
        start, end = cost_limits(low, high)
        assert 0 <= start <= low <= high <= end
        assert start < end
    start, end = cost_limits(428.0, 438.0)
    assert (438.0 - 428.0) / (end - start) < 0.06
