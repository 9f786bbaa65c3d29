"""kill -9 under write load, 500 times: opens, whole, nothing committed is lost, nothing doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from harmony.journal import JournalStore
from tests.journal.builders import fleet
from tests.journal.postgres import RealPostgres

ROOT = Path(__file__).parents[2]
WORKERS, KILLS = 2, 250


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


APPEND = """
import sys
from dataclasses import replace
from harmony.journal import JournalStore
from tests.journal.builders import NOON_S, fleet
worlds = fleet(4)
snapshots = [w.snapshot(f"serving/s{i}") for i, w in enumerate(worlds)]
store = JournalStore.open(sys.argv[1])
for n in range(10**9):
    store.append([
        replace(s, record=replace(s.record, observation=replace(s.record.observation, now_s=NOON_S + n)))
        for s in snapshots
    ])
    print(n, flush=True)
"""


def test_a_killed_writer_of_postgresql_loses_nothing(postgres: RealPostgres) -> None:
    url = postgres.database()
    process = subprocess.Popen(
        [sys.executable, "-c", APPEND, url], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(15)]
    os.kill(process.pid, signal.SIGKILL)
    told += [int(line) for line in process.communicate(timeout=60)[0].split()]
    deadline = time.monotonic() + 30
    with psycopg.connect(url.replace(":never-shown", ""), autocommit=True) as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'harmony'"
        others += " AND datname = current_database()"
        while connection.execute(others).fetchone() != (0,):  # the server has yet to notice
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with JournalStore.open(url) as store:
        rows = store.info().rows
        batches = rows["decisions"] // 4
        assert rows["decisions"] == rows["inputs"] == 4 * batches
        assert batches in (len(told), len(told) + 1)
        store.append([fleet(1)[0].snapshot("serving/after")])
