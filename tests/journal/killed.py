"""Children that append under load and are killed with SIGKILL at random moments; what must hold afterwards.

Run as a program (``python -m tests.journal.killed FOLDER KILLS SEED [cut | postgresql://...]``) it works on one journal
of its own, in SQLite or the PostgreSQL database named, and prints a JSON line of what it saw. Children are forked from
it, so that a kill costs milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import sqlite3
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from harmony.journal import JournalStore
from harmony.serving import Snapshot
from tests.journal.builders import NOON_S, fleet

REPORT = struct.Struct("<q")  # the number of a batch that was committed
SERVICES = 6


def append_for_ever(path: str, snapshots: list[Snapshot], first: int, pipe: int) -> None:
    """Append batch after batch and report each when it is committed."""
    store = JournalStore.open(path)
    number = first
    while True:
        store.append(batch(snapshots, number))
        os.write(pipe, REPORT.pack(number))
        number += 1


def batch(snapshots: list[Snapshot], number: int) -> list[Snapshot]:
    """The turns of one moment; in every seventh batch those of the moment before once more."""
    out = []
    for at in (number - 1, number) if number % 7 == 0 and number else (number,):
        for snapshot in snapshots:
            seen = replace(snapshot.record.observation, now_s=NOON_S + at)
            out.append(replace(snapshot, record=replace(snapshot.record, observation=seen)))
    return out


def kill_once(path: str, snapshots: list[Snapshot], first: int, rng: random.Random) -> list[int]:
    """Fork a writer, kill it at a random moment, and return the numbers that it reported."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            append_for_ever(path, snapshots, first, write)
        finally:
            os._exit(70)  # reached only by an error: the parent sees that it was not killed
    os.close(write)
    told = b""
    if rng.random() < 0.9:  # else it may die while it opens the journal
        select.select([read], [], [], 20)
    time.sleep(rng.uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the writer ended by itself with {status}"
    while part := os.read(read, 4096):
        told += part
    os.close(read)
    return [number for (number,) in REPORT.iter_unpack(told[: len(told) // REPORT.size * REPORT.size])]


def look(path: str) -> dict[str, object]:
    """What a plain connection sees (on SQLite, opening recovers the log, as any next start would)."""
    if path.startswith("postgresql"):
        with plain_connection(path) as connection:
            check: list[Any] = [("ok",)]  # the server's own business
            rows, inputs = read(connection)
    else:
        with sqlite3.connect(path) as file:
            check = file.execute("PRAGMA integrity_check").fetchall()
            rows, inputs = read(file)
        file.close()
    pairs = {(service, at_s) for _, service, at_s in rows}
    return {
        "integrity": [list(c) for c in check],
        "numbers": sorted({round(at_s - NOON_S) for _, _, at_s in rows}),
        "doubled": len(rows) - len(pairs),
        "torn": len(rows) - SERVICES * len({at_s for _, _, at_s in rows}),
        "without_inputs": len({row[0] for row in rows} - inputs),
    }


def read(connection: Any) -> tuple[list[Any], set[str]]:
    """Decisions in their order, and the ids of those that have inputs."""
    rows = connection.execute("SELECT id, service, at_s FROM decisions ORDER BY id").fetchall()
    return rows, {row[0] for row in connection.execute("SELECT decision_id FROM inputs").fetchall()}


def plain_connection(url: str) -> psycopg.Connection[Any]:
    """A connection once the killed writer's session has ended: its last commit may still be under way."""
    connection = psycopg.connect(url.replace(":never-shown", ""), autocommit=True)
    others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'harmony'"
    others += " AND datname = current_database()"
    deadline = time.monotonic() + 60
    while connection.execute(others).fetchone() != (0,):
        assert time.monotonic() < deadline, "the killed writer's session does not end"
        time.sleep(0.01)
    return connection


def check(path: str, reported: set[int]) -> None:
    """Everything that must hold after a kill."""
    seen = look(path)
    assert seen["integrity"] == [["ok"]], seen["integrity"]
    assert (seen["doubled"], seen["torn"], seen["without_inputs"]) == (0, 0, 0), seen
    numbers = seen["numbers"]
    assert isinstance(numbers, list)
    assert reported <= set(numbers), f"lost: {sorted(reported - set(numbers))}"
    assert numbers == list(range(len(numbers))), "a later batch without an earlier one"


def cut_log(path: Path, folder: Path, reported: set[int], rng: random.Random) -> int:
    """On a copy: cut the log at a random byte, as a power cut may; returns how many newest batches that cost."""
    copy = folder / "cut.db"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)
    shutil.copy(path, copy)
    log = Path(f"{path}-wal")
    if not log.exists():
        return 0
    content = log.read_bytes()
    Path(f"{copy}-wal").write_bytes(content[: rng.randint(0, len(content))])
    if look_is_possible(copy):
        check(str(copy), set())  # opens, is whole, and what is missing is a suffix
        left = look(str(copy))["numbers"]
    else:
        left = []  # the very first log, cut before the tables that it would have made
    assert isinstance(left, list)
    lost = {n for n in reported if n not in left}
    assert not lost or min(lost) == len(left)
    with JournalStore.open(str(copy)) as store:  # and it can be written again
        assert len(store.decisions(limit=5)) == min(5, SERVICES * len(left))
        store.audit("test", "opened")
    return len(lost)


def main(folder: Path, kills: int, seed: int, cut: bool, url: str = "") -> dict[str, int]:
    rng = random.Random(seed)
    worlds = fleet(SERVICES, seed)
    for world in worlds:
        world.turn()
    snapshots = [w.snapshot(f"serving/s{i}") for i, w in enumerate(worlds)]
    with JournalStore.open(str(folder / "warm.db")) as store:  # what is imported and compiled now, children have too
        store.append(snapshots)
    reported: set[int] = set()
    totals = {"kills": 0, "reported": 0, "cut": 0, "cost_by_cut": 0}
    path = folder / "journal.db"
    for turn in range(kills):
        # The next writer begins with what was reported last: what was committed and not reported is written again.
        reported |= set(kill_once(url or str(path), snapshots, max(reported, default=-1) + 1, rng))
        totals["kills"] += 1
        if url:
            check_or_nothing(url, reported)
            continue
        if not path.exists():
            continue
        if cut and turn % 5 == 4:
            totals["cost_by_cut"] += cut_log(path, folder, reported, rng)
            totals["cut"] += 1
        if look_is_possible(path):
            check(str(path), reported)
        else:
            assert not reported
        if len(reported) > 150:  # a fresh journal now and then: checks stay quick, and first openings are killed too
            totals["reported"] += len(reported)
            reported = set()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
    totals["reported"] += len(reported)
    return totals


def check_or_nothing(url: str, reported: set[int]) -> None:
    """`check`, where a writer got as far as the tables of that PostgreSQL database."""
    with plain_connection(url) as connection:
        made = connection.execute("SELECT to_regclass('inputs') IS NOT NULL").fetchone() == (True,)
    if made:
        check(url, reported)
    else:
        assert not reported


def look_is_possible(path: Path) -> bool:
    """False while no writer got as far as the tables."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'decisions'").fetchone() == (1,)
    finally:
        connection.close()


if __name__ == "__main__":
    mode = "".join(sys.argv[4:])
    base = mode if mode.startswith("postgresql") else ""
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), mode == "cut", base)))  # noqa: T201
