"""From nothing, from an older version, by two processes at once; newer and foreign databases are refused."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from harmony.journal import JournalError, JournalStore, JournalVersionError
from harmony.journal.connecting import connect, journal_url
from harmony.journal.migrating import migrate, newest_version, stored_version
from harmony.journal.tables import METADATA, VERSION_TABLE
from tests.journal.builders import fleet


def at_version(url: str, version: str) -> None:
    """A database as that version left it."""
    engine = connect(journal_url(url))
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        migrate(connection, "here", version)
    engine.dispose()


def test_tables_are_those_that_the_code_expects(store: JournalStore) -> None:
    with store._engine.connect() as connection:
        assert stored_version(connection) == newest_version() == store.info().version
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_an_older_journal_becomes_a_new_one_with_its_rows(url: str) -> None:
    at_version(url, "0001")
    engine = connect(journal_url(url))
    with engine.connect() as connection:
        assert stored_version(connection) == "0001"
        assert "audit_actor" not in {i["name"] for i in inspect(connection).get_indexes("audit")}
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(text("INSERT INTO audit (at_s, actor, action, detail) VALUES (1.5, 'alice', 'mode', '{}')"))
    engine.dispose()
    with pytest.raises(JournalError, match="version 0001, this harmony reads 0002"):
        JournalStore.open(url, read_only=True)
    with JournalStore.open(url) as store:
        assert store.info().version == "0002"
        assert [(e.actor, e.at_s) for e in store.audits(actor="alice")] == [("alice", 1.5)]
        with store._engine.connect() as connection:
            assert "audit_actor" in {i["name"] for i in inspect(connection).get_indexes("audit")}
        assert store.append([fleet(1)[0].snapshot("a/b")])


def test_a_newer_journal_is_refused_and_left_alone(url: str) -> None:
    JournalStore.open(url).close()
    engine = connect(journal_url(url))
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    for read_only in (False, True):
        with pytest.raises(JournalVersionError, match=r"version 9999, which is newer than this harmony \(0002\)"):
            JournalStore.open(url, read_only=read_only)
    with engine.connect() as connection:
        assert stored_version(connection) == "9999"
    engine.dispose()


def test_a_database_of_something_else_is_refused(url: str) -> None:
    engine = connect(journal_url(url))
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(text("CREATE TABLE jobs (id INTEGER)"))
    engine.dispose()
    with pytest.raises(JournalVersionError, match="something else"):
        JournalStore.open(url)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (f"INSERT INTO {VERSION_TABLE} VALUES ('0001')", r"version 0001 and 0002, which this harmony does not know"),
        (f"UPDATE {VERSION_TABLE} SET version_num = 'ours'", r"version ours, which this harmony does not know"),
        (f"DELETE FROM {VERSION_TABLE}", "something else"),
        ("DROP TABLE api_keys", r"has no table 'api_keys'"),
        ("ALTER TABLE services RENAME COLUMN summary TO said", r"has no column 'summary' in table 'services'"),
    ],
)
def test_a_damaged_version_is_refused_in_one_line(url: str, damage: str, said: str) -> None:
    JournalStore.open(url).close()
    engine = connect(journal_url(url))
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(text(damage))
    engine.dispose()
    for read_only in (False, True):
        with pytest.raises(JournalVersionError, match=said) as caught:
            JournalStore.open(url, read_only=read_only)
        assert "\n" not in str(caught.value)


def _open(url: str, barrier: object, answers: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        with JournalStore.open(url) as store:
            store.append([fleet(1)[0].snapshot("a/b")])
            answers.put(store.info().version)  # type: ignore[attr-defined]
    except BaseException as error:  # noqa: BLE001
        answers.put(repr(error))  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("begin", [None, "0001"])
def test_processes_that_open_at_once_migrate_once(url: str, begin: str | None) -> None:
    if begin is not None:
        at_version(url, begin)
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_open, args=(url, barrier, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    got = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(30)
    assert got == ["0002"] * 2
    with JournalStore.open(url) as store:
        assert store.info().rows["decisions"] == 1


def test_an_interrupted_first_opening_leaves_nothing_half_made(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    engine = connect(journal_url(str(path)))
    with engine.connect().execution_options(writes=True) as connection:
        transaction = connection.begin()
        migrate(connection, "here")
        transaction.rollback()
    engine.dispose()
    assert sqlite3.connect(path).execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    with JournalStore.open(str(path)) as store:
        assert store.decisions() == []
