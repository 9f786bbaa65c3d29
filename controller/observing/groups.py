"""`Groups`: how many pods are one replica, where a target makes groups of pods (several hosts, sidecars of a model).

Nothing in a `/scale` says it. Of a target at rest the counts do: all pods ready, and for ten minutes k times as many as
replicas were asked for. Pods that are more than that and no whole multiple (an Argo canary beside the stable set) leave
open what a replica is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from harmony.loop.saved import number_or

__all__ = ["Groups"]

SETTLED_S = 600.0
LARGEST = 10_000  # pods a replica that are believed of what was saved


class Groups(NamedTuple):
    """What is known of pods per replica; a value.

    Attributes:
        size: pods that make one replica.
        seen: what the counts have said since `since_s`: pods per replica, 0 for no whole number, -1 for nothing.
        since_s: since when.
        pods, ordered: the counts that said it last.
        now_s: the last look.
    """

    size: int = 1
    seen: int = -1
    since_s: float = math.nan
    pods: int = 0
    ordered: int = 0
    now_s: float = math.nan

    def see(self, now_s: float, ordered: int, pods: int, ready: int) -> Groups:
        """After a look at the target's counts; while pods start, go or are unready they say nothing."""
        if ordered <= 0 or ready != pods or pods < ordered:
            return self._replace(seen=-1, since_s=now_s, now_s=now_s)
        says = pods // ordered if pods % ordered == 0 else 0
        since_s = self.since_s if says == self.seen and self.since_s <= now_s else now_s
        settled = now_s - since_s >= SETTLED_S
        return Groups(says if says and settled else self.size, says, since_s, pods, ordered, now_s)

    def ready(self, pods: int) -> int:
        """Replicas that so many ready pods are: whole groups."""
        return pods // self.size

    def to_json(self, target: str) -> list[object] | None:
        """What must survive a restart; None while a replica is one pod."""
        return None if self.size == 1 else [self.size, target]

    @classmethod
    def from_json(cls, saved: object, target: str) -> Groups:
        """What `to_json` wrote of this target; never raises, whatever stands there."""
        if not isinstance(saved, list) or len(saved) != 2 or saved[1] != target:
            return cls()
        size = number_or(saved[0], 1)
        return cls(int(size)) if 1 <= size <= LARGEST and size == int(size) else cls()

    @property
    def problem(self) -> str:
        """Why it is not known what one replica carries, for people; empty where nothing stands against it."""
        if self.seen != 0 or not self.now_s - self.since_s >= SETTLED_S:
            return ""
        return (
            f"{self.pods} pods are ready for {self.ordered} replicas, no whole number each (a canary?): what one "
            "replica carries is not learned until they fit"
        )
