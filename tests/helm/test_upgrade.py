"""An upgrade keeps what users made, and an uninstall too; `released.yaml` says what earlier versions promised."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.helm.chart import NAMESPACE, ROOT, documents, of_kind, one
from tests.helm.matrix import MATRIX
from tests.kube.patches import APPLY
from tests.kube.server import FakeApiServer

RELEASED: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "helm" / "released.yaml").read_text())
KEEP = {"helm.sh/resource-policy": "keep"}


def test_crd_survives_the_uninstall_unless_told_otherwise() -> None:
    assert one(documents(), "CustomResourceDefinition")["metadata"]["annotations"].items() >= KEEP.items()
    dropped = one(documents({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert "helm.sh/resource-policy" not in dropped["metadata"].get("annotations", {})
    assert not of_kind(documents({"crds": {"install": False}}), "CustomResourceDefinition")


def test_crd_is_templated_so_that_an_upgrade_changes_it() -> None:
    """Objects under crds/ are installed once and never again; this one is part of every revision."""
    assert of_kind(documents(), "CustomResourceDefinition")


def test_crd_versions_only_grow() -> None:
    crd = one(documents(), "CustomResourceDefinition")
    assert (crd["spec"]["group"], crd["spec"]["names"]["plural"], crd["spec"]["scope"]) == (
        RELEASED["crd"]["group"],
        RELEASED["crd"]["plural"],
        RELEASED["crd"]["scope"],
    )
    served = {v["name"] for v in crd["spec"]["versions"] if v["served"]}
    assert served >= set(RELEASED["crd"]["served"])
    assert sum(v["storage"] for v in crd["spec"]["versions"]) == 1


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_immutable_labels_hold_neither_version_nor_choice(values: dict[str, Any]) -> None:
    selector = one(documents(values), "Deployment")["spec"]["selector"]["matchLabels"]
    assert set(selector) == set(RELEASED["selector"])


def nulls(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [p for key, inner in value.items() for p in nulls(inner, f"{path}.{key}")]
    if isinstance(value, list):
        return [p for i, inner in enumerate(value) for p in nulls(inner, f"{path}[{i}]")]
    return [path] if value is None else []


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_nothing_is_said_to_be_null(values: dict[str, Any]) -> None:
    """Applied on the server's side, null does not take a field away; it is told as a field that is there."""
    found = {f"{d['kind']}/{d['metadata']['name']}": nulls(d) for d in documents(values)}
    assert not {name: paths for name, paths in found.items() if paths}


MONITORING = {"servicemonitors": "ServiceMonitor", "podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule"}


def foreign(plural: str, kind: str) -> dict[str, Any]:
    """Somebody else's resource, of any shape."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "names": {"plural": plural, "kind": kind},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def test_every_choice_can_be_applied_over_every_other() -> None:
    """By server-side apply, in the order of the matrix and back, onto what the choice before has left."""
    with FakeApiServer() as api:
        for namespace in (NAMESPACE, "serving", "batch"):
            api.ensure_namespace(namespace)
        for plural, kind in MONITORING.items():
            api.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", foreign(plural, kind))
        applied: dict[str, dict[str, Any]] = {}
        for choice in [*MATRIX, *reversed(MATRIX)]:
            for doc in documents(MATRIX[choice]):
                path = where(doc)
                if applied.get(path) != doc:
                    query = "?fieldManager=helm&force=true"
                    code, answer = api.request("PATCH", path + query, doc, content_type=APPLY[0])
                    assert code in (200, 201), (choice, path, answer)
                    applied[path] = doc
        assert len(applied) > 30


PLURALS = {"NetworkPolicy": "networkpolicies"} | {kind: plural for plural, kind in MONITORING.items()}
CLUSTER = ("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition")


def where(doc: dict[str, Any]) -> str:
    """The path of an object."""
    root = f"/apis/{doc['apiVersion']}" if "/" in doc["apiVersion"] else f"/api/{doc['apiVersion']}"
    meta = doc["metadata"]
    space = "" if doc["kind"] in CLUSTER else f"/namespaces/{meta.get('namespace', NAMESPACE)}"
    return f"{root}{space}/{PLURALS.get(doc['kind'], doc['kind'].lower() + 's')}/{meta['name']}"


def test_names_and_selectors_are_those_of_earlier_versions() -> None:
    docs = documents()
    assert one(docs, "Deployment")["spec"]["selector"]["matchLabels"] == RELEASED["selector"]
    names = {f"{d['kind']}/{d['metadata']['name']}" for d in docs}
    assert names >= set(RELEASED["objects"]), "a renamed object is a deleted one: keep the name or write it down"


def test_values_of_earlier_versions_are_still_accepted() -> None:
    assert documents(RELEASED["values"])
