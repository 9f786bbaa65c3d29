"""`Record`: one turn of the loop as the journal keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harmony.model.decision import Decision
from harmony.model.memory import TurnMemory
from harmony.model.observation import Observation, Outcome
from harmony.schema.surface import number

__all__ = ["Record"]


@dataclass(frozen=True, eq=False, slots=True)
class Record:
    """What was seen, decided and applied in one turn, and what had come of the turn before.

    `applied` is the count the scale target accepted; `outcome` counts the steps since the previous turn;
    `before` is what was remembered when it was decided (all it depends on besides observation and policy).
    """

    observation: Observation
    decision: Decision
    applied: int
    outcome: Outcome
    before: TurnMemory = field(default_factory=TurnMemory)

    def to_json(self) -> dict[str, Any]:
        """Plain values, one object per turn; absent numbers are null."""
        seen = self.observation
        return {
            "now_s": seen.now_s,
            "demand": number(seen.demand),
            "ordered": seen.ordered,
            "ready": seen.ready,
            "risk_level": number(seen.risk_level),
            "applied": self.applied,
            "outcome": {"steps": self.outcome.steps, "violated": self.outcome.violated},
            "decision": self.decision.to_json(),
        }
