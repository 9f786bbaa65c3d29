"""The preset of vLLM.

vLLM: docs.vllm.ai "Production Metrics" v0.4 .. v0.32 and vllm/v1/metrics/loggers.py. Stable since v0.4:
num_requests_running, num_requests_waiting, prompt/generation_tokens_total, time_to_first_token_seconds. Renamed:
gpu_cache_usage_perc -> kv_cache_usage_perc (v0.9 exports both), time_per_output_token_seconds ->
inter_token_latency_seconds (v0.11; both for some releases). request_success_total counts finished requests. Demand is
requests in the system (running + waiting): it grows when replicas are too few, unlike what is served.
"""

from __future__ import annotations

from controller.resource.presets.base import MATCHERS, Preset, p95, query, rate, reporting, total
from forecasting.panel import Level

__all__ = ["PRESET"]

PRESET = Preset(
    "vllm",
    (
        total("requests", "requests", "vllm:num_requests_running", "vllm:num_requests_waiting"),
        rate("request_rate", "requests/s", Level.DEMAND, "vllm:request_success_total"),
        rate("prompt_token_rate", "tokens/s", Level.DEMAND, "vllm:prompt_tokens_total"),
        rate("generation_token_rate", "tokens/s", Level.RESOURCE, "vllm:generation_tokens_total"),
        query(
            "kv_cache_usage",
            "1",
            Level.RESOURCE,
            f"avg(vllm:kv_cache_usage_perc{{{MATCHERS}}} or vllm:gpu_cache_usage_perc{{{MATCHERS}}})",
        ),
        query("requests_waiting", "requests", Level.SYSTEM, f"sum(vllm:num_requests_waiting{{{MATCHERS}}})"),
        p95("ttft_p95", Level.SYSTEM, "vllm:time_to_first_token_seconds"),
        p95("itl_p95", Level.SYSTEM, "vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    ),
    demand="requests",
    service_level="ttft_p95",
    reporting=reporting("vllm:num_requests_running", "vllm:num_requests_waiting"),
    per_replica=32.0,  # well below the 256 sequences that vLLM batches by default: long prompts fill the cache first
)
