"""What every journal does, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, TimeoutError

from forecasting.errors import DataError, UsageError
from harmony.journal import ApiKey, JournalError, JournalStore, JournalUnavailable, StoredJob, export_to
from harmony.journal.errors import translated
from harmony.serving.points import Point
from tests.journal.builders import NOON_S, fleet
from tests.journal.equal import assert_same

DAY_S = 86_400.0


def turns(services: int, rounds: int, seed: int = 0, start_s: float = NOON_S) -> list[Any]:
    worlds = fleet(services, seed, start_s)
    return [w.snapshot(f"serving/s{i}") for _ in range(rounds) for i, w in enumerate(worlds)]


def raw(store: JournalStore, statement: str) -> Any:
    """Run a statement of somebody who goes around the store."""
    with store._engine.connect() as connection:
        result = connection.execute(text(statement))
        rows = result.fetchall() if result.returns_rows else result.rowcount
        connection.commit()
        return rows


def test_turns_come_back_newest_first_and_whole(store: JournalStore) -> None:
    snapshots = turns(3, 4)
    ids = store.append(snapshots)
    assert sorted(ids) == sorted(set(ids))
    by_id = dict(zip(ids, snapshots, strict=True))
    got = store.decisions(limit=100)
    assert [d.id for d in got] == sorted(ids, reverse=True)
    for stored in got:
        assert stored.snapshot.record.observation.forecast is None
        whole = store.decision(stored.id)
        assert whole is not None
        assert whole.has_inputs
        assert_same(whole.snapshot, by_id[stored.id])


def test_points_are_the_turns_of_one_service_within_a_part_of_time(store: JournalStore) -> None:
    snapshots = [s for s in turns(3, 12) if s.service == "serving/s1"]
    store.append(turns(3, 12))
    first_s, last_s = snapshots[2].at_s, snapshots[9].at_s
    same_points(store.points("serving/s1", first_s, last_s), snapshots[2:9])
    assert store.points("serving/none", 0.0, 9e9) == []
    assert store.points("serving/s1", last_s, first_s) == []


@pytest.mark.parametrize("every_s", [61.0, 300.0, 3600.0])
def test_of_many_points_the_scarcest_turn_of_every_interval_stands(store: JournalStore, every_s: float) -> None:
    """Held against a plain loop; where no demand is known in an interval its newest turn stands."""
    snapshots = [s for s in turns(2, 40) if s.service == "serving/s0"]
    store.append(turns(2, 40))
    slots: dict[int, list[Any]] = {}
    for s in snapshots:
        slots.setdefault(int(s.at_s // every_s), []).append(s)

    def scarcity(s: Any) -> tuple[float, float]:
        demand = s.record.observation.demand
        return (-1.0 if np.isnan(demand) else demand / (s.ready or 0.5), s.at_s)

    same_points(store.points("serving/s0", 0.0, 9e9, every_s), [max(slot, key=scarcity) for slot in slots.values()])


def same_points(found: list[Point], snapshots: list[Any]) -> None:
    """NaN equals NaN here."""
    assert [repr(p) for p in found] == [repr(Point.of(s)) for s in snapshots]


def test_pages_of_one_service_join_without_gap_or_overlap(store: JournalStore) -> None:
    snapshots = turns(3, 9)
    store.append(snapshots)
    seen: list[str] = []
    before = None
    while page := store.decisions("serving/s1", before=before, limit=4):
        assert all(d.snapshot.service == "serving/s1" for d in page)
        seen += [d.id for d in page]
        before = seen[-1]
    times = [s.at_s for s in snapshots if s.service == "serving/s1"]
    assert len(seen) == len(set(seen)) == 9
    assert seen == sorted(seen, reverse=True)
    assert [store.decision(i).snapshot.at_s for i in seen] == sorted(times, reverse=True)  # type: ignore[union-attr]
    assert store.decisions("serving/none") == []
    assert store.decision("no such id") is None


def test_the_same_turn_twice_is_one_and_the_first_stays(store: JournalStore) -> None:
    first = turns(2, 1)
    ids = store.append(first)
    changed = [replace(s, held_by="written later") for s in first]
    assert store.append([*changed, *changed]) == [*ids, *ids]
    assert store.info().rows["decisions"] == store.info().rows["inputs"] == 2
    assert all(d.snapshot.held_by == "" for d in store.decisions())


def test_a_batch_is_kept_whole_or_not_at_all(store: JournalStore) -> None:
    good = turns(3, 1)
    bad = replace(good[1], held_by="half a \ud83d pair")
    with pytest.raises(DataError, match="Unicode"):
        store.append([good[0], bad, good[2]])
    with pytest.raises(DataError, match="NUL"):
        store.append([good[0], replace(good[1], service="a\x00b")])
    assert store.decisions() == []


@pytest.mark.parametrize("table", ["decisions", "inputs", "audit"])
def test_append_only_tables_refuse_changes(store: JournalStore, table: str) -> None:
    store.append(turns(1, 3))
    store.audit("alice", "mode", {"to": "Full"})
    count = store.info().rows[table]
    column = {"decisions": "replicas", "inputs": "blob", "audit": "actor"}[table]
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
        with pytest.raises(DBAPIError, match="append-only"):
            raw(store, statement)
    if store._dialect == "postgresql":
        with pytest.raises(DBAPIError, match="append-only"):
            raw(store, f"TRUNCATE {table}")
    elif table != "audit":
        raw(store, f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")  # would delete past the triggers
    assert store.info().rows[table] == count


def test_replacing_does_not_change_what_is_there(tmp_path: Path) -> None:
    with JournalStore.open(str(tmp_path / "j.db")) as store:
        ids = store.append(turns(1, 1))
        columns = [c[1] for c in raw(store, "PRAGMA table_info(decisions)")]
        forged = ", ".join("999" if c == "replicas" else c for c in columns)
        raw(store, f"INSERT OR REPLACE INTO decisions SELECT {forged} FROM decisions")
        kept = store.decision(ids[0])
        assert kept is not None
        assert kept.snapshot.record.decision.replicas != 999


def test_retention_takes_the_old_and_nothing_else(store: JournalStore) -> None:
    old, mid, new = (turns(2, 2, seed, NOON_S - days * DAY_S) for seed, days in ((1, 20), (2, 5), (3, 0)))
    gone = [replace(s, service="serving/gone") for s in turns(1, 1, 4, NOON_S - 20 * DAY_S)]
    store.append([*gone, *old, *mid, *new])
    store.audit("alice", "mode")
    removed = store.retain(10, inputs_days=2)
    assert (removed.decisions, removed.inputs, removed.services, removed.audit) == (5, 9, 1, 0)
    left = store.decisions(limit=100)
    assert {d.snapshot.at_s for d in left} == {s.at_s for s in (*mid, *new)}
    has = {d.id: store.decision(d.id).has_inputs for d in left}  # type: ignore[union-attr]
    assert sum(has.values()) == 4
    assert len(store.audits()) == 1
    with pytest.raises(DBAPIError, match="append-only"):  # the gate is closed again
        raw(store, "DELETE FROM decisions")
    assert store.retain(10, inputs_days=2).decisions == 0
    assert store.retain(0, audit_days=0).decisions == 7  # the newest stays
    with pytest.raises(UsageError, match="expected 0 or more"):
        store.retain(float("nan"))


def test_retention_is_not_fooled_by_one_decision_of_the_future(store: JournalStore) -> None:
    store.append(turns(1, 3))
    store.append(turns(1, 1, 9, NOON_S + 3e9))
    years = 40 * 366.0
    assert store.retain(years).decisions == 0


def test_latest_is_the_newest_of_every_service(store: JournalStore) -> None:
    snapshots = turns(3, 4)
    store.append(snapshots[6:])
    store.append(snapshots[:6])  # late ones do not win
    newest = {s.service: s for s in snapshots}
    got = store.latest()
    assert [s.service for s in got] == sorted(newest)
    for snapshot in got:
        want = newest[snapshot.service]
        assert_same(snapshot, want, history=True)
        made, forecast = want.record.observation.forecast, snapshot.record.observation.forecast
        if made is not None and store._dialect == "postgresql":  # with followers: all of it, exactly
            assert forecast is not None
            np.testing.assert_array_equal(forecast.paths, made.paths)
            assert (forecast.indicators, forecast.origin_s) == (made.indicators, made.origin_s)
    assert store.latest(max(s.at_s for s in snapshots)) == []


def test_audit_keys_and_jobs(store: JournalStore) -> None:
    first, second = store.audit("alice", "mode", {"to": "Full"}), store.audit("bob", "pause")
    entries = store.audits()
    assert [(e.id, e.actor, dict(e.detail)) for e in entries] == [(second, "bob", {}), (first, "alice", {"to": "Full"})]
    assert [e.id for e in store.audits(before=second)] == [first]
    assert [e.id for e in store.audits(actor="bob")] == [second]
    assert store.audits(before="'; DROP TABLE audit") == []
    assert entries[0].at_s > 1.7e9

    key = ApiKey("0123456789ab", "grafana", "read", "f" * 64, 100.0, expires_s=None)
    store.add_key(key)
    with pytest.raises(JournalError):
        store.add_key(key)
    assert store.keys() == [key]
    assert store.revoke_key(key.id)
    assert not store.revoke_key(key.id)
    assert (store.keys()[0].revoked_s or 0) > 1.7e9

    job = StoredJob("j1", "backtest", "running", 1.0, 1.0, {"days": 3}, {"done": 0})
    store.put_job(job)
    store.put_job(done := replace(job, state="done", updated_s=2.0, result={"cost": 1.5}))
    assert store.job("j1") == done
    assert store.jobs(kind="backtest") == [done]
    assert store.jobs(kind="other") == []
    assert store.remove_job("j1")
    assert store.job("j1") is None


def test_export_holds_every_decision(store: JournalStore, tmp_path: Path) -> None:
    snapshots = turns(3, 4)
    ids = store.append(snapshots)
    store.audit("alice", "mode", {"to": "Full"})
    paths = export_to(tmp_path / "out", store)
    assert [p.name for p in paths] == ["decisions-00000.parquet", "audit-00000.parquet"]
    frame = pl.read_parquet(paths[0])
    assert frame["id"].to_list() == sorted(ids)
    by_id = dict(zip(ids, snapshots, strict=True))
    for row in frame.iter_rows(named=True):
        decided = by_id[row["id"]].record.decision
        assert row["replicas"] == decided.replicas
        assert row["reason"] == decided.reason
        count = 0 if decided.candidates is None else len(decided.candidates)
        assert len(row["candidate_expected_cost"]) == count
        assert row["at"].timestamp() == pytest.approx(by_id[row["id"]].at_s, abs=1e-5)
    assert pl.read_parquet(paths[1])["actor"].to_list() == ["alice"]


def test_export_of_an_empty_journal_has_the_same_columns(store: JournalStore, tmp_path: Path) -> None:
    empty = pl.read_parquet(export_to(tmp_path / "empty", store)[0])
    store.append(turns(1, 1))
    full = pl.read_parquet(export_to(tmp_path / "full", store)[0])
    assert empty.schema == full.schema
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="expected a folder"):
        export_to(tmp_path / "file", store)


def test_two_writers_and_two_readers(url: str) -> None:
    """Two stores write the same and different turns while two read: nothing is lost, doubled or torn."""
    shared, mine = turns(4, 6, 1), [turns(4, 6, seed) for seed in (2, 3)]
    mine = [[replace(s, service=f"{s.service}-{i}") for s in own] for i, own in enumerate(mine)]
    opened = ExitStack()
    stores = [opened.enter_context(JournalStore.open(url)) for _ in range(4)]
    problems: list[BaseException] = []
    done = threading.Event()

    def write(store: JournalStore, own: list[Any]) -> None:
        try:
            for at in range(0, 24, 4):
                store.append(own[at : at + 4])
                store.append(shared[at : at + 4])
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    def read(store: JournalStore) -> None:
        try:
            most = 0
            while not done.is_set():
                with_inputs = store.info().rows
                assert with_inputs["decisions"] == with_inputs["inputs"]
                assert with_inputs["decisions"] % 4 == 0  # a batch is seen whole or not at all
                assert with_inputs["decisions"] >= most
                most = with_inputs["decisions"]
                assert len(store.latest()) % 4 == 0
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    readers = [threading.Thread(target=read, args=(s,)) for s in stores[2:]]
    writers = [threading.Thread(target=write, args=(s, own)) for s, own in zip(stores[:2], mine, strict=True)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join(60)
    done.set()
    for thread in readers:
        thread.join(60)
    with opened:
        assert problems == []
        assert stores[0].info().rows["decisions"] == 3 * 24
        assert [s.service for s in stores[2].latest()] == [s.service for s in stores[3].latest()]


def test_addresses_are_refused_without_repeating_them(tmp_path: Path) -> None:
    for url in ("mysql://root:secret@db/harmony", "sqlite://", "sqlite:///:memory:", "", "post gres://a:secret@b"):
        with pytest.raises((UsageError, JournalError)) as caught:
            JournalStore.open(url)
        assert "secret" not in str(caught.value)
    with pytest.raises(JournalUnavailable) as lost:
        JournalStore.open("postgresql://harmony:secret@127.0.0.1:1/harmony")
    assert "secret" not in str(lost.value)
    with pytest.raises(JournalUnavailable, match="missing folder"):
        JournalStore.open(str(tmp_path / "no" / "folder" / "j.db"))
    with pytest.raises(JournalError, match="no such file"):
        JournalStore.open(str(tmp_path / "none.db"), read_only=True)
    with pytest.raises(JournalError, match="that is a device; expected the file of a journal"):
        JournalStore.open("/dev/null", read_only=True)
    (tmp_path / "text.db").write_text("this is no database, whatever its name says " * 50)
    with pytest.raises(JournalError, match="no SQLite database"):
        JournalStore.open(str(tmp_path / "text.db"))


def test_read_only_reads_beside_the_writer_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with JournalStore.open(str(path)) as store:
        store.append(turns(2, 2))
        with JournalStore.open(str(path), read_only=True) as reader:
            assert len(reader.decisions()) == 4
            with pytest.raises(JournalUnavailable, match="read-only"):
                reader.append(turns(1, 1, 5))
            store.append(turns(1, 1, 5))
            assert len(reader.decisions()) == 5


@pytest.mark.parametrize("at_s", [float("nan"), float("inf"), -1.0, 1e12])
def test_times_that_are_none_are_refused(store: JournalStore, at_s: float) -> None:
    snapshot = turns(1, 1)[0]
    record = replace(snapshot.record, observation=replace(snapshot.record.observation, now_s=at_s))
    with pytest.raises(DataError, match="expected seconds since 1970"):
        store.append([replace(snapshot, record=record)])


@pytest.mark.parametrize("lost", ["QueuePool limit of size 4 overflow 4 reached", "something else that failed"])
def test_errors_lead_nobody_to_the_librarys_pages(lost: str) -> None:
    error = TimeoutError(f"{lost} (Background on this error at: https://sqlalche.me/e/20/3o7r)")
    with pytest.raises(JournalUnavailable) as caught, translated("here"):
        raise error
    assert "sqlalche" not in str(caught.value)
    assert str(caught.value).startswith("journal here: ")
