"""`LeadTimes`: start-up times of one target on each GPU type it has run on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from forecasting.errors import UsageError
from harmony.loop.persistence import number_or
from harmony.model.lead_time import LeadTime

__all__ = ["LeadTimes"]

MOST_TYPES = 8  # a target that moves over more kinds of GPU than this forgets the one it left first


@dataclass(slots=True)
class LeadTimes:
    """Posteriors of the GPU types that the target is *not* starting on now; the present one is the loop's own.

    A replica on another kind of node has another driver, image cache and disk: what was learned there says little
    here, but it is right again when the target moves back.
    """

    fresh: LeadTime
    elsewhere: dict[str, LeadTime] = field(default_factory=dict)

    def move(self, old: str, new: str, present: LeadTime) -> LeadTime:
        """The posterior to go on with on ``new``, after ``present`` was learned on ``old``.

        A type that was never seen begins with the first guess; a type that was not known by name until now (``old``
        empty) keeps what was learned.
        """
        if old == new or not old:
            return self.elsewhere.pop(new, present) if old != new else present
        self.elsewhere.pop(old, None)
        self.elsewhere[old] = present
        while len(self.elsewhere) > MOST_TYPES:
            self.elsewhere.pop(next(iter(self.elsewhere)))
        return self.elsewhere.pop(new, self.fresh)

    def observe(self, starts: Iterable[tuple[float, str]]) -> None:
        """Starts that ended on other types than the present one."""
        for took_s, kind in starts:
            self.elsewhere[kind] = self.elsewhere.get(kind, self.fresh).observe(took_s)

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
        made = cls(fresh)
        if fresh.is_known or not isinstance(data, dict):
            return made
        for kind, numbers in list(data.items())[:MOST_TYPES]:
            if not isinstance(numbers, list) or len(numbers) != 4:
                continue
            mu, kappa, alpha, beta = (number_or(x, -1.0) for x in numbers)
            if not (-10.0 <= mu <= 20.0 and 0.0 < kappa <= 1e9 and 0.0 < alpha <= 1e9 and 0.0 <= beta <= 1e9):
                continue
            try:
                made.elsewhere[str(kind)] = replace(fresh, mu=mu, kappa=kappa, alpha=alpha, beta=beta)
            except UsageError:
                continue
        return made
