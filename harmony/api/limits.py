"""How often somebody may ask: token buckets, one per caller, in a table of bounded size."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Buckets"]

MOST = 10_000


class Buckets:
    """A bucket holds ``burst`` tokens and regains ``rate`` a second; callers that were not seen longest are forgotten.

    A forgotten caller begins with a full bucket again: the table never grows, and nobody is shut out by it.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str, now_s: float, cost: float = 1.0) -> float:
        """0 when there were ``cost`` tokens (they are taken), else the seconds until there will be."""
        level, at_s = self._levels.get(who, (self._burst, now_s))
        level = min(self._burst, level + max(0.0, now_s - at_s) * self._rate)
        cost = min(cost, self._burst)
        wait_s = 0.0 if level >= cost else (cost - level) / self._rate
        self._levels[who] = (level - cost if wait_s == 0.0 else level, now_s)
        self._levels.move_to_end(who)
        if len(self._levels) > MOST:
            self._levels.popitem(last=False)
        return wait_s

    def wait_s(self, who: str, now_s: float) -> float:
        """Seconds until there will be a token, 0 where there is one now; nothing is taken."""
        level, at_s = self._levels.get(who, (self._burst, now_s))
        level = min(self._burst, level + max(0.0, now_s - at_s) * self._rate)
        return max(0.0, 1.0 - level) / self._rate

    def __len__(self) -> int:
        """Callers in the table."""
        return len(self._levels)
