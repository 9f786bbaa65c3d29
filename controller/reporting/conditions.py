"""Conditions of an object: what a person asks first, each with a reason from a closed set and a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from controller.process.clock import rfc3339
from controller.resource.consequences import CONSEQUENCES, Truth

__all__ = ["Condition", "followed", "merged"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """One metav1.Condition without its times."""

    type: str
    status: Truth
    reason: str
    message: str = ""

    @classmethod
    def of(cls, type_: str, holds: bool | None, reason: str, message: str = "") -> Condition:
        """True, False, or Unknown for None."""
        return cls(type_, "Unknown" if holds is None else "True" if holds else "False", reason, message)


def followed(facts: Iterable[Condition]) -> dict[str, Condition]:
    """These conditions by type, with what follows from them: see `CONSEQUENCES`."""
    found = {c.type: c for c in facts}
    for rule in CONSEQUENCES:
        cause, then = found[rule.of], found[rule.then]
        if then.status != "False" and rule.applies(cause.status, cause.reason):
            found[rule.then] = Condition(rule.then, "False", cause.reason, cause.message)
    return found


def merged(old: Sequence[Json], new: Iterable[Condition], generation: int, now_s: float) -> list[Json]:
    """The new conditions as written; the transition time moves only when the status does."""
    before = {c.get("type"): c for c in old if isinstance(c, dict)}
    out = []
    for condition in new:
        known = before.get(condition.type, {})
        since = known.get("lastTransitionTime") if known.get("status") == condition.status else None
        out.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": since or rfc3339(now_s),
            }
        )
    return out
