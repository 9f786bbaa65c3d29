"""Journals with rows that nobody wrote: every cell of every table, and the version, become something else.

Whatever is damaged, all that reads the journal answers or says in one line what is wrong, and undamaged rows are told.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from forecasting.errors import HarmonyError
from harmony.journal import ApiKey, JournalStore, StoredJob, explain, export_to
from harmony.journal.tables import METADATA, VERSION_TABLE
from harmony.serving.views import decision_json, forecast_json, history_json, summary_json
from tests.fuzz.tally import Tally
from tests.journal.builders import fleet

Cell = Callable[[Any, np.random.Generator], Any]


def _cut(value: Any, rng: np.random.Generator) -> Any:
    return value[: int(rng.integers(len(value)))] if isinstance(value, (str, bytes)) and value else ""


def _flipped(value: Any, rng: np.random.Generator) -> Any:
    if not isinstance(value, (str, bytes)) or not value:
        return b"\x80"
    data = bytearray(value.encode() if isinstance(value, str) else value)
    for at in rng.integers(len(data), size=3):
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data) if isinstance(value, bytes) else data.decode(errors="replace")


def _swapped(value: Any, rng: np.random.Generator) -> Any:
    """JSON with one token replaced by another of JSON's."""
    if not isinstance(value, str):
        return value
    old = str(rng.choice(["null", "0", "1", "[", "]", "{", "}", ",", ":", '"', "."]))
    new = str(rng.choice(["null", "-1", "1e999", "[]", "{}", '"x"', '"NaN"', "true", "9" * 30, ",", "{"]))
    at = [i for i in range(len(value)) if value.startswith(old, i)]
    if not at:
        return value + new
    i = int(rng.choice(at))
    return value[:i] + new + value[i + len(old) :]


CELLS: tuple[Cell, ...] = (
    _cut, _flipped, _flipped, _swapped, _swapped, _swapped, _swapped,
    lambda *_: "", lambda *_: "null", lambda *_: "[]", lambda *_: "{}", lambda *_: "7", lambda *_: '"x"',
    lambda *_: "[" * 5000, lambda *_: '{"a":' * 300 + "1" + "}" * 300, lambda *_: "abc", lambda *_: "\x00",
    lambda *_: "é" * 50,
    lambda *_: b"", lambda *_: b"\xff\xfe", lambda *_: b"\x01\x00\x00\x00\x00",
    lambda *_: -1, lambda *_: 0, lambda *_: 2**62, lambda *_: -(2**63), lambda *_: 1e308,
    lambda *_: float("inf"), lambda *_: 0.5,
)  # fmt: skip
VERSIONS = (None, "", "0001", "0003", "9999", "abc", b"\xff", 7, "x" * 5000, "head", "-1", "0002+1", "'; --", "%(x)s")


def run(cases: int, seed: int = 0) -> Tally:
    """So many damaged journals."""
    logging.getLogger("harmony.journal").setLevel(logging.CRITICAL)
    rng = np.random.default_rng([seed, 15])
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.db"
        _fill(whole)
        cells = [(t.name, c.name) for t in METADATA.sorted_tables for c in t.columns if t.name != "meta"]
        for i in range(cases):
            path = Path(folder) / f"{i}.db"
            shutil.copy(whole, path)
            if i % 12 == 0:
                _damage_version(path, i // 12, rng, tally)
            else:
                _damage_cell(path, cells[int(rng.integers(len(cells)))], rng, tally)
            for left in Path(folder).glob(f"{i}.db*"):
                left.unlink()
    return tally


def _fill(path: Path) -> None:
    with JournalStore.open(str(path), whole_forecasts=True) as store:
        worlds = fleet(3)
        store.append([w.snapshot(f"serving/s{i}") for _ in range(3) for i, w in enumerate(worlds)])
        for i in range(3):
            store.audit("alice", "mode", {"to": "Full"})
            store.add_key(ApiKey(f"k{i}", "grafana", "read", "00" * 32, 1e9 + i, None, None))
            store.put_job(
                StoredJob(f"j{i}", "backtest", "done", 1e9 + i, 1e9 + i, {"by": "a"}, {"progress": 1.0}, {"a": 1})
            )


def _damage_version(path: Path, number: int, rng: np.random.Generator, tally: Tally) -> None:
    kind = number % 6
    with sqlite3.connect(path) as connection:
        if kind == 0:
            name = f"version {VERSIONS[number // 6 % len(VERSIONS)]!r}"
            value = VERSIONS[number // 6 % len(VERSIONS)]
            connection.execute(f"DROP TABLE {VERSION_TABLE}")
            connection.execute(f"CREATE TABLE {VERSION_TABLE} (version_num)")
            connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES (?)", (value,))
        elif kind == 1:
            name = "two versions"
            connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES ('0001')")
        elif kind == 2:
            name = "no version"
            connection.execute(f"DELETE FROM {VERSION_TABLE}")
        elif kind == 3:
            name = "a version table of other columns"
            connection.execute(f"DROP TABLE {VERSION_TABLE}")
            connection.execute(f"CREATE TABLE {VERSION_TABLE} (a INTEGER)")
            connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES (1)")
        elif kind == 4:
            table = str(rng.choice([t for t in METADATA.tables if t != "meta"]))
            name = f"no table {table}"
            connection.execute(f"DROP TABLE {table}")
        else:
            table = METADATA.sorted_tables[int(rng.integers(len(METADATA.sorted_tables)))]
            column = [c.name for c in table.columns if not c.primary_key and not c.index][-1]
            name = f"no column {table.name}.{column}"
            without_triggers(connection)
            connection.execute(f"ALTER TABLE {table.name} RENAME COLUMN {column} TO gone")
    connection.close()
    with tally.case(name, refusals=(HarmonyError,)), JournalStore.open(str(path)) as store:
        store.info()
        store.decisions()
    reading = tally.case(f"{name}, for reading", refusals=(HarmonyError,))
    with reading, JournalStore.open(str(path), read_only=True) as store:
        store.info()


def without_triggers(connection: sqlite3.Connection) -> None:
    """Only whoever drops these can change rows."""
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")


def _damage_cell(path: Path, cell: tuple[str, str], rng: np.random.Generator, tally: Tally) -> None:
    table, column = cell
    with sqlite3.connect(path) as connection:
        without_triggers(connection)
        rows = connection.execute(f"SELECT rowid, {column} FROM {table} ORDER BY rowid").fetchall()
        at, before = rows[int(rng.integers(len(rows)))]
        value = CELLS[int(rng.integers(len(CELLS)))](before, rng)
        as_text = rng.random() < 0.15  # bytes that are no UTF-8, kept as text
        try:
            connection.execute(
                f"UPDATE {table} SET {column} = {'CAST(? AS TEXT)' if as_text else '?'} WHERE rowid = ?", (value, at)
            )
        except sqlite3.IntegrityError:
            return  # a cell that the database itself keeps whole
        ids = [row[0] for row in connection.execute("SELECT id FROM decisions")]
        keys = [row[0] for row in connection.execute("SELECT id FROM decisions WHERE rowid != ?", (at,))]
    connection.close()
    name = f"{table}.{column} = {str(value)[:40]!r}{' as text' if as_text else ''}"
    with tally.case(name), JournalStore.open(str(path)) as store:
        _read(store, ids, set(keys) if table == "decisions" else set(ids), name, tally, path.parent)


def _read(store: JournalStore, ids: list[Any], whole: set[Any], name: str, tally: Tally, folder: Path) -> None:
    """Everything that reads: lists answer and miss nothing but the damaged row; single answers may refuse."""
    found = store.decisions(limit=100)
    for stored in found:
        orjson.dumps(decision_json(stored.snapshot))
    missing = whole - {d.id for d in found}
    if missing:
        tally.fault(name, f"whole decisions hidden from the list: {sorted(missing)[:3]}")
    latest = store.latest()
    for snapshot in latest:
        orjson.dumps([summary_json(snapshot), forecast_json(snapshot), history_json(snapshot)])
    if len(latest) < 2:
        tally.fault(name, f"{len(latest)} of 3 services told")
    for decision_id in ids:
        with tally.case(f"{name}: explain"):
            told = explain(store, str(decision_id))
            if told is not None:
                orjson.dumps(told.to_json())
    if len(store.audits()) < 2 or len(store.keys()) < 2 or len(store.jobs()) < 2:
        tally.fault(name, f"hidden: {len(store.audits())} audits, {len(store.keys())} keys, {len(store.jobs())} jobs")
    for i in range(3):
        with tally.case(f"{name}: job"):
            store.job(f"j{i}")
    out = folder / "out"
    export_to(out, store)
    shutil.rmtree(out)
    store.append([fleet(1, seed=9)[0].snapshot("serving/new")])
    store.retain(1000.0)
    store.info()
