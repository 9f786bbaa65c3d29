"""The work of a backtest job, run in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from forecasting.errors import UsageError
from forecasting.panel import Indicator, Panel
from harmony.model.objective import Objective

__all__ = ["work"]


def work(kind: str, request: Mapping[str, Any], report: Callable[[int, int, str], None]) -> Mapping[str, Any]:
    """Replay the posted demand (`harmony.api.models.BacktestRequest`); the result is `replay.json` without its series.

    Raises `InputError` for demand that cannot be replayed.
    """
    from simulator.pool import StartUp
    from simulator.replaying import ReplaySettings, replay
    from simulator.traces.trace import Trace

    if kind != "backtest":
        raise UsageError(f"job of kind {kind!r}: expected backtest")
    demand = np.array([math.nan if v is None else v for v in request["demand"]], dtype=np.float64)
    panel = Panel(demand[:, None], (Indicator("demand"),), 0.0, request["step_seconds"], "posted", calendar=False)
    settings = ReplaySettings(
        replica_capacity=request["per_replica"],
        start_up=StartUp(request["lead_time_s"]),
        objective=Objective(
            epsilon=request["epsilon"],
            price_per_gpu_hour=request["price_per_gpu_hour"],
            gpus_per_replica=request["gpus_per_replica"],
            min_replicas=request["min_replicas"],
            max_replicas=request["max_replicas"],
        ),
        seed=request["seed"],
    )
    policies = list(dict.fromkeys(request["policies"]))
    trace = Trace(panel, "demand", source="posted", format="json")
    result = replay(trace, policies, settings, on_progress=lambda what, done, total: report(done, total, what))
    return result.to_json()
