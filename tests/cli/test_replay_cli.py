"""`harmony replay` as a user runs it: files, figures, exit codes, and one helpful line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from harmony.cli.main import run
from tests.simulator.worlds import waves

QUICK = ["--forecaster", "last_value", "--samples", "50"]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A tidy CSV of 10 hours at one minute with a second column."""
    rows = [f"{i * 60},{d:.3f},{d * 2:.3f}" for i, d in enumerate(waves())]
    path = tmp_path / "service.csv"
    path.write_text("timestamp,requests_per_second,tokens\n" + "\n".join(rows) + "\n")
    return path


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run, expect exit code 2 and exactly one line on stderr; returns it."""
    assert run([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("harmony: ")
    return err


def test_promised_json_and_files(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    arguments = ["replay", str(trace), "--out", str(out), "--seed", "3", "--json", "--decisions", *QUICK]
    assert run(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "replay.json").read_text())
    assert {"trace", "step_seconds", "replica_capacity", "lead_time_seconds", "seed", "policies"} <= printed.keys()
    assert (printed["step_seconds"], printed["lead_time_seconds"], printed["seed"]) == (60.0, 300.0, 3)
    assert list(printed["policies"]) == ["harmony", "hpa", "oracle", "reactive", "static"]
    promised = {"gpu_hours", "cost", "violation_rate", "violated_seconds", "scale_events", "stated_risk", "seconds"}
    assert all(promised <= run_.keys() for run_ in printed["policies"].values())
    assert printed["policies"]["hpa"]["stated_risk"] is None
    assert sorted(p.name for p in out.iterdir()) == ["decisions.jsonl", "replay.json", "replicas.csv", "report.html"]
    header = (out / "replicas.csv").read_text().splitlines()[0]
    assert header.startswith("timestamp,demand,harmony_ordered,harmony_ready,hpa_ordered,hpa_ready,")
    lines = [json.loads(line) for line in (out / "decisions.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["policy"] == "harmony"][-1]["decision"]
    assert last["replicas"] in [c["replicas"] for c in last["candidates"]]
    assert {"violation_probability", "expected_cost"} <= last["candidates"][0].keys()


def test_table_names_every_policy(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", str(trace), *QUICK]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("oracle", "harmony", "hpa", "reactive", "static", "GPU-hours", "violated"))


def test_an_unreachable_objective_is_stated_in_table_and_json(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["replay", str(trace), "-p", "harmony", "--max-replicas", "3", *QUICK]
    assert run(limits) == 0
    assert "objective not reachable" in capsys.readouterr().out
    assert run([*limits, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policies"]["harmony"]["objective_met"] is False
    assert run([*limits, "--fail-on", "harmony"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "harmny"], "did you mean 'harmony'"),
        (["--demand", "request_per_second"], "did you mean 'requests_per_second'"),
        (["--epsilon", "1.5"], "0 <= epsilon < 1"),
        (["--epsilon", "often"], "--epsilon"),
        (["--lead-time", "soon"], "duration"),
        (["--lead-time", "5m*wide"], "median*spread"),
        (["--test-fraction", "0"], "test fraction"),
        (["--replica-capacity", "-1"], "replica capacity"),
        (["--max-replicas", "0"], "min <= max"),
        (["--fail-on", "oracle", "-p", "hpa"], "add --policy oracle"),
        (["--forecaster", "ridges"], "ridge"),
        (["--forecaster", "no/such/model"], "no/such/model"),
        (["--decisions"], "--out"),
        (["--colour", "red"], "No such option"),
        (["--ttft-slo", "1s"], "no single requests; --world requests draws them"),
    ],
)
def test_wrong_options(trace: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in error_line(capsys, "replay", trace, *arguments)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("timestamp,load\n", "only a header"),
        ("timestamp,load\n0,1\n60,1\n60,1\n120,2\n180,1\n", "row"),
        ("timestamp,load\n0,1\n60,1\n100,1\n160,2\n220,1\n280,1\n", "step"),
        ("timestamp,load\n0,1\n60,-3\n120,1\n180,2\n240,2\n", "is -3 at row 2"),
        ("timestamp,load\n0,\n60,\n120,\n180,\n240,\n", "load"),
        ("timestamp,load\n0,1\n60,many\n120,1\n180,2\n", "many"),
    ],
)
def test_unusable_traces(tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, "replay", write(tmp_path / "bad.csv", text), "-p", "hpa")
    assert words in line
    assert "bad" in line


def test_a_missing_file_names_near_ones(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "service.csv" in error_line(capsys, "replay", trace.with_name("servce.csv"))


def test_out_must_be_a_folder(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = write(tmp_path / "taken", "x")
    assert "that is a file" in error_line(capsys, "replay", trace, "--out", taken, "-p", "static")


def test_an_interrupted_replay_leaves_nothing(tmp_path: Path) -> None:
    demand = np.tile(waves(), 60)
    rows = "\n".join(f"{i * 60},{d:.3f}" for i, d in enumerate(demand))
    trace = write(tmp_path / "long.csv", f"timestamp,load\n{rows}\n")
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from harmony.cli.main import main; main()"]
    arguments = ["replay", str(trace), "--out", str(out), "--tune", "--decisions", *QUICK]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, env=os.environ | {"COLUMNS": "80"})
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out-*/decisions.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["long.csv"]


def test_importing_harmony_is_quick_and_light() -> None:
    code = "import sys, harmony; assert not {'torch', 'numpy', 'polars'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_deciding_and_simulating_import_no_torch() -> None:
    code = (
        "import sys, harmony.decision.rule, harmony.policies.registry, simulator.replaying, harmony.loop.managed;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
