"""Cursors: opaque to clients, bounded, and checked like any other input."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

import orjson
from fastapi import Query

from harmony.api.problems import Problem

__all__ = ["Cursor", "Limit", "read_cursor", "write_cursor"]

Cursor = Annotated[
    str | None,
    Query(max_length=600, pattern=r"^[A-Za-z0-9_-]+$", description="next_cursor of the page before."),
]
Limit = Annotated[int, Query(ge=1, le=500, description="Entries per page.")]


def write_cursor(values: list[Any]) -> str:
    """The text of a position."""
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def read_cursor(text: str | None, size: int) -> list[Any] | None:
    """The position of ``size`` values; `Problem` for a text that we have not written."""
    if text is None:
        return None
    try:
        values = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        values = None
    if not isinstance(values, list) or len(values) != size or not all(isinstance(v, str | float | int) for v in values):
        raise Problem("unusable", "cursor: expected next_cursor of a page before.")
    return values
