"""The chart on an API server: install, upgrade, uninstall; what users made stays.

On the fake server Helm keeps its releases in memory (it stores them as protobuf, which the fake does not speak).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helm.chart import CHART, NAMESPACE, RELEASE, documents, notes
from tests.helm.rbac import allows, granted_rules
from tests.kube.api import ApiServer
from tests.kube.fixtures import HOW_TO_GET_A_REAL_ONE
from tests.kube.real import RealApiServer, real_assets

OURS = "/apis/autoscaling.harmony-autoscaler.io/v1alpha1/namespaces/serving/gpuautoscalers"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gpuautoscalers.autoscaling.harmony-autoscaler.io"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/harmony-controller"
CHAT: dict[str, Any] = {
    "apiVersion": "autoscaling.harmony-autoscaler.io/v1alpha1",
    "kind": "GPUAutoscaler",
    "metadata": {"name": "chat", "namespace": "serving"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"},
        "maxReplicas": 20,
        "indicators": [{"name": "requests", "query": "sum(rate(http_requests_total[1m]))"}],
        "objective": {"demand": "requests", "perReplica": 25},
    },
}


def helm(api: ApiServer, folder: Path) -> Any:
    from helm_python.config import Config

    for name in (NAMESPACE, "serving"):
        api.ensure_namespace(name)
    path = api.kubeconfig(folder / "kubeconfig", "admin", NAMESPACE)
    storage = None if api.real else "memory"
    return Config(kubeconfig_path=path, namespace=NAMESPACE, storage_driver=storage)


def test_install_upgrade_uninstall(api_server: ApiServer, tmp_path: Path) -> None:
    with helm(api_server, tmp_path) as config:
        config.install(CHART, RELEASE, {}, namespace=NAMESPACE)
        deployment = api_server.must("GET", DEPLOYMENT)
        assert deployment["spec"]["replicas"] == 2
        api_server.until_served(OURS)
        made = api_server.must("POST", OURS, CHAT)

        config.upgrade(CHART, RELEASE, {"controller": {"replicaCount": 3}}, namespace=NAMESPACE)
        upgraded = api_server.must("GET", DEPLOYMENT)
        assert upgraded["spec"]["replicas"] == 3
        assert upgraded["metadata"]["uid"] == deployment["metadata"]["uid"], "changed in place, not made anew"
        assert api_server.must("GET", f"{OURS}/chat")["metadata"]["uid"] == made["metadata"]["uid"]

        config.uninstall(RELEASE)
        assert api_server.request("GET", DEPLOYMENT)[0] == 404
        assert api_server.must("GET", CRD)["spec"]["names"]["kind"] == "GPUAutoscaler"
        assert api_server.must("GET", f"{OURS}/chat")["metadata"]["uid"] == made["metadata"]["uid"]


def test_every_object_arrives(api_server: ApiServer, tmp_path: Path) -> None:
    values = {"keda": {"enabled": True}, "networkPolicy": {"enabled": True}, "watch": {"namespaces": ["serving"]}}
    paths = {
        "Service": "/api/v1/namespaces/{0}/services/{1}",
        "ServiceAccount": "/api/v1/namespaces/{0}/serviceaccounts/{1}",
        "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{0}/roles/{1}",
        "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{0}/rolebindings/{1}",
        "PodDisruptionBudget": "/apis/policy/v1/namespaces/{0}/poddisruptionbudgets/{1}",
        "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{0}/networkpolicies/{1}",
    }
    with helm(api_server, tmp_path) as config:
        config.install(CHART, RELEASE, values, namespace=NAMESPACE)
        seen = set()
        for doc in documents(values):
            if doc["kind"] in paths:
                meta = doc["metadata"]
                api_server.must("GET", paths[doc["kind"]].format(meta["namespace"], meta["name"]))
                seen.add(doc["kind"])
        assert seen == set(paths)


def test_the_api_can_be_switched_on_and_off_later(api_server: ApiServer, tmp_path: Path) -> None:
    claim = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/harmony-journal"
    service = f"/api/v1/namespaces/{NAMESPACE}/services/harmony-api"
    with helm(api_server, tmp_path) as config:
        config.install(CHART, RELEASE, {}, namespace=NAMESPACE)
        config.upgrade(CHART, RELEASE, {"api": {"enabled": True}}, namespace=NAMESPACE)
        spec = api_server.must("GET", DEPLOYMENT)["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
        assert spec["template"]["spec"]["containers"][0]["args"][:2] == ["serve", "--cluster"]
        made = api_server.must("GET", claim)
        assert api_server.must("GET", service)["spec"]["ports"][0]["port"] == 8000

        config.upgrade(CHART, RELEASE, {"api": {"enabled": False}}, namespace=NAMESPACE)
        spec = api_server.must("GET", DEPLOYMENT)["spec"]
        assert (spec["replicas"], spec["strategy"]["type"]) == (2, "RollingUpdate")
        assert spec["template"]["spec"]["containers"][0]["args"][0] == "controller"
        assert api_server.request("GET", service)[0] == 404
        assert api_server.must("GET", claim)["metadata"]["uid"] == made["metadata"]["uid"], "what is recorded stays"

        config.upgrade(CHART, RELEASE, {"api": {"enabled": True}}, namespace=NAMESPACE)
        assert api_server.must("GET", claim)["metadata"]["uid"] == made["metadata"]["uid"], "and is taken up again"


def left_of_ours(api: ApiServer) -> set[str]:
    """What carries the release's label, in the kinds that the chart makes."""
    listed = {
        "/api/v1": ("services", "serviceaccounts", "configmaps", "secrets", "persistentvolumeclaims"),
        "/apis/apps/v1": ("deployments",),
        "/apis/policy/v1": ("poddisruptionbudgets",),
        "/apis/networking.k8s.io/v1": ("networkpolicies",),
        "/apis/rbac.authorization.k8s.io/v1": ("roles", "rolebindings", "clusterroles", "clusterrolebindings"),
        "/apis/apiextensions.k8s.io/v1": ("customresourcedefinitions",),
    }
    return {
        f"{plural}/{obj['metadata']['name']}"
        for group, plurals in listed.items()
        for plural in plurals
        for obj in api.must("GET", f"{group}/{plural}?labelSelector=app.kubernetes.io/instance={RELEASE}")["items"]
    }


def verbs(api: ApiServer) -> set[str]:
    """What the controller may do to the status of its objects."""
    roles = api.must(
        "GET", f"/apis/rbac.authorization.k8s.io/v1/clusterroles?labelSelector=app.kubernetes.io/instance={RELEASE}"
    )
    rules = [rule for role in roles["items"] for rule in role.get("rules") or ()]
    return {v for rule in rules if "gpuautoscalers/status" in rule.get("resources", ()) for v in rule["verbs"]}


def test_whatever_was_switched_on_and_off_nothing_is_left(api_server: ApiServer, tmp_path: Path) -> None:
    crd, claim = f"customresourcedefinitions/{CRD.rpartition('/')[2]}", "persistentvolumeclaims/harmony-journal"
    api_on: dict[str, Any] = {"api": {"enabled": True}, "keda": {"enabled": True}}
    dry: dict[str, Any] = {"controller": {"dryRun": True}}
    with helm(api_server, tmp_path) as config:
        config.install(CHART, RELEASE, {}, namespace=NAMESPACE)
        first = left_of_ours(api_server)
        config.upgrade(CHART, RELEASE, api_on, namespace=NAMESPACE)
        assert left_of_ours(api_server) - first == {"services/harmony-api", "services/harmony-keda", claim}
        assert "claim harmony-journal" in notes(api_on)
        off = {"api": {"enabled": False}, "keda": {"enabled": False}}
        config.upgrade(CHART, RELEASE, off, namespace=NAMESPACE)
        assert left_of_ours(api_server) == first | {claim}

        assert "patch" in verbs(api_server)
        config.upgrade(CHART, RELEASE, dry, namespace=NAMESPACE)
        assert "patch" in verbs(api_server), "pods of before are still there when roles are applied"
        said = json.dumps(config.status(RELEASE))
        assert "The roles still allow writing" in said
        pods_are_new(api_server)
        config.upgrade(CHART, RELEASE, dry, namespace=NAMESPACE)
        assert not verbs(api_server) & {"patch", "update", "create", "delete"}
        assert "The roles still allow writing" not in json.dumps(config.status(RELEASE))

        config.uninstall(RELEASE)
        assert left_of_ours(api_server) == {crd, claim}


def pods_are_new(api: ApiServer) -> None:
    """What the Deployment controller says once all pods are replaced."""
    if not api.runs_controllers:
        counts = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}
        api.must("PATCH", f"{DEPLOYMENT}/status", {"status": counts})


def test_an_upgrade_that_fails_leaves_nothing_where_it_is_told_to_clean_up(
    api_server: ApiServer, tmp_path: Path
) -> None:
    from helm_python.errors import HelmError

    with helm(api_server, tmp_path) as config:
        config.install(CHART, RELEASE, {}, namespace=NAMESPACE)
        api_server.until_served(OURS)
        first, before = left_of_ours(api_server), api_server.must("GET", DEPLOYMENT)["spec"]
        refused = CHAT | {"spec": CHAT["spec"] | {"maxReplicas": 0}}
        bad = {"api": {"enabled": True}, "keda": {"enabled": True}, "extraObjects": [refused]}
        with pytest.raises(HelmError):
            config.upgrade(CHART, RELEASE, bad, namespace=NAMESPACE, rollback_on_failure=True, cleanup_on_fail=True)
        assert api_server.must("GET", DEPLOYMENT)["spec"] == before
        assert left_of_ours(api_server) == first


@pytest.fixture
def real_server() -> Iterator[RealApiServer]:
    assets = real_assets()
    if assets is None:
        pytest.skip(HOW_TO_GET_A_REAL_ONE)
    with RealApiServer(assets) as server:
        yield server


@pytest.mark.parametrize("values", [{}, {"watch": {"namespaces": ["serving"]}}], ids=["cluster", "namespaced"])
def test_the_authorizer_reads_the_roles_as_we_do(
    real_server: RealApiServer, tmp_path: Path, values: dict[str, Any]
) -> None:
    rules = granted_rules(values)
    asked = [
        (verb, group, resource, namespace, name)
        for verb in ("get", "list", "watch", "create", "update", "patch", "delete")
        for group, resource in (
            ("autoscaling.harmony-autoscaler.io", "gpuautoscalers"),
            ("autoscaling.harmony-autoscaler.io", "gpuautoscalers/status"),
            ("apps", "deployments"),
            ("apps", "deployments/scale"),
            ("", "pods"),
            ("", "secrets"),
            ("coordination.k8s.io", "leases"),
            ("events.k8s.io", "events"),
        )
        for namespace in (NAMESPACE, "serving", "kube-system")
        for name in ("", "harmony-controller")
    ]
    with helm(real_server, tmp_path) as config:
        config.install(CHART, RELEASE, values, namespace=NAMESPACE)
        for verb, group, resource, namespace, name in asked:
            plural, _, sub = resource.partition("/")
            attributes = {"verb": verb, "group": group, "resource": plural, "subresource": sub}
            attributes |= {"namespace": namespace, "name": name}
            user = f"system:serviceaccount:{NAMESPACE}:harmony"
            review = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {"user": user, "resourceAttributes": attributes},
            }
            answer = real_server.must("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
            assert answer["status"]["allowed"] == allows(rules, verb, group, resource, namespace, name), attributes
