"""The chart on an API server: install, upgrade, uninstall; what users made stays.

On the fake server Helm keeps its releases in memory (it stores them as protobuf, which the fake does not speak).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helm.chart import CHART, NAMESPACE, RELEASE, documents
from tests.helm.rbac import allows, granted_rules
from tests.kube.api import ApiServer
from tests.kube.fixtures import HOW_TO_GET_A_REAL_ONE
from tests.kube.real import RealApiServer, real_assets

OURS = "/apis/autoscaling.harmony-autoscaler.io/v1alpha1/namespaces/serving/gpuautoscalers"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gpuautoscalers.autoscaling.harmony-autoscaler.io"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/harmony-controller"
CHAT = {
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
