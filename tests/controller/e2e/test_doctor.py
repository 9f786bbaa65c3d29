"""`harmony doctor` in a healthy world and with each thing broken: what it says, what would help, how it exits."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.doctor import Finding, examine
from controller.process.settings import ControllerSettings, PrometheusSettings
from harmony.cli.main import run
from tests.controller.e2e.parts import another
from tests.controller.e2e.world import GROUP, NAME, NAMESPACE, World, autoscaler
from tests.kube.server import FakeApiServer
from tests.prom.real import free_port

Json = dict[str, Any]
ABOUT = f"GPUAutoscaler {NAMESPACE}/{NAME}"
HPAS = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gpuautoscalers.autoscaling.harmony-autoscaler.io"


def hpa(name: str, metric: Json, **spec: Any) -> Json:
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"scaleTargetRef": ref, "minReplicas": 1, "maxReplicas": 20, "metrics": [metric], **spec},
    }


CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
OUR_FIGURE = {
    "type": "External",
    "external": {
        "metric": {"name": "s0-harmony-serving-chat"},
        "target": {"type": "AverageValue", "averageValue": "1"},
    },
}


def examined(
    api: FakeApiServer,
    folder: Path,
    break_it: Callable[[World], None] = lambda _: None,
    change: Callable[[ControllerSettings], ControllerSettings] = lambda s: s,
    mode: str = "Full",
    token_review: bool = False,
    **spec: Any,
) -> list[Finding]:
    """The findings in a world with one service, after something was broken."""

    async def whole() -> list[Finding]:
        world = World(api, folder)
        async with world.running():
            world.create(autoscaler(mode, **spec))
            await asyncio.to_thread(break_it, world)
            api.clear_calls()
            found = [f async for f in examine(change(world.settings(leader_elect=True)), token_review=token_review)]
        changed = [c for c in api.calls_by("controller") if c.verb not in ("get", "list", "watch") and c.resource]
        assert {c.resource for c in changed} <= {"selfsubjectaccessreviews"}, "a doctor touches nothing"
        return found

    return asyncio.run(whole())


def the(findings: list[Finding], verdict: str, about: str = "") -> Finding:
    """The only finding of a verdict (about something)."""
    found = [f for f in findings if f.verdict == verdict and about in f.about]
    assert len(found) == 1, findings
    return found[0]


def test_a_healthy_world(fake_api: FakeApiServer, tmp_path: Path) -> None:
    findings = examined(fake_api, tmp_path)
    assert [f.verdict for f in findings] == ["ok"] * len(findings), findings
    texts = {f.about: f.text for f in findings}
    assert {"API server", "CRD", "permissions", "Prometheus", ABOUT} <= set(texts)
    assert "tokens" not in texts, "nobody asked"
    assert any(f.text == "Deployment chat: 4 current, 4 ready" for f in findings)
    assert any(f.text == "indicator running: Fresh" for f in findings)


def test_no_crd(fake_api: FakeApiServer, tmp_path: Path) -> None:
    findings = examined(fake_api, tmp_path, lambda w: w.api.must("DELETE", CRD))
    found = the(findings, "warning", "CRD")
    assert "not installed" in found.text
    assert "harmony crd | kubectl apply" in found.cure
    assert not [f for f in findings if f.verdict == "failed"], "annotated objects work without"


def test_a_crd_that_is_older(fake_api: FakeApiServer, tmp_path: Path) -> None:
    def age(world: World) -> None:
        crd = world.api.must("GET", CRD)
        spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        del spec["properties"]["capacityBuffer"]
        spec.pop("x-kubernetes-validations", None)
        world.api.must("PUT", CRD, crd)

    found = the(examined(fake_api, tmp_path, age), "warning", "CRD")
    assert "older" in found.text
    assert "capacityBuffer" in found.text


@pytest.mark.parametrize(
    ("verb", "resource", "verdict", "said"),
    [
        ("update", "deployments/scale", "failed", "update deployments/scale"),
        ("patch", "gpuautoscalers/status", "failed", "patch gpuautoscalers/status"),
        ("create", "events", "failed", "create events"),
        ("update", "leases", "failed", "update the lease harmony-controller"),
        ("list", "nodes", "warning", "start-up times are not told apart by GPU type"),
        ("patch", "horizontalpodautoscalers", "warning", "mode Floor"),
    ],
)
def test_a_permission_is_missing(
    fake_api: FakeApiServer, tmp_path: Path, verb: str, resource: str, verdict: str, said: str
) -> None:
    plain, _, sub = resource.partition("/")

    def deny(world: World) -> None:
        rules: list[Json] = []
        for group, names in (
            ("", ["pods", "nodes"]),
            ("apps", ["deployments", "statefulsets", "deployments/scale", "statefulsets/scale"]),
            ("autoscaling", ["horizontalpodautoscalers"]),
            ("keda.sh", ["scaledobjects"]),
            ("events.k8s.io", ["events"]),
            ("coordination.k8s.io", ["leases"]),
            ("leaderworkerset.x-k8s.io", ["leaderworkersets", "leaderworkersets/scale"]),
            ("autoscaling.harmony-autoscaler.io", ["gpuautoscalers", "gpuautoscalers/status"]),
            ("apiextensions.k8s.io", ["customresourcedefinitions"]),
        ):
            for name in names:
                verbs = ["get", "list", "watch", "create", "update", "patch"]
                if name == resource:
                    verbs.remove(verb)
                rules.append({"apiGroups": [group], "resources": [name], "verbs": verbs})
        fake_api.enforce(rules)

    assert plain
    assert sub in ("", "scale", "status")
    found = the(examined(fake_api, tmp_path, deny), verdict, "permissions")
    assert said in found.text
    assert found.cure


@pytest.mark.parametrize("allowed", [True, False])
def test_the_right_to_review_tokens_is_looked_at_where_it_is_needed(
    fake_api: FakeApiServer, tmp_path: Path, allowed: bool
) -> None:
    def grant(world: World) -> None:
        everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch", "update", "patch"]}
        events = {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}
        tokens = {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
        fake_api.enforce([everything, events, *([tokens] if allowed else [])])

    findings = examined(fake_api, tmp_path, grant, token_review=True)
    assert [f.verdict for f in findings if f.about == "permissions"] == ["ok"]
    found = the(findings, "ok" if allowed else "failed", "tokens")
    assert bool(found.cure) != allowed
    assert allowed or "may not create tokenreviews" in found.text


def test_prometheus_is_down(fake_api: FakeApiServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    findings = examined(
        fake_api, tmp_path, change=lambda s: dataclasses.replace(s, prometheus=PrometheusSettings(url, timeout_s=2.0))
    )
    found = the(findings, "failed", "Prometheus")
    assert "is Prometheus running?" in found.text
    about = the(findings, "failed", ABOUT)
    assert "indicator running" in about.text


def test_a_query_that_returns_nothing(fake_api: FakeApiServer, tmp_path: Path) -> None:
    indicators = [{"name": "running", "query": "sum(misspelt_metric)", "level": 1}]
    found = the(examined(fake_api, tmp_path, indicators=indicators), "failed", ABOUT)
    assert "returns no series" in found.text
    assert found.cure == "run the query in Prometheus and mend it"


def test_a_service_that_nothing_could_wake_from_0(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """Its demand is read from its own pods; where requests arrive it would be seen without any."""
    own = [{"name": "running", "query": "sum(vllm:num_requests_running)", "level": 1}]
    findings = examined(fake_api, tmp_path, indicators=own, minReplicas=0)
    found = the(findings, "warning", ABOUT)
    assert "minReplicas 0 is held at 1: running is read from the pods themselves" in found.text
    assert "gateway" in found.text + found.cure


def test_a_service_that_its_gateway_can_wake_from_0(fake_api: FakeApiServer, tmp_path: Path) -> None:
    arrive = [{"name": "arrivals", "query": "sum(rate(istio_requests_total[2m]))", "level": 1}]
    findings = examined(fake_api, tmp_path, indicators=arrive, minReplicas=0)
    assert not [f for f in findings if f.verdict == "warning"], findings


def test_a_query_that_prometheus_refuses(fake_api: FakeApiServer, tmp_path: Path) -> None:
    indicators = [{"name": "running", "query": "sum(rate(x[5m])", "level": 1}]
    found = the(examined(fake_api, tmp_path, indicators=indicators), "failed", ABOUT)
    assert "refused the query" in found.text


def test_the_target_is_missing(fake_api: FakeApiServer, tmp_path: Path) -> None:
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}"
    found = the(examined(fake_api, tmp_path, lambda w: w.api.must("DELETE", path)), "failed", ABOUT)
    assert found.text == f"Deployment {NAMESPACE}/{NAME} does not exist"
    assert "scaleTargetRef" in found.cure


def test_a_target_of_an_unknown_kind(fake_api: FakeApiServer, tmp_path: Path) -> None:
    ref = {"apiVersion": "apps/v1", "kind": "Deploiment", "name": NAME}
    found = the(examined(fake_api, tmp_path, scaleTargetRef=ref), "failed", ABOUT)
    assert "Deploiment" in found.text


def test_a_rival_autoscaler(fake_api: FakeApiServer, tmp_path: Path) -> None:
    findings = examined(fake_api, tmp_path, lambda w: w.api.must("POST", HPAS, hpa("by-cpu", CPU)), mode="UpOnly")
    found = the(findings, "failed", ABOUT)
    assert f"HorizontalPodAutoscaler {NAMESPACE}/by-cpu scales the same target" in found.text
    assert "Floor" in found.cure


def test_an_autoscaler_that_may_stay_for_now(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """The first step on a cluster that has an HPA already: nothing is wrong with that."""
    findings = examined(fake_api, tmp_path, lambda w: w.api.must("POST", HPAS, hpa("by-cpu", CPU)), mode="Recommend")
    assert not [f for f in findings if f.verdict != "ok"], findings
    assert any("may stay in mode Recommend" in f.text for f in findings)


def test_an_hpa_whose_tolerance_swallows_our_figure(fake_api: FakeApiServer, tmp_path: Path) -> None:
    def make(world: World) -> None:
        world.api.must("POST", HPAS, hpa("by-harmony", OUR_FIGURE))

    found = the(examined(fake_api, tmp_path, make, actuation="External"), "warning", "by-harmony")
    assert "tolerance" in found.text
    assert "behavior.scaleUp.tolerance" in found.cure


def test_an_hpa_without_tolerance_is_fine(fake_api: FakeApiServer, tmp_path: Path) -> None:
    def make(world: World) -> None:
        behavior = {"scaleUp": {"tolerance": "0"}, "scaleDown": {"tolerance": "0"}}
        world.api.must("POST", HPAS, hpa("by-harmony", OUR_FIGURE, behavior=behavior))

    findings = examined(fake_api, tmp_path, make, actuation="External")
    assert not [f for f in findings if f.verdict != "ok"], findings


def test_an_object_that_cannot_be_served(fake_api: FakeApiServer, tmp_path: Path) -> None:
    def spoil(world: World) -> None:
        notes = {"autoscaling.harmony-autoscaler.io/paused-replicas": "many"}
        world.api.must(
            "PATCH", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/{NAME}", {"metadata": {"annotations": notes}}
        )
        world.create(another(autoscaler("Full"), "fine"))

    findings = examined(fake_api, tmp_path, spoil)
    found = the(findings, "failed", ABOUT)
    assert "paused-replicas" in found.text
    assert [f for f in findings if f.about.endswith("/fine") and f.verdict == "ok"], "others are looked at all the same"


def test_a_floor_that_nobody_keeps(fake_api: FakeApiServer, tmp_path: Path) -> None:
    def leave(world: World) -> None:
        made = hpa("floored", CPU, minReplicas=7)
        made["spec"]["scaleTargetRef"]["name"] = "other"
        prefix = "autoscaling.harmony-autoscaler.io"
        made["metadata"]["annotations"] = {f"{prefix}/original-min-replicas": "2", f"{prefix}/floor-replicas": "7"}
        world.api.must("POST", HPAS, made)

    found = the(examined(fake_api, tmp_path, leave), "warning", "floored")
    assert "floor of 7" in found.text
    assert "2" in found.text


# ---- on the command line ------------------------------------------------------------------------------------------
def doctor(world: World, *arguments: str) -> int:
    kubeconfig = world.api.kubeconfig(world.folder / "kubeconfig")
    return run(["doctor", "--kubeconfig", str(kubeconfig), "--prometheus-url", world.prometheus_url, *arguments])


def test_exit_codes_and_outputs(fake_api: FakeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def whole() -> None:
        world = World(fake_api, tmp_path)
        async with world.running():
            world.create(autoscaler())
            assert await asyncio.to_thread(doctor, world) == 0
            text = capsys.readouterr().out
            assert "[ok]" in text
            assert "0 failed, 0 warnings" in text

            assert await asyncio.to_thread(doctor, world, "--json") == 0
            told = json.loads(capsys.readouterr().out)
            assert told["failed"] == 0
            assert {f["verdict"] for f in told["findings"]} == {"ok"}

            world.api.must("DELETE", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}")
            assert await asyncio.to_thread(doctor, world) == 1
            text = capsys.readouterr().out
            assert f"[FAILED]  {ABOUT}: Deployment {NAMESPACE}/{NAME} does not exist" in text
            assert "-> check spec.scaleTargetRef" in text
            assert await asyncio.to_thread(doctor, world, "--json") == 1
            assert json.loads(capsys.readouterr().out)["failed"] == 1

            assert await asyncio.to_thread(doctor, world, "--prometheus-query-param", "tenant") == 2
            assert "expected KEY=VALUE" in capsys.readouterr().err

    asyncio.run(whole())


def test_an_api_server_that_cannot_be_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeApiServer() as gone:
        kubeconfig = gone.kubeconfig(tmp_path / "kubeconfig")
    assert run(["doctor", "--kubeconfig", str(kubeconfig)]) == 1
    out = capsys.readouterr().out
    assert "[FAILED]  API server:" in out
    assert "-> check address" in out
    assert run(["doctor", "--kubeconfig", str(tmp_path / "none")]) == 1
    assert "there is no kubeconfig at" in capsys.readouterr().out
