"""`ServerClock`: the time as another machine has it, carried forward by a clock that nobody sets."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["ServerClock"]


class ServerClock:
    """The server's time: learned from its answers, advanced in between by ``monotonic`` (seconds, any origin).

    A step of this machine's own wall clock therefore changes nothing.
    """

    __slots__ = ("_at", "_monotonic", "_server_s")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._server_s = math.nan
        self._at = math.nan

    def learn(self, server_s: float, sent: float, received: float) -> None:
        """The server said ``server_s`` somewhere between ``sent`` and ``received`` (readings of ``monotonic``)."""
        self._server_s = server_s
        self._at = (sent + received) / 2

    def now_s(self) -> float:
        """Seconds since the Unix epoch by the server's clock; NaN before it was ever heard."""
        return self._server_s + (self._monotonic() - self._at)

    @property
    def age_s(self) -> float:
        """Seconds since the server was last heard; infinite before."""
        return math.inf if math.isnan(self._at) else self._monotonic() - self._at
