"""A made-up `ReplayResult`, deterministic and quick, for tests of what is done with results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from forecasting.panel import FloatArray
from simulator.result import Fan, PolicyRun, ReplayResult


def demand_of(steps: int, step_s: float, seed: int = 0) -> FloatArray:
    """(steps,) a day-night rhythm with noise and a few bursts, in requests/s."""
    rng = np.random.default_rng(seed)
    hours = np.arange(steps) * step_s / 3600
    shape = 60 + 38 * np.sin(2 * np.pi * (hours - 9) / 24) + 10 * np.sin(2 * np.pi * (hours - 3) / 12)
    noise = np.convolve(rng.normal(size=steps + 8), np.ones(9) / 3, "valid")[:steps]
    burst = np.zeros(steps)
    for at in rng.integers(0, steps, max(1, steps // 400)):
        burst[at : at + 12] += rng.uniform(20, 55)
    return np.maximum(2.0, shape + 4 * noise + burst)


def run_of(
    name: str,
    ordered: Any,
    demand: FloatArray,
    *,
    capacity: float,
    scored_from: int,
    step_s: float,
    lead: int = 3,
    **more: Any,
) -> PolicyRun:
    """The figures of one policy that follow from its orders."""
    ordered = np.maximum(1, np.asarray(ordered)).astype(np.int64)
    ready = np.min(
        [np.concatenate([np.full(k, ordered[0]), ordered[: ordered.size - k]]) for k in range(lead + 1)], axis=0
    )
    violated = np.nan_to_num(demand, nan=-1.0) > ready * capacity
    known = max(1, int(np.isfinite(demand[scored_from:]).sum()))
    missed = int(violated[scored_from:].sum())
    hours = float(ordered[scored_from:].sum()) * step_s / 3600
    run = PolicyRun(
        name=name, settings={}, ordered=ordered, ready=ready, violated=violated, gpu_hours=hours, cost=2.5 * hours,
        violation_rate=missed / known, violated_seconds=missed * step_s,
        scale_events=int((np.diff(ordered[scored_from:]) != 0).sum()), stated_risk=None, objective_met=True,
        unreachable_steps=0, reasons={}, seconds=0.125,
    )  # fmt: skip
    return replace(run, **more)


def fake_result(
    steps: int = 2_016,
    *,
    step_s: float = 300.0,
    calendar: bool = True,
    absent: tuple[int, int] | None = None,
    fan: bool = True,
    seed: int = 0,
    **more: Any,
) -> ReplayResult:
    """Five policies on a made-up trace; demand is NaN in the ``absent`` rows (start, stop) of the scored part."""
    full = demand_of(steps, step_s, seed)
    demand, scored_from, capacity, lead = full.copy(), int(steps * 0.6), 4.0, 3
    if absent is not None:
        demand[scored_from + absent[0] : scored_from + absent[1]] = np.nan
    ahead = np.concatenate([full[lead:], np.full(lead, full[-1])])
    peak = np.max([np.concatenate([full[k:], np.full(k, full[-1])]) for k in range(lead + 1)], axis=0)
    past = np.max([np.concatenate([np.full(k, full[0]), full[: steps - k]]) for k in range(13)], axis=0)
    rng = np.random.default_rng(seed + 1)
    wander = np.convolve(rng.normal(size=steps + 14), np.ones(15) / 4, "valid")
    quantiles = {
        q: np.maximum(0.0, ahead * 0.98 + wander + z * (2.0 + 0.05 * ahead))[: steps - lead]
        for q, z in ((0.05, -1.64), (0.25, -0.67), (0.5, 0.0), (0.75, 0.67), (0.95, 1.64), (0.99, 2.33))
    }
    common: dict[str, Any] = {"capacity": capacity, "scored_from": scored_from, "step_s": step_s, "lead": lead}
    need = np.ceil(peak * 1.02 / capacity) + rng.choice([-2, 0, 0, 1, 1], steps, p=[0.004, 0.3, 0.3, 0.296, 0.1])
    runs = [
        run_of("harmony", need, demand, **common, stated_risk=0.0093, settings={"forecaster": "base", "hold_s": 900.0},
               reasons={"Forecast": 640, "ReactiveFloor": 120, "Stabilized": 47},
               fan=Fan(np.arange(lead, steps), quantiles) if fan else None, seconds=3.25),
        run_of("hpa", np.ceil(past / (0.72 * capacity)), demand, **common, settings={"target": 0.72},
               reasons={"TargetRatio": 700, "WithinTolerance": 107}),
        run_of("reactive", np.ceil(1.15 * past / capacity), demand, **common,
               settings={"margin": 0.15, "hold_s": 3600.0}),
        run_of("static", np.full(steps, np.ceil(np.quantile(full, 0.97) / capacity)), demand, **common,
               settings={"replicas": 27}),
        run_of("oracle", np.ceil(peak / capacity), demand, **common),
    ]  # fmt: skip
    settings: dict[str, Any] = {
        "trace": "llm-chat", "trace_digest": "5e" * 32, "demand_name": "requests_per_second", "unit": "requests/s",
        "demand": demand, "start_s": 1_709_251_200.0, "step_s": step_s, "calendar": calendar,
        "scored_from": scored_from, "replica_capacity": capacity, "lead_time_s": lead * step_s, "epsilon": 0.01,
        "seed": 0, "tuned": True, "world": "rate", "policies": {r.name: r for r in runs},
        "notes": ("made up for a test",),
    }  # fmt: skip
    return ReplayResult(**(settings | more))
