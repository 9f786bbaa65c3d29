"""`harmony serve --cluster`: the controller, its API and its journal in one process, against an API server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from harmony.client import Client
from tests.cli.serving import PATIENCE_S, ROOT, eventually, harmony_serve, health
from tests.cli.test_controller_cli import in_world, where
from tests.controller.e2e.world import NAME, NAMESPACE, World
from tests.kube.fixtures import fake_api
from tests.kube.server import FakeApiServer
from tests.prom.real import need_prometheus

__all__ = ["fake_api"]

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

SERVICE = f"{NAMESPACE}/{NAME}"


@pytest.fixture(autouse=True)
def _prometheus() -> None:
    need_prometheus()


def test_it_scales_and_shows_records_and_explains_what_it_did(fake_api: FakeApiServer, tmp_path: Path) -> None:
    def test(world: World) -> None:
        world.patch({"minReplicas": 6})
        words = ["--cluster", "--interval", "1s", "--journal", f"sqlite:///{tmp_path}/j.db", *where(world)]
        with harmony_serve(*words) as served, Client(served.url) as client:
            shown = eventually(lambda: next(client.services(), None))
            assert (shown.service, shown.target) == (SERVICE, f"Deployment {NAME}")
            eventually(lambda: world.replicas == 6)
            (decision,) = eventually(lambda: list(client.decisions(SERVICE, 1)))
            told = client.explanation(decision.id or "")
            assert (told.same, told.problem) == (True, "")
            assert health(served)["status"] == "ok"
            page = httpx.get(f"{served.url}/services/{SERVICE}", timeout=30)
            assert page.status_code == 200
            assert "<h1>serving/chat</h1>" in page.text
            metrics = httpx.get(served.url + "/api/v1/metrics", timeout=30).text
            assert "harmony_desired_replicas" in metrics
            assert served.stop() == 0

    in_world(fake_api, tmp_path, test, mode="Full")


def test_a_cluster_that_is_not_there_is_one_line() -> None:
    command = [sys.executable, "-m", "harmony.cli", "serve", "--cluster", "--kubeconfig", "/nowhere/config"]
    command += ["--prometheus-url", "http://127.0.0.1:9", "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "harmony: there is no kubeconfig at /nowhere/config\n"
