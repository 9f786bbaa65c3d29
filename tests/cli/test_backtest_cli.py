"""`harmony backtest` as a user runs it, on a real Prometheus with two days of data that end now."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from controller.resource.parsing import parse_autoscaler
from harmony.cli.main import run
from harmony.model.authority import Mode
from simulator.actual import actual_run
from simulator.replaying import ReplaySettings, replay
from simulator.traces.trace import Trace
from tests.prom.real import RealPrometheus, free_port, need_prometheus, openmetrics
from tests.simulator.worlds import waves

ROWS = 2 * 1440
GAP = range(500, 600)  # rows without demand
QUICK = ["--forecaster", "last_value", "--samples", "50"]


def wave(row: int) -> float:
    return 100 + 60 * math.sin(row / 1440 * 2 * math.pi) + 10 * math.sin(row / 7)


def samples(end: float) -> Iterator[tuple[str, float, str]]:
    at = [end - 60 * (ROWS - 1 - i) for i in range(ROWS)]
    for i, t in enumerate(at):
        if i not in GAP:
            yield 'rps{service="chat"}', t, f"{wave(i):.4f}"
    for i, t in enumerate(at):
        yield "replicas", t, str(14 + (i // 720) % 2 * 4)
    for i, t in enumerate(at):
        yield "hits_total", t, str(60 * i)
    for pod in "ab":
        for t in at:
            yield f'pods{{pod="{pod}"}}', t, "1"
    for t in at[-60:]:
        yield "young", t, "5"
    for t in at:
        yield "below", t, "-5"
    for t in at:
        yield "undefined", t, "NaN"


@pytest.fixture(scope="module")
def prom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need_prometheus()
    real = RealPrometheus(tmp_path_factory.mktemp("prometheus"))
    real.load(openmetrics(samples(time.time() // 60 * 60)))  # noqa: TID251 - Prometheus runs by the wall clock
    with real:
        yield real.url


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert run(["backtest", *(str(a) for a in arguments)]) == 0
    return capsys.readouterr().out


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run, expect exit code 2 and exactly one line on stderr; returns it."""
    assert run(["backtest", *(str(a) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("harmony: ")
    return err


def test_the_whole_of_it(prom: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    shown = told(
        capsys, "--prometheus", prom, "--demand", "sum(rps)", "--indicator", "queue=sum(pods)", "--days", "7",
        "--per-replica", "10", "--replicas", "replicas", "--out", out, *QUICK,
    )  # fmt: skip
    for words in ("harmony", "hpa", "oracle", "actual", "GPU-hours", "read 2.0 days of the 7 asked for"):
        assert words in shown
    absent = float(re.search(r"demand absent in ([\d.]+)%", shown)[1])  # type: ignore[index]
    assert absent == pytest.approx(100 * (len(GAP) - 4) / ROWS, abs=0.15)  # Prometheus shows a sample for 5 min
    assert re.search(r"scored days harmony would have cost [\d.,]+, [\d.]+% (more|less) than what really ran", shown)
    assert sorted(p.name for p in out.iterdir()) == ["replay.json", "replicas.csv", "report.html"]
    result = json.loads((out / "replay.json").read_text())
    actual = result["policies"]["actual"]
    assert result["steps"] == pytest.approx(ROWS, abs=6)
    assert actual["stated_risk"] is None
    assert actual["gpu_hours"] == pytest.approx(result["scored_steps"] / 60 * 18, rel=0.2)
    assert 0 < actual["violation_rate"] < 1
    header = (out / "replicas.csv").read_text().splitlines()[0]
    assert "actual_ordered,actual_ready" in header
    assert "actual" in (out / "report.html").read_text()


def test_what_it_recommends_is_a_manifest_that_the_controller_takes(
    prom: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = told(
        capsys, "--prometheus", prom, "--demand", "sum(rps)", "--indicator", "queue=sum(pods)", "--days", "1",
        "--per-replica", "10", "--lead-time", "4m", "--price", "2", "--epsilon", "0.2", "-p", "harmony", *QUICK,
    )  # fmt: skip
    before, _, text = shown.partition("---\n")
    assert "recommended, with epsilon 0.2 (violated" in before
    found = yaml.safe_load(text)
    found["metadata"] |= {"uid": "1", "generation": 1, "namespace": "serving"}
    settings = parse_autoscaler(found)
    assert settings.mode is Mode.RECOMMEND
    assert [q.promql for q in settings.queries] == ["sum(rps)", "sum(pods)"]
    assert (settings.capacity.median, settings.step_s) == (10.0, 60.0)
    assert settings.lead_time.median_s == pytest.approx(240.0)
    assert (settings.objective.epsilon, settings.objective.price_per_gpu_hour) == (0.2, 2.0)
    assert settings.prometheus_url == prom
    assert 16 <= settings.objective.max_replicas <= 60  # half more than the most that was ordered


def test_a_sweep_of_the_history_recommends_the_largest_epsilon_that_kept_the_promise(
    prom: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpa.yaml"
    path.write_text(
        OBJECT.replace("hits, query: hits_total", "hits, query: rps").replace("kind: Counter", "kind: Gauge") % prom
    )
    found = json.loads(
        told(
            capsys, "-f", path, "--days", "1", "--per-replica", "12", "--replicas", "replicas", "-p", "harmony",
            "-p", "hpa", "--sweep", "--epsilons", "0.01,0.1,0.5", "--epsilon", "0.1", "--workers", "1",
            "--resamples", "0", "--out", tmp_path / "out", "--json", *QUICK,
        )
    )  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["sweep.html", "sweep.json"]
    rows = [r for r in found["rows"] if r["policy"] == "harmony"]
    assert [r["epsilon"] for r in rows] == [0.01, 0.1, 0.5]
    kept = [r["epsilon"] for r in rows if r["violation_rate"] <= 0.1]
    spec = found["manifest"]["spec"]
    assert spec["objective"] == {"demand": "hits", "perReplica": 12.0, "epsilon": max(kept)}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 12)
    assert spec["scaleTargetRef"]["name"] == found["manifest"]["metadata"]["name"] == "chat"
    assert f"epsilon {max(kept):g}" in found["advice"]
    assert "what really ran cost" in found["history"]["verdict"]


def test_the_same_as_a_replay_of_the_same_numbers(prom: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prometheus", prom, "--demand", "rps", "--days", "1", "--per-replica", "10", "-p", "hpa", "--json"]
    found = json.loads(told(capsys, *arguments))
    assert found["history"]["days"] == pytest.approx(1.0, abs=0.01)
    assert found["history"]["absent_share"] == 0.0
    assert found["policies"].keys() == {"hpa"}
    steps = found["steps"]
    demand = np.array([float(f"{wave(i):.4f}") for i in range(ROWS - steps, ROWS)])
    from forecasting.panel import Indicator, Panel

    panel = Panel(demand[:, None], (Indicator("demand"),), 0.0, 60.0)
    again = replay(Trace(panel, "demand"), ["hpa"], ReplaySettings(replica_capacity=10))
    expected = again.policies["hpa"]
    # Prometheus may show the last sample once more in a step that has just begun.
    assert found["policies"]["hpa"]["gpu_hours"] == pytest.approx(expected.gpu_hours, rel=0.02)
    assert found["policies"]["hpa"]["violation_rate"] == pytest.approx(expected.violation_rate, abs=0.01)


OBJECT = """
apiVersion: v1
kind: ConfigMap
---
apiVersion: autoscaling.harmony-autoscaler.io/v1alpha1
kind: GPUAutoscaler
metadata: {name: chat, namespace: serving}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}
  minReplicas: 2
  maxReplicas: 12
  prometheus: {url: "%s"}
  indicators:
    - {name: hits, query: hits_total, level: 1, kind: Counter, unit: requests}
    - {name: gone, query: no_such_metric, level: 2}
  objective: {demand: hits, perReplica: 0.25, epsilon: 0.02}
  leadTime: {source: Fixed, seconds: 180}
"""


def test_an_object_gives_queries_and_settings(prom: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gpa.yaml"
    path.write_text(OBJECT % prom)
    found = json.loads(told(capsys, "-f", path, "--days", "1", "-p", "oracle", "--json"))
    assert (found["demand"], found["trace"], found["unit"]) == ("hits", "serving/chat", "requests/s")
    assert (found["replica_capacity"], found["lead_time_seconds"], found["epsilon"]) == (0.25, 180.0, 0.02)
    assert found["policies"]["oracle"]["gpu_hours"] == pytest.approx(found["scored_steps"] / 60 * 4)
    assert found["notes"] == ["gone: no value in this time, left out"]
    over = ["--epsilon", "0.05", "--lead-time", "10m", "--per-replica", "0.5", "--min-replicas", "3"]
    found = json.loads(told(capsys, "-f", path, "--days", "1", "-p", "oracle", "--json", *over))
    assert (found["replica_capacity"], found["lead_time_seconds"], found["epsilon"]) == (0.5, 600.0, 0.05)
    assert found["policies"]["oracle"]["gpu_hours"] == pytest.approx(found["scored_steps"] / 60 * 3)


def test_the_exit_code_says_whether_the_promise_was_kept(prom: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["backtest", "--prometheus", prom, "--demand", "rps", "--days", "1", "-p", "hpa", "--fail-on", "hpa"]
    assert run([*arguments, "--max-replicas", "3"]) == 1
    assert run([*arguments, "--epsilon", "0.9"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--demand", "sum("], "parse error"),
        (["--demand", "no_such"], "gives no value in the last 14 days"),
        (["--demand", "undefined"], "gives no value"),
        (["--demand", "pods"], "demand: the query gives 2 series at a time; wrap it in sum(...)"),
        (["--demand", "young"], "too little history: the demand goes back 1h"),
        (["--demand", "rps", "--lead-time", "6h"], "needs at least 3d"),
        (["--demand", "below"], "gives -5"),
        (["--demand", "rps", "--indicator", "q=pods"], "q: the query gives 2 series"),
        (["--demand", "rps", "--indicator", "sum(pods)"], "expected NAME=PROMQL"),
        (["--demand", "rps", "--indicator", "q="], "expected NAME=PROMQL"),
        (["--demand", "rps", "--replicas", "replicas"], "needs --per-replica"),
        (["--demand", "rps", "--replicas", "no_such", "--per-replica", "9"], "--replicas: the query gives no value"),
        (["--demand", "rps", "--replicas", "pods", "--per-replica", "9"], "replicas: the query gives 2 series"),
        ([], "add --demand PROMQL"),
        (["--demand", "rps", "--days", "0"], "--days 0"),
        (["--demand", "rps", "--step", "2h"], "--step 7200"),
        (["--demand", "rps", "--policy", "hpb"], "did you mean 'hpa'?"),
        (["--demand", "rps", "--policy", "hpa", "--fail-on", "harmony"], "add --policy harmony"),
        (["--demand", "rps", "--prometheus-query-param", "tenant"], "expected KEY=VALUE"),
        (["--demand", "rps", "--prometheus-ca-file", "nowhere.pem"], "PEM"),
        (["--demand", "rps", "--prometheus-token-file", "nowhere"], "cannot be read"),
        (["--demand", "rps", "--epsilon", "2"], "epsilon"),
        (["-f", "nowhere.yaml"], "cannot be read"),
    ],
)
def test_mistakes_end_in_one_line(
    prom: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in error_line(capsys, "--prometheus", prom, *arguments)


def test_an_address_is_needed_and_must_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert "add --prometheus URL" in error_line(capsys, "--demand", "rps")
    url = f"http://127.0.0.1:{free_port()}"
    assert "is Prometheus running" in error_line(capsys, "--prometheus", url, "--demand", "rps")
    assert "no address of Prometheus" in error_line(capsys, "--prometheus", "prometheus", "--demand", "rps")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no GPUAutoscaler"),
        ("a: [", "not YAML"),
        ("- 1\n- 2\n", "holds no GPUAutoscaler"),
        ("kind: GPUAutoscaler\nmetadata: x\n", "metadata"),
        (OBJECT.replace("perReplica: 0.25", "perReplica: lots"), "perReplica"),
        (
            OBJECT.replace("perReplica: 0.25", "perReplica: 0.25, bound: {indicator: gone, atMost: 1}"),
            "add --per-replica",
        ),
    ],
)
def test_files_that_hold_no_usable_object(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpa.yaml"
    path.write_text(text.replace("%s", "http://127.0.0.1:9"))
    assert words in error_line(capsys, "-f", path)


def test_what_really_ran_is_judged_where_it_is_known() -> None:
    from forecasting.panel import Indicator, Panel

    demand = waves()
    panel = Panel(demand[:, None], (Indicator("load"),), 0.0, 60.0)
    result = replay(Trace(panel, "load"), ["oracle"], ReplaySettings(mean_replicas=10))
    need = np.ceil(result.demand / result.replica_capacity)
    just = actual_run(result, need, gpus_per_replica=2, price_per_gpu_hour=3.0)
    part = slice(result.scored_from, None)
    assert just.violation_rate == 0.0
    assert just.gpu_hours == pytest.approx(need[part].sum() / 60 * 2)
    assert just.cost == pytest.approx(3 * just.gpu_hours)
    short = actual_run(result, need - 1, gpus_per_replica=1, price_per_gpu_hour=1.0)
    assert short.violation_rate == 1.0
    gaps = need - 1
    gaps[result.scored_from :: 2] = np.nan
    halved = actual_run(result, gaps, gpus_per_replica=1, price_per_gpu_hour=1.0)
    assert halved.violation_rate == 1.0
    assert halved.violated_seconds == 60 * (~np.isnan(gaps[part])).sum()
    assert (halved.ordered >= 0).all()
