"""Injected failures: what a test makes the fake server do wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .api import Call

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(slots=True)
class Fault:
    """What happens to matching calls; `hits` counts how often it did."""

    match: Callable[[Call], bool]
    status: int | None = None  # None: only delayed, then answered as usual
    times: int | None = 1  # None: until cancelled
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay_s: float = 0.0
    drop: bool = False  # the connection is closed without an answer
    held: bool = False  # calls wait for `release`, and then go on as said above
    hits: int = 0
    waiting: int = 0  # calls that are held back now

    def cancel(self) -> None:
        self.times = 0

    def release(self) -> None:
        """Let the calls go that are held back, and those that come."""
        self.held = False

    def takes(self, call: Call) -> bool:
        """Whether this call is hit; counts it if so."""
        if self.times is not None and self.times <= 0:
            return False
        if not self.match(call):
            return False
        if self.times is not None:
            self.times -= 1
        self.hits += 1
        return True

    @property
    def reason(self) -> str:
        return _REASONS.get(self.status or 0, "")
