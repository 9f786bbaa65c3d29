"""Fields of a decision that nobody has laid out for people yet: named, explained and shown all the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harmony.model.decision import Decision
from harmony.schema.fields import Field, Shape, fields_of
from harmony.schema.surface import plain
from harmony.serving.words import amount

__all__ = ["Further", "further"]

# What page and explanation say in their own words and places.
LAID_OUT = frozenset(
    {
        "replicas", "current", "reason", "violation_probability", "expected_cost", "candidates", "unconstrained",
        "bound_by", "quantiles", "model", "setting", "price", "wanted", "held", "stood", "held_for_s",
        "budget_left", "burn_rate", "why", "budget_least", "budget_most", "tried",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Further:
    """A field for people: its name in words, its value, and what it means."""

    label: str
    value: str
    about: str


def further(decision: Decision) -> tuple[Further, ...]:
    """All that is told of a decision and has no place of its own."""
    return tuple(
        Further(f.name.replace("_", " ").capitalize(), _in_words(f, decision), f.text)
        for f in fields_of(type(decision))
        if f.name not in LAID_OUT
    )


def _in_words(told: Field, decision: Decision) -> str:
    value: Any = getattr(decision, told.name)
    if value is None or value == "":
        return "none"
    if told.shape is Shape.NUMBER:
        return amount(value)
    if told.shape is Shape.FLAG:
        return "yes" if value else "no"
    return json.dumps(plain(decision)[told.name]) if told.is_large else str(value)
