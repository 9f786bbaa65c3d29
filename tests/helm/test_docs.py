"""The guides say what is so: values that exist, manifests that are accepted, versions that agree."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

import harmony
from tests.helm.chart import CHART, ROOT

PAGES = [
    ROOT / "docs" / "install.md",
    ROOT / "docs" / "upgrading.md",
    *sorted((ROOT / "docs" / "runbooks").glob("*.md")),
]
SCHEMA: dict[str, Any] = yaml.safe_load((CHART / "values.schema.json").read_text())


def test_values_in_the_guides_exist() -> None:
    named: set[str] = set()
    for page in PAGES:
        text = page.read_text()
        named |= set(re.findall(r"--set(?:-string)? '?([A-Za-z.]+)=", text))
        sections = "|".join(SCHEMA["properties"])
        named |= set(re.findall(rf"`((?:{sections})\.[A-Za-z.]+)(?:=[a-z]+)?`", text))
    assert len(named) > 10
    for dotted in named:
        node = SCHEMA
        for key in dotted.split("."):
            if "properties" in node:
                assert key in node["properties"], f"{dotted} is no value of the chart"
                node = node["properties"][key]
            else:  # a part that Kubernetes defines
                assert node.get("additionalProperties", True) is not False, dotted
                break


def test_manifests_in_the_guides_are_accepted() -> None:
    from controller.resource.parsing import parse_autoscaler

    found = 0
    for page in PAGES:
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
            obj = yaml.safe_load(block)
            obj["metadata"] |= {"uid": "1", "generation": 1}
            assert str(parse_autoscaler(obj).mode) == "Recommend"
            found += 1
    assert found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Any) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_versions_agree() -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    assert set(re.findall(r"--tag harmony:(\d+\.\d+\.\d+)", text)) == {harmony.__version__}
    assert f"### {harmony.__version__}" in (ROOT / "docs" / "upgrading.md").read_text()
