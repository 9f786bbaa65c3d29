"""`ViolationCounts`: how many steps were violated, by the real replicas and by the shadow's, since counting began."""

from __future__ import annotations

from typing import NamedTuple

from harmony.loop.saved import number_or
from harmony.model.observation import Outcome

__all__ = ["ViolationCounts"]


class ViolationCounts(NamedTuple):
    """Running totals of `Outcome`: real steps, and steps that a shadow was judged on. A value.

    Attributes:
        real_steps, real_violated: steps with known demand, and of these the ones that the real replicas violated.
        shadow_steps, shadow_violated: steps with known demand while there was a shadow, and those it would have
            violated.
        real_beside: of `shadow_steps`, those that the real replicas violated.
    """

    real_steps: int = 0
    real_violated: int = 0
    shadow_steps: int = 0
    shadow_violated: int = 0
    real_beside: int = 0

    @property
    def real_rate(self) -> float | None:
        """Violation rate of the real replicas; None before any step was judged."""
        return self.real_violated / self.real_steps if self.real_steps else None

    @property
    def shadow_rate(self) -> float | None:
        """Violation rate of the shadow's replicas; None where there never was one."""
        return self.shadow_violated / self.shadow_steps if self.shadow_steps else None

    @property
    def real_rate_beside(self) -> float | None:
        """Violation rate of the real replicas over the steps that the shadow was judged on."""
        return self.real_beside / self.shadow_steps if self.shadow_steps else None

    def add(self, outcome: Outcome) -> ViolationCounts:
        """After what came of the turns before."""
        if not outcome.real_steps:
            return self
        beside = outcome.real_violated if outcome.shadow_steps else 0
        return ViolationCounts(
            self.real_steps + outcome.real_steps,
            self.real_violated + outcome.real_violated,
            self.shadow_steps + outcome.shadow_steps,
            self.shadow_violated + outcome.shadow_violated,
            self.real_beside + beside,
        )

    @classmethod
    def from_json(cls, data: object) -> ViolationCounts:
        """From a list of its fields; anything else starts anew."""
        if not isinstance(data, list) or len(data) != len(cls._fields):
            return cls()
        numbers = [number_or(x, -1.0) for x in data]
        if any(x < 0 or x % 1 or x > 1e15 for x in numbers):
            return cls()
        read = cls(*(int(x) for x in numbers))
        whole = (
            read.real_violated <= read.real_steps and max(read.shadow_violated, read.real_beside) <= read.shadow_steps
        )
        return read if whole else cls()
