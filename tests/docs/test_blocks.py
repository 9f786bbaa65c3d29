"""Python, YAML, PromQL and Helm values on the pages are what they claim to be."""

from __future__ import annotations

import json
import pkgutil
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import polars
import pytest
import yaml

from controller.resource.parsing import parse_annotated, parse_autoscaler
from controller.resource.presets import MATCHERS, PRESETS
from forecasting.methods import method_names
from harmony.app.sweeping import study_in
from harmony.app.written import Fields
from harmony.policies.registry import policy_names
from kernels import available
from tests.docs.pages import DOCS, PAGES, ROOT, Block, blocks, commands, name, of_language

IDENTITY = {"uid": "1", "generation": 1, "namespace": "serving"}
BASE: dict[str, Any] = {
    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"},
    "maxReplicas": 20,
    "indicators": [{"name": "requests", "query": "sum(rate(http_requests_total[1m]))"}],
    "objective": {"demand": "requests", "perReplica": 25},
}


# ---- Python -----------------------------------------------------------------------------------------------------
def python_pages() -> list[Path]:
    return sorted({block.page for block in of_language("python") if not block.not_run})


@pytest.mark.slow
@pytest.mark.parametrize("page", python_pages(), ids=name)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = range(1440)
    times, load = [1_767_571_200 + 60 * i for i in rows], [20 + i % 240 / 10 for i in rows]
    polars.DataFrame({"timestamp": times, "rps": load}).write_csv("my-trace.csv")
    names: dict[str, Any] = {}
    for block in of_language("python"):
        if block.page == page and not block.not_run:
            exec(compile("\n" * block.line + block.text, name(page), "exec"), names)  # the line numbers of the page


@pytest.mark.parametrize("block", of_language("python"), ids=lambda b: b.id)
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.id, "exec")


def test_there_is_python() -> None:
    assert {name(p) for p in python_pages()} >= {"README.md", "docs/forecasting.md", "docs/concepts/decision.md"}


# ---- YAML -------------------------------------------------------------------------------------------------------
def check_object(found: dict[str, Any]) -> str:
    """Read an object as its reader would; a bare ``spec:`` is taken for part of a GPUAutoscaler's."""
    if set(found) == {"spec"}:
        meta = {"name": "chat", **IDENTITY}
        whole = {"kind": "GPUAutoscaler", "metadata": meta, "spec": {**BASE, **found["spec"]}}
        return str(parse_autoscaler({"apiVersion": "autoscaling.harmony-autoscaler.io/v1alpha1", **whole}).key.name)
    if "traces" in found:
        return study_in(Fields(found, "study.yaml"), Path()).traces[0].title
    if "deployments" in found:  # a file of Ray Serve's
        policy = found["deployments"][0]["autoscaling_config"]["policy"]
        made = pkgutil.resolve_name(policy["policy_function"])(**policy["policy_kwargs"])
        return type(made).__name__
    found["metadata"] = {**IDENTITY, **found["metadata"]}
    if found["kind"] == "GPUAutoscaler":
        parse_autoscaler(found)
    elif "autoscaling.harmony-autoscaler.io/managed" in found["metadata"].get("annotations", {}):
        assert parse_annotated(found) is not None
    else:
        assert {"apiVersion", "spec"} <= set(found)
    return str(found["kind"])


@pytest.mark.parametrize("block", of_language("yaml"), ids=lambda b: b.id)
def test_yaml_is_accepted(block: Block) -> None:
    documents = list(yaml.safe_load_all(block.text))
    assert documents
    for document in documents:
        check_object(document)


def test_there_is_yaml() -> None:
    assert len(of_language("yaml")) >= 10


# ---- PromQL -----------------------------------------------------------------------------------------------------
def queries() -> list[str]:
    """Every query that a page asks a reader to use, and those of the presets."""
    found = [block.text for block in of_language("promql")]
    for command in commands():
        options = dict(zip(command.words, command.words[1:], strict=False))
        found += [options[o] for o in ("--demand", "--replicas") if "(" in options.get(o, "")]
    for block in of_language("yaml"):
        found += re.findall(r"query: '([^']+)'", block.text)
        found += re.findall(r"demand-query: (\S.*)", block.text)
    found += [t.promql.replace(MATCHERS, 'pod="x"') for preset in PRESETS.values() for t in preset.templates]
    return found


def test_queries_are_promql(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not in PATH (Debian: apt-get install prometheus)")
    rules = [{"record": f"query:{i}", "expr": query} for i, query in enumerate(queries())]
    assert len(rules) > 35
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "docs", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", "--lint=none", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- Helm -------------------------------------------------------------------------------------------------------
def test_helm_values_exist() -> None:
    schema = json.loads((ROOT / "helm" / "harmony" / "values.schema.json").read_text())
    named = set()
    for page in PAGES:
        named |= set(re.findall(r"--set(?:-string)? '?([A-Za-z.]+)=", page.read_text()))
    assert len(named) > 10
    for dotted in named:
        node = schema
        for key in dotted.split("."):
            if "properties" not in node:  # a map of the user's own keys
                assert node.get("additionalProperties", True) is not False, dotted
                break
            assert key in node["properties"], f"{dotted} is no value of the chart"
            node = node["properties"][key]


# ---- the rest ---------------------------------------------------------------------------------------------------
def test_blocks_are_closed() -> None:
    for page in PAGES:
        assert page.read_text().count("```") % 2 == 0, name(page)
    assert len(blocks()) > 80


def test_what_is_not_run_says_why() -> None:
    assert [block.id for block in blocks() if block.not_run and len(block.not_run) < 8] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_a_file_that_a_page_names_is_there() -> None:
    """`docs/...`, `examples/...`, `harmony/...` in backticks are paths of the repository."""
    roots = "docs|examples|helm|harmony|controller|forecasting|kernels|simulator|tests"
    for page in PAGES:
        for path in re.findall(rf"`((?:{roots})/[\w./-]*\.(?:py|md|yaml|json|parquet))`", page.read_text()):
            assert (ROOT / path).exists(), f"{name(page)} names {path}"
    assert (DOCS / "index.md").exists()


def test_whatever_goes_by_name_is_on_the_page_of_names() -> None:
    from from_code import names_page

    page = names_page()
    for listed in (*policy_names(further=True), *method_names(), *available(), *PRESETS):
        assert f"\n| `{listed}` | " in page
