"""`harmony traces`: what is printed, what is written, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harmony.cli.main import run
from simulator.traces import load_trace

USAGE = "time,rps,pod\n0,1,a\n60,2,a\n120,4,a\n0,7,b\n60,8,b\n"


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints as JSON."""
    assert run(["traces", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


@pytest.fixture
def usage(tmp_path: Path) -> Path:
    path = tmp_path / "usage.csv"
    path.write_text(USAGE)
    return path


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys, "list")["traces"]
    assert listed[0]["name"] == "synthetic"
    assert {"name", "kind", "title", "licence", "address"} == set(listed[0])
    assert run(["traces", "list"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("synthetic", "helios", "CC-BY-4.0", "prometheus"))


def test_show_the_bundled_trace(capsys: pytest.CaptureFixture[str]) -> None:
    shown = answer(capsys, "show", "synthetic")
    assert shown["demand"] == "requests_per_second"
    assert (shown["rows"], shown["step_seconds"], shown["span_seconds"]) == (20160, 60.0, 1_209_600.0)
    first = shown["indicators"][0]
    assert (first["unit"], first["level"]) == ("requests/s", 1)
    assert 0 < first["absent_share"] < 0.05
    assert shown["weekday_over_weekend"] > 1.3
    assert run(["traces", "show", "synthetic"]) == 0
    text = capsys.readouterr().out
    assert "20160 rows of 1m, 2w, from 2026-01-05 00:00 UTC" in text
    assert "█" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_show_a_table_of_ones_own(capsys: pytest.CaptureFixture[str], usage: Path) -> None:
    shown = answer(capsys, "show", str(usage), "--where", "pod=a", "--column", "load=rps:requests/s:1:rate")
    assert (shown["demand"], shown["format"], shown["start"]) == ("load", "tidy", None)
    assert shown["indicators"][0]["mean"] == pytest.approx(7 / 3)
    assert shown["indicators"][0]["lag_day"] is None


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_convert_then_load_is_the_same(
    capsys: pytest.CaptureFixture[str], usage: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"tidy{suffix}"
    written = answer(capsys, "convert", str(usage), str(out), "--where", "pod=a")
    panel = load_trace(out).panel
    assert written["digest"] == panel.digest()
    np.testing.assert_array_equal(panel.column("rps"), [1, 2, 4])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["usage.csv", out.name])


def test_convert_plain_is_plain_csv(capsys: pytest.CaptureFixture[str], usage: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain.csv"
    assert run(["traces", "convert", str(usage), str(out), "--where", "pod=b", "--plain"]) == 0
    assert out.read_text() == "timestamp,rps\n0.0,7.0\n60.0,8.0\n"
    assert capsys.readouterr().out == f"wrote {out}: 2 rows, 1 indicators, demand rps\n"


def test_generate_is_reproducible(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["--profile", "web", "--days", "1", "--step", "5m", "--seed", "3"]
    one = answer(capsys, "generate", *common, "--out", str(tmp_path / "a.csv.gz"))
    two = answer(capsys, "generate", *common, "--out", str(tmp_path / "b.csv.gz"))
    assert one["digest"] == two["digest"]
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert (one["rows"], one["step_seconds"]) == (288, 300.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere/trace.csv"], "no such file"),
        (["show", "syntetic"], "did you mean 'synthetic'"),
        (["show", "synthetic", "--demand", "rps"], "no indicator 'rps'"),
        (["show", "synthetic", "--step", "5 minutes"], "is no duration"),
        (["show", "synthetic", "--step", "90s"], "expected a multiple, such as 120 s"),
        (["show", "synthetic", "--where", "pod"], "expected COLUMN=TEXT"),
        (["show", "synthetic", "--format", "csv"], "no trace format 'csv'"),
        (["generate", "--profile", "chats", "--out", "x.csv"], "did you mean 'chat'"),
        (["generate", "--out", "x.xlsx"], "a name ending in .csv, .csv.gz, .parquet"),
        (["generate", "--days", "-1", "--out", "x.csv"], "expected finite numbers above 0"),
        (["convert", "synthetic", "no-such-folder/x.csv"], "no such folder"),
        (["shows"], "No such command"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["traces", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_every_verb_explains_itself_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("list", "show", "convert", "generate"):
        assert run(["traces", verb, "--help"]) == 0
        assert f"harmony traces {verb}" in " ".join(capsys.readouterr().out.split())
