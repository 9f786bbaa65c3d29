"""Bringing a database to the newest version, safely while others do the same; newer and foreign ones are refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from harmony.journal.errors import JournalError, JournalVersionError
from harmony.journal.tables import METADATA, VERSION_TABLE

__all__ = ["migrate", "newest_version", "stored_version"]

FOLDER = Path(__file__).parent / "migrations"
LOCK = 0x6861726D  # PostgreSQL's advisory lock while migrating ("harm")


def migrate(connection: Connection, where: str, target: str = "head") -> None:
    """Bring the database to version ``target``, in the caller's transaction; does nothing where it is there already.

    Raises `JournalVersionError` where the database is of a newer version, or holds something else.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    stored = _checked(connection, where)
    if stored == (newest_version() if target == "head" else target):
        return
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def check_version(connection: Connection, where: str) -> None:
    """Raises `JournalError` unless the database is of this very version; changes nothing."""
    stored = _checked(connection, where)
    if stored is None:
        raise JournalError(f"journal {where}: it is empty; harmony serve writes one")
    if stored != newest_version():
        raise JournalError(
            f"journal {where}: it is of version {stored}, this harmony reads {newest_version()}; "
            "the service that writes it brings it to the new version when it starts"
        )


def stored_version(connection: Connection) -> str | None:
    """The version that the database is of; None for one without a journal.

    Several, or what is no text, come as text that no version has.
    """
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_heads()
    return " and ".join(sorted(str(one) for one in found)) or None


def newest_version() -> str:
    """The version that this code writes."""
    return _known_versions()[0]


@cache
def _known_versions() -> tuple[str, ...]:
    """All versions that there were, newest first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _checked(connection: Connection, where: str) -> str | None:
    stored = stored_version(connection)
    if stored is None:
        others = sorted(set(inspect(connection).get_table_names()) & set(METADATA.tables))
        if others:
            raise JournalVersionError(
                f"journal {where}: a database of something else (it has a table {others[0]!r} and no version of a "
                "journal); expected an empty one or a journal"
            )
        return None
    if stored not in _known_versions():
        is_newer = stored.isdigit() and stored > newest_version()
        why = "is newer than this harmony" if is_newer else "this harmony does not know"
        raise JournalVersionError(
            f"journal {where}: it is of version {_short(stored)}, which {why} ({newest_version()}); "
            "install a newer harmony, or name another journal"
        )
    if stored == newest_version():
        _check_tables(connection, where)
    return stored


def _check_tables(connection: Connection, where: str) -> None:
    """Raises `JournalVersionError` unless every table is there with its columns."""
    seen = inspect(connection)
    tables = set(seen.get_table_names())
    for table in METADATA.sorted_tables:
        lost = table.name not in tables or sorted(
            {c.name for c in table.columns} - {c["name"] for c in seen.get_columns(table.name)}
        )
        if lost:
            what = f"no table {table.name!r}" if lost is True else f"no column {lost[0]!r} in table {table.name!r}"
            raise JournalVersionError(
                f"journal {where}: it says that it is of version {newest_version()}, but has {what}: it is damaged, or "
                "something else; restore it, or name another journal"
            )


def _short(version: str) -> str:
    return version if version.isprintable() and len(version) <= 40 else f"{version[:40]!r}..."


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config
