"""Errors as RFC 9457 problem details: a stable `type` to act on, a title, and what would be accepted instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

__all__ = ["MEDIA_TYPE", "PROBLEMS", "Problem", "render", "too_often"]

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:harmony:problem:"

# slug -> (status, title); the slugs are part of the API and never change their meaning
PROBLEMS: Mapping[str, tuple[int, str]] = {
    "bad-request": (400, "The request is not understood"),
    "unauthenticated": (401, "A valid key or token is needed"),
    "forbidden": (403, "This role may not do that"),
    "cross-origin": (403, "Requests from other sites are not accepted"),
    "not-found": (404, "There is no such thing"),
    "no-forecast": (404, "There is no forecast of this service yet"),
    "method-not-allowed": (405, "This path has other methods"),
    "conflict": (409, "That is not possible in the present state"),
    "too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body must be JSON"),
    "misdirected": (421, "This server is not that host"),
    "invalid-request": (422, "The request does not fit the schema"),
    "unusable": (422, "The request fits the schema but cannot be used"),
    "rate-limited": (429, "Too many requests"),
    "headers-too-large": (431, "The headers are too large"),
    "internal": (500, "Something broke here"),
    "unavailable": (503, "Not available right now"),
    "not-configured": (503, "This server was started without that"),
    "timeout": (504, "It took too long"),
}

PASSING = frozenset({"unavailable", "timeout"})
LATER_S = "5"


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818
    """An error to be answered: its slug (a key of `PROBLEMS`), a sentence, and more headers or fields."""

    slug: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: Sequence[Mapping[str, str]] = ()

    @property
    def status(self) -> int:
        """HTTP status."""
        return PROBLEMS[self.slug][0]

    def body(self) -> dict[str, Any]:
        """The problem object."""
        status, title = PROBLEMS[self.slug]
        out: dict[str, Any] = {"type": PREFIX + self.slug, "title": title, "status": status, "detail": self.detail}
        if self.errors:
            out["errors"] = list(self.errors)
        return out


def render(problem: Problem) -> Response:
    """The answer; it says when to come again, where that helps."""
    later = {"retry-after": LATER_S} if problem.slug in PASSING else {}
    headers = {**later, **problem.headers, "cache-control": "no-store"}
    return Response(orjson.dumps(problem.body()), problem.status, headers, MEDIA_TYPE)


def too_often(wait_s: float) -> Problem:
    """The answer to somebody who has to wait ``wait_s`` seconds."""
    seconds = max(1, -int(-wait_s // 1))
    return Problem("rate-limited", f"Ask again in {seconds} s.", {"retry-after": str(seconds)})
