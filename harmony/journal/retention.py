"""Removing what is old: the one way out of the append-only tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, insert, select, text

from forecasting.errors import UsageError
from harmony.journal.ids import first_id_at
from harmony.journal.stored import GPU_BUDGET_SET
from harmony.journal.tables import AUDIT, DECISIONS, INPUTS, META, SERVICES

__all__ = ["Removed", "remove_old"]

DAY_S = 86_400.0
PORTION = 5_000  # rows removed in one transaction

Write = Callable[[], AbstractContextManager[Connection]]


@dataclass(frozen=True, slots=True)
class Removed:
    """How many rows left."""

    decisions: int
    inputs: int
    services: int
    audit: int


def remove_old(
    write: Write,
    clock: Any,  # noqa: ANN401  (an expression for the database's time)
    days: float,
    inputs_days: float | None,
    audit_days: float | None,
) -> Removed:
    """See `JournalStore.retain`."""
    inputs_days = days if inputs_days is None else inputs_days
    for name, age in (("days", days), ("inputs days", inputs_days), ("audit days", audit_days or 0.0)):
        if not (math.isfinite(age) and age >= 0.0):
            raise UsageError(f"retention: {name} {age}: expected 0 or more")
    with write() as connection:
        now = float(connection.execute(select(clock)).scalar_one())
        newest = connection.execute(select(DECISIONS.c.at_s).order_by(DECISIONS.c.id.desc()).limit(1)).scalar()
    over = AUDIT.c.action != GPU_BUDGET_SET  # the newest of them is in force, however old it is
    audit = 0 if audit_days is None else _remove(write, AUDIT, "at_s", now - audit_days * DAY_S, over)
    if newest is None:
        return Removed(0, 0, 0, audit)
    from_s = min(now, float(newest))
    mark = first_id_at(max(0.0, from_s - days * DAY_S))
    inputs_mark = max(mark, first_id_at(max(0.0, from_s - inputs_days * DAY_S)))
    inputs = _remove(write, INPUTS, "decision_id", inputs_mark)
    with write() as connection:
        services = connection.execute(delete(SERVICES).where(SERVICES.c.decision_id < mark)).rowcount
    return Removed(_remove(write, DECISIONS, "id", mark), inputs, services, audit)


def _remove(write: Write, table: Table, column: str, mark: str | float, over: ColumnElement[bool] | None = None) -> int:
    """Remove the rows before ``mark`` (of which ``over`` is true), in portions; returns how many."""
    by, key = table.c[column], next(iter(table.primary_key.columns))
    total = 0
    while True:
        old = select(key).where(by < mark, *(() if over is None else (over,))).order_by(by).limit(PORTION)
        with write() as connection:
            _open_gate(connection, table.name, mark)
            count = connection.execute(delete(table).where(key.in_(old))).rowcount
            _close_gate(connection, table.name)
        total += count
        if count < PORTION:
            return total


def _open_gate(connection: Connection, table: str, mark: str | float) -> None:
    """Let the triggers know what may go, in this transaction only (see the migration that made them)."""
    if connection.dialect.name == "postgresql":
        setting = text("SELECT set_config(:name, :mark, true)")
        connection.execute(setting, {"name": f"harmony.retaining_{table}", "mark": str(mark)})
    else:
        connection.execute(insert(META), [{"key": f"retaining {table}", "value": str(mark)}])


def _close_gate(connection: Connection, table: str) -> None:
    if connection.dialect.name != "postgresql":
        connection.execute(delete(META).where(META.c.key == f"retaining {table}"))
