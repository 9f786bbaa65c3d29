"""The preset of Triton Inference Server.

Triton: docs/user_guide/metrics.md, releases 23.04 .. 24.04, names without _total. nv_inference_pending_request_count
since 24.02. Failures are demand too; a server that has none (or does not say) counts as the successes alone.
Latencies are means, because quantiles need an option (--metrics-config summary_latencies=true).
"""

from __future__ import annotations

from controller.resource.presets.base import MATCHERS, WINDOW, Preset, query, rate, reporting
from forecasting.panel import Level

__all__ = ["PRESET"]

OK = f"sum(rate(nv_inference_request_success{{{MATCHERS}}}[{WINDOW}]))"
PRESET = Preset(
    "triton",
    (
        query(
            "request_rate",
            "requests/s",
            Level.DEMAND,
            f"{OK} + (sum(rate(nv_inference_request_failure{{{MATCHERS}}}[{WINDOW}])) or 0 * {OK})",
            "rate",
        ),
        query("requests_pending", "requests", Level.DEMAND, f"sum(nv_inference_pending_request_count{{{MATCHERS}}})"),
        rate("inference_rate", "inferences/s", Level.RESOURCE, "nv_inference_count"),
        query("gpu_utilization", "1", Level.RESOURCE, f"avg(nv_gpu_utilization{{{MATCHERS}}})"),
        query("gpu_memory_used", "bytes", Level.SYSTEM, f"sum(nv_gpu_memory_used_bytes{{{MATCHERS}}})"),
        query(
            "queue_time_mean",
            "s",
            Level.SYSTEM,
            f"sum(rate(nv_inference_queue_duration_us{{{MATCHERS}}}[{WINDOW}])) / {OK} / 1e6",
        ),
        query(
            "latency_mean",
            "s",
            Level.SYSTEM,
            f"sum(rate(nv_inference_request_duration_us{{{MATCHERS}}}[{WINDOW}])) / {OK} / 1e6",
        ),
    ),
    demand="request_rate",
    service_level="latency_mean",
    reporting=reporting("nv_inference_request_success", at_once=False),
    per_replica=10.0,
)
