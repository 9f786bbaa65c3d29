"""`Point`: what charts over time need of one turn of a service."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harmony.serving.snapshot import Snapshot

__all__ = ["Point"]


@dataclass(frozen=True, slots=True)
class Point:
    """One turn: its time (seconds since the epoch), counts of the real target, and what a ready replica carries.

    `budget_left` is the share of the error budget that is not spent, NaN where none is kept; `budget_band` the least
    and the most that chance would have left of it; `demand` what the decision was made for, NaN where it was absent.
    """

    at_s: float
    ordered: int
    ready: int
    recommended: int
    per_replica: float
    budget_left: float = math.nan
    budget_band: tuple[float, float] = (math.nan, math.nan)
    demand: float = math.nan

    @classmethod
    def of(cls, snapshot: Snapshot) -> Point:
        """What the charts need of one snapshot."""
        seen, decision = snapshot.record.observation, snapshot.record.decision
        return cls(
            snapshot.at_s, snapshot.ordered, snapshot.ready, snapshot.recommended, seen.capacity.median,
            decision.budget_left, (decision.budget_least, decision.budget_most), seen.demand,
        )  # fmt: skip
