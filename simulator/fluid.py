"""`FluidWorld`: the rate-level world: demand is a rate, replicas carry so much of it each, there is no queue.

In each step: starting replicas become ready, the service sees demand up to this step and acts in it, then the step is
over: it is violated when demand exceeds what the ready replicas carry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from forecasting.panel import BoolArray, FloatArray, IntArray
from harmony.decision.risk import ROUND
from harmony.loop.managed import ManagedService
from harmony.loop.ports import ForecastSource
from harmony.loop.state import Look
from simulator.pool import GpuPool

__all__ = ["FluidWorld", "Timeline"]

NAN = math.nan


@dataclass(frozen=True, eq=False, slots=True)
class Timeline:
    """What happened in each step: replicas current and ready, and whether known demand exceeded them.

    ``price`` (steps,): what the replicas cost, in nominal ones; None where each costs the same. ``requests``: latency
    figures, where single requests were served.
    """

    ordered: IntArray
    ready: IntArray
    violated: BoolArray
    price: FloatArray | None = None
    requests: dict[str, float] = field(default_factory=dict)


class FluidWorld:
    """The world of one simulated service; `run` lets it live there.

    ``demand`` (steps,) with NaN where absent, as it is asked for; ``seen`` as the service measures it, where that is
    something else; ``free`` (steps,) replicas above which nothing more starts; ``per_replica`` what one ready replica
    carries, same unit; ``lives_already``: what is ordered in the first step has to start like everything else;
    ``ready_at_once``: nothing has to.
    """

    __slots__ = ("_at_once", "_begins", "_demand", "_free", "_pool", "_seen", "_start_s", "_step_s", "per_replica")

    def __init__(
        self,
        demand: FloatArray,
        per_replica: float,
        pool: GpuPool,
        start_s: float,
        step_s: float,
        *,
        lives_already: bool = False,
        ready_at_once: bool = False,
        seen: FloatArray | None = None,
        free: FloatArray | None = None,
    ) -> None:
        self._demand: list[float] = demand.tolist()
        self._begins = not lives_already
        self._at_once = ready_at_once
        self._seen: list[float] = self._demand if seen is None else seen.tolist()
        self._free: list[float] | None = None if free is None else free.tolist()
        self._pool = pool
        self._start_s = start_s
        self._step_s = step_s
        self.per_replica = per_replica

    def run(self, service: ManagedService, forecasts: ForecastSource | None = None, every: int = 1) -> Timeline:
        """Let ``service`` have its turn every ``every`` steps to the end of the demand."""
        n = len(self._demand)
        ordered, ready, violated = [0] * n, [0] * n, [False] * n
        pool, per_replica = self._pool, self.per_replica
        known = pool.start_up.is_fixed  # then starts teach nothing, and those that still run say nothing
        rows: list[tuple[float, float, float]] = []
        newest, newest_s = NAN, -math.inf
        for step, demand in enumerate(self._demand):
            now_s = self._start_s + step * self._step_s
            pool.advance(step)
            measured = self._seen[step]
            if measured == measured:
                newest, newest_s = measured, now_s
            if step % every == 0:
                look = Look(
                    now_s=now_s,
                    demand=newest,
                    demand_age_s=now_s - newest_s,
                    ordered=pool.ordered,
                    ready=pool.ready,
                    rows=rows,
                    forecast=None if forecasts is None else forecasts.latest(now_s),
                    started=() if known else pool.started(),
                    pending_s=() if known else pool.pending_s(step),
                )
                rows = []
                turn = service.consider(look)
                service.conclude(turn, self._order(step, turn.plan.desired))
            service.served(now_s, pool.ordered, pool.ready)
            ordered[step] = pool.ordered
            ready[step] = pool.ready
            if measured == measured:
                rows.append((now_s, measured, NAN))
            if demand == demand:
                violated[step] = demand / per_replica - pool.ready > ROUND
        return Timeline(np.array(ordered, dtype=np.int64), np.array(ready, dtype=np.int64), np.array(violated))

    def _order(self, step: int, replicas: int) -> int:
        """Order replicas in ``step``; always accepted. Returns the count that stands.

        What is ordered in the first step serves at once: the service did not begin with the trace.
        """
        if self._free is not None:
            replicas = min(replicas, max(self._pool.ordered, _whole(self._free[step])))
        if replicas != self._pool.ordered:
            if self._at_once or (step == 0 and self._begins):
                self._pool.begin(replicas)
            else:
                self._pool.scale(step, replicas)
        return self._pool.ordered


def _whole(replicas: float) -> int:
    return 10**9 if math.isinf(replicas) else math.floor(replicas + ROUND)
