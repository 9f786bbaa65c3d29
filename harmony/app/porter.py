"""The process at the door of the API's port. It is run as a file, imports nothing but the standard library.

    python -I -S porter.py LISTENING ARRIVALS CHANNEL PARENT HEADERS_S KEEP_ALIVE_S SILENT_S

It accepts every connection. A plain request for health it answers itself, with what the server said last on CHANNEL
(one line of JSON a beat); a connection that brings anything else it hands over through ARRIVALS, with all that has come
still unread. So health never waits for the server's interpreter, and the server's own rules hold for everything else.
The process ends with its parent: when the channel closes, or when somebody else has become its parent.
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
from collections import deque
from collections.abc import Callable

__all__ = ["Porter", "Said"]

PARENT_S = 1.0  # how often it is asked whose child this is, and who has been here for too long
MOST_CLIENTS = 1000  # beyond them the oldest of those that asked for nothing goes
MOST_BYTES = 8192  # of a request that is answered here
MOST_LEAVING = 500  # that wait until the server takes them; further ones are told to come again
AT_ONCE = 64  # connections accepted, or requests of one answered, before others have their turn
SERVERS_OWN = frozenset({
    b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"origin", b"forwarded", b"x-forwarded-proto"
})  # fmt: skip
"""Headers that change the answer, or what comes after it: what they mean is the server's to say."""
NAME = bytes(sorted(b"abcdefghijklmnopqrstuvwxyz0123456789-_"))
TEXT = bytes([9, *range(32, 127), *range(128, 256)])
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\ncache-control: no-store\r\n"
    b"connection: close\r\n\r\n"
)


class Said:
    """The server's answers to who asks for health, and whether they are still worth anything."""

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._at_s = -1.0
        self._hosts: frozenset[str] = frozenset()
        self._answers: dict[str, str] = {}
        self._silent: dict[str, str] = {}

    def hear(self, line: bytes) -> None:
        """One beat: ``at_s``, ``hosts`` to ask for (none: all), ``answers`` by path, and those if ``silent``."""
        said = json.loads(line)
        self._at_s, self._hosts = said["at_s"], frozenset(said["hosts"])
        self._answers, self._silent = said["answers"], said["silent"]

    def answer(self, request: bytes, now_s: float) -> tuple[int, bytes, bool] | None:
        """Length of the request that ``request`` begins with, its answer, and whether the connection stays.

        None for everything that is not plainly a whole request for health, or while the server has said nothing.
        """
        head, whole, _ = request.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        words = line.split(b" ")
        answers = self._answers if now_s - self._at_s <= self._silent_s else self._silent
        if not whole or len(words) != 3 or words[0] != b"GET" or words[2] != b"HTTP/1.1":
            return None
        headers = _headers(lines)
        found = answers.get(words[1].decode("latin-1"))
        if found is None or headers is None or not self._is_host(headers.get(b"host")):
            return None
        wish = headers.get(b"connection", b"").lower()
        if wish not in (b"", b"keep-alive", b"close"):
            return None
        stays = wish != b"close"
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        status, _, rest = found.partition("\r\n")
        own = f"date: {date}\r\n" + ("" if stays else "connection: close\r\n")
        return len(head) + len(whole), f"{status}\r\n{own}{rest}".encode("latin-1"), stays

    def _is_host(self, value: bytes | None) -> bool:
        if value is None:
            return False
        text = value.decode("latin-1").lower()
        host = text.partition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]
        return not self._hosts or host in self._hosts


def _headers(lines: list[bytes]) -> dict[bytes, bytes] | None:
    """Value by name; None where there is anything that is not plain."""
    found: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or not name or name.translate(None, NAME) or value.translate(None, TEXT):
            return None
        if name in found or name in SERVERS_OWN:
            return None
        found[name] = value.strip(b" \t")
    return found


class Client:
    """A connection that is still here: when it must be over, and whether all that is left to come is its end."""

    __slots__ = ("over", "until_s")

    def __init__(self, until_s: float) -> None:
        self.until_s, self.over = until_s, False


class Porter:
    """Accepts at a listening socket, answers who asks for health, and hands over the others."""

    def __init__(
        self,
        listening: socket.socket,
        arrivals: socket.socket,
        channel: socket.socket,
        said: Said,
        headers_s: float,
        keep_alive_s: float,
    ) -> None:
        self._listening, self._arrivals, self._channel, self._said = listening, arrivals, channel, said
        self._headers_s, self._keep_alive_s = headers_s, keep_alive_s
        self._clients: dict[socket.socket, Client] = {}  # in the order in which they came
        self._leaving: deque[socket.socket] = deque()  # that the server has had no room for yet
        self._line = b""
        self._ends = False
        self._selector = selectors.DefaultSelector()
        for one, does in ((listening, self._accept), (channel, self._hear)):
            one.setblocking(False)
            self._selector.register(one, selectors.EVENT_READ, does)
        arrivals.setblocking(False)

    def serve(self, parent: int) -> None:
        """Until the channel closes or the process has another parent than this one."""
        swept_s = time.monotonic()
        while not self._ends and os.getppid() == parent:
            for key, _ in self._selector.select(PARENT_S):
                does: Callable[[], None] | None = key.data
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if does is not None:
                    does()
                elif one in self._clients:  # or it had to go a moment ago
                    self._look(one, self._clients[one])
            now_s = time.monotonic()
            if now_s - swept_s >= PARENT_S:
                swept_s = now_s
                for one in [one for one, client in self._clients.items() if client.until_s <= now_s]:
                    self._end(one)

    def _hear(self) -> None:
        """Take what the server said; nothing more can come where the channel has closed."""
        try:
            data = self._channel.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._ends = not data
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._said.hear(line)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                one, _address = self._listening.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError:  # there are no more descriptors
                if self._clients:
                    self._end(next(iter(self._clients)))
                elif self._leaving:
                    _refuse(self._leaving.pop())
                return
            if len(self._clients) >= MOST_CLIENTS:
                self._end(next(iter(self._clients)))
            one.setblocking(False)
            client = self._clients[one] = Client(time.monotonic() + self._headers_s)
            self._selector.register(one, selectors.EVENT_READ)
            self._look(one, client)  # most send at once

    def _look(self, one: socket.socket, client: Client) -> None:
        """Answer what is asked, as often as it is, and hand over what is not ours; a connection that breaks ends."""
        try:
            self._serve(one, client)
        except BlockingIOError:  # no more has come
            return
        except OSError:
            if one in self._clients:
                self._end(one)

    def _serve(self, one: socket.socket, client: Client) -> None:
        for _ in range(AT_ONCE):
            data = one.recv(MOST_BYTES, socket.MSG_PEEK)
            if not data:
                self._end(one)
                return
            if client.over:
                one.recv(len(data))
                continue
            found = self._said.answer(data, time.monotonic())
            if found is None:
                self._hand_over(one)
                return
            length, response, stays = found
            one.recv(length)
            if not _fits(one, response):
                self._end(one)
                return
            client.until_s = time.monotonic() + (self._keep_alive_s if stays else self._headers_s)
            if not stays:  # then the client closes it: closing first could cut the answer off
                client.over = True
                one.shutdown(socket.SHUT_WR)

    def _hand_over(self, one: socket.socket) -> None:
        del self._clients[one]
        self._selector.unregister(one)
        if len(self._leaving) >= MOST_LEAVING:
            _refuse(one)
            return
        self._leaving.append(one)
        if len(self._leaving) == 1:
            self._leave()

    def _leave(self) -> None:
        """Those whose turn it is go to the server; the others when it has taken some."""
        waits = False
        while self._leaving and not waits:
            one = self._leaving[0]
            try:
                socket.send_fds(self._arrivals, [b"."], [one.fileno()])
            except BlockingIOError:
                waits = True
                continue
            except OSError:  # more descriptors are on their way than the system allows
                _refuse(one)
            self._leaving.popleft().close()
        known = self._arrivals in self._selector.get_map()
        if waits and not known:
            self._selector.register(self._arrivals, selectors.EVENT_WRITE, self._leave)
        elif known and not waits:
            self._selector.unregister(self._arrivals)

    def _end(self, one: socket.socket) -> None:
        del self._clients[one]
        self._selector.unregister(one)
        one.close()


def _fits(one: socket.socket, response: bytes) -> bool:
    """Send it; False where the buffer is full, because its client asks and never reads."""
    try:
        return one.send(response) == len(response)
    except BlockingIOError:
        return False


def _refuse(one: socket.socket) -> None:
    """Tell a client to come again."""
    with contextlib.suppress(OSError):
        one.send(TOO_MANY)
    one.close()


def main(listening: str, arrivals: str, channel: str, parent: str, *seconds: str) -> None:
    """Serve what was inherited; ends of terminals and groups are the parent's matter, and this process ends with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    headers_s, keep_alive_s, silent_s = map(float, seconds)
    door, out, told = (socket.socket(fileno=int(fd)) for fd in (listening, arrivals, channel))
    Porter(door, out, told, Said(silent_s), headers_s, keep_alive_s).serve(int(parent))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(*sys.argv[1:])
