"""`harmony controller`, `recommend` and `crd` as a person runs them, against an API server and a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.resource.crd import crd_manifest
from harmony.cli.main import run
from tests.controller.e2e.parts import another
from tests.controller.e2e.world import GROUP, NAME, NAMESPACE, World, autoscaler
from tests.kube.fixtures import fake_api
from tests.kube.server import FakeApiServer
from tests.prom.real import need_prometheus

__all__ = ["fake_api"]

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(autouse=True)
def _prometheus() -> None:
    need_prometheus()


def in_world(api: FakeApiServer, folder: Path, test: Callable[[World], None], mode: str = "Recommend") -> None:
    """Run a test, which waits as it likes, beside a world with one service."""

    async def whole() -> None:
        world = World(api, folder)
        async with world.running():
            world.create(autoscaler(mode))
            api.clear_calls()
            await asyncio.to_thread(test, world)

    asyncio.run(whole())


def where(world: World) -> list[str]:
    kubeconfig = world.api.kubeconfig(world.folder / "kubeconfig")
    return ["--kubeconfig", str(kubeconfig), "--prometheus-url", world.prometheus_url]


def changes(api: FakeApiServer) -> list[Any]:
    """Requests that change something; to ask for one's own permissions does not."""
    reading = ("get", "list", "watch")
    asked = [c for c in api.calls_by("controller") if c.verb not in reading and c.resource]
    return [c for c in asked if c.group != "authorization.k8s.io"]


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run, expect exit code 2 and exactly one line on stderr; returns it."""
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("harmony: ")
    return str(err)


# ---- recommend ----------------------------------------------------------------------------------------------------
def test_recommend_by_name(fake_api: FakeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def test(world: World) -> None:
        assert run(["recommend", NAME, "-n", NAMESPACE, *where(world)]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"{NAMESPACE}/{NAME}: Stay at 4 replicas: " in text
        assert "Stated risk " in text
        assert "objective 5 %" in text
        assert "reason " in text
        assert "stated risk" in text
        assert " 0 %" not in text, "a risk that no path took is below one in so many, not 0"
        assert run(["recommend", NAME, "-n", NAMESPACE, "--json", *where(world)]) == 0
        status = json.loads(capsys.readouterr().out)
        assert status["recommendedReplicas"] == 4
        assert status["lastScaleDecision"]["candidates"]
        assert status["lastScaleDecision"]["paths"] > 0
        assert "status" not in world.autoscaler(), "nothing is written"

    in_world(fake_api, tmp_path, test)
    assert changes(fake_api) == []


def test_recommend_of_a_file_that_is_not_applied(
    fake_api: FakeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = another(autoscaler("Full", minReplicas=9), "candidate")
    del manifest["metadata"]["namespace"]
    path = tmp_path / "candidate.yaml"
    path.write_text("kind: Namespace\n---\n" + yaml.safe_dump(manifest))

    def test(world: World) -> None:
        assert run(["recommend", "-f", str(path), "-n", NAMESPACE, "--json", *where(world)]) == 0
        status = json.loads(capsys.readouterr().out)
        assert status["recommendedReplicas"] == 9
        assert status["writer"] == f"GPUAutoscaler {NAMESPACE}/{NAME}", "the older object keeps the target"
        found = world.api.must("GET", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers")
        assert [o["metadata"]["name"] for o in found["items"]] == [NAME]
        assert world.replicas == 4

    in_world(fake_api, tmp_path, test)
    assert changes(fake_api) == []


def test_recommend_of_a_file_without_a_cluster(
    fake_api: FakeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "candidate.yaml", tmp_path / "rollout.yaml"
    manifest = another(autoscaler("Recommend"), "candidate")
    path.write_text(yaml.safe_dump(manifest))
    manifest["spec"]["scaleTargetRef"] |= {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout"}
    other.write_text(yaml.safe_dump(manifest))
    monkeypatch.setenv("HOME", str(tmp_path / "empty"))
    monkeypatch.delenv("KUBECONFIG", raising=False)

    def test(world: World) -> None:
        for file in (path, other):
            words = [
                "recommend",
                "-f",
                str(file),
                "--replicas",
                "4",
                "--prometheus-url",
                world.prometheus_url,
                "--json",
            ]
            assert run(words) == 0
            out, err = capsys.readouterr()
            assert err == ""
            status = json.loads(out)
            assert status["recommendedReplicas"] == 4
            assert status["lastScaleDecision"]["candidates"]
            assert status["currentReplicas"] == 4
        words = ["recommend", "-f", str(path), "--prometheus-url", world.prometheus_url, "--json"]
        assert run(words) == 0
        out, err = capsys.readouterr()
        assert err.splitlines() == [
            "note: no cluster was found: decided as if 1 replica was ready; --replicas says how many are"
        ]
        assert json.loads(out)["currentReplicas"] == 1
        assert "add --file" in error_line(capsys, "recommend", NAME, "--replicas", "4")

    in_world(fake_api, tmp_path, test)
    assert fake_api.calls_by("controller") == []


def test_recommend_says_what_is_wrong(
    fake_api: FakeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(another(autoscaler("Full", maxReplicas="many"), "bad")))
    torn = tmp_path / "torn.yaml"
    torn.write_text("kind: [")
    empty = tmp_path / "empty.yaml"
    empty.write_text("kind: Deployment\n")

    def test(world: World) -> None:
        at = where(world)
        line = error_line(capsys, "recommend", "chta", "-n", NAMESPACE, *at)
        assert "'chta'" in line
        assert "chat" in line, "the near name is named"
        assert "no GPUAutoscaler" in error_line(capsys, "recommend", NAME, "-n", "default", *at)
        assert "maxReplicas" in error_line(capsys, "recommend", "-f", str(bad), *at)
        assert "not YAML" in error_line(capsys, "recommend", "-f", str(torn), *at)
        assert "no GPUAutoscaler in it" in error_line(capsys, "recommend", "-f", str(empty), *at)
        assert "No such file" in error_line(capsys, "recommend", "-f", str(tmp_path / "none.yaml"), *at)
        assert "NAME" in error_line(capsys, "recommend", *at)

    in_world(fake_api, tmp_path, test)
    assert changes(fake_api) == []


def test_recommend_without_data_is_a_no(
    fake_api: FakeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def test(world: World) -> None:
        world.api.must("DELETE", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}")
        assert run(["recommend", NAME, "-n", NAMESPACE, *where(world)]) == 1
        text = " ".join(capsys.readouterr().out.split())
        assert "does not exist" in text
        assert "no decision could be made" in text

    in_world(fake_api, tmp_path, test)


def test_an_api_server_that_cannot_be_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeApiServer() as gone:
        kubeconfig = str(gone.kubeconfig(tmp_path / "kubeconfig"))
    line = error_line(capsys, "recommend", NAME, "-n", NAMESPACE, "--kubeconfig", kubeconfig)
    assert "connect" in line.lower()
    assert "there is no kubeconfig at" in error_line(capsys, "recommend", NAME, "--kubeconfig", str(tmp_path / "none"))


# ---- crd ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["yaml", "json"])
def test_crd_can_be_applied(fake_api: FakeApiServer, capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    assert run(["crd", *flags]) == 0
    text = capsys.readouterr().out
    manifest = json.loads(text) if flags else yaml.safe_load(text)
    assert manifest == crd_manifest()
    path = f"{CRDS}/{manifest['metadata']['name']}?fieldManager=kubectl"
    code, made = fake_api.request("PATCH", path, text, content_type="application/apply-patch+yaml")
    assert code == 201, made
    fake_api.ensure_namespace(NAMESPACE)
    fake_api.must("POST", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers", autoscaler())
    code, again = fake_api.request("PATCH", path, text, content_type="application/apply-patch+yaml")
    assert code == 200, again
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"], "applied twice, nothing changes"


# ---- controller ---------------------------------------------------------------------------------------------------
def test_controller_with_dry_run_writes_nothing(fake_api: FakeApiServer, tmp_path: Path) -> None:
    def test(world: World) -> None:
        world.patch({"minReplicas": 6})
        fake_api.clear_calls()
        command = [sys.executable, "-c", "from harmony.cli.main import main; main()", "controller", "--dry-run"]
        flags = ["--interval", "1s", "--metrics-address", "127.0.0.1:0"]
        process = subprocess.Popen(
            [*command, *flags, "--health-address", "127.0.0.1:0", *where(world)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        ticks, said_of_chat = [], []
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said = json.loads(line)  # each line of the log is one JSON object
                if said["message"] == "tick":
                    ticks.append(said)
                if said.get("service") == f"GPUAutoscaler {NAMESPACE}/{NAME}":
                    said_of_chat.append(said["message"])
                if len(ticks) == 3:
                    break
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
            process.stdout.close()
            assert process.wait(60) == 0, "SIGTERM is an orderly end"
        assert all(t["decided"] == 1 for t in ticks)
        assert said_of_chat[0].startswith("Up from 4 to 6 replicas: "), "what would have been ordered is told"
        assert world.replicas == 4
        assert "status" not in world.autoscaler()
        assert world.events() == []

    in_world(fake_api, tmp_path, test, mode="Full")
    assert changes(fake_api) == []


BAD_FLAGS = [
    (["--interval", "soon"], "soon"),
    (["--interval", "0s"], "'0s' is no duration"),
    (["--interval", "2h"], "between 1s and 1h"),
    (["--log-format", "xml"], "--log-format 'xml'"),
    (["--log-level", "loud"], "--log-level 'loud'"),
    (["--keda-tls-cert-file", "x.pem"], "give both or neither"),
    (["--prometheus-query-param", "tenant"], "expected KEY=VALUE"),
    (["--prometheus-url", "prometheus:9090:x"], "no address of Prometheus"),
    (["--forecaster", "/nowhere"], "/nowhere"),
    (["--journal", "/nowhere/at/all.jsonl"], "--journal"),
    (["--selector", "a in"], "selector"),
    (["--metrics-address", "nowhere:port"], "nowhere:port"),
    (["--no-such-flag"], "--no-such-flag"),
    (["--kubeconfig", "/nowhere/config"], "there is no kubeconfig at /nowhere/config"),
    (["--context", "other"], "other"),
    (["--prometheus-ca-file", "/nowhere.pem", "--prometheus-url", "https://prometheus:9090"], "/nowhere.pem"),
]
TRY_ALL = """
import contextlib, io, json, sys
from harmony.cli.main import run
for arguments in json.load(sys.stdin):
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        code = run(arguments)
    print(json.dumps([code, told.getvalue()]), flush=True)
"""


def test_bad_flags_end_in_one_line(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """All in one other process, because the command sets logging up for the whole of it."""
    kubeconfig = str(fake_api.kubeconfig(tmp_path / "kubeconfig"))
    quiet = ["--metrics-address", "127.0.0.1:0", "--health-address", "127.0.0.1:0", "--no-leader-elect"]
    tried = [
        ["controller", "--kubeconfig", kubeconfig, "--log-level", "error", *quiet, *flags] for flags, _ in BAD_FLAGS
    ]
    done = subprocess.run(
        [sys.executable, "-c", TRY_ALL],
        input=json.dumps(tried),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (flags, said), (code, told) in zip(BAD_FLAGS, answers, strict=True):
        assert code == 2, flags
        assert told.count("\n") == 1, told
        assert told.startswith("harmony: ")
        assert said in told, (flags, told)
    assert changes(fake_api) == []
