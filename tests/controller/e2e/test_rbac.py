"""What the controller asks of the API server is granted by the chart, and what is granted is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harmony.app.answering import token_reviewer
from tests.controller.e2e.parts import another, orders, ready, status_of
from tests.controller.e2e.world import NAMESPACE, World, autoscaler, deployment
from tests.helm.rbac import allows, granted_rules
from tests.kube.api import Call
from tests.kube.server import FakeApiServer

Json = dict[str, Any]
RELEASE_NAMESPACE = "autoscaling"
ALL_FEATURES: Json = {
    "rbac": {"capacityBuffers": True},
    "controller": {"replicaCount": 2},
    "api": {"enabled": True, "tokenReview": {"readGroups": ["developers"]}},
}
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
HPAS = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
SCALED_OBJECTS = f"/apis/keda.sh/v1alpha1/namespaces/{NAMESPACE}/scaledobjects"
PREFIX = "autoscaling.harmony-autoscaler.io"

GRANTED_BUT_NOT_USED_HERE = {
    ("get", PREFIX, "gpuautoscalers"): "`kubectl auth` and doctors of people ask for it beside list and watch",
    ("get", PREFIX, "gpuautoscalers/status"): "comes with the status verbs; read-modify-write tools need it",
    ("update", PREFIX, "gpuautoscalers/status"): "see get",
    ("get", "apps", "deployments"): "comes with list and watch",
    ("get", "apps", "statefulsets"): "comes with list and watch",
    ("get", "apps", "statefulsets/scale"): "after a conflict; shown for Deployments in test_faults_api",
    ("get", "apps", "deployments/scale"): "after a conflict; see test_faults_api",
    ("patch", "apps", "deployments/scale"): "comes with update",
    ("patch", "apps", "statefulsets/scale"): "comes with update",
    ("get", "leaderworkerset.x-k8s.io", "leaderworkersets"): "comes with list and watch",
    ("list", "leaderworkerset.x-k8s.io", "leaderworkersets"): "no LeaderWorkerSet in this world",
    ("watch", "leaderworkerset.x-k8s.io", "leaderworkersets"): "no LeaderWorkerSet in this world",
    ("get", "leaderworkerset.x-k8s.io", "leaderworkersets/scale"): "no LeaderWorkerSet in this world",
    ("update", "leaderworkerset.x-k8s.io", "leaderworkersets/scale"): "no LeaderWorkerSet in this world",
    ("patch", "leaderworkerset.x-k8s.io", "leaderworkersets/scale"): "no LeaderWorkerSet in this world",
    ("get", "", "pods"): "comes with list and watch",
    ("get", "", "nodes"): "comes with list and watch",
    ("get", "autoscaling", "horizontalpodautoscalers"): "comes with list and watch",
    ("get", "keda.sh", "scaledobjects"): "comes with list and watch",
    ("patch", "events.k8s.io", "events"): "an event that happens again, a minute later",
    ("patch", "coordination.k8s.io", "leases"): "comes with update",
    ("get", "apiextensions.k8s.io", "customresourcedefinitions"): "`harmony doctor` run with the controller's account",
    ("get", "autoscaling.x-k8s.io", "capacitybuffers"): "comes with patch",
    ("update", "autoscaling.x-k8s.io", "capacitybuffers"): "comes with patch",
    ("delete", "autoscaling.x-k8s.io", "capacitybuffers"): "used when a buffer is switched off",
}


def crd(group: str, version: str, plural: str, kind: str) -> Json:
    """A CRD that takes anything."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": names,
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


def hpa(name: str, target: str, **notes: str) -> Json:
    annotations = {f"{PREFIX}/{key.replace('_', '-')}": text for key, text in notes.items()}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "minReplicas": 1,
            "maxReplicas": 20,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
                }
            ],
        },
    }


def workload(name: str, kind: str = "Deployment") -> Json:
    made = another(deployment(2), name)
    made["kind"] = kind
    made["spec"]["selector"]["matchLabels"]["app"] = name
    made["spec"]["template"]["metadata"]["labels"]["app"] = name
    if kind == "StatefulSet":
        made["spec"]["serviceName"] = name
    return made


async def all_outputs(world: World) -> None:
    """Services of every kind, each brought to write what it can write."""
    must, apps = world.api.must, f"/apis/apps/v1/namespaces/{NAMESPACE}"
    world.api.define(crd("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"))
    world.api.define(crd("autoscaling.x-k8s.io", "v1beta1", "capacitybuffers", "CapacityBuffer"))
    must("POST", f"{apps}/statefulsets", workload("stateful", "StatefulSet"))
    for name in ("floored", "annotated", "keda"):
        must("POST", f"{apps}/deployments", workload(name))
    query = "max(gpu_service_requests_running)"
    floor = {"managed": "true", "demand_query": query, "per_replica": "25", "lead_time": "10s"}
    must("POST", HPAS, hpa("floored", "floored"))
    must("POST", HPAS, hpa("annotated", "annotated", **floor, mode="Floor"))
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {**hpa("keda", "keda", **floor, mode="Floor")["metadata"]},
        "spec": {"scaleTargetRef": {"name": "keda"}, "minReplicaCount": 1, "maxReplicaCount": 20},
    }
    must("POST", SCALED_OBJECTS, scaled)
    world.create(autoscaler("Full", capacityBuffer={"enabled": True, "quantile": 0.99}))
    for name, kind, mode in (("stateful", "StatefulSet", "Full"), ("floored", "Deployment", "Floor")):
        ref = {"apiVersion": "apps/v1", "kind": kind, "name": name}
        world.create(another(autoscaler(mode), name, scaleTargetRef=ref))


async def written(world: World) -> None:
    """Waits until every output stands in the cluster."""
    must = world.api.must

    def floor(path: str, field: str) -> bool:
        obj = must("GET", path)
        return obj["spec"][field] >= 4 and f"{PREFIX}/original-min-replicas" in obj["metadata"]["annotations"]

    def answered(path: str) -> bool:
        return f"{PREFIX}/recommended-replicas" in must("GET", path)["metadata"]["annotations"]

    await ready(world)
    await orders(world, 6)
    buffers = f"/apis/autoscaling.x-k8s.io/v1beta1/namespaces/{NAMESPACE}/capacitybuffers"
    stateful = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/stateful"
    await world.until(lambda: bool(must("GET", buffers)["items"]), "a CapacityBuffer")
    await world.until(lambda: must("GET", stateful)["spec"]["replicas"] >= 4, "the StatefulSet is scaled")
    await world.until(lambda: floor(f"{HPAS}/floored", "minReplicas"), "the floor of an HPA")
    await world.until(lambda: floor(f"{HPAS}/annotated", "minReplicas"), "the floor of an annotated HPA")
    await world.until(lambda: floor(f"{SCALED_OBJECTS}/keda", "minReplicaCount"), "the floor of a ScaledObject")
    await world.until(lambda: answered(f"{HPAS}/annotated") and answered(f"{SCALED_OBJECTS}/keda"), "annotations")
    await world.until(lambda: "lastScaleDecision" in status_of(world, "floored"), "statuses")
    await world.until(lambda: any(e["reason"] == "SuccessfulRescale" for e in world.events()), "an event")


def asked(calls: Sequence[Call]) -> dict[tuple[str, str, str], set[tuple[str, str]]]:
    """(verb, group, resource) with where and what it was asked of, without what RBAC does not judge."""
    out: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
    for call in calls:
        if not call.resource or call.group == "authorization.k8s.io":
            continue
        resource = f"{call.resource}/{call.subresource}" if call.subresource else call.resource
        out.setdefault((call.verb, call.group, resource), set()).add((call.namespace, call.name))
    return out


async def run_everything(api: FakeApiServer, folder: Path) -> None:
    world = World(api, folder)
    async with world.running():
        api.ensure_namespace(RELEASE_NAMESPACE)
        await all_outputs(world)
        settings = {"lease_namespace": RELEASE_NAMESPACE, "lease_name": "harmony-controller", "leader_elect": True}
        async with world.controller(**settings):
            await written(world)
            world.api.must("PATCH", f"{HPAS}/annotated", {"metadata": {"annotations": {f"{PREFIX}/managed": None}}})
            path = f"{HPAS}/annotated"
            await world.until(
                lambda: world.api.must("GET", path)["spec"]["minReplicas"] == 1, "the floor is given back"
            )
        assert await token_reviewer(str(api.kubeconfig(folder / "reviews")), "")("nobody's") is None


@pytest.fixture(scope="module")
def everything_asked(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], set[tuple[str, str]]]:
    """What a controller asks for that goes through all of its outputs."""
    with FakeApiServer() as api:
        asyncio.run(run_everything(api, tmp_path_factory.mktemp("rbac")))
        return asked(api.calls_by("controller"))


def test_everything_that_is_asked_for_is_granted(
    everything_asked: dict[tuple[str, str, str], set[tuple[str, str]]],
) -> None:
    rules = granted_rules(ALL_FEATURES)
    missing = [
        f"{verb} {group}/{resource} in {namespace or 'the cluster'} {name}".strip()
        for (verb, group, resource), where in sorted(everything_asked.items())
        for namespace, name in sorted(where)
        if not allows(rules, verb, group, resource, namespace, name)
    ]
    assert not missing, "the chart does not grant: " + "; ".join(missing)
    assert {
        ("update", "apps", "statefulsets/scale"),
        ("patch", "keda.sh", "scaledobjects"),
        ("create", "authentication.k8s.io", "tokenreviews"),
    } <= set(everything_asked)


def test_everything_that_is_granted_is_asked_for(
    everything_asked: dict[tuple[str, str, str], set[tuple[str, str]]],
) -> None:
    granted = {
        (verb, group, resource)
        for rule in granted_rules(ALL_FEATURES)
        for verb in rule.verbs
        for group in rule.api_groups
        for resource in rule.resources
    }
    unused = granted - set(everything_asked) - set(GRANTED_BUT_NOT_USED_HERE)
    assert not unused, f"granted, never asked for, and no reason given: {sorted(unused)}"
    stale = set(GRANTED_BUT_NOT_USED_HERE) - granted
    assert not stale, f"reasons for what is not granted any more: {sorted(stale)}"


def test_the_default_installation_works_under_its_own_role(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def whole() -> None:
        world = World(fake_api, tmp_path)
        async with world.running():
            fake_api.ensure_namespace(RELEASE_NAMESPACE)
            world.create(autoscaler("Full"))
            world.api.must("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", workload("floored"))
            world.api.must("POST", HPAS, hpa("floored", "floored"))
            ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "floored"}
            world.create(another(autoscaler("Floor"), "floored", scaleTargetRef=ref))
            fake_api.enforce([rule.to_json() for rule in granted_rules({})])
            settings = {"lease_namespace": RELEASE_NAMESPACE, "leader_elect": True}
            async with world.controller(**settings) as running:
                await ready(world)
                await orders(world, 6)
                hpa_path = f"{HPAS}/floored"
                await world.until(lambda: world.api.must("GET", hpa_path)["spec"]["minReplicas"] >= 4, "a floor")
                await world.until(lambda: any(e["reason"] == "SuccessfulRescale" for e in world.events()), "an event")
                assert all(r.errors == 0 for r in await running.ticks(2))
        refused = [c for c in fake_api.calls_by("controller") if c.code == 403]
        assert not refused, f"refused: {json.dumps([(c.verb, c.resource, c.namespace, c.name) for c in refused])}"
        assert any(c.resource == "leases" and c.verb == "create" and c.code == 201 for c in fake_api.calls)

    asyncio.run(whole())


def test_a_role_that_lacks_scale_is_told_and_lowers_nothing(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def whole() -> None:
        world = World(fake_api, tmp_path)
        async with world.running():
            world.create(autoscaler("Full"))
            rules = [rule.to_json() for rule in granted_rules({})]
            for rule in rules:
                rule["resources"] = [r for r in rule["resources"] if r != "deployments/scale"]
            fake_api.enforce(rules)
            async with world.controller() as running:
                await ready(world)
                world.patch({"minReplicas": 6})
                await world.until(lambda: world.condition("AbleToScale")[0] == "False", "it is told")
                text = next(c for c in world.status()["conditions"] if c["type"] == "AbleToScale")["message"]
                assert "403" in text
                assert "deployments/scale" in text
                assert world.replicas == 4
                fake_api.enforce([rule.to_json() for rule in granted_rules({})])
                await world.until(lambda: world.replicas == 6, "done once it is allowed")
                await running.ticks(1)
                await world.until(lambda: world.condition("AbleToScale")[0] == "True", "and told so")

    asyncio.run(whole())
