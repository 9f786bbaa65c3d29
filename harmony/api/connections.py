"""`Connection`: uvicorn's HTTP connection, ended where a request does not arrive, or its answer is not taken, in time.

uvicorn closes connections that are idle between two requests. Those that never send one, or half of its headers, it
keeps for ever, and so it does with those that never read what they are sent; a few hundred of them would use up the
descriptors of the process. Of requests that are sent ahead of their answers it keeps as many as come.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["CROWDED", "HEADERS_S", "MOST_AHEAD", "MOST_CONNECTIONS", "READS_S", "SPARE_CONNECTIONS", "Connection"]

HEADERS_S = 15.0
"""Seconds within which all headers of a request must have come (bodies are covered by the gate's time limit)."""
READS_S = 30.0
"""Seconds within which a client must have read some of what waits for it, or the rest when its connection closes."""
MOST_AHEAD = 64
"""Requests that wait on one connection for the answers before them."""
MOST_CONNECTIONS = 1000
"""Open connections; a request on a further one is told to come again (503), health is answered all the same."""
SPARE_CONNECTIONS = 200
"""Connections beyond those that may ask that; further ones are closed at once, or descriptors would run out."""
CROWDED = "crowded"
"""In a request's state: whether it came on a connection too many."""


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request must come now."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS + SPARE_CONNECTIONS:
            transport.abort()
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more is expected."""
        self._arrived()
        self._read_on()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More waits for the client than it should; it must read on now."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """It has read on."""
        super().resume_writing()
        self._read_on()

    def timeout_keep_alive_handler(self) -> None:
        """Idle for too long: it ends, with or without what was not read."""
        super().timeout_keep_alive_handler()
        self._end()

    def data_received(self, data: bytes) -> None:
        """Whatever comes between two requests begins the next one."""
        super().data_received(data)
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()

    def on_headers_complete(self) -> None:
        """The request is there; `ValueError` (a bad request to the parser) where too many are."""
        self._arrived()
        if len(self.pipeline) >= MOST_AHEAD:
            raise ValueError(f"more than {MOST_AHEAD} requests ahead of their answers")
        self.scope["state"][CROWDED] = len(self.connections) > MOST_CONNECTIONS
        super().on_headers_complete()

    def _expect(self) -> None:
        self._late = self.loop.call_later(HEADERS_S, self._end)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _watch_reading(self) -> None:
        self._read_on()
        self._unread = self.loop.call_later(READS_S, self._check_reading, self.transport.get_write_buffer_size())

    def _check_reading(self, before: int) -> None:
        """Slowly is fine; not at all ends it."""
        self._unread = None
        waits = self.transport.get_write_buffer_size()
        if waits and waits >= before:
            self.transport.abort()
        elif waits:
            self._watch_reading()

    def _read_on(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _end(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self.transport.close()
        self._watch_reading()  # closing waits for what the client has not read
