"""Snapshots for tests: a real turn of the real rule, with whatever a test wants to be different."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from harmony.decision.agreement import agreement
from harmony.decision.rule import decide
from harmony.loop.violations import ViolationCounts
from harmony.model.decision import Decision
from harmony.model.memory import TurnMemory
from harmony.model.objective import Behavior, Objective
from harmony.model.observation import Observation, Outcome
from harmony.model.record import Record
from harmony.serving import Snapshot
from tests.harmony.builders import forecast, observation

NOON_S = 1_767_614_400.0  # 2026-01-05T12:00:00Z
PATHS = np.linspace(700.0, 1150.0, 200)[:, None] + np.arange(5) * 10.0


def seen(**changes: Any) -> Observation:
    """A look at a service with a forecast of 700 to 1190 requests/s over five steps, 100 for a replica."""
    objective = Objective(epsilon=0.05, demand="requests", max_replicas=20)
    made = replace(forecast(PATHS), origin_s=NOON_S)
    return observation(**({"now_s": NOON_S, "forecast": made, "objective": objective} | changes))


def record(looked: Observation | None = None, decision: Decision | None = None) -> Record:
    """The turn that the rule makes of it."""
    looked = seen() if looked is None else looked
    decision = decide(looked) if decision is None else decision
    return Record(looked, decision, decision.replicas, Outcome(steps=1, violated=0), TurnMemory())


def snapshot(service: str = "serving/chat", **changes: Any) -> Snapshot:
    """A service in mode Full after a turn."""
    turn: Record = changes.pop("record", None) or record()
    times = turn.observation.now_s + 60.0 * np.arange(-4, 1)
    values: dict[str, Any] = {
        "service": service,
        "kind": "GPUAutoscaler",
        "target": "Deployment chat",
        "mode": "Full",
        "effective_mode": "Full",
        "unit": "requests/s",
        "demand_name": "requests",
        "gpu_type": "H100-80GB",
        "currency": "USD",
        "record": turn,
        "guards_before": turn.before.guards,
        "behavior": Behavior(),
        "ordered": turn.observation.ordered,
        "ready": turn.observation.ready,
        "desired": turn.decision.replicas,
        "held_by": "",
        "history_s": times,
        "history": np.array([980.0, np.nan, 990.0, 995.0, 1000.0]),
        "violations": ViolationCounts(400, 2, 200, 9, 1),
        "agreement": agreement(0.04, 9.0, 300.0, 5),
        "coverage": {0.5: 0.52, 0.8: 0.79, 0.95: 0.94},
        "crps": 12.5,
        "realized": 0.03,
        "stated": 0.04,
        "gpu_hours_saved": 12.25,
        "misses_avoided_s": 120.0,
        "misses_caused_s": 60.0,
        "shadow_s": 86_400.0,
    }
    return Snapshot(**(values | changes))
