"""Every alert parses, fires when it should, is silent when it should be, and has a runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harmony.metrics.catalogue import CATALOGUE, SERVICE_LABELS
from tests.helm.chart import CHART, ROOT, documents, one

MONITORED = {"monitoring": {"prometheusRule": {"enabled": True}}}
CASES = sorted((ROOT / "tests" / "helm" / "rules").glob("*.yaml"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not in PATH (Debian: apt-get install prometheus)")
    return found


@pytest.fixture(scope="session")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as the chart renders them, in a folder with all cases beside them."""
    folder = tmp_path_factory.mktemp("rules")
    spec = one(documents(MONITORED), "PrometheusRule")["spec"]
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    for case in CASES:
        shutil.copy(case, folder)
    return folder


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_parse(promtool: str, rules: Path) -> None:
    assert f"{len(RULES)} rules found" in run(promtool, "check", "rules", str(rules / "rules.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_fires_and_stays_silent(promtool: str, rules: Path, case: Path) -> None:
    run(promtool, "test", "rules", str(rules / case.name))


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    assert {case.stem for case in CASES} == {rule["alert"] for rule in RULES}
    for case in CASES:
        samples = [t["promql_expr_test"][0]["exp_samples"] for t in yaml.safe_load(case.read_text())["tests"]]
        assert any(samples), case.stem
        assert not all(samples), case.stem


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_annotations_help_at_night(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description"} <= set(rule["annotations"])
    page = ROOT / "docs" / "runbooks" / f"{rule['alert']}.md"
    text = page.read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    for heading in ("## What it means", "## What users notice", "## Look first", "## Act", "## Why it exists"):
        assert heading in text, f"{page.name} lacks {heading!r}"
    rendered = one(documents(MONITORED), "PrometheusRule")["spec"]["groups"]
    urls = {r["alert"]: r["annotations"]["runbook_url"] for g in rendered for r in g["rules"]}
    assert urls[rule["alert"]].endswith(f"/docs/runbooks/{page.name}")


def test_no_runbook_without_an_alert() -> None:
    pages = {p.stem for p in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_ask_for_metrics_that_exist(rule: dict[str, Any]) -> None:
    known = {definition.name: definition for definition in CATALOGUE}
    for name, matchers in re.findall(r"\b(harmony_[a-z_]+)(?:\{([^}]*)\})?", rule["expr"]):
        definition = known[name]
        labels = {*definition.labels, *(SERVICE_LABELS if definition.per_service else ())}
        assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= labels, name


def test_alerts_can_be_left_out_and_labelled() -> None:
    options = {"enabled": True, "disabledAlerts": ["HarmonyNoLeader"], "alertLabels": {"team": "gpu"}}
    groups = one(documents({"monitoring": {"prometheusRule": options}}), "PrometheusRule")["spec"]["groups"]
    kept = [rule for group in groups for rule in group["rules"]]
    assert {r["alert"] for r in kept} == {r["alert"] for r in RULES} - {"HarmonyNoLeader"}
    assert all(r["labels"]["team"] == "gpu" and "severity" in r["labels"] for r in kept)
