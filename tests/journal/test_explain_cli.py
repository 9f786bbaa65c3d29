"""`harmony explain` and `harmony journal` from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harmony.cli.main import run
from harmony.journal import JournalStore
from tests.journal.builders import fleet


@pytest.fixture
def journal(tmp_path: Path) -> tuple[str, list[str]]:
    url = f"sqlite:///{tmp_path / 'j.db'}"
    with JournalStore.open(url) as store:
        worlds = fleet(3)
        ids = [i for _ in range(4) for i in store.append([w.snapshot(f"serving/s{n}") for n, w in enumerate(worlds)])]
    return url, ids


def test_explain_by_id_and_by_service(journal: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    url, ids = journal
    assert run(["explain", ids[-1], "--journal", url]) == 0
    by_id = capsys.readouterr().out
    assert "Decided again from the journal: the same, bit for bit" in by_id
    assert run(["explain", "serving/s2", "--journal", url]) == 0
    assert capsys.readouterr().out == by_id
    assert run(["explain", ids[-1], "--journal", url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["id"], told["same"], told["differences"]) == (ids[-1], True, [])


def test_a_difference_is_exit_code_1(journal: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    url, _ = journal
    snapshot = fleet(1, 5)[0].snapshot("serving/forged")
    forged = replace(snapshot.record.decision, replicas=snapshot.record.decision.replicas + 1)
    with JournalStore.open(url) as store:
        store.append([replace(snapshot, record=replace(snapshot.record, decision=forged))])
    assert run(["explain", "serving/forged", "--journal", url]) == 1
    assert "it DIFFERS" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["serving/none", "0" * 31, "'"])
def test_what_is_not_there_is_one_line(
    journal: tuple[str, list[str]], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", what, "--journal", journal[0]]) == 2
    assert "the journal has no decision" in capsys.readouterr().err


def test_info_export_retain(journal: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, ids = journal
    assert run(["journal", "info", "--journal", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["decisions"] == len(ids)
    assert run(["journal", "info", "--journal", url]) == 0
    assert "decisions from 2026-01-05T12:" in capsys.readouterr().out
    assert run(["journal", "export", str(tmp_path / "out"), "--journal", url]) == 0
    assert "decisions-00000.parquet" in capsys.readouterr().out
    assert run(["journal", "retain", "--days", "0", "--journal", url]) == 0
    assert f"removed {len(ids) - 1} decisions" in capsys.readouterr().out
    assert run(["journal", "info", "--journal", str(tmp_path / "none.db")]) == 2
    assert "there is no such file" in capsys.readouterr().err
