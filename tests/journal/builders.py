"""Turns of the real loop in small random worlds, as the snapshots that a journal keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from forecasting.distribution import ForecastDistribution
from forecasting.panel import Indicator
from harmony.loop.managed import ManagedService
from harmony.loop.state import Look, Terms
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import (
    Behavior,
    Fallback,
    IndicatorBound,
    Objective,
    ScalingPolicy,
    ScalingRules,
    Stages,
)
from harmony.model.record import Record
from harmony.model.schedule import Schedule
from harmony.policies.quantile import QuantilePolicy
from harmony.serving import Snapshot

NOON_S = 1_767_614_400.0  # 2026-01-05T12:00:00Z
INDICATORS = (Indicator("requests", "requests/s"), Indicator("gpu", "%", 2), Indicator("queue", "requests", 3))
SAMPLES = 200


class World:
    """One service with a wandering demand, missing readings, lost forecasts and slow starts."""

    def __init__(self, rng: np.random.Generator, start_s: float = NOON_S, **objective: Any) -> None:
        self.rng = rng
        self.time_s = start_s
        self.level = float(rng.uniform(50, 5000))
        self.ordered = self.ready = int(rng.integers(1, 30))
        self.whole = bool(rng.random() < 0.2)  # demand in whole requests
        per_replica = self.level / float(rng.uniform(2, 25))
        known = rng.random() < 0.5
        capacity = Capacity.known(per_replica) if known else Capacity.prior(per_replica, float(rng.uniform(1.2, 2.5)))
        lead_time = LeadTime.known(float(rng.uniform(60, 500)))
        if rng.random() < 0.5:
            lead_time = LeadTime.measured(float(rng.uniform(60, 500)))
        promise = replace(_objective(rng, known), **objective)
        self.behavior = promise.behavior
        terms = Terms(
            objective=promise,
            policy=QuantilePolicy(limits=self.behavior),
            capacity=capacity,
            lead_time=lead_time,
            step_s=60.0,
            interval_s=float(rng.choice([15.0, 30.0, 60.0, 120.0])),
            steps_back=False,
        )
        self.service = ManagedService(terms)

    def look(self) -> Look:
        """One look at it; the step before was missed now and then."""
        rng, now_s = self.rng, self.time_s
        demand = float("nan") if rng.random() < 0.1 else self.level
        missed = rng.random() < 0.05
        bound = self.service.terms.objective.bound
        value = float("nan") if bound is None or rng.random() < 0.5 else bound.at_most * (2.0 if missed else 0.5)
        return Look(
            now_s=now_s,
            demand=demand,
            demand_age_s=0.0,
            ordered=self.ordered,
            ready=self.ready,
            rows=[(now_s, 1e12 if missed and bound is None else self.level, value)],
            forecast=self.forecast(now_s),
            started=[(float(rng.uniform(60, 500)), "")] if rng.random() < 0.1 else [],
            failed_s=(float(rng.uniform(60, 900)),) if rng.random() < 0.05 else (),
            pending_s=(30.0,) if rng.random() < 0.3 else (),
        )

    def forecast(self, now_s: float) -> ForecastDistribution | None:
        if self.rng.random() < 0.15:
            return None
        horizon = int(self.rng.integers(1, 14))
        shape = (SAMPLES, horizon, len(INDICATORS))
        paths = self.level * np.exp(np.cumsum(self.rng.normal(0, 0.03, shape), axis=1))
        if self.whole:
            paths = np.round(paths)
        if self.rng.random() < 0.05:
            paths[:, :, 0] = np.nan
        return ForecastDistribution(paths, INDICATORS, now_s, 60.0, "random walk 1")

    def scale(self, replicas: int) -> int:
        """Sometimes the cluster accepts less."""
        self.ordered = replicas if self.rng.random() < 0.9 else (replicas + self.ordered) // 2
        return self.ordered

    def turn(self) -> Record:
        self.time_s += self.service.terms.interval_s + float(self.rng.random())
        self.level = max(1.0, self.level * float(np.exp(self.rng.normal(0, 0.15))))
        self.ready = min(self.ordered, self.ready + 2)
        turn = self.service.consider(self.look())
        wanted = turn.plan.desired
        return self.service.conclude(turn, wanted if wanted == self.ordered else self.scale(wanted))

    def snapshot(self, service: str, **changes: Any) -> Snapshot:
        return snapshot_of_record(self.turn(), service, self.behavior, **changes)


def _objective(rng: np.random.Generator, known: bool) -> Objective:
    rules = ScalingRules(
        float(rng.choice([0.0, 120.0, 300.0])),
        (ScalingPolicy("Pods", int(rng.integers(1, 5)), 60.0), ScalingPolicy("Percent", 50, 30.0)),
        "Max" if rng.random() < 0.5 else "Min",
    )
    behaviors = [
        Behavior(),
        Behavior.hold(240.0),
        Behavior(rules, rules, Stages(25, 120.0)),
        Behavior(stages=Stages(50, 60.0)),
    ]
    night = Schedule("night", "Europe/Berlin", frozenset(range(7)), 12 * 60 + 30, 13 * 60 + 30, min_replicas=3)
    return Objective(
        epsilon=float(rng.choice([0.01, 0.05, 0.1])),
        demand="requests" if rng.random() < 0.8 else "",
        measure="time" if rng.random() < 0.5 else "window",
        price_per_gpu_hour=float(rng.uniform(0.5, 4)),
        gpus_per_replica=int(rng.integers(1, 9)),
        miss_price_per_replica_hour=float(rng.choice([0.0, 10.0])),
        switch_price=float(rng.choice([0.0, 0.1])),
        min_replicas=int(rng.integers(0, 3)),
        max_replicas=int(rng.choice([8, 20, 60])),
        behavior=behaviors[int(rng.integers(len(behaviors)))],
        schedules=(night,) if rng.random() < 0.3 else (),
        fallback=Fallback(2, 12) if rng.random() < 0.5 else None,
        bound=None if known else IndicatorBound("ttft_p95", 0.5),
    )


def snapshot_of_record(record: Record, service: str, behavior: Behavior | None, **changes: Any) -> Snapshot:
    seen = record.observation
    values: dict[str, Any] = {
        "service": service,
        "kind": "Demo",
        "target": "Deployment chat",
        "mode": "Full",
        "effective_mode": "Full",
        "unit": "requests/s",
        "demand_name": "requests",
        "gpu_type": "H100-80GB",
        "currency": "USD",
        "record": record,
        "guards_before": record.before.guards,
        "behavior": behavior,
        "ordered": seen.ordered,
        "ready": seen.ready,
        "desired": record.applied,
        "held_by": "",
        "history_s": seen.now_s + 60.0 * np.arange(-288, 0),
        "history": np.where(np.arange(288) % 50 == 7, np.nan, 100.0 * np.sin(np.arange(288) / 20.0) + 500.0),
        "conditions": ({"type": "Ready", "status": "True", "reason": "Fine", "message": "all is well"},),
        "coverage": {0.5: 0.52, 0.8: 0.79},
        "crps": 12.5,
        "realized": 0.03,
        "stated": None,
        "gpu_hours_saved": 12.25,
    }
    return Snapshot(**(values | changes))


def fleet(services: int, seed: int = 0, start_s: float = NOON_S) -> list[World]:
    return [World(np.random.default_rng([seed, i]), start_s) for i in range(services)]
