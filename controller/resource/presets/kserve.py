"""The preset of KServe's LLMInferenceService, whose workers are vLLM.

KServe: its PodMonitor of the workers puts kserve_ before vLLM's names; scraped another way they keep their own. The
target is the Deployment (or LeaderWorkerSet) that KServe makes, NAME-kserve. For versions of the names see `vllm`.
"""

from __future__ import annotations

from controller.resource.presets.base import MATCHERS, Preset, p95, query, rate, reporting, total
from forecasting.panel import Level

__all__ = ["PRESET"]


def _both(name: str) -> tuple[str, str]:
    return f"kserve_vllm:{name}", f"vllm:{name}"


def _either(*names: str) -> str:
    return " or ".join(f"{full}{{{MATCHERS}}}" for name in names for full in _both(name))


PRESET = Preset(
    "kserve",
    (
        total("requests", "requests", "|".join(_both("num_requests_running")), "|".join(_both("num_requests_waiting"))),
        rate("request_rate", "requests/s", Level.DEMAND, *_both("request_success_total")),
        rate("prompt_token_rate", "tokens/s", Level.DEMAND, *_both("prompt_tokens_total")),
        rate("generation_token_rate", "tokens/s", Level.RESOURCE, *_both("generation_tokens_total")),
        query("kv_cache_usage", "1", Level.RESOURCE, f"avg({_either('kv_cache_usage_perc', 'gpu_cache_usage_perc')})"),
        query("requests_waiting", "requests", Level.SYSTEM, f"sum({_either('num_requests_waiting')})"),
        p95("ttft_p95", Level.SYSTEM, *_both("time_to_first_token_seconds")),
        p95("itl_p95", Level.SYSTEM, *_both("inter_token_latency_seconds"), *_both("time_per_output_token_seconds")),
    ),
    demand="requests",
    service_level="ttft_p95",
    per_replica=32.0,
    reporting=reporting(*_both("num_requests_running"), *_both("num_requests_waiting")),
)
