"""`harmony scorecard`: the page comes of the kept steps, and of nothing else."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from pathlib import Path

import pytest

from harmony.cli.main import run
from simulator.scorecard import read_card
from tests.helm.chart import ROOT

COMMITTED = ROOT / "evidence"
PAGE = ROOT / "docs" / "scorecard.md"


def rows_of(folder: Path) -> list[dict[str, str]]:
    text = gzip.decompress((folder / "steps.csv.gz").read_bytes()).decode()
    return list(csv.DictReader(io.StringIO(text)))


def own_history(path: Path) -> Path:
    lines = [f"{1_767_571_200 + 600 * i},{40 + 30 * math.sin(i / 23):.3f}" for i in range(144 * 5)]
    lines[600] = lines[600].partition(",")[0] + ","
    path.write_text("timestamp,rps\n" + "\n".join(lines) + "\n")
    return path


def test_the_committed_page_is_what_its_evidence_gives(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert run(["scorecard", "--page-only", "--evidence", str(COMMITTED), "--page", str(page)]) == 0
    assert page.read_text() == PAGE.read_text()


def test_committed_figures_by_hand() -> None:
    folder = COMMITTED / "0.1.0" / "synthetic-chat"
    told = json.loads((folder / "replay.json").read_text())
    rows = [row for row in rows_of(folder) if row["scored"] == "1"]
    decided = read_card(folder).decided
    assert any(one.violated > 0 for one in decided)
    for one in decided:
        hours = sum(int(row[f"{one.policy}_ordered"]) for row in rows) * told["step_seconds"] / 3600
        short = [
            float(row["demand"]) > int(row[f"{one.policy}_ready"]) * told["replica_capacity"]
            for row in rows
            if row["demand"]
        ]
        assert one.gpu_hours == pytest.approx(hours)
        assert one.violated == pytest.approx(sum(short) / len(short))


def test_ones_own_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = own_history(tmp_path / "mine.csv")
    words = ["scorecard", str(mine), "--replica-capacity", "5", "--lead-time", "20m", "--release", "9.9.9"]
    words += ["--policy", "quantile", "--policy", "hpa", "--policy", "oracle"]
    words += ["--evidence", str(tmp_path / "evidence"), "--page", str(tmp_path / "page.md")]
    assert run(words) == 0
    folder = tmp_path / "evidence" / "9.9.9" / "mine"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(words) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first, "the same bytes again"
    assert first["steps.csv.gz"][4:8] == bytes(4), "no time of writing in it (RFC 1952), however fast both were written"
    page = (tmp_path / "page.md").read_text()
    assert "## 9.9.9\n\n### mine\n" in page
    card = read_card(folder)
    assert {one.policy for one in card.decided} == {"quantile", "hpa", "oracle"}
    lines = [row for row in rows_of(folder) if row["scored"] == "1"]
    assert sum(row["demand"] == "" for row in lines) == 1, "an absent reading stays absent"
    last = next(one for one in card.foretold if one.name == "the value one lead time before")
    before = {int(row["row"]): row["demand"] for row in rows_of(folder)}
    off, seen = [], []
    for row in lines:
        at = int(row["row"])
        if row["demand"] and row["quantile_q0.5"] and before.get(at - 2) and before.get(at - 144):
            off.append(abs(float(row["demand"]) - float(before[at - 2])))
            seen.append(float(row["demand"]))
    assert last.steps == len(off) > 0
    assert last.loss == pytest.approx(sum(off) / sum(seen))
    capsys.readouterr()

    told = json.loads((folder / "replay.json").read_text())
    told["policies"]["hpa"]["gpu_hours"] -= 1.0
    (folder / "replay.json").write_text(json.dumps(told))
    assert (
        run(["scorecard", "--page-only", "--evidence", str(tmp_path / "evidence"), "--page", str(tmp_path / "p")]) == 2
    )
    said = capsys.readouterr().err
    assert "GPU-hours of hpa: the steps give" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "p").exists()


def test_mistakes_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scorecard", "--page-only", "--evidence", str(tmp_path)]) == 2
    assert "no evidence; expected RELEASE/TRACE/replay.json in it" in capsys.readouterr().err
    assert run(["scorecard", "x.csv", "--page-only"]) == 2
    assert "--page-only replays nothing; leave out 'x.csv'" in capsys.readouterr().err
