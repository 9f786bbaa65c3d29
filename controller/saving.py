"""What stands beside the loop's own memory in an object's status: helpers to write it small and read it safely."""

from __future__ import annotations

import hashlib

from controller.resource.settings import ServiceSettings

__all__ = ["demand_mark", "number_or"]

LARGEST = 1e300  # JSON may hold whole numbers that no float can


def demand_mark(settings: ServiceSettings) -> str:
    """A short name for what is measured: equal for equal demand queries, units and bounds."""
    demand, bound = settings.queries[0], settings.objective.bound
    text = f"{demand.promql}|{demand.indicator.unit}|{demand.indicator.kind}|{bound}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def number_or(value: object, default: float) -> float:
    """A finite number from what was saved, else the default."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return float(value)
    return default
