"""The decision rule on the newest observation with another objective or price: pure, nothing is changed by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harmony.api.models import Side, WhatIf, WhatIfRequest
from harmony.api.models.decisions import SIDE
from harmony.decision.in_force import again
from harmony.decision.turn import decide_turn
from harmony.model.decision import Decision
from harmony.model.observation import Observation
from harmony.serving.snapshot import Snapshot
from harmony.serving.views import utc

__all__ = ["changed", "what_if"]

OBJECTIVE = ("epsilon", "price_per_gpu_hour", "miss_price_per_replica_hour", "min_replicas", "max_replicas", "measure")


def what_if(snapshot: Snapshot, changes: WhatIfRequest) -> WhatIf:
    """Old and new decision side by side; `UsageError` for changes that contradict what stays."""
    seen = snapshot.record.observation
    other = changed(seen, changes)
    return WhatIf(
        service=snapshot.service,
        at=utc(seen.now_s),
        current=other.ordered,
        currency=snapshot.currency,
        old=_side(_decide(snapshot, seen, guards=changes.guards), seen),
        new=_side(_decide(snapshot, other, guards=changes.guards), other),
    )


def changed(seen: Observation, changes: WhatIfRequest) -> Observation:
    """The observation with the changes in it.

    The learned risk level keeps its ratio to epsilon: what was found about the model's own probabilities stays found.
    """
    given: dict[str, Any] = {n: getattr(changes, n) for n in OBJECTIVE if getattr(changes, n) is not None}
    objective = replace(seen.objective, **given)
    scale = objective.epsilon / seen.objective.epsilon if seen.objective.epsilon > 0 else 1.0
    return replace(
        seen,
        objective=objective,
        risk_level=min(1.0, seen.risk_level * scale),
        ordered=seen.ordered if changes.ordered is None else changes.ordered,
    )


def _decide(snapshot: Snapshot, seen: Observation, *, guards: bool) -> Decision:
    """The rule alone, or as the loop does it: with fallback, stabilisation and rate limits."""
    record, behavior = snapshot.record, snapshot.behavior if guards else None

    def decide(seen: Observation) -> Decision:
        return again(seen, record.decision, record.before)

    return decide_turn(seen, decide, behavior, record.before)[0]


def _side(decision: Decision, seen: Observation) -> Side:
    return Side(
        **SIDE.values(decision),
        epsilon=seen.objective.epsilon,
        min_replicas=seen.objective.min_replicas,
        max_replicas=seen.objective.max_replicas,
    )
