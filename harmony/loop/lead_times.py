"""`LeadTimes`: start-up times of one service on each GPU type that it has run on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from forecasting.errors import UsageError
from harmony.loop.saved import number_or
from harmony.model.lead_time import LeadTime

__all__ = ["LeadTimes"]

MOST_TYPES = 8  # a service that moves over more kinds of GPU than this forgets the one it left first


@dataclass(frozen=True, slots=True)
class LeadTimes:
    """Posteriors of the GPU types that the service is *not* starting on now; the present one is `Learned.lead_time`.

    A replica on another kind of node has another driver, image cache and disk: what was learned there says little
    here, but it is right again when the service moves back. ``fresh`` is the first guess of a type never seen.
    """

    elsewhere: Mapping[str, LeadTime] = field(default_factory=dict)

    def move(self, old: str, new: str, present: LeadTime, fresh: LeadTime) -> tuple[LeadTimes, LeadTime]:
        """After moving to ``new`` with ``present`` learned on ``old``: the rest, and the posterior to go on with.

        A type that was never seen begins with the first guess; a type that was not known by name until now (``old``
        empty) keeps what was learned.
        """
        if old == new:
            return self, present
        elsewhere = dict(self.elsewhere)
        if not old:
            lead = elsewhere.pop(new, present)
            return LeadTimes(elsewhere), lead
        elsewhere.pop(old, None)
        elsewhere[old] = present
        while len(elsewhere) > MOST_TYPES:
            elsewhere.pop(next(iter(elsewhere)))
        lead = elsewhere.pop(new, fresh)
        return LeadTimes(elsewhere), lead

    def observe(self, starts: Iterable[tuple[float, str]], fresh: LeadTime) -> LeadTimes:
        """After starts that ended on other types than the present one: (seconds, type) of each."""
        elsewhere = dict(self.elsewhere)
        for took_s, kind in starts:
            elsewhere[kind] = elsewhere.get(kind, fresh).observe(took_s)
        return LeadTimes(elsewhere)

    def to_json(self) -> dict[str, list[float]]:
        """Plain numbers by GPU type."""
        return {
            kind: [float(f"{x:.6g}") for x in (lead.mu, lead.kappa, lead.alpha, lead.beta)]
            for kind, lead in self.elsewhere.items()
            if not lead.is_known
        }

    @classmethod
    def from_json(cls, fresh: LeadTime, data: object) -> LeadTimes:
        """From what `to_json` gave; types that cannot be read begin anew, and so do all where nothing is learned."""
        if fresh.is_known or not isinstance(data, dict):
            return cls()
        elsewhere: dict[str, LeadTime] = {}
        for kind, numbers in list(data.items())[:MOST_TYPES]:
            if not isinstance(numbers, list) or len(numbers) != 4:
                continue
            mu, kappa, alpha, beta = (number_or(x, -1.0) for x in numbers)
            if not (-10.0 <= mu <= 20.0 and 0.0 < kappa <= 1e9 and 0.0 < alpha <= 1e9 and 0.0 <= beta <= 1e9):
                continue
            try:
                elsewhere[str(kind)] = replace(fresh, mu=mu, kappa=kappa, alpha=alpha, beta=beta)
            except UsageError:
                continue
        return cls(elsewhere)
