"""`replay`: run policies over a trace: learn and tune on its first part, score the rest."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from forecasting.errors import DataError, UsageError
from forecasting.panel import FloatArray
from forecasting.refreshing import Schedule
from harmony.decision.risk import replicas_needed
from harmony.decision.rule import window_steps
from harmony.loop.managed import ManagedService
from harmony.loop.ports import ForecastSource
from harmony.loop.state import Terms
from harmony.model.capacity import Capacity
from harmony.model.decision import Reason, Tried
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective
from harmony.model.record import Record
from harmony.policies.base import Past, Policy
from harmony.policies.oracle_free import OracleFreePolicy
from harmony.policies.registry import create_policy, policy_names
from simulator.fluid import FluidWorld, Timeline
from simulator.forecasters import Forecasters
from simulator.living import BOUND, LiveRequests, Traffic, WorldSettings
from simulator.nodes import NodePool
from simulator.pool import GpuPool, StartUp
from simulator.requests import demand_per_request
from simulator.result import Fan, PolicyRun, ReplayResult
from simulator.service_model import ServiceModel
from simulator.traces.limits import LEAST
from simulator.traces.registry import Trace, load_trace
from simulator.traces.trace import Events
from simulator.tuning import Score, choose_setting

__all__ = ["USUAL_REPLICAS", "ReplayProgress", "ReplaySettings", "replay", "sized"]

ReplayProgress = Callable[[str, int, int], None]  # (what, done, total)
USUAL_REPLICAS = 20.0
"""Replicas that the mean demand needs where nothing else is said."""
SUPPLY_SPREAD = 1.5  # of starts that may need a node or an image, as long as nothing was learned
LEAD_WEIGHT = 8.0  # how many starts the given lead-time distribution counts for when it is learned on


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """How a trace is turned into a world and which objective holds in it.

    Attributes:
        replica_capacity: demand that one ready replica carries; None for what `sized` finds.
        mean_replicas: replicas that the mean demand needs, where no capacity is given; None: of a log of requests a
            replica is as the service model has it, of other traces the mean demand needs `USUAL_REPLICAS`.
        start_up: distribution of the time a replica takes to become ready.
        objective: epsilon, prices and bounds.
        test_fraction: share of the trace, at its end, that is scored.
        tune: choose every policy's settings on the part before the scored one.
        decide_every_s: how often forecasting policies decide; None for every step.
        forecaster: what policies asked for by name forecast with: "base" (the bundled model), a model
            folder, or a method's name.
        refresh_s: models learn on line in periods of so many seconds, from the first row on, as they would in a
            cluster; 0: a method is fitted once, on the part before the scored one.
        lookback: rows of history that a forecast reads; None for what the model reads.
        samples: sample paths per forecast.
        ttft_slo_s: bound on a request's time to first token (request-level worlds); None for one that an idle
            replica of this size can keep.
        seed: of everything random.
        world: what the request-level world is made of; None decides and counts at the level of rates.
    """

    replica_capacity: float | None = None
    mean_replicas: float | None = None
    start_up: StartUp = field(default_factory=lambda: StartUp(300.0))
    objective: Objective = field(default_factory=Objective)
    test_fraction: float = 0.4
    tune: bool = False
    decide_every_s: float | None = None
    forecaster: str = "base"
    refresh_s: float = 0.0
    lookback: int | None = None
    samples: int = 200
    ttft_slo_s: float | None = None
    seed: int = 0
    world: WorldSettings | None = None

    def __post_init__(self) -> None:
        if self.replica_capacity is not None and not (
            math.isfinite(self.replica_capacity) and self.replica_capacity > 0
        ):
            raise UsageError(f"replica capacity {self.replica_capacity}: expected a positive number in demand's unit")
        if self.mean_replicas is not None and not (math.isfinite(self.mean_replicas) and self.mean_replicas > 0):
            raise UsageError(f"mean replicas {self.mean_replicas}: expected a positive number")
        if not 0.0 < self.test_fraction < 1.0:
            raise UsageError(f"test fraction {self.test_fraction}: expected between 0 and 1, say 0.4")
        if self.decide_every_s is not None and not self.decide_every_s > 0:
            raise UsageError(f"decide every {self.decide_every_s} s: expected a positive duration such as 5m")
        if self.refresh_s != 0:
            Schedule(every_s=self.refresh_s)
        if self.seed < 0:
            raise UsageError(f"seed {self.seed}: expected 0 or more")
        if self.samples < 1 or (self.lookback is not None and self.lookback < 1):
            raise UsageError(f"samples {self.samples} and lookback {self.lookback} must be 1 or more")


def replay(
    trace: Trace | str | Path,
    policies: Sequence[str | Policy] = policy_names(),
    settings: ReplaySettings | None = None,
    *,
    on_progress: ReplayProgress | None = None,
    journal: Callable[[str, Record], None] | None = None,
    timer: Callable[[], float] = time.perf_counter,
) -> ReplayResult:
    """Replay a trace under each policy, all in the same world and through the same loop.

    ``trace`` is a loaded `Trace` or what `load_trace` takes. ``journal`` receives every record of the final runs.
    Raises `DataError` for a trace that is too short, `UsageError` for an unknown policy or impossible setting.
    """
    loaded = trace if isinstance(trace, Trace) else load_trace(trace)
    settings = settings or ReplaySettings()
    chosen = [create_policy(p, settings.forecaster) if isinstance(p, str) else p for p in policies]
    if len({p.name for p in chosen}) != len(chosen):
        raise UsageError(f"a policy is named twice: {', '.join(p.name for p in chosen)}")
    bench = _Bench(loaded, settings, on_progress or (lambda *_: None), timer)
    runs = {p.name: bench.run(p, journal) for p in chosen}
    panel, s = loaded.panel, bench.settings
    return ReplayResult(
        trace=panel.name,
        trace_digest=panel.digest(),
        demand_name=panel.names[0],
        unit=panel.indicators[0].unit,
        demand=bench.demand,
        start_s=panel.start_s,
        step_s=panel.step_s,
        calendar=panel.calendar,
        scored_from=bench.scored_from,
        replica_capacity=bench.capacity,
        lead_time_s=s.start_up.median_s,
        epsilon=s.objective.epsilon,
        seed=s.seed,
        tuned=s.tune,
        world="requests" if s.world is not None else "rate" if loaded.requests is None else "request",
        policies=runs,
        notes=(*loaded.notes, *((bench.sizing,) if bench.sizing else ())),
    )


class _Log:
    """Journal of one run: counts what the report needs, passes records on."""

    def __init__(self, from_s: float, name: str, sink: Callable[[str, Record], None] | None, lead_steps: int) -> None:
        self.reasons: Counter[str] = Counter()
        self.stated: list[float] = []
        self.unreachable = 0
        self.fan: list[tuple[float, dict[float, float]]] = []
        self.tried: Tried | None = None
        self._from_s, self._name, self._sink, self._lead = from_s, name, sink, lead_steps

    def append(self, record: Record) -> None:
        decision = record.decision
        now = record.observation.now_s
        self.tried = decision.tried
        if decision.quantiles:
            at = {q: float(v[min(self._lead, v.size) - 1]) for q, v in decision.quantiles.items()}
            self.fan.append((now, at))
        if now >= self._from_s:
            self.reasons[str(decision.reason)] += 1
            if not math.isnan(decision.violation_probability):
                self.stated.append(decision.violation_probability)
            self.unreachable += decision.reason is Reason.UNREACHABLE
        if self._sink is not None:
            self._sink(self._name, record)


class _Bench:
    """One trace made into a world; runs and tunes policies in it."""

    def __init__(
        self, trace: Trace, settings: ReplaySettings, on_progress: ReplayProgress, timer: Callable[[], float]
    ) -> None:
        panel = trace.panel
        self.trace = trace
        self.settings = settings
        self.panel = panel
        self.seen: FloatArray = panel.values[:, 0]
        events = trace.events or Events()
        self.events = events
        self.demand: FloatArray = self.seen if events.demand is None else events.demand
        self.progress = on_progress
        self.timer = timer
        self.scored_from = math.floor(len(panel) * (1.0 - settings.test_fraction) + 1e-9)
        if self.scored_from < 2 or len(panel) - self.scored_from < 1:
            raise DataError(
                f"{panel.name}: {len(panel)} rows are too few to learn from the first "
                f"{1 - settings.test_fraction:.0%} and score the rest; give at least 5"
            )
        mean = float(np.nanmean(self.demand)) if np.isfinite(self.demand).any() else float("nan")
        if settings.replica_capacity is None and not mean >= LEAST:
            raise DataError(f"{panel.name}: demand {panel.names[0]!r} is never above zero, or hardly; nothing to scale")
        self.capacity, self.sizing = sized(trace, settings, mean)
        self.mean_need = mean / self.capacity
        _refuse_hopeless(trace, settings, self.capacity)
        self.need = replicas_needed(self.seen, self.capacity)
        objective = settings.objective
        self.traffic = None
        bound = objective.bound
        if settings.world is not None:
            if events.free is not None or events.slower is not None:
                raise UsageError(
                    f"{panel.name}: a scenario with a shortage or slow starts has no request-level world; "
                    "--world-file says how many nodes there are and how long they take"
                )
            asked = replace(panel, values=np.column_stack([self.demand, panel.values[:, 1:]]))
            self.traffic = Traffic.of(asked, trace.requests, self.capacity, settings.world, settings.seed)
            bound = BOUND
        self.objective = replace(objective, demand=panel.names[0], bound=bound)
        self.past = Past(self.need[: self.scored_from], panel.step_s, settings.start_up.median_s, objective.epsilon)
        known = self.need[~np.isnan(self.need)]
        first = int(known[0]) if known.size else 1
        self.initial = min(max(first, 1, objective.min_replicas), objective.max_replicas)
        self.lead = _lead_time(settings)
        self.forecasters = Forecasters(
            panel,
            self.demand,
            self.scored_from,
            settings.lookback,
            settings.samples,
            settings.seed,
            refresh_s=settings.refresh_s,
        )

    # ---- one policy -----------------------------------------------------------------------------------------
    def run(self, policy: Policy, journal: Callable[[str, Record], None] | None) -> PolicyRun:
        """Fit, tune if asked, then run over the whole trace and score its last part."""
        began = self.timer()
        policy = self._prepared(policy)
        self.progress(f"{policy.name}: replaying", 0, 1)
        log = _Log(self._time(self.scored_from), policy.name, journal, self.lead.steps(self.panel.step_s))
        timeline = self._live(policy, 0, len(self.panel), log, tuning=False)
        self.progress(f"{policy.name}: done", 1, 1)
        return self._scored(policy, timeline, log, self.timer() - began)

    def _prepared(self, policy: Policy) -> Policy:
        """The policy with settings from the past filled in, and tuned if asked."""
        policy = policy.fitted(self.past)
        if not self.settings.tune:
            return policy
        ladders = policy.ladders(self.past)
        if len(ladders) == 1 and len(ladders[0]) == 1:
            return policy
        total = sum(max(1, math.ceil(math.log2(len(r) + 1))) for r in ladders)
        tried = 0

        def run(candidate: Policy) -> Score:
            nonlocal tried
            tried += 1
            self.progress(f"{policy.name}: tuning", min(tried, total), total)
            timeline = self._live(candidate, self.scored_from // 2, self.scored_from, None, tuning=True)
            known = ~np.isnan(self.demand[self.scored_from // 2 : self.scored_from])
            share = float(timeline.violated.sum() / max(1, known.sum()))
            return float(timeline.ordered.sum()), share

        return choose_setting(ladders, run, self.objective.epsilon)

    def _live(self, policy: Policy, start: int, stop: int, log: _Log | None, *, tuning: bool) -> Timeline:
        """Let the policy's loop live through rows ``start .. stop-1``."""
        s, panel = self.settings, self.panel
        every = self._every(policy)
        start -= start % every  # decisions stay on the same grid, so that forecasts are shared between runs
        rng = np.random.default_rng([s.seed, 1])
        initial = self.initial if start == 0 else self._count_at(start)
        events, part = self.events, slice(start, stop)
        forecasts = self._forecasts(policy, every, tuning=tuning)
        service = ManagedService(self._terms(policy, every), journal=log)
        if self.traffic is not None and s.world is not None:
            nodes = NodePool(initial, s.start_up, s.world.supply, panel.step_s, rng)
            live = LiveRequests(self.traffic, self.seen[part], start, nodes)
            timeline = live.run(service, forecasts, every)
            return timeline if tuning else replace(timeline, requests=live.figures(self.scored_from - start))
        slower = None if events.slower is None else events.slower[part].tolist()
        pool = GpuPool(initial, s.start_up, panel.step_s, rng, slower)
        at_once = isinstance(policy, OracleFreePolicy)
        foresees = at_once or policy.forecaster == "truth"  # no outage of a metric hides anything from it
        world = FluidWorld(
            self.demand[part], self.capacity, pool, self._time(start), panel.step_s, ready_at_once=at_once,
            seen=None if events.demand is None or foresees else self.seen[part],
            free=None if events.free is None else events.free[part] * self.mean_need,
        )  # fmt: skip
        return world.run(service, forecasts, every)

    def _terms(self, policy: Policy, every: int) -> Terms:
        """What is agreed about the service under a policy; all policies keep full authority to the end."""
        return Terms(
            objective=self.objective,
            policy=policy,
            capacity=Capacity.known(self.capacity),
            lead_time=self.lead,
            step_s=self.panel.step_s,
            interval_s=every * self.panel.step_s,
            stale_after_s=0.0,  # a trace is complete: a row without a reading never gets one
            steps_back=False,
            scored=False,
        )

    def _every(self, policy: Policy) -> int:
        """Steps between decisions: forecasting policies may decide less often, all others decide every step."""
        if policy.forecaster in ("", "truth") or self.settings.decide_every_s is None:
            return 1
        return max(1, round(self.settings.decide_every_s / self.panel.step_s))

    def _forecasts(self, policy: Policy, every: int, *, tuning: bool) -> ForecastSource | None:
        if not policy.forecaster:
            return None
        horizon = window_steps(self.lead, self.panel.step_s, every * self.panel.step_s)
        report = None if tuning else lambda done, total: self.progress(f"{policy.name}: replaying", done, total)
        return self.forecasters.source(policy.forecaster, horizon, every, tuning=tuning, on_batch=report)

    def _count_at(self, row: int) -> int:
        """Replicas to begin a run in the middle of the trace with: what the newest known demand needs."""
        known = self.need[: row + 1]
        known = known[~np.isnan(known)]
        count = int(known[-1]) if known.size else self.initial
        return min(max(count, 1, self.objective.min_replicas), self.objective.max_replicas)

    def _time(self, row: int) -> float:
        return self.panel.start_s + row * self.panel.step_s

    def _scored(self, policy: Policy, timeline: Timeline, log: _Log, seconds: float) -> PolicyRun:
        """Count the scored part."""
        part = slice(self.scored_from, None)
        hours = self.panel.step_s / 3600.0
        known = int((~np.isnan(self.demand[part])).sum())
        missed = int(timeline.violated[part].sum())
        gpu_hours = float(timeline.ordered[part].sum()) * hours * self.objective.gpus_per_replica
        before = timeline.ordered[self.scored_from - 1 : -1]
        return PolicyRun(
            name=policy.name,
            settings=policy.settings,
            ordered=timeline.ordered,
            ready=timeline.ready,
            violated=timeline.violated,
            gpu_hours=gpu_hours,
            cost=self._cost(timeline, gpu_hours),
            violation_rate=missed / known if known else 0.0,
            violated_seconds=missed * self.panel.step_s,
            scale_events=int((timeline.ordered[part] != before).sum()),
            stated_risk=float(np.mean(log.stated)) if log.stated else None,
            objective_met=log.unreachable == 0,
            unreachable_steps=log.unreachable,
            reasons=dict(sorted(log.reasons.items())),
            seconds=seconds,
            fan=self._fan(log),
            requests=self._requests(timeline),
            tried=log.tried,
        )

    def _cost(self, timeline: Timeline, gpu_hours: float) -> float:
        """Money for the replicas of the scored part, by their kind where kinds have prices."""
        if timeline.price is None:
            return gpu_hours * self.objective.price_per_gpu_hour
        hours = float(timeline.price[self.scored_from :].sum()) * self.panel.step_s / 3600.0
        return hours * self.objective.replica_price_per_hour

    def _fan(self, log: _Log) -> Fan | None:
        """Forecasts of each step as they stood one lead time before."""
        lead = self.lead.steps(self.panel.step_s)
        rows, levels = [], []
        for now, at in log.fan:
            row = round((now - self.panel.start_s) / self.panel.step_s) + lead
            if row < self.demand.size:
                rows.append(row)
                levels.append(at)
        if not rows:
            return None
        return Fan(np.array(rows), {q: np.array([lv[q] for lv in levels]) for q in levels[0]})

    def _requests(self, timeline: Timeline) -> dict[str, float]:
        """Latencies of the request-level world under this run's ready replicas; empty without requests."""
        if self.traffic is not None:
            return timeline.requests
        if self.trace.requests is None:
            return {}
        from simulator.requests import request_figures

        return request_figures(
            self.trace.requests,
            timeline.ready,
            step_s=self.panel.step_s,
            start_s=self.panel.start_s,
            replica_capacity=self.capacity,
            demand=self.panel.indicators[0],
            scored_from=self.scored_from,
            ttft_slo_s=self.settings.ttft_slo_s,
        )


def sized(trace: Trace, settings: ReplaySettings, mean: float) -> tuple[float, str]:
    """What one ready replica carries, and a line that says so where nobody did: for a ``mean`` demand of the trace.

    Replicas of a log of requests that were sized by their number alone would take minutes for a request.
    """
    if settings.replica_capacity is not None:
        return settings.replica_capacity, ""
    if settings.mean_replicas is not None or trace.requests is None:
        return mean / (settings.mean_replicas or USUAL_REPLICAS), ""
    demand = trace.panel.indicators[0]
    base = ServiceModel() if settings.world is None else settings.world.replica
    per_request = demand_per_request(trace.requests, demand)
    try:
        carries = base.requests_per_s(trace.requests) * per_request
    except DataError:  # requests without tokens: the model says nothing about them
        carries = 0.0
    if not carries > 0:
        return mean / USUAL_REPLICAS, ""
    return carries, (
        f"without --replica-capacity a replica carries {carries:.3g} {demand.unit}, as the service model does with "
        f"these requests; the mean demand needs {mean / carries:.2g} of them (--mean-replicas {USUAL_REPLICAS:g} sizes "
        "them by their number instead)"
    )


def _refuse_hopeless(trace: Trace, settings: ReplaySettings, capacity: float) -> None:
    """`UsageError` where no capacity was given, and the one that was made up is too slow for the bound even when idle.

    No count could keep such a bound: it says nothing about policies, and the command that would is in the message.
    """
    asked, world = trace.requests, settings.world
    bound_s = settings.ttft_slo_s if world is None or world.ttft_slo_s is None else world.ttft_slo_s
    if settings.replica_capacity is not None or asked is None or bound_s is None:
        return
    demand = trace.panel.indicators[0]
    per_request = demand_per_request(asked, demand)
    if not per_request > 0:
        return
    base = ServiceModel() if world is None else world.replica
    model = ServiceModel.for_capacity(asked, capacity / per_request, base=base)
    idle_s = float(np.quantile(asked.prompt_tokens, 0.95)) / model.prefill_tokens_per_s
    if idle_s > bound_s:
        real = max(base.requests_per_s(asked) * per_request, 1.25 * capacity * idle_s / bound_s)
        raise UsageError(
            f"{trace.panel.name}: without --replica-capacity a replica would carry {capacity:.3g} {demand.unit} and, "
            f"even idle, answer after {idle_s:.2g} s, so that no count keeps {bound_s:g} s; give what one carries, "
            f"such as --replica-capacity {real:.3g}"
        )


def _lead_time(settings: ReplaySettings) -> LeadTime:
    """What is believed of starts at first: known exactly where nothing about them varies."""
    start_up, world = settings.start_up, settings.world
    if world is not None and not world.supply.is_plain:
        spread = max(start_up.spread, SUPPLY_SPREAD)
        return LeadTime.prior(world.supply.lead_s(start_up), spread=spread, weight=LEAD_WEIGHT)
    if start_up.is_fixed:
        return LeadTime.known(start_up.median_s)
    return LeadTime.prior(start_up.median_s, spread=start_up.spread, weight=LEAD_WEIGHT)
