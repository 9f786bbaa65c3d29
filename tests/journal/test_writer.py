"""The writer under a full disk, a read-only one and a lost server: said once, counted, and over by itself."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from harmony.journal import JournalStore, JournalUnavailable, JournalWriter, connecting
from harmony.serving import Hub, Snapshot
from tests.journal.builders import fleet
from tests.journal.postgres import RealPostgres, need_postgres

QUICK = (0.02, 0.05)


def turns(services: int, rounds: int, seed: int = 0) -> list[list[Snapshot]]:
    worlds = fleet(services, seed)
    return [[w.snapshot(f"serving/s{i}") for i, w in enumerate(worlds)] for _ in range(rounds)]


def eventually(check: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "did not come to pass"
        time.sleep(0.01)


def limit_pages(store: JournalStore) -> Callable[[int], None]:
    """``PRAGMA max_page_count`` on every connection: beyond it SQLite says what it says on a full disk."""
    pages = [0]

    def begin(connection: Any) -> None:
        if pages[0]:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages[0]}")

    event.listen(store._engine, "begin", begin)

    def limit(count: int) -> None:
        pages[0] = count

    return limit


def test_what_a_hub_publishes_is_kept(url: str) -> None:
    hub = Hub()
    with JournalStore.open(url) as store, JournalWriter(store).follow(hub) as writer:
        for snapshots in turns(5, 6):
            hub.publish(snapshots)
        eventually(lambda: writer.written == 30)
        assert writer.flush()
        assert (writer.trouble, writer.dropped, writer.waiting) == ("", 0, 0)
        assert store.info().rows["decisions"] == 30


def test_closing_keeps_what_was_published_before(url: str) -> None:
    hub = Hub()
    with JournalStore.open(url) as store:
        writer = JournalWriter(store).follow(hub)
        for snapshots in turns(5, 6):
            hub.publish(snapshots)
        writer.close()
        assert store.info().rows["decisions"] == 30
        hub.publish(turns(1, 1, 7)[0])
        assert store.info().rows["decisions"] == 30


def test_a_full_disk_is_said_once_counted_and_over_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    with JournalStore.open(str(tmp_path / "j.db")) as store:
        limit = limit_pages(store)
        batches = turns(10, 12)
        store.append(batches[0])
        limit(1)  # SQLite takes it for the present size: not one page more
        with caplog.at_level(logging.WARNING), JournalWriter(store, told.append, waiting=60, retry_s=QUICK) as writer:
            for snapshots in batches[1:]:
                writer.offer(snapshots)  # that it waits for the disk would be for ever: it is full until further down
            eventually(lambda: writer.trouble)
            assert "the disk is full" in writer.trouble
            eventually(lambda: writer.waiting <= 60)
            eventually(lambda: writer.dropped >= 20)
            assert "wait to be recorded" in writer.trouble
            assert store.info().rows["decisions"] < 60  # and it can still be read
            limit(1_000_000)
            eventually(lambda: not writer.trouble)
            assert writer.flush()
            dropped, written = writer.dropped, writer.written
        assert dropped + written == 110
        assert store.info().rows["decisions"] == 10 + written
        newest = {s.service: s.at_s for s in batches[-1]}
        assert {s.service: s.at_s for s in store.latest()} == newest  # the oldest went, the newest are there
    assert [bool(t) for t in told] == [True, False]
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("harmony.journal")]
    assert len(messages) == 2, messages
    assert "disk is full; decisions go on" in messages[0]
    assert f"recording again, {dropped} decisions were lost" in messages[1]


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB of its own, where the tests may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs to mount a tmpfs (root); the same error is tested with PRAGMA max_page_count")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_really_full_and_then_read_only(small_disk: Path) -> None:
    with JournalStore.open(str(small_disk / "j.db")) as store:
        batches = turns(40, 6)
        store.append(batches[0])
        ballast = small_disk / "ballast"
        fill(ballast)
        with JournalWriter(store, retry_s=QUICK) as writer:
            for snapshots in batches[1:4]:
                writer.offer(snapshots)
            eventually(lambda: writer.trouble)
            assert "the disk is full" in writer.trouble or "the disk fails" in writer.trouble
            ballast.unlink()
            eventually(lambda: not writer.trouble)
            assert writer.flush()
            assert store.info().rows["decisions"] == 160
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(JournalUnavailable, match=r"read-only|cannot be opened"):
        JournalStore.open(str(small_disk / "j.db"))
    with JournalStore.open(str(small_disk / "j.db"), read_only=True) as reader:
        assert len(reader.decisions(limit=1000)) == 160


def test_a_journal_that_became_read_only(tmp_path: Path) -> None:
    with JournalStore.open(str(tmp_path / "j.db")) as store:
        read_only = [True]

        def take(connection: Any, *_: object) -> None:
            connection.execute(f"PRAGMA query_only = {int(read_only[0])}")

        event.listen(store._engine, "checkout", take)
        with JournalWriter(store, retry_s=QUICK) as writer:
            writer.offer(turns(2, 1)[0])
            eventually(lambda: "it is read-only" in writer.trouble)
            read_only[0] = False
            eventually(lambda: writer.written == 2)
            assert writer.trouble == ""


def test_a_statement_that_waits_for_a_lock_ends_and_is_tried_again(
    postgres: RealPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits hold in every transaction, and none is asked for as a connection begins: poolers refuse such ones."""
    monkeypatch.setattr("harmony.journal.connecting.LIMITS", "SET LOCAL lock_timeout = '100ms'")
    address = postgres.database()
    with JournalStore.open(address) as store, JournalStore.open(address) as other, other._engine.begin() as holder:
        holder.exec_driver_sql("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")
        with JournalWriter(store, retry_s=QUICK) as writer:
            writer.offer(turns(1, 1)[0])
            eventually(lambda: writer.trouble)
            holder.rollback()
            eventually(lambda: writer.written == 1)
            assert (writer.trouble, writer.dropped) == ("", 0)
    assert "options" not in connecting.PATIENCE


def test_transactions_have_limits_and_new_versions_have_none(postgres: RealPostgres) -> None:
    def limit(**options: bool) -> str:
        with store._engine.connect() as connection:
            found = connection.execution_options(**options).exec_driver_sql("SHOW statement_timeout").scalar()
        return str(found)

    with JournalStore.open(postgres.database()) as store:
        assert (limit(), limit(migrates=True)) == ("1min", "0")


def test_a_server_that_goes_and_comes_back() -> None:
    with RealPostgres(need_postgres()) as server:
        store = JournalStore.open(server.database())
        batches = turns(3, 3)
        with store, JournalWriter(store, retry_s=QUICK) as writer:
            writer.offer(batches[0])
            assert writer.flush()
            server.stop()
            writer.offer(batches[1])
            eventually(lambda: writer.trouble)
            assert "never-shown" not in writer.trouble
            server.start()
            writer.offer(batches[2])
            eventually(lambda: writer.written == 9)
            assert (writer.trouble, writer.dropped) == ("", 0)
            assert store.info().rows["decisions"] == 9


def test_one_turn_that_cannot_be_kept_does_not_cost_the_others(url: str, caplog: pytest.LogCaptureFixture) -> None:
    snapshots = turns(3, 1)[0]
    broken = replace(snapshots[1], held_by=None)  # type: ignore[arg-type]
    with JournalStore.open(url) as store, JournalWriter(store) as writer, caplog.at_level(logging.CRITICAL):
        writer.offer([snapshots[0], replace(snapshots[1], unit="a\x00b"), broken, snapshots[2]])
        eventually(lambda: writer.written == 2)
        assert (writer.dropped, writer.trouble) == (2, "")
        assert [s.service for s in store.latest()] == ["serving/s0", "serving/s2"]


def test_a_listener_that_fails_does_not_end_the_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(text: str) -> None:
        raise RuntimeError(text)

    with JournalStore.open(str(tmp_path / "j.db")) as store, caplog.at_level(logging.CRITICAL):
        limit = limit_pages(store)
        limit(1)
        with JournalWriter(store, broken, retry_s=QUICK) as writer:
            writer.offer(turns(20, 1)[0])
            eventually(lambda: writer.trouble)
            limit(1_000_000)
            eventually(lambda: writer.written == 20)


def test_offering_never_waits_for_a_stuck_journal(tmp_path: Path) -> None:
    """While another process holds the database, a thousand turns are offered: it holds it until they all are."""
    path = str(tmp_path / "j.db")
    with JournalStore.open(path) as store, JournalStore.open(path) as other, JournalWriter(store) as writer:
        held, release = threading.Event(), threading.Event()
        let_go: list[bool] = []

        def hold() -> None:
            with other._write():
                held.set()
                let_go.append(release.wait(60))

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(60)
        snapshots = turns(10, 1)[0]
        for _ in range(100):
            writer.offer(snapshots)
        release.set()
        thread.join(60)
        assert let_go == [True], "it was held until all had been offered"
        eventually(lambda: writer.waiting == 0)
        assert store.info().rows["decisions"] == 10


class HangingStore:
    """A store whose writes wait until they may go on, as they do before a frozen server."""

    where = "somewhere"

    def __init__(self, store: JournalStore) -> None:
        self.store, self.go = store, threading.Event()

    def encode(self, snapshot: Snapshot) -> Any:
        return self.store.encode(snapshot)

    def write(self, rows: Any) -> list[str]:
        assert self.go.wait(60)
        return self.store.write(rows)


def test_a_write_that_does_not_come_back_is_said_counted_and_over_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmony.journal.writer.OFFERED", 10)
    said: list[str] = []
    with JournalStore.open(str(tmp_path / "j.db")) as store:
        hanging = HangingStore(store)
        with JournalWriter(hanging, said.append, hangs_s=0.2) as writer:  # type: ignore[arg-type]
            offered = turns(1, 40)
            writer.offer(offered[0])
            eventually(lambda: "a write has not come back" in writer.trouble)
            for snapshots in offered[1:]:
                writer.offer(snapshots)
            assert writer.dropped >= 29  # what waits to be encoded is bounded
            assert f"{writer.dropped} were dropped" in writer.trouble
            assert len(said) == 1
            hanging.go.set()
            assert writer.flush(60)
            eventually(lambda: writer.trouble == "")
            assert writer.written + writer.dropped == 40
            eventually(lambda: said[1:] == [""])


@pytest.mark.parametrize("how", ["removed", "replaced by another file", "replaced by a copy"])
def test_a_file_that_is_removed_or_replaced_under_the_writer_is_noticed(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite itself goes on writing into the file that is gone; nothing said to be written may be lost that way."""
    path = tmp_path / "j.db"
    rounds = turns(1, 21)
    with JournalStore.open(str(path)) as store, JournalWriter(store, retry_s=QUICK) as writer:
        writer.offer(rounds[0])
        assert writer.flush(60)
        if how == "replaced by a copy":
            other = tmp_path / "copy.db"
            with JournalStore.open(str(other)) as copy:
                copy.append(turns(1, 1, seed=7)[0])
            other.replace(path)
        elif how == "replaced by another file":
            path.unlink()
            path.touch()
        else:
            path.unlink()
        for end in ("-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
        for snapshots in rounds[1:]:
            writer.offer(snapshots)
        assert writer.flush(60)
        assert "its file was removed or replaced; a new one begins" in caplog.text
    with JournalStore.open(str(path)) as again:
        kept = {decision.id for decision in again.decisions(limit=100)}
    with JournalStore.open(str(tmp_path / "expected.db")) as expected:
        wanted = {i for snapshots in rounds[1:] for i in expected.append(snapshots)}
    assert wanted <= kept


@pytest.mark.parametrize("at", ["do_connect", "checkout", "begin", "commit"])
def test_a_hang_anywhere_on_the_way_into_the_database_is_trouble(tmp_path: Path, at: str) -> None:
    """Opening a connection, waiting for one of the pool, beginning, and saying that it is done: each may not end."""
    go, stuck = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        stuck.set()
        assert go.wait(60)

    with JournalStore.open(str(tmp_path / "j.db")) as store:
        batches = turns(2, 30)
        store.append(batches[0])
        if at == "do_connect":
            store._engine.dispose()
        event.listen(store._engine, at, hang)
        with JournalWriter(store, retry_s=QUICK, hangs_s=0.05) as writer:
            writer.offer(batches[1])
            assert stuck.wait(60)
            eventually(lambda: "a write has not come back" in writer.trouble)
            for snapshots in batches[2:]:
                writer.offer(snapshots)
            assert writer.written == 0
            go.set()
            assert writer.flush(60)
            eventually(lambda: writer.trouble == "")
            assert (writer.written, writer.dropped) == (58, 0)
        assert store.info().rows["decisions"] == 60


def test_a_journal_that_answers_too_slowly_is_trouble_until_it_has_caught_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write comes back in good time, and more is offered than it takes: what is lost is said while it is lost."""
    monkeypatch.setattr("harmony.journal.writer.OFFERED", 10)
    monkeypatch.setattr("harmony.journal.writer.BATCH", 1)
    said: list[str] = []
    turn_by_turn = threading.Semaphore(0)
    with JournalStore.open(str(tmp_path / "j.db")) as store:

        class Slow:
            where = "somewhere"
            encode = store.encode

            def write(self, rows: Any) -> list[str]:
                assert turn_by_turn.acquire(timeout=60)
                return store.write(rows)

        with JournalWriter(Slow(), said.append, hangs_s=3600.0) as writer:  # type: ignore[arg-type]
            offered = turns(1, 60)
            for k, snapshots in enumerate(offered):
                writer.offer(snapshots)
                if k % 6 == 5:  # one is written where six are offered
                    turn_by_turn.release()
                    eventually(lambda done=k // 6 + 1: writer.written == done)
            assert writer.dropped > 0
            assert "turns come faster than they are recorded" in writer.trouble
            assert f"{writer.dropped} were dropped" in writer.trouble
            assert [bool(text) for text in said] == [True], "said once, not with every turn that is lost"
            turn_by_turn.release(100)
            assert writer.flush(60)
            eventually(lambda: writer.trouble == "")
            assert writer.written + writer.dropped == 60
        assert [bool(text) for text in said] == [True, False]


def test_a_fleet_that_is_larger_than_what_may_wait_loses_nothing_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmony.journal.writer.OFFERED", 10)
    with JournalStore.open(str(tmp_path / "j.db")) as store, JournalWriter(store) as writer:
        writer.offer(turns(40, 1)[0])
        assert writer.flush(60)
        assert (writer.written, writer.dropped) == (40, 0)


def test_a_write_that_comes_back_late_every_time_is_one_trouble_not_many(tmp_path: Path) -> None:
    """One row a minute: it is not well in between."""
    said: list[str] = []
    with JournalStore.open(str(tmp_path / "j.db")) as store:
        hanging = HangingStore(store)
        with JournalWriter(hanging, said.append, hangs_s=0.05) as writer:  # type: ignore[arg-type]
            for k, snapshots in enumerate(turns(1, 4)):
                writer.offer(snapshots)
                eventually(lambda: writer._write_began_s is not None)
                eventually(lambda: "a write has not come back" in writer._hangs())
                writer.offer(turns(1, 1, seed=100 + k)[0])  # somebody waits while it comes back
                go, hanging.go = hanging.go, threading.Event()
                go.set()
                eventually(lambda done=k + 1: writer.written >= done)
            assert [bool(text) for text in said] == [True]
            hanging.go.set()
            assert writer.flush(60)
            eventually(lambda: [bool(text) for text in said] == [True, False])


LOST = [
    "its log",
    "its log and its index",
    "its log, cut to nothing",
    "the file, cut to nothing",
    "its folder, moved away",
]


@pytest.mark.parametrize("what", LOST)
def test_whatever_is_taken_from_under_the_writer_is_noticed_with_the_next_turn(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever looks from beside finds what was said to be written since, as after a kill: nothing waits for the end."""
    folder = tmp_path / "journal"
    folder.mkdir()
    path, log_file = folder / "j.db", folder / "j.db-wal"
    rounds = turns(1, 21)
    with JournalStore.open(str(path)) as store, JournalWriter(store, retry_s=QUICK) as writer:
        writer.offer(rounds[0])
        assert writer.flush(60)
        if what == LOST[0]:
            log_file.unlink()
        elif what == LOST[1]:
            log_file.unlink()
            Path(f"{path}-shm").unlink()
        elif what in LOST[2:4]:
            os.truncate(log_file if what == LOST[2] else path, 0)
        else:
            folder.rename(tmp_path / "elsewhere")
            writer.offer(rounds[1])
            eventually(lambda: "the file cannot be opened" in writer.trouble)
            (tmp_path / "elsewhere").rename(folder)
        for snapshots in rounds[1:]:
            writer.offer(snapshots)
            assert writer.flush(60)
        eventually(lambda: writer.trouble == "")
        assert writer.dropped == 0
        if what != LOST[4]:
            assert caplog.text.count("by somebody else") + caplog.text.count("was removed or replaced") == 1
        with JournalStore.open(str(path), read_only=True) as beside:
            kept = {decision.id for decision in beside.decisions(limit=100)}
    with JournalStore.open(str(tmp_path / "expected.db")) as expected:
        written = [expected.append(snapshots)[0] for snapshots in rounds]
    assert set(written[1:]) <= kept
    if what in (LOST[0], LOST[1], LOST[4]):
        assert written[0] in kept, "and SQLite still had what the log held"


def test_a_folder_in_the_place_of_the_file_is_trouble_until_it_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "j.db"
    rounds = turns(1, 3)
    with JournalStore.open(str(path)) as store, JournalWriter(store, retry_s=QUICK) as writer:
        writer.offer(rounds[0])
        assert writer.flush(60)
        path.unlink()
        path.mkdir()
        writer.offer(rounds[1])
        eventually(lambda: "the file cannot be opened" in writer.trouble)
        assert "a new one begins" not in caplog.text, "it has not begun"
        path.rmdir()
        writer.offer(rounds[2])
        assert writer.flush(60)
        assert len(store.decisions()) == 2
