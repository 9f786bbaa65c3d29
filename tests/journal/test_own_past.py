"""Decisions of services with a past of their own come out the same from the journal, whatever was missing then."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np

from forecasting.distribution import ForecastDistribution
from harmony.journal import JournalStore, explain
from harmony.loop.managed import ManagedService
from harmony.loop.state import Look, Terms
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Behavior, Fallback, Objective, ScalingPolicy, ScalingRules
from harmony.policies.harmony import SERVED, HarmonyPolicy
from harmony.serving import Snapshot
from tests.journal.builders import INDICATORS, NOON_S, snapshot_of_record

LIMITS = Behavior(scale_down=ScalingRules(120.0, (ScalingPolicy("Pods", 2, 60.0),)))
STORIES, TURNS = 16, 40


def terms(rng: np.random.Generator, limits: Behavior | None) -> Terms:
    """A service whose first settings are chosen early: it may violate much."""
    step_s = float(rng.choice([60.0, 1800.0]))  # of the latter a past has days, whose highest demand is a ceiling
    policy = HarmonyPolicy(
        forecaster="base" if rng.random() < 0.7 else "",
        trees=False,
        rule="price" if rng.random() < 0.8 else "quantile",
        cap=float(rng.choice([1.5, 2.5, 5.0, 8.0])),
        limits=limits,
        kept=SERVED,
    )
    objective = Objective(
        epsilon=float(rng.choice([0.05, 0.1])),
        demand="requests",
        min_replicas=int(rng.choice([0, 3, 9, 15])),  # above what is needed all settings cost the same
        max_replicas=int(rng.choice([15, 30])),
        measure=str(rng.choice(["time", "window", "requests"])),  # type: ignore[arg-type]
        behavior=limits or Behavior(),
        switch_price=float(rng.choice([0.0, 0.1])),
        miss_price_per_replica_hour=float(rng.choice([0.0, 10.0])),
        fallback=Fallback(2, 11) if rng.random() < 0.5 else None,
    )
    return Terms(
        objective=objective,
        policy=policy,
        capacity=Capacity.known(100.0) if rng.random() < 0.5 else Capacity.prior(100.0, 1.5),
        lead_time=LeadTime.known(2.0 * step_s),
        step_s=step_s,
        interval_s=step_s,
        steps_back=False,
    )


def story(seed: int) -> list[Snapshot]:
    """Turns of one service from its first look on: lost forecasts, absent demand, a restart, counts refused."""
    rng = np.random.default_rng(seed)
    limits = LIMITS if rng.random() < 0.5 else None
    agreed = terms(rng, limits)
    service = ManagedService(agreed)
    before = int(rng.choice([0, 190, 196, 199, 230, 400]))
    rows = before + TURNS
    moves = float(rng.choice([0.0, 1.0]))
    demand = 900.0 * np.exp(moves * (0.4 * np.sin(np.arange(rows) / 20.0) + rng.normal(0.0, 0.1, rows)))
    demand[rng.random(rows) < 0.05] = math.nan
    ordered, blind, lost = int(rng.integers(1, 20)), 0, 0
    restarts = set(rng.integers(0, TURNS, 2).tolist())
    out = []
    for turn, at in enumerate(range(before, rows)):
        now_s = NOON_S + agreed.step_s * turn
        if turn in restarts:
            service = ManagedService(agreed, saved=service.to_json())
        blind = max(blind - 1, 4 * int(rng.random() < 0.05))  # turns without demand, without a forecast
        lost = max(lost - 1, 4 * int(rng.random() < 0.1))
        value = math.nan if blind else float(demand[at])
        forecast = (
            None
            if lost or at < 12
            else foretold(rng, float(np.nanmean(demand[max(0, at - 5) : at + 1])), now_s, agreed.step_s)
        )
        past = demand[:at] if service.wants_past and at and rng.random() < 0.9 else None
        look = Look(
            now_s=now_s, demand=value, demand_age_s=0.0, ordered=ordered, ready=ordered,
            rows=[(now_s, value, math.nan)], forecast=forecast, past=past, may_review=bool(rng.random() < 0.9),
        )  # fmt: skip
        made = service.consider(look)
        ordered = made.plan.desired if rng.random() < 0.9 else ordered
        out.append(snapshot_of_record(service.conclude(made, ordered), f"serving/s{seed}", limits))
    return out


def foretold(rng: np.random.Generator, level: float, now_s: float, step_s: float) -> ForecastDistribution:
    paths = level * np.exp(np.cumsum(rng.normal(0.0, 0.05, (60, 6, len(INDICATORS))), axis=1))
    if rng.random() < 0.03:
        paths[:, :, 0] = math.nan
    return ForecastDistribution(paths, INDICATORS, now_s, step_s, "walk 1")


def test_every_turn_comes_out_the_same(tmp_path: Path) -> None:
    kinds: Counter[str] = Counter()
    with JournalStore.open(f"sqlite:///{tmp_path}/journal.db") as store:
        for seed in range(STORIES):
            snapshots = story(seed)
            for key, snapshot in zip(store.append(snapshots), snapshots, strict=True):
                told, made = explain(store, key), snapshot.record.decision
                assert told is not None
                assert told.same is True, (seed, key, [str(d) for d in told.differences])
                by = (
                    "no setting"
                    if not made.setting
                    else "a setting"
                    if made.held >= 0
                    else "a setting without forecast"
                )
                kinds[by] += 1
                kinds[f"{by}: {made.reason}"] += 1
    # the stories are such that most of what can happen did
    for by in ("no setting", "a setting", "a setting without forecast"):
        assert kinds[by] >= 20, kinds
    assert len(kinds) >= 15, kinds
