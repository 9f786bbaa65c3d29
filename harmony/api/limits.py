"""How often somebody may ask: token buckets, one per caller, in a table of bounded size."""

from __future__ import annotations

import functools
import ipaddress
from collections import OrderedDict

__all__ = ["Buckets", "counted_as"]

MOST = 10_000
SITE_BITS = 64


@functools.lru_cache(1024)
def counted_as(host: str) -> str:
    """The address that a peer's limits are kept for: its own, of IPv6 the /64 of which it can take any address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> SITE_BITS << SITE_BITS, SITE_BITS)))


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

    def give_back(self, who: str, cost: float = 1.0) -> None:
        """What was taken was not used; a bucket holds no more than before."""
        if who in self._levels:
            level, at_s = self._levels[who]
            self._levels[who] = (min(self._burst, level + cost), at_s)

    def __len__(self) -> int:
        """Callers in the table."""
        return len(self._levels)
