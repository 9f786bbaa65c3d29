"""Engines: SQLite as the journal wants it (WAL, one writer), PostgreSQL as it comes."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from forecasting.errors import UsageError
from harmony.journal.errors import meaning

__all__ = ["connect", "journal_url", "shown"]

# No statement, lock or silent network keeps a thread for ever. A server that is frozen as a whole ends no statement:
# there the writer says that a write does not come back. Limits are said in each transaction and not as a connection
# begins, because poolers such as PgBouncer refuse connections that ask for settings.
LIMITS = "SET LOCAL statement_timeout = '60s'; SET LOCAL lock_timeout = '20s'"
UNLIMITED = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"
PATIENCE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
BUSY_MS = 5_000  # how long one process waits for another's transaction
CHECKPOINT_PAGES = 4_000  # the log is folded into the file when it holds that many pages (16 MB)


def journal_url(text: str) -> URL:
    """The address of a journal: ``sqlite:///FILE``, ``postgresql://USER:PASSWORD@HOST/DATABASE``, or a bare path.

    Raises `UsageError` for anything else.
    """
    if "://" not in text and text.strip():
        text = f"sqlite:///{text}"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise UsageError(_expected("this text")) from None  # never repeat it: a password may stand in it
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise UsageError(_expected("SQLite in memory"))
        return url.set(drivername="sqlite")
    if url.get_backend_name() in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise UsageError(_expected(url.get_backend_name()))


def _expected(what: str) -> str:
    return f"--journal: {what} is no journal; expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"


def shown(url: URL) -> str:
    """The address for people: a file's path, or a server without its password."""
    return (
        str(url.database) if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql").render_as_string()
    )


def connect(url: URL, *, read_only: bool = False) -> Engine:
    """An engine for the journal at ``url``; transactions that write say so with `execution_options(writes=True)`."""
    try:
        if url.get_backend_name() != "sqlite":
            engine = create_engine(
                url,
                pool_size=4,
                max_overflow=4,
                pool_pre_ping=True,
                pool_timeout=10,
                connect_args={"connect_timeout": 5, "application_name": "harmony"} | PATIENCE,
            )
            event.listen(engine, "begin", _limit)
            return engine
        path = str(url.database)
        query = _reading(Path(path)) if read_only else {}
        engine = create_engine(
            url.set(database=f"{Path(path).absolute().as_uri()}" if read_only else path, query=query),
            connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False},
            pool_size=4,
            max_overflow=4,
        )
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise UsageError(f"journal: {meaning(error)}") from error
    event.listen(engine, "connect", _prepare if not read_only else _prepare_reading)
    event.listen(engine, "begin", _begin)
    return engine


def _reading(path: Path) -> dict[str, str]:
    """SQLite's options for reading alone.

    Beside a writer it needs the writer's files; on a read-only disk it could not make them, and nobody else can write.
    """
    alone = not os.access(path.absolute().parent, os.W_OK) and not Path(f"{path}-wal").exists()
    return {"mode": "ro", "uri": "true"} | ({"immutable": "1"} if alone else {})


def _prepare(connection: sqlite3.Connection, _: Any) -> None:  # noqa: ANN401
    _prepare_reading(connection, _)
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    # NORMAL: a commit is in the log (the system's memory) and outlives the process at any byte; only a power cut can
    # cost commits since the last checkpoint. FULL would wait for the disk at each.
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    cursor.close()


def _prepare_reading(connection: sqlite3.Connection, _: Any) -> None:  # noqa: ANN401
    connection.isolation_level = None  # transactions begin where `_begin` says, not where the driver guesses
    # Bytes that are no text are one row's trouble (see `harmony.journal.cells`), not that of all rows read with it.
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")


def _limit(connection: Connection) -> None:
    # A new version may have to rewrite a large table: that takes as long as it takes.
    patient = connection.get_execution_options().get("migrates", False)
    connection.exec_driver_sql(UNLIMITED if patient else LIMITS)


def _begin(connection: Connection) -> None:
    # A transaction that began by reading cannot become a writing one while another process writes.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
