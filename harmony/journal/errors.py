"""What can go wrong with a journal, as sentences for the person who runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from forecasting.errors import HarmonyError, InputError

__all__ = ["JournalError", "JournalUnavailable", "JournalVersionError", "translated"]


class JournalError(HarmonyError):
    """The journal cannot do what was asked of it."""


class JournalUnavailable(JournalError):  # noqa: N818  (what it is called wherever it is met)
    """The journal cannot be read or written right now (full, read-only, locked, gone); the same may work later."""


class JournalVersionError(JournalError, InputError):
    """The database is of a newer version, or is no journal at all."""


MEANINGS = (  # part of the database's own words (SQLite, PostgreSQL), what it means
    ("database or disk is full", "the disk is full"),
    ("no space left", "the disk is full"),
    ("could not extend file", "the disk is full"),
    ("readonly database", "it is read-only"),
    ("read-only transaction", "it is read-only"),
    ("unable to open database file", "the file cannot be opened (missing folder, no permission or read-only disk)"),
    ("database is locked", "another process holds it"),
    ("file is not a database", "the file is no SQLite database"),
    ("malformed", "the file is damaged"),
    ("disk i/o error", "the disk fails"),
    ("queuepool limit", "all connections to it are in use"),
    ("connection refused", "the database server refuses connections"),
    ("could not translate host name", "the database server's name is unknown"),
    ("failed to resolve host", "the database server's name is unknown"),
    ("password authentication failed", "the database refuses the password"),
    ("does not exist", "the database, or something in it, does not exist"),
    ("closed the connection", "the database server closed the connection"),
    ("terminating connection", "the database server closed the connection"),
    ("append-only", "rows of an append-only table may not be changed"),
)


def meaning(error: BaseException) -> str:
    """The reason in a few words: no statement, parameter or address in it."""
    told = str(getattr(error, "orig", None) or error)
    low = told.lower()
    for part, text in MEANINGS:
        if part in low:
            return text
    first = told.partition("(Background on this error")[0].strip().splitlines()  # an address that helps nobody here
    return f"{type(error).__name__}: {first[0].strip()[:160]}" if first else type(error).__name__


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn the database's errors into `JournalError` about the journal at ``where``."""
    try:
        yield
    except (exc.OperationalError, exc.InternalError, exc.TimeoutError) as error:
        raise JournalUnavailable(f"journal {where}: {meaning(error)}") from error
    except exc.SQLAlchemyError as error:
        # SQLite reports a file that is damaged or none of its own as a plain DatabaseError.
        kind = JournalUnavailable if getattr(error, "connection_invalidated", False) else JournalError
        raise kind(f"journal {where}: {meaning(error)}") from error
