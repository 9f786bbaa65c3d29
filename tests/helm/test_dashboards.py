"""Dashboards: importable, with a data source of the user's choice, and every query parses and finds its metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harmony.metrics.catalogue import CATALOGUE, SERVICE_LABELS
from tests.helm.chart import CHART, documents, one

FOLDER = CHART / "dashboards"
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
PROCESS = {"process_resident_memory_bytes"}  # the Prometheus client's own


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board: dict[str, Any]) -> list[str]:
    """All PromQL with Grafana's variables filled in."""
    found = [target["expr"] for panel in panels(board) for target in panel["targets"]]
    return [expr.replace("$__rate_interval", "5m").replace("$namespace", "a").replace("$name", "b") for expr in found]


@pytest.fixture(params=BOARDS, scope="module")
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    return BOARDS[request.param]


def test_both_are_there() -> None:
    assert set(BOARDS) == {"fleet", "service"}
    assert len({b["uid"] for b in BOARDS.values()}) == 2


def test_data_source_is_a_variable(board: dict[str, Any]) -> None:
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for panel in panels(board):
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    used = set(re.findall(r"\$(\w+)", json.dumps([t["expr"] for p in panels(board) for t in p["targets"]])))
    assert used <= {*variables, "__rate_interval"}


def test_layout_has_no_overlaps_and_every_panel_explains_itself(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def test_queries_parse(board: dict[str, Any], tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not in PATH (Debian: apt-get install prometheus)")
    rules = [{"record": f"query:{n}", "expr": expr} for n, expr in enumerate(queries(board))]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_queries_ask_for_metrics_and_labels_that_exist(board: dict[str, Any]) -> None:
    known = {definition.name: definition for definition in CATALOGUE}
    variables = [v["definition"] for v in board["templating"]["list"] if v["type"] == "query"]
    for expr in (*queries(board), *variables):
        for name, matchers in re.findall(r"\b(harmony_[a-z_]+|process_[a-z_]+)(?:\{([^}]*)\})?", expr):
            if name in PROCESS:
                continue
            definition = known[name.removesuffix("_bucket")]
            labels = {*definition.labels, *(SERVICE_LABELS if definition.per_service else ())}
            assert set(re.findall(r"(\w+)\s*[=!]~?\s*\"", matchers)) <= labels, expr


def test_every_metric_of_a_service_is_shown_somewhere() -> None:
    shown = " ".join(expr for board in BOARDS.values() for expr in queries(board))
    assert [d.name for d in CATALOGUE if d.per_service and d.name not in shown] == []


def test_config_map_carries_them_unchanged() -> None:
    data = one(documents({"grafana": {"dashboards": {"enabled": True}}}), "ConfigMap")["data"]
    assert {name: json.loads(text) for name, text in data.items()} == {
        f"harmony-{stem}.json": board for stem, board in BOARDS.items()
    }
    assert sum(map(len, data.values())) < 900_000  # a ConfigMap holds 1 MiB
