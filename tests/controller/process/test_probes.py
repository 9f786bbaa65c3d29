"""Probes over real HTTP, answered by the real process beside us."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from controller.process import prober
from controller.process.probes import Check, Probes
from forecasting.errors import UsageError

FINE, BROKEN = Check("caches", lambda: None), Check("keda", lambda: "it has ended")
PATIENCE_S = 120.0
Answer = tuple[int, str, dict[str, str]]


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        link.request(method, path, headers=headers)
        reply = link.getresponse()
        return reply.status, reply.read().decode(), dict(reply.getheaders())
    finally:
        link.close()


T = TypeVar("T")


def eventually(look: Callable[[], T], wanted: Callable[[T], bool]) -> T:
    until_s = time.monotonic() + PATIENCE_S
    while not wanted(found := look()):
        assert time.monotonic() < until_s, found
        time.sleep(0.02)
    return found


def begun(probes: Probes, live: Sequence[Check], ready: Sequence[Check]) -> None:
    """Say how things stand until it was heard."""

    def look() -> str:
        probes.say("loop", live, ready)
        return ask(probes.port, "/healthz?verbose")[1]

    eventually(look, lambda text: "has not begun" not in text)


@pytest.fixture
def probes() -> Iterator[Probes]:
    with Probes("127.0.0.1:0", ["loop"], silent_s=PATIENCE_S) as made:
        yield made


def test_before_the_first_word_nothing_is_alive_or_ready(probes: Probes) -> None:
    for path in ("/healthz", "/readyz"):
        assert ask(probes.port, path)[:2] == (503, "[-]loop: has not begun\nfailing: loop\n")


def test_healthy_is_short_and_verbose_and_json_list_the_checks(probes: Probes) -> None:
    begun(probes, [FINE], [FINE, BROKEN])
    status, text, headers = ask(probes.port, "/healthz")
    assert (status, text, headers["Cache-Control"]) == (200, "ok\n", "no-store")
    assert ask(probes.port, "/healthz?verbose")[:2] == (200, "[+]loop ok\n[+]caches ok\nok\n")
    assert ask(probes.port, "/readyz")[:2] == (503, "[+]loop ok\n[+]caches ok\n[-]keda: it has ended\nfailing: keda\n")
    status, text, headers = ask(probes.port, "/readyz", Accept="text/html, application/json")
    assert (status, headers["Content-Type"]) == (503, "application/json")
    assert json.loads(text) == {
        "ok": False,
        "checks": [
            {"name": "loop", "ok": True, "problem": None},
            {"name": "caches", "ok": True, "problem": None},
            {"name": "keda", "ok": False, "problem": "it has ended"},
        ],
    }
    assert ask(probes.port, "/healthz", "HEAD")[:2] == (200, "")
    assert ask(probes.port, "/metrics")[0] == 404
    assert ask(probes.port, "/healthz", "POST")[0] == 405


def test_what_changes_is_heard_and_a_check_that_fails_itself_is_a_failure(probes: Probes) -> None:
    problem: list[str | None] = [None]
    checks = [Check("synced", lambda: problem[0]), Check("short", lambda: "x" * 100_000 if problem[0] else None)]
    begun(probes, [], checks)
    assert ask(probes.port, "/readyz")[0] == 200
    problem[0] = "not yet"
    probes.say("loop", [], checks)
    text = eventually(lambda: ask(probes.port, "/readyz")[1], lambda text: "not yet" in text)
    assert len(text) < 1000
    problem.clear()
    probes.say("loop", [], checks)
    eventually(lambda: ask(probes.port, "/readyz")[1], lambda text: "[-]synced: cannot be told: IndexError" in text)


def test_a_voice_that_falls_silent_hangs_and_recovers_when_it_speaks_again() -> None:
    with Probes("127.0.0.1:0", ["loop", "api"], silent_s=0.5) as probes:
        stop, quiet = threading.Event(), threading.Event()

        def speak() -> None:
            while not stop.wait(0.01):
                probes.say("api", [], [])
                if not quiet.is_set():
                    probes.say("loop", [FINE], [])

        thread = threading.Thread(target=speak)
        thread.start()
        try:
            eventually(lambda: ask(probes.port, "/healthz")[0], lambda status: status == 200)
            quiet.set()
            _, text, _ = eventually(
                lambda: ask(probes.port, "/healthz"), lambda found: "[-]loop: hangs: it was" in found[1]
            )
            assert "caches" not in text, "what it said then counts no more"
            assert ask(probes.port, "/readyz")[0] == 503
            quiet.clear()
            eventually(lambda: ask(probes.port, "/healthz")[0], lambda status: status == 200)
        finally:
            stop.set()
            thread.join()


def test_a_late_message_is_as_old_as_what_it_says() -> None:
    """The process may read what was said long ago; then it was said long ago."""
    heard = prober.Heard(["loop"], 10.0)
    heard.hear(b'{"voice": "loop", "at_s": 100.0, "live": [], "ready": []}')
    assert heard.checks("live", 110.0) == [("loop", None)]
    assert heard.checks("live", 111.0) == [("loop", "hangs: it was last heard 11 s ago, at most 10 s are normal")]


@pytest.mark.parametrize(
    "request_line", [b"GET /healthz", b"\x00\xff", b"GET /healthz HTTP/2 x", b"", b"GET /healthz SPDY/3"]
)
def test_what_is_no_request_is_refused(request_line: bytes) -> None:
    answer = prober.answer(request_line + b"\r\n\r\n", prober.Heard([], 10.0), 0.0)
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_clients_that_say_nothing_or_too_much_keep_nobody_out(probes: Probes) -> None:
    begun(probes, [], [])
    with ExitStack() as stack:
        for i in range(2 * prober.MOST_CLIENTS):
            link = stack.enter_context(socket.create_connection(("127.0.0.1", probes.port), PATIENCE_S))
            if i % 2:
                link.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        assert ask(probes.port, "/healthz")[0] == 200
        link.sendall(b"x" * (2 * prober.MOST_BYTES))
        assert link.recv(100).startswith(b"HTTP/1.1 400 ")
        assert ask(probes.port, "/healthz")[0] == 200


def test_a_process_that_is_killed_begins_again(probes: Probes) -> None:
    begun(probes, [], [])
    first = probes.pid
    os.kill(first, signal.SIGTERM)  # a whole group is told to end: that is its parent's matter
    assert ask(probes.port, "/healthz")[0] == 200
    os.kill(first, signal.SIGKILL)

    def look() -> int:
        probes.say("loop", [], [])
        return probes.pid

    eventually(look, lambda pid: pid != first)
    begun(probes, [], [])
    assert ask(probes.port, "/healthz")[0] == 200


def test_while_nobody_reads_nothing_waits(probes: Probes) -> None:
    begun(probes, [], [])
    first = probes.pid
    long = [Check(str(i), lambda: "x" * 500) for i in range(200)]  # so long that a part of a line fits, and no more
    os.kill(first, signal.SIGSTOP)
    for _ in range(50):
        probes.say("loop", [FINE], long)
    os.kill(first, signal.SIGCONT)

    def look() -> str:
        probes.say("loop", [], [])
        return ask(probes.port, "/readyz")[1]

    eventually(look, lambda text: text == "ok\n")
    assert probes.pid == first, "no line came in pieces that cannot be read"


def test_the_end_frees_the_port_and_a_taken_one_is_said() -> None:
    with Probes("127.0.0.1:0", []) as probes:
        address, pid = f"127.0.0.1:{probes.port}", probes.pid
        with pytest.raises(UsageError, match=r"cannot listen at .*in use.*; free it or choose another address"):
            Probes(address, [])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    probes.say("loop", [], [])  # too late, and no fault
    with Probes(address, []) as again:
        assert ask(again.port, "/healthz")[0] == 200


def is_there(pid: int) -> bool:
    """Whether it runs: what has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


HOLDER = """
import os, subprocess, sys, time
from controller.process.probes import Probes
probes = Probes("127.0.0.1:0", ["loop"], silent_s=1.0)
if os.fork() == 0:  # a copy of the process, which holds the channel open
    time.sleep(600)
print(probes.port, probes.pid, flush=True)
while True:
    probes.say("loop", [], [])
    time.sleep(0.02)
"""


def test_killed_or_hanging_parents_never_look_healthy() -> None:
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as parent:
        assert parent.stdout is not None
        try:
            port, pid = map(int, parent.stdout.readline().split())
            eventually(lambda: ask(port, "/healthz")[0], lambda status: status == 200)
            assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
            os.kill(parent.pid, signal.SIGSTOP)
            eventually(lambda: ask(port, "/healthz")[0], lambda status: status == 503)
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()
            eventually(lambda: is_there(pid), lambda there: not there)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
