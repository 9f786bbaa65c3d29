"""`LearningGate`: which steps may teach what a replica carries: only those in which nothing was starting."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LearningGate"]


@dataclass(frozen=True, slots=True)
class LearningGate:
    """Opens once everything that was asked for has served, unchanged, for ``settle_s`` seconds.

    A replica that has just become ready has cold caches, and one that is leaving still drains: in both cases the
    load per replica is not what the count says. `ready` is the count that serves, `since_s` the moment since when.
    """

    settle_s: float
    ready: int = -1
    since_s: float = 0.0

    def see(self, now_s: float, ordered: int, ready: int) -> LearningGate:
        """After a look at the counts; any change, a start in progress or a clock set back closes the gate again."""
        steady = ready == ordered and ready > 0
        if not steady:
            return LearningGate(self.settle_s, -1, now_s)
        if ready == self.ready and now_s >= self.since_s:
            return self
        return LearningGate(self.settle_s, ready, now_s)

    def is_open(self, now_s: float) -> bool:
        """True when a step that ends at ``now_s`` may teach."""
        return self.ready > 0 and now_s - self.since_s >= self.settle_s
