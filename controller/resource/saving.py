"""What was learned is bound to what is measured: a mark that changes with it."""

from __future__ import annotations

import hashlib

from controller.resource.settings import ServiceSettings

__all__ = ["demand_mark"]


def demand_mark(settings: ServiceSettings) -> str:
    """A short name for what is measured: equal for equal demand queries, units and bounds."""
    demand, bound = settings.queries[0], settings.objective.bound
    text = f"{demand.promql}|{demand.indicator.unit}|{demand.indicator.kind}|{bound}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
