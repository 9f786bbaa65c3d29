"""A real Prometheus scrapes the demo: every documented metric, every dashboard query and every alert finds its data."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.process.http import serve_metrics
from harmony.metrics import CATALOGUE, Metrics
from harmony.metrics.docs import QUERIES
from simulator.demo import DemoCluster
from tests.helm.chart import CHART
from tests.prom.real import RealPrometheus, need_prometheus
from tests.sharing import made_once

pytestmark = pytest.mark.prometheus

BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}
ALERTS = {
    rule["alert"]: rule["expr"]
    for group in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
RATE_INTERVAL = "10s"
SCRAPED_S = 15.0
PATIENCE_S = 120.0
SPEED = 600.0  # so that the fifteen seconds are two and a half hours: replicas start, orders are refused

# What a demo has none of: no API server is asked, KEDA does not call, nothing fails, nothing is learned unasked.
NOT_IN_A_DEMO = (
    "harmony_kube_requests_total",
    "harmony_keda_requests_total",
    "harmony_errors_total",
    "harmony_forecaster_refreshes_total",
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """All queries by name, answered by Prometheus after it has scraped a running demo."""
    need_prometheus()
    found: dict[str, list[dict[str, Any]]] = made_once(
        tmp_path_factory, "demo-scraped", lambda: asyncio.run(scraped(tmp_path_factory.mktemp("prometheus")))
    )
    return found


async def scraped(folder: Path) -> dict[str, list[dict[str, Any]]]:
    metrics = Metrics("0.0.0-demo")
    cluster = DemoCluster(0, speed=SPEED, metrics=metrics, wall=wall)
    cluster.begin()
    stop = threading.Event()
    listener = await serve_metrics("127.0.0.1:0", metrics)
    prometheus = RealPrometheus(folder, targets={"harmony": f"127.0.0.1:{listener.port}"})
    running = asyncio.create_task(asyncio.to_thread(cluster.run, stop))
    try:
        with prometheus:
            await asyncio.sleep(SCRAPED_S)
            while cluster.times.count < 100:  # a slow machine takes longer for as much life
                await asyncio.sleep(0.5)
            found = await asyncio.to_thread(settled, prometheus)
    finally:
        stop.set()
        await running
        await listener.stop()
    return found


def settled(prometheus: RealPrometheus) -> dict[str, list[dict[str, Any]]]:
    """All answers. A scrape that a busy machine made late leaves a moment without series: then it is asked again."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        found = {name: ask(prometheus, query) for name, query in asked().items()}
        if not any(name.startswith("metric: ") and not found[name] and not absent(name) for name in found):
            return found
        if time.monotonic() > until_s:
            return found
        time.sleep(1.0)


def wall() -> float:
    return time.time()  # noqa: TID251  (alerts compare with Prometheus's own clock)


def ask(prometheus: RealPrometheus, query: str) -> list[dict[str, Any]]:
    url = f"{prometheus.url}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=20) as answer:
        data = json.load(answer)
    assert data["status"] == "success", (query, data)
    result: list[dict[str, Any]] = data["data"]["result"]
    return result


def filled(expr: str, name: str = "[^/]+") -> str:
    """A panel's PromQL with Grafana's variables filled in: all namespaces, or the service of that name."""
    expr = expr.replace("$__rate_interval", RATE_INTERVAL)
    expr = expr.replace('=~"$namespace"', '=~".+"').replace('namespace="$namespace"', 'namespace=~".+"')
    return expr.replace('name="$name"', f'name=~"{name}"')


def panel_queries() -> dict[str, str]:
    """Every query of every panel, for all services together."""
    out = {}
    for stem, board in BOARDS.items():
        for panel in board["panels"]:
            for at, target in enumerate(panel.get("targets", ())):
                out[f"{stem}: {panel['title']} {at}"] = filled(target["expr"])
    return out


def variables() -> dict[str, str]:
    """The metric behind each query of a variable (`label_values(metric, label)`)."""
    out = {}
    for stem, board in BOARDS.items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                match = re.match(r"label_values\((.+), *\w+\)$", variable["definition"])
                assert match, variable["definition"]
                out[f"{stem}: variable {variable['name']}"] = filled(match[1])
    return out


def exported(definition_name: str, kind: str) -> str:
    return f"{definition_name}_bucket" if kind == "histogram" else definition_name


def asked() -> dict[str, str]:
    metrics = {f"metric: {d.name}": exported(d.name, d.type) for d in CATALOGUE}
    chat = {
        f"chat: {panel['title']} {at}": filled(target["expr"], "chat")
        for panel in BOARDS["service"]["panels"]
        for at, target in enumerate(panel.get("targets", ()))
    }
    alerts = {f"alert: {name}": expr for name, expr in ALERTS.items()}
    parts = {f"part: {name}: {part}": part for name, expr in ALERTS.items() for part in selectors(expr)}
    documented = {f"docs: {question}": query for question, query in QUERIES}
    return {**metrics, **panel_queries(), **variables(), **chat, **alerts, **parts, **documented}


def selectors(expr: str) -> set[str]:
    """The metrics that an expression looks at, with their matchers."""
    return set(re.findall(r"harmony_[a-z_]+(?:\{[^}]*\})?", expr))


def absent(name: str) -> bool:
    """True for what a demo has none of."""
    return any(metric in asked()[name] for metric in NOT_IN_A_DEMO)


@pytest.mark.parametrize("definition", CATALOGUE, ids=lambda d: d.name)
def test_every_documented_metric_is_there(answers: dict[str, list[dict[str, Any]]], definition: Any) -> None:
    found = answers[f"metric: {definition.name}"]
    assert bool(found) == (definition.name not in NOT_IN_A_DEMO)
    for series in found:
        labels = {*definition.labels, *(("namespace", "name", "kind") if definition.per_service else ())}
        if definition.type != "info":
            extra = {"__name__", "instance", "job", *({"le"} if definition.type == "histogram" else ())}
            assert set(series["metric"]) - extra == labels


@pytest.mark.parametrize("name", [*panel_queries(), *variables()])
def test_every_query_of_a_dashboard_returns_data(answers: dict[str, list[dict[str, Any]]], name: str) -> None:
    if absent(name):
        assert answers[name] == []
        return
    assert answers[name], asked()[name]
    values = [float(series["value"][1]) for series in answers[name]]
    assert any(value == value for value in values), f"only NaN: {asked()[name]}"


def test_the_page_of_one_service_shows_that_service(answers: dict[str, list[dict[str, Any]]]) -> None:
    empty = {name for name, found in answers.items() if name.startswith("chat: ") and not found and not absent(name)}
    # chat has full authority: no minimum of another autoscaler is held, and no shadow lives beside it
    assert {asked()[name].split("{")[0].rpartition("(")[2] for name in empty} == {
        "harmony_floor_replicas",
        "harmony_shadow_gpu_hours_saved",
        "harmony_shadow_miss_seconds",
        "harmony_shadow_violated_steps_total",
    }
    for name, found in answers.items():
        if name.startswith("chat: "):
            assert all(series["metric"].get("name", "chat") == "chat" for series in found)


def test_coverage_is_drawn_for_the_intervals_that_are_scored(answers: dict[str, list[dict[str, Any]]]) -> None:
    found = answers["metric: harmony_forecast_coverage_ratio"]
    assert {series["metric"]["interval"] for series in found} == {"0.5", "0.8", "0.9", "0.95"}


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_look_at_what_is_exported(answers: dict[str, list[dict[str, Any]]], alert: str) -> None:
    for part in selectors(ALERTS[alert]):
        seen = answers[f"part: {alert}: {part}"]
        assert seen or part.startswith(NOT_IN_A_DEMO), part


def test_no_alert_about_the_process_fires(answers: dict[str, list[dict[str, Any]]]) -> None:
    firing = {name for name, found in answers.items() if name.startswith("alert: ") and found}
    services = {f"alert: {name}" for name, expr in ALERTS.items() if "by (namespace, name, kind)" in expr}
    assert firing <= services, "a healthy demo"


@pytest.mark.parametrize(("question", "query"), QUERIES)
def test_documented_queries_work(answers: dict[str, list[dict[str, Any]]], question: str, query: str) -> None:
    found = answers[f"docs: {question}"]
    if question in ("Where does the upper bound hurt?", "Is scaling nervous?", "Is KEDA answered?"):
        return  # empty is the good answer; that they are PromQL is what was asked
    assert found, query
