"""The real server on a free port, on a thread: what the API's tests talk to over HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator

from fastapi import FastAPI

from harmony.api.keys import new_key
from harmony.api.server import ApiServer, Door
from harmony.journal.stored import ApiKey
from tests.api.memory import MemoryJournal

Beside = Callable[[], Coroutine[None, None, None]]
PATIENCE_S = 60.0  # on a busy machine


@contextlib.contextmanager
def serving(app: FastAPI, door: Callable[[socket.socket], tuple[Beside, Door]] | None = None) -> Iterator[str]:
    """The address of a server with ``app``; stopped on leaving. ``door``: who accepts at its socket, and its beats."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = ApiServer(app, *(() if door is None else door(listening)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    until = time.monotonic() + PATIENCE_S
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < until, "the server took too long to start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server did not stop"
        listening.close()


def key_for(journal: MemoryJournal, role: str, **changes: float | None) -> str:
    """A fresh key of that role in the journal."""
    fresh = new_key()
    journal.add_key(ApiKey(fresh.id, f"a {role}", role, fresh.secret_hash, 0.0, **changes))
    return fresh.text


def eventually(holds: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
    """True once it holds, False if that takes too long."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
