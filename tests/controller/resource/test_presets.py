"""Presets: names that exist, PromQL that a Prometheus accepts, figures that are right, absent that stays absent."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.prometheus.client import Prometheus
from controller.prometheus.freshness import within
from controller.resource.parsing import SpecError, parse_autoscaler
from controller.resource.presets import MATCHERS, PRESETS, Preset, default_matchers
from controller.resource.presets.base import own_reporting
from tests.controller.resource.builders import autoscaler
from tests.prom.real import RealPrometheus, need_prometheus, openmetrics

AT = 1_700_000_000.0
STEP = 15
HERE = 'namespace="serving",pod="{pod}"'
PODS = ("chat-7d9f6c5b8-x2k4q", "chat-7d9f6c5b8-zz9tw")
OTHER = "chat-embed-7d9f6c5b8-x2k4q"

# Gauges of one pod, counters by their growth per second, histograms by seconds below which everything lies.
GAUGES = {
    "vllm:num_requests_running": 10,
    "vllm:num_requests_waiting": 3,
    "nv_inference_pending_request_count": 4,
    "nv_gpu_utilization": 0.5,
    "nv_gpu_memory_used_bytes": 1e9,
    "tgi_queue_size": 2,
    "tgi_batch_current_size": 6,
    "tgi_batch_current_max_tokens": 4096,
    "sglang:num_running_reqs": 7,
    "sglang:num_queue_reqs": 2,
    "sglang:token_usage": 0.25,
    "trtllm_num_requests_running": 6,
    "trtllm_num_requests_waiting": 1,
    "trtllm_kv_cache_utilization": 0.75,
    "dynamo_frontend_inflight_requests": 9,
    "dynamo_frontend_queued_requests": 4,
    "llm_d_epp_request_running": 8,
    "inference_extension_flow_control_queue_size": 3,
    "ray_serve_replica_processing_queries": 5,
    "ray_serve_deployment_queued_queries": 2,
}
COUNTERS = {
    "vllm:request_success_total": 2,
    "vllm:prompt_tokens_total": 200,
    "vllm:generation_tokens_total": 100,
    "nv_inference_request_success": 4,
    "nv_inference_count": 8,
    "nv_inference_queue_duration_us": 4 * 20_000,
    "nv_inference_request_duration_us": 4 * 50_000,
    "tgi_request_count": 3,
    "tgi_request_input_length_sum": 300,
    "tgi_request_generated_tokens_sum": 150,
    "sglang:num_requests_total": 3,
    "sglang:prompt_tokens_total": 50,
    "sglang:generation_tokens_total": 70,
    "trtllm_request_success_total": 2,
    "trtllm_prompt_tokens_total": 20,
    "trtllm_generation_tokens_total": 30,
    "dynamo_frontend_requests_total": 4,
    "dynamo_frontend_output_tokens_total": 40,
    "inference_objective_request_total": 5,
    "ray_serve_deployment_request_counter_total": 6,
}
HISTOGRAMS = (
    "vllm:time_to_first_token_seconds",
    "tgi_request_queue_duration",
    "tgi_request_duration",
    "tgi_request_mean_time_per_token_duration",
    "sglang:time_to_first_token_seconds",
    "sglang:inter_token_latency_seconds",
    "trtllm_time_to_first_token_seconds",
    "trtllm_time_per_output_token_seconds",
    "trtllm_request_queue_time_seconds",
    "dynamo_frontend_time_to_first_token_seconds",
    "dynamo_frontend_inter_token_latency_seconds",
    "inference_model_request_duration_seconds",
    "ray_serve_deployment_processing_latency_ms",
)
DCGM = {
    "DCGM_FI_DEV_FB_USED": 1024,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.25,
    "DCGM_FI_PROF_DRAM_ACTIVE": 0.5,
    "DCGM_FI_DEV_POWER_USAGE": 300,
}
# A rollout under way: the first pod is old and exports old names, the second is new and exports both.
RENAMED = {
    ("vllm:gpu_cache_usage_perc", PODS[0]): 0.2,
    ("vllm:gpu_cache_usage_perc", PODS[1]): 0.4,
    ("vllm:kv_cache_usage_perc", PODS[1]): 0.4,
}
EXPECTED = {
    "vllm": {
        "requests": 26.0,
        "request_rate": 4.0,
        "prompt_token_rate": 400.0,
        "generation_token_rate": 200.0,
        "kv_cache_usage": 0.3,
        "requests_waiting": 6.0,
        "ttft_p95": 0.5 + 0.9 * 0.5,  # half of the requests took up to 0.5 s, half up to 1 s
        "itl_p95": 0.5 + 0.9 * 0.5,
    },
    "triton": {
        "request_rate": 8.0 + 1.0,  # one pod also fails one request per second
        "requests_pending": 8.0,
        "inference_rate": 16.0,
        "gpu_utilization": 0.5,
        "gpu_memory_used": 2e9,
        "queue_time_mean": 0.02,
        "latency_mean": 0.05,
    },
    "tgi": {
        "requests": 16.0,
        "request_rate": 6.0,
        "input_token_rate": 600.0,
        "generation_token_rate": 300.0,
        "batch_tokens": 8192.0,
        "requests_waiting": 4.0,
        "queue_time_p95": 0.95,
        "latency_p95": 0.95,
        "itl_p95": 0.95,
    },
    "sglang": {
        "requests": 18.0,
        "request_rate": 6.0,
        "prompt_token_rate": 100.0,
        "generation_token_rate": 140.0,
        "kv_cache_usage": 0.25,
        "requests_waiting": 4.0,
        "ttft_p95": 0.95,
        "itl_p95": 0.95,
    },
    "trtllm": {
        "requests": 14.0,
        "request_rate": 4.0,
        "prompt_token_rate": 40.0,
        "generation_token_rate": 60.0,
        "kv_cache_usage": 0.75,
        "requests_waiting": 2.0,
        "ttft_p95": 0.95,
        "itl_p95": 0.95,
        "queue_time_p95": 0.95,
    },
    "kserve": {  # scraped under vLLM's own names
        "requests": 26.0,
        "request_rate": 4.0,
        "prompt_token_rate": 400.0,
        "generation_token_rate": 200.0,
        "kv_cache_usage": 0.3,
        "requests_waiting": 6.0,
        "ttft_p95": 0.95,
        "itl_p95": 0.95,
    },
    "dynamo": {
        "requests": 18.0,
        "request_rate": 8.0,
        "generation_token_rate": 80.0,
        "requests_waiting": 8.0,
        "ttft_p95": 0.95,
        "itl_p95": 0.95,
    },
    "inference-extension": {"requests": 22.0, "request_rate": 10.0, "latency_p95": 0.95},
    "ray-serve": {"requests": 14.0, "request_rate": 12.0, "requests_waiting": 4.0, "latency_p95": 0.00095},
    "dcgm": {
        "busy_gpus": 0.9 + 0.5,  # one GPU tells the profiling figure, the other only percent
        "gpu_utilization": 0.7,
        "gpu_memory_used": 2 * 2**30,
        "tensor_active": 0.25,
        "memory_active": 0.5,
        "power": 600.0,
    },
}


def series() -> Iterator[tuple[str, float, float]]:
    """Metric with labels, value at the last scrape, growth per second."""
    for pod in (*PODS, OTHER):
        labels = HERE.format(pod=pod)
        exported = f'namespace="gpu",exported_namespace="serving",exported_pod="{pod}"'
        yield from ((f"{name}{{{labels}}}", float(value), 0.0) for name, value in GAUGES.items())
        yield from ((f"{name}{{{labels}}}", 1e6, float(rate)) for name, rate in COUNTERS.items())
        yield from ((f"{name}{{{exported}}}", float(value), 0.0) for name, value in DCGM.items())
        for name in HISTOGRAMS:
            yield from buckets(name, labels)
    for (name, pod), value in RENAMED.items():
        yield f"{name}{{{HERE.format(pod=pod)}}}", value, 0.0
    yield from buckets("vllm:time_per_output_token_seconds", HERE.format(pod=PODS[0]))
    for name in ("vllm:time_per_output_token_seconds", "vllm:inter_token_latency_seconds"):
        yield from buckets(name, HERE.format(pod=PODS[1]))
    yield f'nv_inference_request_failure{{{HERE.format(pod=PODS[0])},reason="BACKEND"}}', 1e3, 1.0
    one, two = (f'exported_namespace="serving",exported_pod="{pod}"' for pod in PODS)
    yield f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{one}}}", 0.9, 0.0
    yield f"DCGM_FI_DEV_GPU_UTIL{{{one}}}", 100.0, 0.0
    yield f"DCGM_FI_DEV_GPU_UTIL{{{two}}}", 50.0, 0.0


def buckets(name: str, labels: str) -> Iterator[tuple[str, float, float]]:
    for le, rate in (("0.5", 1.0), ("1", 2.0), ("+Inf", 2.0)):
        yield f'{name}_bucket{{{labels},le="{le}"}}', 1e6, rate


@pytest.fixture(scope="module")
def prom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPrometheus]:
    need_prometheus()
    real = RealPrometheus(tmp_path_factory.mktemp("presets"))
    real.load(
        openmetrics(
            (name, AT - back, repr(value - growth * back))
            for name, value, growth in series()
            for back in range(20 * STEP, -1, -STEP)
        )
    )
    with real:
        yield real


def ask(prom: RealPrometheus, preset: Preset, name: str) -> dict[str, list[float]]:
    """Values of every indicator of a preset at the last scrape, for the pods of a Deployment."""

    async def run() -> dict[str, list[float]]:
        client = Prometheus(prom.url)
        try:
            matchers = default_matchers(preset, "serving", "Deployment", name)
            return {
                t.indicator.name: [float(s.values[-1]) for s in await client.query(t.fill(matchers), AT)]
                for t in preset.templates
            }
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_figures_of_a_service_are_right_on_a_real_prometheus(prom: RealPrometheus, name: str) -> None:
    """Two pods, one of an older version; a neighbour whose name begins alike does not count."""
    got = ask(prom, PRESETS[name], "chat")
    assert got.keys() == EXPECTED[name].keys()
    for indicator, value in EXPECTED[name].items():
        assert got[indicator] == [pytest.approx(value, rel=1e-6)], indicator


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_service_without_metrics_is_absent_and_not_zero(prom: RealPrometheus, name: str) -> None:
    got = ask(prom, PRESETS[name], "nobody")
    assert got == {indicator: [] for indicator in got}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_presets_say_what_they_are(preset: Preset) -> None:
    names = [t.indicator.name for t in preset.templates]
    assert len(set(names)) == len(names)
    by_name = {t.indicator.name: t.indicator for t in preset.templates}
    assert names[0] == preset.demand
    assert by_name[preset.demand].level == 1
    assert by_name[preset.service_level].level > 1
    assert preset.per_replica > 0
    for template in preset.templates:
        assert template.promql.count("{") == template.promql.count(MATCHERS) > 0
        assert template.indicator.unit
    assert preset.reporting.count("{") == preset.reporting.count(MATCHERS)


@pytest.mark.parametrize(
    ("name", "part", "value"),
    [
        ("vllm", "vllm:num_requests_waiting", 5.0),
        ("sglang", "sglang:num_running_reqs", 4.0),
        ("kserve", "kserve_vllm:num_requests_running", 3.0),
        ("inference-extension", "llm_d_epp_flow_control_queue_size", 2.0),
        ("ray-serve", "ray_serve_deployment_queued_queries", 7.0),
        ("trtllm", "trtllm_num_requests_running", 0.0),
    ],
)
def test_a_part_that_no_pod_exports_counts_nothing(tmp_path: Path, name: str, part: str, value: float) -> None:
    """With one of two parts there, the sum is that part; a real zero stays one."""
    template = PRESETS[name].templates[0]
    promql = within(template.fill('namespace="serving"'), 180.0)
    case = {"expr": promql, "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": value}]}
    series = [{"series": f'{part}{{namespace="serving",pod="a"}}', "values": f"{value}x60"}]
    group = {"interval": "15s", "input_series": series, "promql_expr_test": [case]}
    path = tmp_path / "test.yaml"
    path.write_text(json.dumps({"evaluation_interval": "15s", "tests": [group]}))
    done = subprocess.run([need_promtool(), "test", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def need_promtool() -> str:
    need_prometheus()
    found = shutil.which("promtool")
    assert found is not None
    return found


def test_a_server_of_many_services_has_to_be_told_apart() -> None:
    for name, preset in PRESETS.items():
        if not preset.shared:
            assert parse_autoscaler(autoscaler(preset=name, indicators=...)).queries[0].reporting is not None
            continue
        with pytest.raises(SpecError, match=r"spec\.presetMatchers: preset .* such as"):
            parse_autoscaler(autoscaler(preset=name, indicators=...))
        made = parse_autoscaler(autoscaler(preset=name, indicators=..., presetMatchers=preset.shared))
        assert made.queries[0].reporting is None
        assert preset.shared in made.queries[0].promql


def test_matchers_stand_in_every_selector() -> None:
    for preset in PRESETS.values():
        for template in preset.templates:
            filled = template.fill('service="chat", ')
            assert set(re.findall(r"\{([^}]*)\}", filled)) == {'service="chat"'}
            assert "{}" in template.fill("")


@pytest.mark.parametrize(
    ("kind", "name", "pods", "others"),
    [
        (
            "Deployment",
            "chat",
            ["chat-7d9f6c5b8-x2k4q"],
            ["chat-0", "chat-embed-7d9f6c5b8-x2k4q", "chat2-7d9f6c5b8-x2k4q"],
        ),
        ("Deployment", "chat.v1", ["chat.v1-7d9f6c5b8-x2k4q"], ["chatxv1-7d9f6c5b8-x2k4q"]),
        ("Deployment", "c" * 60, [f"{'c' * 58}x2k4q"], [f"{'c' * 40}-x2k4q"]),
        ("StatefulSet", "chat", ["chat-0", "chat-12"], ["chat-embed-0", "chat-0-1"]),
        ("LeaderWorkerSet", "chat", ["chat-0", "chat-0-3"], ["chat-embed-0"]),
        ("Rollout", "chat", ["chat-anything"], ["chatter-0", "chat"]),
    ],
)
def test_default_matchers_find_the_pods_of_the_target(kind: str, name: str, pods: list[str], others: list[str]) -> None:
    matchers = default_matchers(PRESETS["vllm"], "serving", kind, name)
    (pattern,) = re.findall(r'pod=~"([^"]*)"', matchers)
    assert matchers.startswith('namespace="serving",')
    assert all(re.fullmatch(pattern, pod) for pod in pods)
    assert not any(re.fullmatch(pattern, pod) for pod in others)


# ---- pods that report -----------------------------------------------------------------------------------------
SCRAPED = {PODS[0]: 1, PODS[1]: 1, "chat-7d9f6c5b8-dwn22": 0, "chat-7d9f6c5b8-qt77z": 1}


def scrapes() -> Iterator[tuple[str, float, float]]:
    """Four pods of one job: two that have served, one that is not scraped, one without a request so far."""
    for pod, up in SCRAPED.items():
        labels = f'{HERE.format(pod=pod)},job="serving/chat"'
        yield f"up{{{labels}}}", float(up), 0.0
        if pod in PODS:
            yield f"tgi_queue_size{{{labels}}}", 1.0, 0.0
            yield f'http_requests_total{{{labels},code="200"}}', 9.0, 1.0
            yield f'http_requests_total{{{labels},code="500"}}', 9.0, 1.0
        yield f'up{{{HERE.format(pod=pod)},job="mesh"}}', 1.0, 0.0
    yield 'http_requests_total{namespace="serving",pod="gateway-0",job="gateway"}', 9.0, 1.0


def test_pods_that_report_are_counted_on_a_real_prometheus(prom: RealPrometheus, tmp_path: Path) -> None:
    """By the metric itself; where that comes with the first request, by the scrape of the job that brings it."""
    of_service = {"vllm": 2.0, "dcgm": 2.0, "tgi": 2.0, "triton": 2.0}
    for name, pods in of_service.items():
        matchers = default_matchers(PRESETS[name], "serving", "Deployment", "chat")
        reporting = PRESETS[name].counted(matchers, None)
        assert reporting is not None
        assert counted(prom, reporting.promql) == [pods], name
    real = RealPrometheus(tmp_path / "scrapes")
    real.load(
        openmetrics((name, AT - back, repr(v - g * back)) for name, v, g in scrapes() for back in range(90, -1, -15))
    )
    with real:
        tgi = PRESETS["tgi"].counted(default_matchers(PRESETS["tgi"], "serving", "Deployment", "chat"), None)
        assert tgi is not None
        assert counted(real, tgi.promql) == [3.0], "the one that is down lacks; another job's scrape says nothing"
        for promql, found in (
            ('sum(rate(http_requests_total{code="200"}[1m]))', [3.0]),
            ("sum(http_requests_total) by (namespace) + sum(tgi_queue_size)", [3.0]),
            ('sum(rate(http_requests_total{job="gateway"}[1m]))', []),
            ("vector(1)", None),
        ):
            own = own_reporting(promql, "serving", "Deployment", "chat")
            assert (None if own is None else counted(real, own.promql)) == found, promql


def counted(prom: RealPrometheus, promql: str) -> list[float]:
    async def run() -> list[float]:
        async with Prometheus(prom.url) as client:
            return [float(s.values[-1]) for s in await client.query(within(promql, 180.0), AT)]

    return asyncio.run(run())
