"""An upgrade keeps what users made, and an uninstall too; `released.yaml` says what earlier versions promised."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.helm.chart import ROOT, documents, of_kind, one
from tests.helm.matrix import MATRIX

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


def test_names_and_selectors_are_those_of_earlier_versions() -> None:
    docs = documents()
    assert one(docs, "Deployment")["spec"]["selector"]["matchLabels"] == RELEASED["selector"]
    names = {f"{d['kind']}/{d['metadata']['name']}" for d in docs}
    assert names >= set(RELEASED["objects"]), "a renamed object is a deleted one: keep the name or write it down"


def test_values_of_earlier_versions_are_still_accepted() -> None:
    assert documents(RELEASED["values"])
