"""How much is in a journal."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, text

from harmony.journal.migrating import stored_version
from harmony.journal.stored import Info
from harmony.journal.tables import DECISIONS, METADATA

__all__ = ["read_info"]


def read_info(connection: Connection, where: str) -> Info:
    """Counts of all tables, size, and the span of time."""
    rows = {
        name: int(connection.execute(select(func.count()).select_from(table)).scalar_one())
        for name, table in METADATA.tables.items()
    }
    oldest, newest = (
        connection.execute(select(DECISIONS.c.at_s).order_by(order).limit(1)).scalar()
        for order in (DECISIONS.c.id, DECISIONS.c.id.desc())
    )
    return Info(where, stored_version(connection) or "", rows, _bytes(connection), oldest, newest)


def _bytes(connection: Connection) -> int:
    """Bytes that the tables take on disk, with their indices."""
    if connection.dialect.name == "sqlite":
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    size = text("SELECT pg_total_relation_size(to_regclass(:name))")
    return sum(int(connection.execute(size, {"name": name}).scalar() or 0) for name in METADATA.tables)
