"""`FluidWorld`: the rate-level world: demand is a rate, replicas carry so much of it each, there is no queue.

In each step: starting replicas become ready, the loop sees demand up to this step and acts in it, then the step is
judged: it is violated when demand exceeds what the ready replicas carry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from forecasting.panel import BoolArray, FloatArray, IntArray
from harmony.decision.risk import ROUND
from harmony.loop.loop import ControlLoop
from harmony.loop.ports import Reading, Replicas
from harmony.model.observation import Outcome
from simulator.pool import GpuPool

__all__ = ["FluidWorld", "Timeline"]


@dataclass(frozen=True, eq=False, slots=True)
class Timeline:
    """What happened in each step: replicas ordered and ready, and whether known demand was missed."""

    ordered: IntArray
    ready: IntArray
    violated: BoolArray


class FluidWorld:
    """Clock, metric source and scale target of one simulated service; `run` lets a loop live in it.

    ``demand`` (steps,) with NaN where absent; ``per_replica`` what one ready replica carries, same unit.
    """

    __slots__ = ("_demand", "_pool", "_start_s", "_step", "_step_s", "_steps", "_violated", "per_replica")

    def __init__(self, demand: FloatArray, per_replica: float, pool: GpuPool, start_s: float, step_s: float) -> None:
        self._demand: list[float] = demand.tolist()
        self._pool = pool
        self._start_s = start_s
        self._step_s = step_s
        self.per_replica = per_replica
        self._step = 0
        self._steps = 0
        self._violated = 0

    # ---- ports of the loop ----------------------------------------------------------------------------------
    def now_s(self) -> float:
        """Simulated time of the present step."""
        return self._start_s + self._step * self._step_s

    def read(self) -> Reading:
        """Demand of the present step and the outcome of the steps since the last reading."""
        outcome = Outcome(self._steps, self._violated)
        self._steps = self._violated = 0
        return Reading(self._demand[self._step], outcome)

    def replicas(self) -> Replicas:
        """Ordered and ready counts."""
        return Replicas(self._pool.ordered, self._pool.ready)

    def started_s(self) -> list[float]:
        """Start-up times observed since the last call, seconds."""
        return self._pool.started_s()

    def scale(self, replicas: int) -> int:
        """Order replicas in the present step; always accepted.

        What is ordered in the first step serves at once: the service did not begin with the trace.
        """
        if self._step == 0:
            self._pool.begin(replicas)
        else:
            self._pool.scale(self._step, replicas)
        return replicas

    # ---- time -----------------------------------------------------------------------------------------------
    def run(self, loop: ControlLoop, every: int = 1) -> Timeline:
        """Let ``loop`` turn every ``every`` steps to the end of the demand."""
        n = len(self._demand)
        ordered, ready, violated = [0] * n, [0] * n, [False] * n
        pool, per_replica = self._pool, self.per_replica
        for step, demand in enumerate(self._demand):
            self._step = step
            pool.advance(step)
            if step % every == 0:
                loop.turn()
            ordered[step] = pool.ordered
            ready[step] = pool.ready
            if not math.isnan(demand):
                self._steps += 1
                if demand / per_replica - pool.ready > ROUND:
                    violated[step] = True
                    self._violated += 1
        return Timeline(np.array(ordered, dtype=np.int64), np.array(ready, dtype=np.int64), np.array(violated))
