"""The preset of Ray Serve.

Ray Serve: docs "Monitor Your Application", Prometheus names with ray_ before them; latencies are in milliseconds.
Queries wait at the handles of proxies and other deployments, which are there without replicas, so that demand wakes a
service from 0.
"""

from __future__ import annotations

from controller.resource.presets.base import MATCHERS, WINDOW, Preset, query, rate, total
from forecasting.panel import Level

__all__ = ["PRESET"]

PRESET = Preset(
    "ray-serve",
    (
        total("requests", "requests", "ray_serve_replica_processing_queries", "ray_serve_deployment_queued_queries"),
        rate(
            "request_rate",
            "requests/s",
            Level.DEMAND,
            "ray_serve_deployment_request_counter_total",
            "ray_serve_deployment_request_counter",
        ),
        query("requests_waiting", "requests", Level.SYSTEM, f"sum(ray_serve_deployment_queued_queries{{{MATCHERS}}})"),
        query(
            "latency_p95",
            "s",
            Level.SYSTEM,
            "histogram_quantile(0.95, sum by (le) "
            f"(rate(ray_serve_deployment_processing_latency_ms_bucket{{{MATCHERS}}}[{WINDOW}]))) / 1000",
        ),
    ),
    demand="requests",
    service_level="latency_p95",
    per_replica=5.0,  # max_ongoing_requests is 5 by default
    shared='application="chat",deployment="LLM"',
)
