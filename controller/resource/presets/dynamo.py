"""The preset of NVIDIA Dynamo, read at its frontend.

Dynamo: docs "Metrics Catalog". A request is in flight from its arrival at the frontend to its last token; those that
wait for their first are among them. The frontend is there without workers, so that demand wakes a service from 0.
"""

from __future__ import annotations

from controller.resource.presets.base import MATCHERS, Preset, p95, query, rate
from forecasting.panel import Level

__all__ = ["PRESET"]

PRESET = Preset(
    "dynamo",
    (
        query("requests", "requests", Level.DEMAND, f"sum(dynamo_frontend_inflight_requests{{{MATCHERS}}})"),
        rate("request_rate", "requests/s", Level.DEMAND, "dynamo_frontend_requests_total"),
        rate("generation_token_rate", "tokens/s", Level.RESOURCE, "dynamo_frontend_output_tokens_total"),
        query("requests_waiting", "requests", Level.SYSTEM, f"sum(dynamo_frontend_queued_requests{{{MATCHERS}}})"),
        p95("ttft_p95", Level.SYSTEM, "dynamo_frontend_time_to_first_token_seconds"),
        p95("itl_p95", Level.SYSTEM, "dynamo_frontend_inter_token_latency_seconds"),
    ),
    demand="requests",
    service_level="ttft_p95",
    per_replica=32.0,
    shared='namespace="serving",model="qwen3"',
)
