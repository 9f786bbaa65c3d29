"""The process that answers probes. It is run as a file, imports nothing but the standard library, and takes 10 MB.

    python -I -S prober.py LISTENING CHANNEL PARENT SILENT_S VOICE...

`controller.process.probes` runs it and writes a line of JSON into CHANNEL for every beat of a voice: its name, when it
spoke, and what its checks found. A voice that was last heard longer than SILENT_S seconds ago hangs, whatever it said
then. The process ends with its parent: when the channel closes, or when somebody else has become its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence

__all__ = ["Heard", "Prober", "answer"]

HEADERS_S = 5.0  # within which a request must have come, and its sender have gone
PARENT_S = 1.0  # how often it is asked whose child this is
MOST_CLIENTS = 256  # beyond them the oldest goes: who connects and says nothing cannot keep a probe out
MOST_BYTES = 8192  # of a request
PATHS = {"/healthz": "live", "/readyz": "ready"}
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}

Found = tuple[str, str | None]
Beat = tuple[float, dict[str, list[Found]]]
"""When a voice spoke, and what its checks of each kind found."""


class Heard:
    """What every voice said last, and whether that is still worth anything."""

    def __init__(self, voices: Sequence[str], silent_s: float) -> None:
        self._silent_s = silent_s
        self._last: dict[str, Beat | None] = dict.fromkeys(voices)

    def hear(self, line: bytes) -> None:
        """One beat of a voice."""
        said = json.loads(line)
        self._last[said["voice"]] = said["at_s"], {kind: said[kind] for kind in PATHS.values()}

    def checks(self, kind: str, now_s: float) -> list[Found]:
        """Name of every "live" or "ready" check, and what is wrong (None: nothing); that a voice speaks is one."""
        found: list[Found] = []
        for voice, beat in self._last.items():
            if beat is None:
                found.append((voice, "has not begun"))
                continue
            at_s, told = beat
            age_s = now_s - at_s
            if age_s > self._silent_s:
                found.append(
                    (voice, f"hangs: it was last heard {age_s:.0f} s ago, at most {self._silent_s:g} s are normal")
                )
                continue
            found.append((voice, None))
            found += told[kind]
        return found


def answer(request: bytes, heard: Heard, now_s: float) -> bytes:
    """The whole answer to a request of which all headers have come."""
    line, _, rest = request.partition(b"\r\n")
    words = line.decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return _response(400, "expected a request of HTTP/1.1\n")
    method, target, _ = words
    path, _, query = target.partition("?")
    kind = PATHS.get(path)
    if kind is None:
        return _response(404, f"expected {' or '.join(PATHS)}\n")
    if method not in ("GET", "HEAD"):
        return _response(405, "expected GET\n", "Allow: GET, HEAD\r\n")
    found = heard.checks(kind, now_s)
    failing = [name for name, problem in found if problem is not None]
    if any(h.startswith(b"accept:") and b"application/json" in h for h in rest.lower().split(b"\r\n")):
        states = [{"name": name, "ok": problem is None, "problem": problem} for name, problem in found]
        text, form = json.dumps({"ok": not failing, "checks": states}), "application/json"
    else:
        lines = [f"[+]{name} ok" if problem is None else f"[-]{name}: {problem}" for name, problem in found]
        verdict = f"failing: {', '.join(failing)}" if failing else "ok"
        shown = [*lines, verdict] if failing or query.partition("=")[0] == "verbose" else [verdict]
        text, form = "\n".join(shown) + "\n", "text/plain; charset=utf-8"
    return _response(503 if failing else 200, text, form=form, head=method == "HEAD")


def _response(
    status: int, text: str, more: str = "", *, form: str = "text/plain; charset=utf-8", head: bool = False
) -> bytes:
    body = text.encode()
    headers = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {form}\r\nContent-Length: {len(body)}\r\n{more}"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return headers.encode() + (b"" if head else body)


class Client:
    """A connection: what has come of its request, whether it was answered, and when it must be over."""

    __slots__ = ("answered", "data", "until_s")

    def __init__(self, until_s: float) -> None:
        self.data, self.answered, self.until_s = b"", False, until_s


class Prober:
    """Answers at a listening socket what it hears on a channel."""

    def __init__(self, listening: socket.socket, channel: socket.socket, heard: Heard) -> None:
        self._listening, self._channel, self._heard = listening, channel, heard
        self._clients: dict[socket.socket, Client] = {}  # in the order in which they came
        self._line = b""
        self._selector = selectors.DefaultSelector()
        for one in (listening, channel):
            one.setblocking(False)
            self._selector.register(one, selectors.EVENT_READ)

    def serve(self, parent: int) -> None:
        """Until the channel closes or the process has another parent than this one."""
        while os.getppid() == parent:
            for key, _ in self._selector.select(PARENT_S):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if one is self._channel:
                    if not self._hear():
                        return
                elif one is self._listening:
                    self._accept()
                elif one in self._clients:  # or it had to go a moment ago
                    self._read(one, self._clients[one])
            now_s = time.monotonic()
            while self._clients and next(iter(self._clients.values())).until_s <= now_s:
                self._end(next(iter(self._clients)))

    def _hear(self) -> bool:
        """Take what was said; False when nothing more can come."""
        try:
            data = self._channel.recv(65_536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._heard.hear(line)
        return bool(data)

    def _accept(self) -> None:
        for _ in range(MOST_CLIENTS):
            try:
                one, _address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError:  # it has gone already, or there are no more descriptors
                if self._clients:
                    self._end(next(iter(self._clients)))
                return
            if len(self._clients) >= MOST_CLIENTS:
                self._end(next(iter(self._clients)))
            one.setblocking(False)
            self._clients[one] = Client(time.monotonic() + HEADERS_S)
            self._selector.register(one, selectors.EVENT_READ)
            self._read(one, self._clients[one])  # most send at once

    def _read(self, one: socket.socket, client: Client) -> None:
        try:
            data = one.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(one)
        elif not client.answered:
            client.data += data
            if b"\r\n\r\n" in client.data:
                self._answer(one, client, answer(client.data, self._heard, time.monotonic()))
            elif len(client.data) > MOST_BYTES:
                self._answer(one, client, _response(400, f"expected headers of at most {MOST_BYTES} bytes\n"))

    def _answer(self, one: socket.socket, client: Client, response: bytes) -> None:
        """Answers fit into the buffer of a connection. Then its client closes it: closing first could cut it off."""
        client.answered, client.data = True, b""
        try:
            one.sendall(response)
            one.shutdown(socket.SHUT_WR)
        except OSError:
            self._end(one)

    def _end(self, one: socket.socket) -> None:
        del self._clients[one]
        self._selector.unregister(one)
        one.close()


def main(listening: str, channel: str, parent: str, silent_s: str, *voices: str) -> None:
    """Serve what was inherited; ends of terminals and groups are the parent's matter, and this process ends with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    heard = Heard(voices, float(silent_s))
    Prober(socket.socket(fileno=int(listening)), socket.socket(fileno=int(channel)), heard).serve(int(parent))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(*sys.argv[1:])
