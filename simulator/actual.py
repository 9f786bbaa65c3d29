"""What really ran, as a row beside the policies: the replicas that were there, judged by the same rule."""

from __future__ import annotations

import numpy as np

from forecasting.panel import FloatArray
from harmony.decision.risk import ROUND
from simulator.result import PolicyRun, ReplayResult

__all__ = ["ACTUAL", "actual_run"]

ACTUAL = "actual"


def actual_run(
    result: ReplayResult, replicas: FloatArray, *, gpus_per_replica: int, price_per_gpu_hour: float
) -> PolicyRun:
    """A run of the recorded ``replicas`` (steps,), NaN where unknown, over the demand of ``result``.

    Where the count is unknown the one before it is taken for the GPU-hours and the picture, but whether demand exceeded
    it there is not judged.
    """
    known = ~np.isnan(replicas)
    newest = np.maximum.accumulate(np.where(known, np.arange(replicas.size), -1))
    first = int(np.argmax(known)) if known.any() else 0
    counts = np.nan_to_num(np.rint(replicas[np.where(newest < 0, first, newest)])).astype(np.int64)
    judged = known & ~np.isnan(result.demand)
    with np.errstate(invalid="ignore"):
        violated = judged & (result.demand / result.replica_capacity - counts > ROUND)
    part = slice(result.scored_from, None)
    gpu_hours = float(counts[part].sum()) * result.step_s / 3600.0 * gpus_per_replica
    missed, of = int(violated[part].sum()), int(judged[part].sum())
    return PolicyRun(
        name=ACTUAL,
        settings={},
        ordered=counts,
        ready=counts,
        violated=violated,
        gpu_hours=gpu_hours,
        cost=gpu_hours * price_per_gpu_hour,
        violation_rate=missed / of if of else 0.0,
        violated_seconds=missed * result.step_s,
        scale_events=int((counts[part] != counts[result.scored_from - 1 : -1]).sum()),
        stated_risk=None,
        objective_met=True,
        unreachable_steps=0,
        reasons={},
        seconds=0.0,
    )
