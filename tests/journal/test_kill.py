"""kill -9 under write load, 500 times: opens, whole, nothing committed is lost, nothing doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harmony.journal import JournalStore
from tests.journal.builders import fleet
from tests.journal.postgres import RealPostgres

ROOT = Path(__file__).parents[2]
WORKERS, KILLS = 2, 250
POSTGRES_KILLS = 100


def start(folder: Path, kills: int, seed: int, *flags: str) -> subprocess.Popen[str]:
    folder.mkdir()
    command = [sys.executable, "-m", "tests.journal.killed", str(folder), str(kills), str(seed), *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, int]:
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error[-3000:]
    totals: dict[str, int] = json.loads(out.splitlines()[-1])
    return totals


@pytest.mark.slow
def test_killed_500_times_nothing_committed_is_lost(tmp_path: Path) -> None:
    workers = [start(tmp_path / f"{i}", KILLS, i) for i in range(WORKERS)]
    totals = [finish(worker) for worker in workers]
    assert sum(t["kills"] for t in totals) == 500
    assert sum(t["reported"] for t in totals) > 250  # it was killed at work


@pytest.mark.slow
def test_a_log_cut_at_any_byte_costs_the_newest_at_most(tmp_path: Path) -> None:
    totals = finish(start(tmp_path / "cut", 50, 99, "cut"))
    assert totals["cut"] == 10


@pytest.mark.slow
def test_writers_of_postgresql_that_are_killed_lose_nothing(postgres: RealPostgres, tmp_path: Path) -> None:
    url = postgres.database()
    totals = finish(start(tmp_path / "pg", POSTGRES_KILLS, 7, url))
    assert totals["kills"] == POSTGRES_KILLS
    assert totals["reported"] > POSTGRES_KILLS / 2
    with JournalStore.open(url) as store:  # and it can be written again
        store.append([fleet(1)[0].snapshot("serving/after")])
