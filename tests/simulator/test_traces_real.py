"""The real traces, where there are some: every reader agrees with the published statistics of its files."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.traces import load_trace

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def published(data_dir: Path) -> dict[str, Any]:
    """The published shape statistics."""
    loaded: dict[str, Any] = json.loads((data_dir / "shape_statistics.json").read_text())
    return loaded


def close(ours: float, theirs: float) -> None:
    assert ours == pytest.approx(theirs, rel=2e-3)


@pytest.mark.parametrize("number", range(1, 11))
def test_fisher_load_and_raw_columns(data_dir: Path, published: dict[str, Any], number: int) -> None:
    path = data_dir / "fisher" / f"container{number}.csv.gz"
    panel = load_trace(path, raw=True).panel
    theirs = published["fisher"]["containers"][f"container{number}"]["load"]
    load = panel.column("load")
    assert len(panel) == theirs["n"]
    close(load.mean(), theirs["mean"])
    close(load.std() / load.mean(), theirs["cv"])
    with gzip.open(path, "rt") as file:
        rows = list(csv.reader(file))
    assert ("timestamp", *panel.names) == tuple(rows[0])
    assert [float(cell) for cell in rows[-1][1:]] == panel.values[-1].tolist()
    cpu = load_trace(path).panel.column("container_cpu_usage_seconds_total")
    assert np.isnan(cpu).sum() in (1 + 27 + 27, 1 + 31 + 30)
    assert np.nanmin(cpu) >= 0
    assert np.nanmax(cpu) < 24


@pytest.mark.parametrize("number", [1, 2, 6, 7, 9])
def test_fisher_cpu_rate_agrees_with_busy_cpu(data_dir: Path, number: int) -> None:
    panel = load_trace(data_dir / "fisher" / f"container{number}.csv.gz").panel
    busy, cores = panel.column("cpu.busy"), panel.column("container_cpu_usage_seconds_total")
    both = ~(np.isnan(busy) | np.isnan(cores))
    assert np.corrcoef(busy[both], cores[both])[0, 1] > 0.5


@pytest.mark.parametrize("cluster", ["vc6YE", "vc8Sj", "vcvlY"])
def test_helios(data_dir: Path, published: dict[str, Any], cluster: str) -> None:
    trace = load_trace(data_dir / "gpu_helios_earth" / f"{cluster}_1min.csv.gz")
    theirs = published["gpu_helios_earth"][cluster]["running_gpu_num"]
    assert trace.demand == "running_gpu_num"
    close(trace.panel.values[:, 0].mean(), theirs["mean"])


@pytest.mark.parametrize(
    ("path", "key", "per_second"),
    [
        ("web_nasa/jul1995_1min", "web_nasa/jul1995_1min:requests", 60),
        ("cluster_google2019/usage_5min", "cluster_google2019/usage_5min:cpu_util", 1),
        ("cluster_alibaba2018/usage_30s", "cluster_alibaba2018/usage_30s:cpu_util_percent", 1),
    ],
)
def test_series(data_dir: Path, published: dict[str, Any], path: str, key: str, per_second: int) -> None:
    panel = load_trace(data_dir / f"{path}.csv.gz").panel
    theirs = published["web_and_cluster_series"][key]
    assert (len(panel), panel.step_s) == (theirs["n"], theirs["period_s"])
    close(float(panel.values[:, 0].mean()) * per_second, theirs["mean"])


def test_hurricane_minutes_are_absent(data_dir: Path) -> None:
    requests = load_trace(data_dir / "web_nasa" / "aug1995_1min.csv.gz").panel.column("requests")
    assert np.isnan(requests).sum() == 2263


def test_burstgpt_and_gentd26(data_dir: Path, published: dict[str, Any]) -> None:
    hourly = load_trace(data_dir / "llm_burstgpt" / "hourly_days00-39.csv.gz").panel
    theirs = published["llm_rates"]["llm_burstgpt/hourly_days00-39:conversation_requests"]
    close(float(hourly.values[:, 0].mean()) * 3600, theirs["mean"])
    service = load_trace(data_dir / "gpu_gentd26" / "service_57s.csv.gz").panel
    close(float(service.values[:, 0].mean()), published["gpu_gentd26"]["series"]["generative_qps"]["mean"])
    one = load_trace(data_dir / "gpu_gentd26" / "containers_57s.csv.gz", where={"container": "c000"}).panel
    assert (one.names[0], one.step_s) == ("gpu_duty_pct", 57.0)


def test_servegen_holes(data_dir: Path) -> None:
    panel = load_trace(data_dir / "llm_servegen" / "m-mid_rate_10min.csv.gz").panel
    assert np.isnan(panel.column("rate_rps")).sum() == 84
    assert np.nanmin(panel.column("rate_rps")) > 0


@pytest.mark.parametrize("name", ["llm_azure2023/code", "llm_mooncake/conversation", "llm_mooncake/synthetic"])
def test_requests(data_dir: Path, published: dict[str, Any], name: str) -> None:
    trace = load_trace(data_dir / f"{name}_requests.csv.gz", step_s=60)
    theirs = published["llm_requests"][f"{name}_requests"]
    assert trace.requests is not None
    assert len(trace.requests) == theirs["n"]
    close(float(trace.requests.prompt_tokens.mean()), theirs["prompt_tokens"]["mean"])
    rate = trace.panel.column("requests_per_second")
    assert rate.std() / rate.mean() == pytest.approx(theirs["count_cv_60s"], rel=0.05)


def test_every_series_file_is_read_and_every_other_one_refused_in_one_line(data_dir: Path) -> None:
    for folder in ("nab", "gpu_dlrm2025"):
        for path in sorted((data_dir / folder).glob("*.csv.gz")):
            if path.name != "instances.csv.gz":
                trace = load_trace(path)
                assert np.isfinite(trace.panel.values[:, 0]).mean() > 0.95
                assert trace.licence != "not stated"
