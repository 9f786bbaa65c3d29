"""The preset of TensorRT-LLM (trtllm-serve, and its workers under Dynamo).

TensorRT-LLM: tensorrt_llm/metrics/collector.py, at /prometheus/metrics of trtllm-serve (return_perf_metrics). Gauges of
running and waiting requests came after 1.1; older versions have the counter and latencies only, so that
`objective.demand: request_rate` is what they can be scaled by.
"""

from __future__ import annotations

from controller.resource.presets.base import MATCHERS, Preset, p95, query, rate, reporting, total
from forecasting.panel import Level

__all__ = ["PRESET"]

PRESET = Preset(
    "trtllm",
    (
        total("requests", "requests", "trtllm_num_requests_running", "trtllm_num_requests_waiting"),
        rate("request_rate", "requests/s", Level.DEMAND, "trtllm_request_success_total"),
        rate("prompt_token_rate", "tokens/s", Level.DEMAND, "trtllm_prompt_tokens_total"),
        rate("generation_token_rate", "tokens/s", Level.RESOURCE, "trtllm_generation_tokens_total"),
        query("kv_cache_usage", "1", Level.RESOURCE, f"avg(trtllm_kv_cache_utilization{{{MATCHERS}}})"),
        query("requests_waiting", "requests", Level.SYSTEM, f"sum(trtllm_num_requests_waiting{{{MATCHERS}}})"),
        p95("ttft_p95", Level.SYSTEM, "trtllm_time_to_first_token_seconds"),
        p95("itl_p95", Level.SYSTEM, "trtllm_time_per_output_token_seconds"),
        p95("queue_time_p95", Level.SYSTEM, "trtllm_request_queue_time_seconds"),
    ),
    demand="requests",
    service_level="ttft_p95",
    per_replica=32.0,
    reporting=reporting("trtllm_num_requests_running", "trtllm_request_success_total", at_once=False),
)
