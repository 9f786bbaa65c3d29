"""The preset of Text Generation Inference.

Text Generation Inference: docs/source/reference/metrics.md (2.x and 3.x; counters without _total). It has no metric
of the time to the first token; time in the queue is the part of it that replicas can change.
"""

from __future__ import annotations

from controller.resource.presets.base import MATCHERS, Preset, p95, query, rate, reporting, total
from forecasting.panel import Level

__all__ = ["PRESET"]

PRESET = Preset(
    "tgi",
    (
        total("requests", "requests", "tgi_queue_size", "tgi_batch_current_size"),
        rate("request_rate", "requests/s", Level.DEMAND, "tgi_request_count"),
        rate("input_token_rate", "tokens/s", Level.DEMAND, "tgi_request_input_length_sum"),
        rate("generation_token_rate", "tokens/s", Level.RESOURCE, "tgi_request_generated_tokens_sum"),
        query("batch_tokens", "tokens", Level.RESOURCE, f"sum(tgi_batch_current_max_tokens{{{MATCHERS}}})"),
        query("requests_waiting", "requests", Level.SYSTEM, f"sum(tgi_queue_size{{{MATCHERS}}})"),
        p95("queue_time_p95", Level.SYSTEM, "tgi_request_queue_duration"),
        p95("latency_p95", Level.SYSTEM, "tgi_request_duration"),
        p95("itl_p95", Level.SYSTEM, "tgi_request_mean_time_per_token_duration"),
    ),
    demand="requests",
    service_level="queue_time_p95",
    reporting=reporting("tgi_queue_size", "tgi_batch_current_size", at_once=False),
    per_replica=32.0,  # --max-concurrent-requests is 128 by default
)
