"""Request bodies: of bounded size before they are read, of bounded depth before they are parsed."""

from __future__ import annotations

import re

from starlette.types import Message, Receive

from harmony.api.problems import Problem

__all__ = ["is_json", "json_depth", "read_body", "replay"]

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


async def read_body(receive: Receive, declared: int | None, limit: int) -> bytes:
    """The whole body; `Problem` "too-large" by what was declared, or as soon as more than ``limit`` bytes came."""
    if declared is not None and declared > limit:
        raise _too_large(limit)
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> Problem:
    # what is still under way is not read: the connection ends with this answer
    return Problem("too-large", f"A body of at most {limit} bytes is accepted.", {"connection": "close"})


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what the server has to say."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def is_json(content_type: str) -> bool:
    """`application/json` or a type that ends in +json."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def json_depth(body: bytes, limit: int) -> int:
    """How deep arrays and objects nest; counting stops beyond ``limit``. Text that is no JSON has a depth as well."""
    depth = deepest = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub(b"", body)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > deepest:
            deepest = depth
            if deepest > limit:
                break
    return deepest
