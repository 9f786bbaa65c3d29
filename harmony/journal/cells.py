"""Rows as the database gives them, held against their tables: SQLite keeps any type anywhere, and files get damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Double, Integer, LargeBinary, Table, Text

from forecasting.errors import DataError
from harmony.schema.exact import loads

__all__ = ["checked", "json_object", "shortened"]

LONGEST = 200  # of what a message repeats
TIMES = frozenset({"at_s", "created_s", "updated_s", "expires_s", "revoked_s"})  # seconds since the epoch
KINDS: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (Text, (str,), "text"),
    (Double, (int, float), "a number"),
    (LargeBinary, (bytes,), "bytes"),
    (Integer, (int,), "a whole number"),
)
LATEST_S = 253_402_300_800.0  # the year 10000


def checked(table: Table, row: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """The cells of ``row`` that are columns of ``table``, or the columns ``names`` of it.

    `DataError` names the first that is not of its type.
    """
    out = {}
    for column in [table.c[name] for name in names] or table.columns:
        value = row[column.name]
        wrong = ("" if column.nullable else "is missing") if value is None else _wrong(column, value)
        if wrong:
            raise DataError(f"{column.name} {wrong}")
        out[column.name] = float(value) if isinstance(column.type, Double) and value is not None else value
    return out


def _wrong(column: Column[Any], value: Any) -> str:  # noqa: ANN401
    """What is wrong with a cell; empty for nothing."""
    kinds, expected = next((kinds, name) for kind, kinds, name in KINDS if isinstance(column.type, kind))
    if not isinstance(value, kinds):
        return f"is {_kind(value)}, expected {expected}"
    if isinstance(value, str) and ("\x00" in value or not _encodable(value)):
        return "is no text"
    if column.name in TIMES and isinstance(value, (int, float)) and not abs(value) < LATEST_S:
        return f"is {value:g} s, which is no time"
    return ""


def json_object(text: str, name: str) -> dict[str, Any]:
    """The object that a column ``name`` holds as JSON; `DataError` for anything else."""
    found = loads(text)
    if not isinstance(found, dict):
        raise DataError(f"{name} is {_kind(found)}, expected a JSON object")
    return found


def shortened(value: object) -> str:
    """What a row says, in one line of bounded length, for messages."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:  # noqa: ANN401
    known = {
        str: "text",
        bytes: "bytes",
        bool: "a truth value",
        list: "a list",
        float: "a fraction",
        type(None): "null",
    }
    return known.get(type(value), "a number")
