"""`RealPrometheus`: Debian's Prometheus on loopback, with data of any date, started and hurt as a test likes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests import kinds

INSTALL = "Prometheus is not installed: apt-get install prometheus"


def need_prometheus() -> None:
    """Skip the test with what to install where there is no Prometheus; in CI (CI=true) that is a failure."""
    if shutil.which("prometheus") and shutil.which("promtool"):
        return
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(INSTALL)
    pytest.skip(INSTALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def openmetrics(samples: Iterable[tuple[str, float, str]]) -> str:
    """OpenMetrics text of (series, Unix time, value) such as ``('rps{pod="a"}', 1700000000, "3")``, in that order."""
    return "".join(f"{series} {value} {at:.3f}\n" for series, at, value in samples) + "# EOF\n"


class RealPrometheus:
    """One Prometheus process of a test's own; ``with RealPrometheus(folder, targets={"job": "host:port"}) as prom``."""

    def __init__(
        self,
        folder: Path,
        *,
        targets: Mapping[str, str] | None = None,
        scrape_interval: str = "1s",
        retention: str = "10y",
        flags: Iterable[str] = (),
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._flags = list(flags)
        self._retention = retention
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.configure(targets or {}, scrape_interval)

    def configure(self, targets: Mapping[str, str], scrape_interval: str = "1s") -> None:
        """Write the configuration; call `reload` for it to be read by a running process."""
        lines = [f"global: {{scrape_interval: {scrape_interval}, scrape_timeout: {scrape_interval}}}"]
        lines += ["scrape_configs:"] if targets else ["scrape_configs: []"]
        lines += [
            f"  - {{job_name: {job}, static_configs: [{{targets: ['{address}']}}]}}" for job, address in targets.items()
        ]
        (self.folder / "prometheus.yml").write_text("\n".join(lines) + "\n")

    def load(self, text: str) -> None:
        """Put back-dated data (OpenMetrics text with times) into the store; before `start`."""
        source = self.folder / "data.om"
        source.write_text(text)
        command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(source), str(self.folder / "tsdb")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> Self:
        kinds.starting("prometheus")
        command = [
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'tsdb'}",
            f"--storage.tsdb.retention.time={self._retention}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-lifecycle",
            "--web.enable-remote-write-receiver",
            *self._flags,
        ]
        with (self.folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.folder / "prometheus.log").read_text()[-2000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=1):
                return self
            time.sleep(0.05)
        raise AssertionError("Prometheus did not become ready: " + (self.folder / "prometheus.log").read_text()[-2000:])

    def reload(self) -> None:
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/-/reload", method="POST"), timeout=30):
            pass

    def pause(self) -> None:
        """SIGSTOP: connections are still accepted by the kernel, nobody answers."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status")
        while status.exists() and "T (stopped)" not in status.read_text():
            time.sleep(0.01)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer does; `start` brings it back with its data."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)
        self._process = None

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
