"""Presets: the usual indicators of a server or exporter as PromQL, demand and service level named.

Where metric names changed across versions the old and the new one are joined with ``or``, which compares labels and
not names: a pod that exports both counts once, and a rollout from one version to the next stays whole. A missing
metric leaves the result empty (absent), never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from forecasting.panel import Indicator, Kind, Level

__all__ = ["PRESETS", "Preset", "PresetName", "default_matchers"]

PresetName = Literal["vllm", "triton", "tgi", "dcgm"]

MATCHERS = "<matchers>"
WINDOW = "2m"  # two scrapes at the usual 15..60 s, so that one lost scrape does not empty a rate

# Pod names as their owners make them. A ReplicaSet's hash and a pod's suffix are of these letters (Kubernetes'
# `rand.SafeEncodeString`), so that chat-embed-... is not taken for a pod of chat.
_SAFE = "[bcdfghjklmnpqrstvwxz2456789]"
_POD_NAMES = {
    "Deployment": f"-{_SAFE}{{1,10}}-{_SAFE}{{5}}",
    "StatefulSet": "-[0-9]+",
    "LeaderWorkerSet": "-[0-9]+(-[0-9]+)?",
}

# Pods of a ReplicaSet get its name (ours and a hash of up to 10 letters) cut to 58 characters, and 5 of their own.
LONGEST_WHOLE_NAME = 58 - len("-1234567890-")


@dataclass(frozen=True, slots=True)
class Template:
    """One indicator of a preset and its PromQL with a place for label matchers."""

    indicator: Indicator
    promql: str

    def fill(self, matchers: str) -> str:
        """The PromQL with ``matchers`` in every selector (more may follow them, so a comma at the end is dropped)."""
        return self.promql.replace(MATCHERS, matchers.strip().rstrip(","))


@dataclass(frozen=True, slots=True)
class Preset:
    """The indicators of one kind of server.

    `demand` is the indicator that replicas are counted for; `service_level` the one that is usually bounded.
    `per_replica` is a first guess of the demand one replica carries, for objectives that have it learned.
    `labels` are the label names of namespace and pod in the usual scrape configuration.
    """

    name: PresetName
    templates: tuple[Template, ...]
    demand: str
    service_level: str
    per_replica: float
    labels: tuple[str, str] = ("namespace", "pod")


def default_matchers(preset: Preset, namespace: str, kind: str, name: str) -> str:
    """Matchers for the pods of a target, by namespace and by the way its controller names pods.

    ``namespace`` and ``name`` are DNS names (checked when they were read), so there is nothing to quote but dots.
    """
    in_namespace, in_pod = preset.labels
    tail = _POD_NAMES.get(kind, "-.+")
    if kind == "Deployment" and len(name) > LONGEST_WHOLE_NAME:
        name, tail = name[:LONGEST_WHOLE_NAME], ".+"
    return f'{in_namespace}="{namespace}",{in_pod}=~"{name.replace(".", "[.]")}{tail}"'


def _of(name: str, unit: str, level: Level, promql: str, kind: Kind = "gauge") -> Template:
    return Template(Indicator(name, unit, level, kind), promql)


def _rate(name: str, unit: str, level: Level, counter: str) -> Template:
    return _of(name, unit, level, f"sum(rate({counter}{{{MATCHERS}}}[{WINDOW}]))", "rate")


def _p95(name: str, level: Level, *histograms: str) -> Template:
    rates = " or ".join(f"rate({h}_bucket{{{MATCHERS}}}[{WINDOW}])" for h in histograms)
    return _of(name, "s", level, f"histogram_quantile(0.95, sum by (le) ({rates}))")


# vLLM: docs.vllm.ai "Production Metrics" v0.4 .. v0.32 and vllm/v1/metrics/loggers.py. Stable since v0.4:
# num_requests_running, num_requests_waiting, prompt/generation_tokens_total, time_to_first_token_seconds. Renamed:
# gpu_cache_usage_perc -> kv_cache_usage_perc (v0.9 exports both), time_per_output_token_seconds ->
# inter_token_latency_seconds (v0.11; both for some releases). request_success_total counts finished requests.
# Demand is requests in the system (running + waiting): it grows when replicas are too few, unlike what is served.
_VLLM = Preset(
    "vllm",
    (
        _of(
            "requests",
            "requests",
            Level.DEMAND,
            f"sum(vllm:num_requests_running{{{MATCHERS}}}) + sum(vllm:num_requests_waiting{{{MATCHERS}}})",
        ),
        _rate("request_rate", "requests/s", Level.DEMAND, "vllm:request_success_total"),
        _rate("prompt_token_rate", "tokens/s", Level.DEMAND, "vllm:prompt_tokens_total"),
        _rate("generation_token_rate", "tokens/s", Level.RESOURCE, "vllm:generation_tokens_total"),
        _of(
            "kv_cache_usage",
            "1",
            Level.RESOURCE,
            f"avg(vllm:kv_cache_usage_perc{{{MATCHERS}}} or vllm:gpu_cache_usage_perc{{{MATCHERS}}})",
        ),
        _of("requests_waiting", "requests", Level.SYSTEM, f"sum(vllm:num_requests_waiting{{{MATCHERS}}})"),
        _p95("ttft_p95", Level.SYSTEM, "vllm:time_to_first_token_seconds"),
        _p95("itl_p95", Level.SYSTEM, "vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    ),
    demand="requests",
    service_level="ttft_p95",
    per_replica=32.0,  # well below the 256 sequences that vLLM batches by default: long prompts fill the cache first
)

# Triton: docs/user_guide/metrics.md, releases 23.04 .. 24.04, names without _total. nv_inference_pending_request_count
# since 24.02. Failures are demand too; a server that has none (or does not say) counts as the successes alone.
# Latencies are means, because quantiles need an option (--metrics-config summary_latencies=true).
_OK = f"sum(rate(nv_inference_request_success{{{MATCHERS}}}[{WINDOW}]))"
_TRITON = Preset(
    "triton",
    (
        _of(
            "request_rate",
            "requests/s",
            Level.DEMAND,
            f"{_OK} + (sum(rate(nv_inference_request_failure{{{MATCHERS}}}[{WINDOW}])) or 0 * {_OK})",
            "rate",
        ),
        _of("requests_pending", "requests", Level.DEMAND, f"sum(nv_inference_pending_request_count{{{MATCHERS}}})"),
        _rate("inference_rate", "inferences/s", Level.RESOURCE, "nv_inference_count"),
        _of("gpu_utilization", "1", Level.RESOURCE, f"avg(nv_gpu_utilization{{{MATCHERS}}})"),
        _of("gpu_memory_used", "bytes", Level.SYSTEM, f"sum(nv_gpu_memory_used_bytes{{{MATCHERS}}})"),
        _of(
            "queue_time_mean",
            "s",
            Level.SYSTEM,
            f"sum(rate(nv_inference_queue_duration_us{{{MATCHERS}}}[{WINDOW}])) / {_OK} / 1e6",
        ),
        _of(
            "latency_mean",
            "s",
            Level.SYSTEM,
            f"sum(rate(nv_inference_request_duration_us{{{MATCHERS}}}[{WINDOW}])) / {_OK} / 1e6",
        ),
    ),
    demand="request_rate",
    service_level="latency_mean",
    per_replica=10.0,
)

# Text Generation Inference: docs/source/reference/metrics.md (2.x and 3.x; counters without _total). It has no metric
# of the time to the first token; time in the queue is the part of it that replicas can change.
_TGI = Preset(
    "tgi",
    (
        _of(
            "requests",
            "requests",
            Level.DEMAND,
            f"sum(tgi_queue_size{{{MATCHERS}}}) + sum(tgi_batch_current_size{{{MATCHERS}}})",
        ),
        _rate("request_rate", "requests/s", Level.DEMAND, "tgi_request_count"),
        _rate("input_token_rate", "tokens/s", Level.DEMAND, "tgi_request_input_length_sum"),
        _rate("generation_token_rate", "tokens/s", Level.RESOURCE, "tgi_request_generated_tokens_sum"),
        _of("batch_tokens", "tokens", Level.RESOURCE, f"sum(tgi_batch_current_max_tokens{{{MATCHERS}}})"),
        _of("requests_waiting", "requests", Level.SYSTEM, f"sum(tgi_queue_size{{{MATCHERS}}})"),
        _p95("queue_time_p95", Level.SYSTEM, "tgi_request_queue_duration"),
        _p95("latency_p95", Level.SYSTEM, "tgi_request_duration"),
        _p95("itl_p95", Level.SYSTEM, "tgi_request_mean_time_per_token_duration"),
    ),
    demand="requests",
    service_level="queue_time_p95",
    per_replica=32.0,  # --max-concurrent-requests is 128 by default
)

# DCGM exporter: etc/default-counters.csv and dcp-metrics-included.csv (3.x, 4.x). The profiling metrics (0..1) also
# work under MIG and need a data-centre GPU; DCGM_FI_DEV_GPU_UTIL (percent) is always there. Without honorLabels, as
# in its chart and in the GPU operator, Prometheus calls the workload's labels exported_namespace and exported_pod.
# Busy GPUs cannot exceed the GPUs there are: as demand this only works with room to spare (per replica well below
# gpusPerReplica), so an own request indicator is better and, being listed first, wins.
_DCGM = Preset(
    "dcgm",
    (
        _of(
            "busy_gpus",
            "GPUs",
            Level.DEMAND,
            f"sum(DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{MATCHERS}}} or DCGM_FI_DEV_GPU_UTIL{{{MATCHERS}}} / 100)",
        ),
        _of(
            "gpu_utilization",
            "1",
            Level.RESOURCE,
            f"avg(DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{MATCHERS}}} or DCGM_FI_DEV_GPU_UTIL{{{MATCHERS}}} / 100)",
        ),
        _of("gpu_memory_used", "bytes", Level.RESOURCE, f"sum(DCGM_FI_DEV_FB_USED{{{MATCHERS}}}) * 1048576"),
        _of("tensor_active", "1", Level.SYSTEM, f"avg(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{MATCHERS}}})"),
        _of("memory_active", "1", Level.SYSTEM, f"avg(DCGM_FI_PROF_DRAM_ACTIVE{{{MATCHERS}}})"),
        _of("power", "W", Level.SYSTEM, f"sum(DCGM_FI_DEV_POWER_USAGE{{{MATCHERS}}})"),
    ),
    demand="busy_gpus",
    service_level="gpu_utilization",
    per_replica=0.5,
    labels=("exported_namespace", "exported_pod"),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (_VLLM, _TRITON, _TGI, _DCGM)}
assert tuple(PRESETS) == get_args(PresetName)
