"""The examples on a bare API server, by the commands that the README and the files themselves give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from controller.resource.crd import crd_manifest
from tests.helm.chart import ROOT
from tests.kube.api import ApiServer
from tests.kube.patches import APPLY
from tests.kube.server import FakeApiServer

Doc = dict[str, Any]
FILES = sorted((ROOT / "examples").glob("*.yaml"))
FOREIGN = {
    "leaderworkerset": ("leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet"),
    "kserve": ("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService"),
    "dynamo": ("nvidia.com", "v1alpha1", "dynamographdeployments", "DynamoGraphDeployment"),
    "keda-max": ("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
    "keda-external-scaler": ("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
    "vllm-podmonitor": ("monitoring.coreos.com", "v1", "podmonitors", "PodMonitor"),
}


def kubectl(api: ApiServer, line: str) -> int:
    """The exit code of a line of `kubectl create namespace` and `kubectl apply -f`, joined by `&&`.

    As kubectl does, apply goes on after an object that cannot be applied, and then ends with 1.
    """
    for command in line.split("&&"):
        words = command.split("  #")[0].split()
        assert words[0] == "kubectl", command
        if words[1:3] == ["create", "namespace"]:
            api.ensure_namespace(words[3])
            continue
        assert words[1:3] == ["apply", "-f"], command
        dry = "&dryRun=All" if "--dry-run=server" in words else ""
        failed = [doc for doc in yaml.safe_load_all((ROOT / words[3]).read_text()) if not applied(api, doc, dry)]
        if failed:
            return 1
    return 0


def applied(api: ApiServer, doc: Doc, dry: str) -> bool:
    """Whether the server takes an object, whose plural it is asked for."""
    version = doc["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    code, served = api.request("GET", root)
    plurals = [r["name"] for r in served["resources"] if r["kind"] == doc["kind"]] if code == 200 else []
    if not plurals:
        return False
    meta = doc["metadata"]
    path = f"{root}/namespaces/{meta['namespace']}/{plurals[0]}/{meta['name']}?fieldManager=kubectl{dry}"
    return api.request("PATCH", path, doc, content_type=APPLY[0])[0] in (200, 201)


def there(api: ApiServer) -> set[str]:
    """What the examples have left in their namespaces."""
    kinds = ["/apis/apps/v1/deployments", "/apis/apps/v1/statefulsets", "/api/v1/services"]
    kinds += ["/apis/autoscaling/v2/horizontalpodautoscalers"]
    kinds += ["/apis/autoscaling.harmony-autoscaler.io/v1alpha1/gpuautoscalers"]
    found = {f"{path}/{o['metadata']['name']}" for path in kinds for o in api.must("GET", path)["items"]}
    return {one for one in found if not one.endswith("/kubernetes")}


@pytest.fixture
def cluster() -> Iterator[FakeApiServer]:
    """Nothing but what the chart brings."""
    with FakeApiServer() as api:
        api.define(crd_manifest())
        yield api


def commands(text: str) -> list[str]:
    """The lines of kubectl that make something."""
    found = re.findall(r"^(?:#\s+)?(kubectl (?:create namespace|apply -f) .*)$", text, re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line) for line in found]


def test_the_readmes_commands(cluster: FakeApiServer) -> None:
    block = (ROOT / "README.md").read_text().partition("## Your cluster\n")[2].partition("\n## ")[0]
    given = commands(block)
    assert given == ["kubectl create namespace serving", "kubectl apply -f examples/vllm-deployment.yaml"]
    assert [kubectl(cluster, line) for line in given] == [0, 0]
    assert len(there(cluster)) == 3


@pytest.mark.parametrize("file", FILES, ids=[f.stem for f in FILES])
def test_a_files_own_commands_apply_it_or_leave_nothing(cluster: FakeApiServer, file: Any) -> None:
    given = commands(file.read_text())
    assert [line.split()[1] for line in given] == ["create", "apply"]
    codes = [kubectl(cluster, line) for line in given]
    if file.stem in FOREIGN:
        assert (codes, there(cluster)) == ([0, 1], set()), "as a whole"
        group, version, plural, kind = FOREIGN[file.stem]
        cluster.define(foreign(group, version, plural, kind))
        codes = [kubectl(cluster, line) for line in given]
    assert codes == [0, 0]
    assert kubectl(cluster, given[1]) == 0, "and again"


def test_what_is_half_applied_would_be_seen(cluster: FakeApiServer) -> None:
    cluster.ensure_namespace("serving")
    assert kubectl(cluster, "kubectl apply -f examples/leaderworkerset.yaml") == 1
    assert there(cluster)


def foreign(group: str, version: str, plural: str, kind: str) -> Doc:
    """Somebody else's resource, of any shape."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": plural, "kind": kind}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [served]},
    }
