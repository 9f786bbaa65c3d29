"""`Connection`: uvicorn's HTTP connection, ended where a request does not arrive within reasonable time.

uvicorn closes connections that are idle between two requests. Those that never send one, or half of its headers, it
keeps for ever; a few hundred of them would use up the descriptors of the process.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HEADERS_S", "MOST_CONNECTIONS", "Connection"]

HEADERS_S = 15.0
"""Seconds within which all headers of a request must have come (bodies are covered by the gate's time limit)."""
MOST_CONNECTIONS = 1000
"""Open connections; a request on a further one is told to come again (503)."""


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request must come now."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more is expected."""
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Whatever comes between two requests begins the next one."""
        super().data_received(data)
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()

    def on_headers_complete(self) -> None:
        """The request is there."""
        self._arrived()
        super().on_headers_complete()

    def _expect(self) -> None:
        self._late = self.loop.call_later(HEADERS_S, self._end)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self.transport.close()
