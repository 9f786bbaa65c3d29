"""The preset of the Gateway API Inference Extension, read at its endpoint picker (also that of llm-d).

Inference Extension: guide "Metrics & Observability", inference_objective_* (before: inference_model_*); llm-d's router
calls them llm_d_epp_*. Requests that flow control holds back are not running yet; without flow control there are none.
The endpoint picker is there without model servers, so that with flow control demand wakes a service from 0.
"""

from __future__ import annotations

from controller.resource.presets.base import Preset, p95, rate, total
from forecasting.panel import Level

__all__ = ["PRESET"]


def _names(epp: str, objective: str) -> tuple[str, ...]:
    return f"llm_d_epp_{epp}", f"inference_objective_{objective}", f"inference_model_{objective}"


PRESET = Preset(
    "inference-extension",
    (
        total(
            "requests",
            "requests",
            "|".join(_names("request_running", "running_requests")),
            "llm_d_epp_flow_control_queue_size|inference_extension_flow_control_queue_size",
        ),
        rate("request_rate", "requests/s", Level.DEMAND, *_names("request_total", "request_total")),
        p95("latency_p95", Level.SYSTEM, *_names("request_duration_seconds", "request_duration_seconds")),
    ),
    demand="requests",
    service_level="latency_p95",
    per_replica=32.0,
    shared='namespace="serving",model_name="qwen3"',
)
