"""The container that the chart describes, started with exactly its arguments, under exactly its role."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.cli.serving import PATIENCE_S, ROOT, eventually, free_ports
from tests.cli.test_controller_cli import in_world
from tests.controller.e2e.world import NAME, NAMESPACE, World
from tests.helm.chart import JOURNAL_FOLDER, RELEASE, container, documents, environment
from tests.helm.chart import NAMESPACE as RELEASE_NAMESPACE
from tests.helm.rbac import granted_rules
from tests.journal.postgres import RealPostgres, need_postgres
from tests.kube.fixtures import fake_api
from tests.kube.server import FakeApiServer
from tests.prom.real import need_prometheus

__all__ = ["fake_api"]

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

SERVICE = f"/api/v1/services/{NAMESPACE}/{NAME}"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{RELEASE_NAMESPACE}/leases/{RELEASE}-controller"
MONITORING = "system:serviceaccounts:monitoring"


@pytest.fixture(autouse=True)
def _prometheus() -> None:
    need_prometheus()


@dataclass
class Pod:
    """One pod of a release: its values, its process, and what it has written."""

    values: dict[str, Any]
    env: dict[str, str]
    args: list[str]
    process: subprocess.Popen[str]
    log: Path

    def get(self, port: int, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=30)

    def ask(self, path: str, **headers: str) -> httpx.Response:
        """A request to the API."""
        return self.get(self.values["api"]["port"], path, **headers)

    def probe(self, path: str) -> bool:
        """As the kubelet judges."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get(self.values["controller"]["ports"]["health"], path).status_code == 200
        except httpx.TransportError:
            return False

    def metrics(self) -> str:
        return self.get(self.values["controller"]["ports"]["metrics"], "/metrics").text

    def leads(self) -> bool:
        return "\nharmony_leader 1.0\n" in self.metrics()

    def execute(self, *words: str) -> str:
        """``kubectl exec deploy/harmony-controller -- harmony WORDS``."""
        command = [sys.executable, "-m", "harmony.cli", *words]
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> int:
        """As the kubelet ends it."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def values_of(world: World, **api: Any) -> dict[str, Any]:
    """What a user sets, on ports of this machine."""
    port, metrics, health, keda = free_ports(4)
    return {
        "api": {"enabled": True, "port": port, **api},
        "controller": {"ports": {"metrics": metrics, "health": health}, "interval": "1s"},
        "keda": {"enabled": True, "port": keda},
        "prometheus": {"url": world.prometheus_url},
    }


@contextlib.contextmanager
def pod(world: World, values: dict[str, Any], volume: Path, secrets: dict[str, str]) -> Iterator[Pod]:
    """Start the container: its arguments as they are; ``volume`` stands where the chart mounts the journal's."""
    spec = container(documents(values))
    told = environment(spec, secrets)
    told = {name: text.replace(JOURNAL_FOLDER, str(volume)) for name, text in told.items()}
    ours = {name: text for name, text in os.environ.items() if not name.startswith("HARMONY_")}
    kubeconfig = str(world.api.kubeconfig(world.folder / "kubeconfig"))  # in the place of the pod's own account
    env = {**ours, **told, "HARMONY_KUBECONFIG": kubeconfig, "OMP_NUM_THREADS": "1"}
    log = volume / f"{values['api']['port']}.log"
    with log.open("w") as out:
        command = [sys.executable, "-m", "harmony.cli", *spec["args"]]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT, text=True)
        started = Pod(values, env, spec["args"], process, log)
        try:
            eventually(lambda: started.probe("/healthz") and started.probe("/readyz"))
            yield started
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE_S)


def logged(one: Pod) -> list[dict[str, Any]]:
    """The log: one JSON object per line, and nothing else on either stream."""
    return [json.loads(line) for line in one.log.read_text().splitlines()]


def test_a_default_installation_is_ready_keeps_strangers_out_answers_and_remembers_in_its_next_pod(
    fake_api: FakeApiServer, tmp_path: Path
) -> None:
    def test(world: World) -> None:
        world.patch({"minReplicas": 6})
        values = values_of(world, tokenReview={"readGroups": [MONITORING]})
        fake_api.ensure_namespace(RELEASE_NAMESPACE)
        fake_api.enforce([rule.to_json() for rule in granted_rules(values)])
        fake_api.people = {
            "of-grafana": ("system:serviceaccount:monitoring:grafana", ["system:serviceaccounts", MONITORING]),
            "of-a-stranger": ("system:serviceaccount:default:default", ["system:serviceaccounts"]),
        }
        with pod(world, values, tmp_path, {}) as one:
            assert one.args[:2] == ["serve", "--cluster"]
            for headers in ({}, {"x-api-key": "hk_0123456789ab_x"}, {"authorization": "Bearer of-nobody"}):
                assert one.ask("/api/v1/services", **headers).status_code == 401
            assert one.ask("/api/v1/services", authorization="Bearer of-a-stranger").status_code == 403
            assert one.ask("/", accept="text/html").headers["location"] == "/login"

            key = one.execute("keys", "create", "me", "--role", "admin").strip()
            found = eventually(lambda: (r := one.ask(f"{SERVICE}/forecast", **{"x-api-key": key})).is_success and r)
            forecast = found.json()
            assert forecast["horizon"] >= 1
            assert forecast["indicators"], "the forecast query is answered with numbers"
            eventually(lambda: world.replicas == 6)
            (shown,) = one.ask("/api/v1/services", authorization="Bearer of-grafana").json()["items"]
            assert shown["service"] == f"{NAMESPACE}/{NAME}"
            assert one.ask("/api/v1/keys", authorization="Bearer of-grafana").status_code == 403, (
                "readers manage no keys"
            )
            decisions = eventually(lambda: one.ask(f"{SERVICE}/decisions", **{"x-api-key": key}).json()["items"])
            told = one.ask(f"/api/v1/decisions/{decisions[0]['id']}/explanation", **{"x-api-key": key}).json()
            assert told["same"] is True, told

            with httpx.Client(base_url=f"http://127.0.0.1:{values['api']['port']}", timeout=30) as browser:
                origin = {"origin": str(browser.base_url).rstrip("/")}
                assert browser.post("/login", data={"key": key}, headers=origin).status_code == 303
                page = browser.get(f"/services/{NAMESPACE}/{NAME}", headers={"accept": "text/html"})
                assert "<h1>serving/chat</h1>" in page.text

            assert one.leads()
            assert "harmony_desired_replicas" in one.metrics()
            assert world.api.must("GET", LEASE)["spec"]["holderIdentity"]
            socket.create_connection(("127.0.0.1", values["keda"]["port"]), 30).close()
            assert "0 failed" in one.execute("doctor")
            assert one.probe("/healthz")
            assert one.probe("/readyz")
            told = one.get(values["controller"]["ports"]["health"], "/healthz?verbose").text
            assert told == "[+]controller ok\n[+]loop ok\n[+]api ok\n[+]source ok\nok\n", "both event loops are heard"
            assert one.stop() == 0
        assert {"serving", "leading", "tick"} <= {line["message"] for line in logged(one)}
        assert key not in one.log.read_text()
        with pod(world, values, tmp_path, {}) as one:  # the pod is another, and its volume the same
            first = one.ask(f"/api/v1/decisions/{decisions[-1]['id']}", **{"x-api-key": key}).json()
            assert first["id"] == decisions[-1]["id"]
            assert one.ask("/api/v1/services", **{"x-api-key": key}).json()["items"], "shown before the first turn, too"
            assert one.stop() == 0
        calls = fake_api.calls_by("controller")
        refused = [(c.verb, c.resource, c.namespace, c.name) for c in calls if c.code == 403]
        assert refused == [], "everything that is asked for is granted"
        assert ("create", 201) in {(c.verb, c.code) for c in calls if c.resource == "tokenreviews"}

    in_world(fake_api, tmp_path, test, mode="Full")


def test_pods_beside_a_database_answer_alike_and_take_over(fake_api: FakeApiServer, tmp_path: Path) -> None:
    def test(world: World) -> None:
        fake_api.ensure_namespace(RELEASE_NAMESPACE)
        values = [values_of(world, journal={"existingSecret": "journal"}) for _ in range(2)]
        secrets = {"journal": database.database()}
        with pod(world, values[0], tmp_path, secrets) as first:
            eventually(first.leads)
            with pod(world, values[1], tmp_path, secrets) as second:
                key = {"x-api-key": second.execute("keys", "create", "me").strip()}
                for one in (first, second):
                    (shown,) = eventually(lambda one=one: one.ask("/api/v1/services", **key).json().get("items"))
                    assert shown["service"] == f"{NAMESPACE}/{NAME}"
                assert (first.leads(), second.leads()) == (True, False)
                forecast = second.ask(f"{SERVICE}/forecast", **key)
                assert forecast.status_code == 200, "a standby answers from what the leader writes"
                before = second.ask(SERVICE, **key).json()["decision"]["at"]
                eventually(lambda: second.ask(SERVICE, **key).json()["decision"]["at"] > before)
                assert second.ask("/healthz").json()["status"] == "ok"

                assert first.stop() == 0
                eventually(second.leads)
                before, since = second.ask(SERVICE, **key).json()["decision"]["at"], time.monotonic()
                eventually(lambda: second.ask(SERVICE, **key).json()["decision"]["at"] > before)
                assert time.monotonic() - since < PATIENCE_S
                newest = second.ask(f"{SERVICE}/decisions", **key).json()["items"]
                assert len({d["id"] for d in newest}) == len(newest) >= 2, "no turn twice"
                assert second.stop() == 0

    with RealPostgres(need_postgres()) as database:
        in_world(fake_api, tmp_path, test)
