"""Answers with a version: weak ETags from their content, 304 for those who have it already."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["answer", "etag_of", "has_it"]


def etag_of(body: bytes) -> str:
    """A weak ETag: the same content compressed is the same version."""
    return f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def has_it(if_none_match: str, etag: str) -> bool:
    """Whether the client named this version (weak comparison, RFC 9110 section 8.8.3.2)."""
    given = [part.strip() for part in if_none_match.split(",")]
    return "*" in given or etag.removeprefix("W/") in [part.removeprefix("W/") for part in given]


def answer(request: Request, value: BaseModel | dict[str, Any]) -> Response:
    """The value as JSON with an ETag, or 304."""
    body = value.model_dump_json().encode() if isinstance(value, BaseModel) else orjson.dumps(value)
    etag = etag_of(body)
    headers = {"etag": etag, "cache-control": "private, no-cache"}
    if has_it(request.headers.get("if-none-match", ""), etag):
        return Response(None, 304, headers)
    return Response(body, 200, headers, "application/json")
