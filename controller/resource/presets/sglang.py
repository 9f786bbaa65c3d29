"""The preset of SGLang.

SGLang: docs "Production Metrics" (with --enable-metrics) and srt/metrics/collector.py. Gauges are set by the scheduler
of one rank, unless all are asked to. inter_token_latency_seconds took the place of time_per_output_token_seconds.
"""

from __future__ import annotations

from controller.resource.presets.base import MATCHERS, Preset, p95, query, rate, reporting, total
from forecasting.panel import Level

__all__ = ["PRESET"]

PRESET = Preset(
    "sglang",
    (
        total("requests", "requests", "sglang:num_running_reqs", "sglang:num_queue_reqs"),
        rate("request_rate", "requests/s", Level.DEMAND, "sglang:num_requests_total"),
        rate("prompt_token_rate", "tokens/s", Level.DEMAND, "sglang:prompt_tokens_total"),
        rate("generation_token_rate", "tokens/s", Level.RESOURCE, "sglang:generation_tokens_total"),
        query("kv_cache_usage", "1", Level.RESOURCE, f"avg(sglang:token_usage{{{MATCHERS}}})"),
        query("requests_waiting", "requests", Level.SYSTEM, f"sum(sglang:num_queue_reqs{{{MATCHERS}}})"),
        p95("ttft_p95", Level.SYSTEM, "sglang:time_to_first_token_seconds"),
        p95("itl_p95", Level.SYSTEM, "sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
    ),
    demand="requests",
    service_level="ttft_p95",
    per_replica=32.0,
    reporting=reporting("sglang:num_running_reqs", "sglang:num_queue_reqs", at_once=False),
)
