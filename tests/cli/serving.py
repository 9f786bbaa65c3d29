"""`harmony serve` as a process of its own, as a person starts it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600.0  # a busy machine takes its time to import and to live through a demo's past


@dataclass
class Served:
    """The process, where it answers, and what it has written."""

    process: subprocess.Popen[str]
    url: str
    greeting: str
    errors: list[str]
    probes: int = 0  # the port for them, where one was given

    def stop(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, for values: a container has its ports to itself."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in found]


@contextlib.contextmanager
def harmony_serve(*words: str) -> Iterator[Served]:
    """Start it on a free port and wait for its greeting."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HARMONY_")}

    process = subprocess.Popen(
        [sys.executable, "-m", "harmony.cli", "serve", *words, "--port", "0"],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reading = threading.Thread(target=errors.extend, args=(process.stderr,))
    reading.start()
    try:
        greeting = ""
        for line in process.stdout:
            greeting += line
            if line.startswith("Stop with"):
                break
        found = re.search(r"dashboard +(http://\S+?)/?\s", greeting)
        assert found, greeting + "".join(errors)
        yield Served(process, found[1], greeting, errors)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        reading.join(PATIENCE_S)
        process.stdout.close()
        process.stderr.close()


def eventually(ask: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """The first answer that is not false."""
    until_s = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < until_s, "did not come to pass"
        time.sleep(0.1)
    return answer


def health(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(served.url + "/healthz", timeout=30).json()
    return found
