"""`LiveRequests`: the request-level world in the loop: policies decide while single requests queue.

In each step: what has started serves, lost nodes take their replicas along, the step's requests meet the replicas
that are ready, and at its end the service sees what was asked for in it (requests sent again included), queue, cache
and retries, and has its turn. A drop acts from the next step on and lets replicas drain. A step is violated when more
than `LATE_SHARE` of its requests had no first token within the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from forecasting.errors import DataError
from forecasting.panel import BoolArray, FloatArray, Indicator, IntArray, Panel
from harmony.decision.censored import offered_now
from harmony.loop.managed import ManagedService
from harmony.loop.ports import ForecastSource
from harmony.loop.state import Look
from harmony.model.objective import IndicatorBound
from simulator.fluid import Timeline
from simulator.nodes import Kind, NodePool, Supply
from simulator.requests import RequestOutcome, RequestWorld, StepView, demand_per_request
from simulator.service_model import Clients, RequestLog, ServiceModel, default_ttft_slo_s
from simulator.traces.request_trace import RequestTrace

__all__ = ["BOUND", "LATE_SHARE", "LEADING", "LiveRequests", "Traffic", "WorldSettings", "drawn_requests"]

Measured = Literal["arrivals", "served", "balance"]
LATE_SHARE = 0.05
BOUND = IndicatorBound("late_share", LATE_SHARE)
LONG = 0.9  # quantile of prompt tokens beyond which a request is a long one
MOST_REQUESTS = 20_000_000
PROMPT, ANSWER = (914.0, 1.0), (343.0, 0.9)  # mean tokens and spread of the logarithm, as in the bundled trace


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """What a request-level world is made of.

    Attributes:
        replica: proportions of a replica; its speed follows from the replica capacity of the replay.
        utilisation: share of what a replica sustains at most that its capacity stands for: at full load latencies have
            no bound, so a capacity with a bound on latency lies below.
        clients: who waits how long.
        supply: where replicas come from.
        ttft_slo_s: bound on the time to first token; None for one that an idle replica can keep.
        measured: what the service takes for its demand: ``arrivals``; what is ``served``, a lower bound where it is
            saturated; or the ``balance``, served plus what is in the system more than before.
    """

    replica: ServiceModel = field(default_factory=ServiceModel)
    utilisation: float = 0.8
    clients: Clients = field(default_factory=Clients)
    supply: Supply = field(default_factory=Supply)
    ttft_slo_s: float | None = None
    measured: Measured = "arrivals"


@dataclass(frozen=True, eq=False)
class Traffic:
    """Single requests on a panel's grid, what one of them adds to the demand, and the replicas that serve them."""

    arrival_s: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray
    per_request: float
    models: tuple[ServiceModel, ...]
    ttft_slo_s: float
    clients: Clients
    start_s: float
    step_s: float
    measured: Measured = "arrivals"
    long_tokens: float = math.inf

    @classmethod
    def of(
        cls, panel: Panel, requests: RequestTrace | None, capacity: float, settings: WorldSettings, seed: int
    ) -> Traffic:
        """The requests of a trace, or drawn for it where it has rates only; ``capacity`` of a replica in demand's unit.

        Raises `DataError` for a demand that is no rate of requests or tokens, or too many requests.
        """
        demand = panel.indicators[0]
        trace = drawn_requests(panel, seed) if requests is None else requests
        per_request = demand_per_request(trace, demand)
        if not per_request > 0 or not len(trace):
            raise DataError(
                f"{panel.name}: demand {demand.name!r} ({demand.unit or 'no unit'}) is no rate of requests, so there "
                "is no request-level world of it; expected a trace of single requests, or a demand in requests/s "
                "(`harmony traces convert --column` gives a column its unit)"
            )
        model = ServiceModel.for_capacity(trace, capacity / per_request / settings.utilisation, base=settings.replica)
        slo = default_ttft_slo_s(model, trace) if settings.ttft_slo_s is None else settings.ttft_slo_s
        models = tuple(_of_kind(model, kind) for kind in settings.supply.kinds)
        shift = trace.start - panel.start_s if requests is not None else 0.0
        columns = (trace.arrival_s + shift, trace.prompt_tokens, trace.output_tokens)
        clients, measured = settings.clients, settings.measured
        long = float(np.quantile(trace.prompt_tokens, LONG))
        return cls(*columns, per_request, models, slo, clients, panel.start_s, panel.step_s, measured, long)

    def part(self, start: int, stop: int) -> RequestLog:
        """Requests of rows ``start .. stop-1``, on a clock that is 0 at the first of them."""
        low, high = (float(row) * self.step_s for row in (start, stop))
        inside = slice(*np.searchsorted(self.arrival_s, [low, high]).tolist())
        return _Log(self.arrival_s[inside] - low, self.prompt_tokens[inside], self.output_tokens[inside])


@dataclass(frozen=True, eq=False, slots=True)
class _Log:
    arrival_s: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray


def _of_kind(model: ServiceModel, kind: Kind) -> ServiceModel:
    """The nominal replica on one kind of GPU."""
    scaled = model.scaled(kind.speed)
    if kind.kv_tokens is None:
        return scaled
    return ServiceModel(
        scaled.prefill_tokens_per_s, scaled.decode_tokens_per_s, scaled.decode_limit_tokens_per_s,
        scaled.max_concurrency, kind.kv_tokens,
    )  # fmt: skip


def drawn_requests(panel: Panel, seed: int) -> RequestTrace:
    """Single requests for a panel whose demand is a rate of requests: Poisson within each step, lognormal tokens.

    Mean tokens a request follow the panel's token rates where it has them. Where demand is absent the last known rate
    goes on. Raises `DataError` for more than `MOST_REQUESTS`.
    """
    demand = panel.indicators[0]
    if demand.unit != "requests/s":
        return RequestTrace(np.empty(0), np.empty(0), np.empty(0))
    rate = panel.values[:, 0]
    newest = np.maximum.accumulate(np.where(np.isnan(rate), 0, np.arange(rate.size)))
    rate = np.nan_to_num(rate[newest])
    expected = float(rate.sum()) * panel.step_s
    if expected > MOST_REQUESTS:
        raise DataError(
            f"{panel.name}: {expected:,.0f} requests are more than {MOST_REQUESTS:,}; give a shorter part of the trace"
        )
    rng = np.random.default_rng([seed, 2])
    count = rng.poisson(rate * panel.step_s)
    row = np.repeat(np.arange(rate.size), count)
    arrival = np.sort(row + rng.random(row.size)) * panel.step_s
    tokens = []
    for name, (mean, spread) in (("prompt_tokens_per_second", PROMPT), ("output_tokens_per_second", ANSWER)):
        level = np.full(rate.size, mean)
        if name in panel.names:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = panel.column(name) / panel.values[:, 0]
            level = np.where(np.isfinite(ratio) & (ratio > 0), ratio, mean)
        drawn = level[row] * np.exp(spread * rng.standard_normal(row.size) - spread**2 / 2)
        tokens.append(np.maximum(1.0, np.round(drawn)))
    return RequestTrace(arrival, tokens[0], tokens[1], name=panel.name, start=panel.start_s, calendar=panel.calendar)


class LiveRequests:
    """The request-level world of one simulated service; `run` lets it live there.

    ``demand`` (steps,) is the trace's, NaN where absent; ``row`` the trace's row that the first step is.
    """

    def __init__(self, traffic: Traffic, demand: FloatArray, row: int, pool: NodePool) -> None:
        self._traffic = traffic
        self._demand = demand.tolist()
        self._row = row
        self._pool = pool
        log = traffic.part(row, row + demand.size)
        self._requests: RequestWorld | None = None
        if log.arrival_s.size:
            self._requests = RequestWorld(
                log, traffic.models, 0.0, clients=traffic.clients, ttft_slo_s=traffic.ttft_slo_s
            )
        self.drain_hours = 0.0
        self._in_system = 0.0
        step = np.minimum((log.arrival_s / traffic.step_s).astype(np.int64), demand.size - 1)
        long = log.prompt_tokens > traffic.long_tokens
        sizes = [np.bincount(step[part], minlength=demand.size) / traffic.step_s for part in (~long, long)]
        self._by_size: list[tuple[float, float]] = list(zip(*(s.tolist() for s in sizes), strict=True))
        self._recorded: list[list[float]] = []

    def run(self, service: ManagedService, forecasts: ForecastSource | None = None, every: int = 1) -> Timeline:
        """Let ``service`` have its turn at the end of every ``every``-th step."""
        pool, step_s, n = self._pool, self._traffic.step_s, len(self._demand)
        ordered, ready, price = [0] * n, [0] * n, [0.0] * n
        learns = not (pool.start_up.is_fixed and pool.supply.is_plain)  # else starts teach nothing
        rows: list[tuple[float, float, float]] = []
        newest, newest_s = math.nan, -math.inf
        for step, demand in enumerate(self._demand):
            now_s = self._traffic.start_s + (self._row + step) * step_s
            pool.advance(step)
            serving = pool.ready
            seen = self._serve(step)
            demand = self._measured(demand, seen)
            if demand == demand:
                newest, newest_s = demand, now_s
            ready[step] = serving
            measured = indicators(seen, step_s, *self._by_size[step])
            self._recorded.append([demand, *measured.values()])
            if step % every == 0:
                look = Look(
                    now_s=now_s,
                    demand=newest,
                    demand_age_s=now_s - newest_s,
                    ordered=pool.ordered,
                    ready=pool.ready,
                    rows=rows,
                    forecast=None if forecasts is None else forecasts.latest(now_s),
                    started=[(took, "") for took, _ in pool.started()] if learns else (),
                    failed_s=pool.failed() if learns else (),
                    pending_s=pool.pending_s(step) if learns else (),
                    indicators=measured,
                )
                rows = []
                turn = service.consider(look)
                desired = turn.plan.desired
                if desired != pool.ordered:
                    pool.scale(step, desired)
                service.conclude(turn, pool.ordered)
            service.served(now_s, pool.ordered, serving)
            ordered[step] = pool.ordered
            price[step] = pool.price
            if demand == demand:
                rows.append((now_s, demand, seen.late_share))
        violated = self._violated(n)
        return Timeline(np.array(ordered), np.array(ready), violated, np.array(price))

    def _measured(self, asked: float, seen: StepView) -> float:
        """Demand of a step as the service measures it; absent where the trace's is."""
        each, step_s = self._traffic.per_request, self._traffic.step_s
        before, self._in_system = self._in_system, float(seen.queue_length + seen.running)
        if self._traffic.measured == "arrivals":
            return asked + seen.retried * each / step_s  # they are asked for as well
        served = seen.finished * each / step_s + 0.0 * asked
        if self._traffic.measured == "served":
            return served
        return offered_now(served, self._in_system * each, before * each, step_s)

    def panel(self, demand: Indicator, name: str) -> Panel:
        """What was measured in each step of `run`: the demand, and what may lead it at level 2 (`LEADING`)."""
        return Panel(
            np.array(self._recorded), (demand, *LEADING), self._traffic.start_s + self._row * self._traffic.step_s,
            self._traffic.step_s, name=name,
        )  # fmt: skip

    def outcome(self) -> RequestOutcome | None:
        """What became of every request; None where there was none."""
        return None if self._requests is None else self._requests.outcome()

    def figures(self, scored_from: int) -> dict[str, float]:
        """Latency figures of the requests that arrive in step ``scored_from`` or later, and GPU-hours of draining."""
        out = self.outcome()
        if out is None:
            return {"requests": 0.0, "unfinished": 0.0}
        slo_s = self._traffic.ttft_slo_s
        found = out.summary(ttft_slo_s=slo_s, from_s=scored_from * self._traffic.step_s)
        if math.isfinite(self._traffic.clients.timeout_s):
            found = {"gave_up": 0.0, "retries": 0.0} | found
        return found | {"drain_replica_hours": self.drain_hours}

    def _serve(self, step: int) -> StepView:
        """The requests of one step."""
        if self._requests is None:
            return StepView(0, 0, 0, 0, 0)
        to_s = (step + 1) * self._traffic.step_s
        seen = self._requests.advance(to_s, self._pool.ready_by_kind, self._pool.lost_by_kind)
        self.drain_hours += seen.draining * self._traffic.step_s / 3600.0
        return seen

    def _violated(self, steps: int) -> BoolArray:
        """(steps,) whether more than `LATE_SHARE` of the requests that arrived in a step were late."""
        out = self.outcome()
        if out is None:
            return np.zeros(steps, dtype=bool)
        row: IntArray = np.minimum((out.arrival_s / self._traffic.step_s).astype(np.int64), steps - 1)
        late, known = out.late(self._traffic.ttft_slo_s)
        late_n, known_n = (np.bincount(row, weights=w, minlength=steps) for w in (late, known))
        return np.asarray(late_n > LATE_SHARE * known_n)


def indicators(seen: StepView, step_s: float, short: float, long: float) -> dict[str, float]:
    """What a service measures of one step, besides its demand; NaN where there is nothing to measure.

    ``short`` and ``long``: requests/s by size of the prompt.
    """
    return {
        "queue_length": float(seen.queue_length),
        "running_requests": float(seen.running),
        "tokens_in_flight": seen.tokens_in_flight,
        "tokens_waiting": seen.tokens_waiting,
        "kv_cache_usage": seen.kv_usage,
        "short_requests_per_second": short,
        "long_requests_per_second": long,
        "retries_per_second": seen.retried / step_s,
        "timeouts_per_second": seen.timed_out / step_s,
        "late_share": seen.late_share,
    }


LEADING = tuple(Indicator(name, level=2) for name in indicators(StepView(0, 0, 0, 0, 0), 1.0, 0.0, 0.0))
