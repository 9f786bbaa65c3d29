"""`harmony plan`: which GPUs for which services, of what a person wrote down: types, services, budget."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forecasting.errors import UsageError
from forecasting.panel import FloatArray
from harmony.app.written import Fields, read_fields
from harmony.decision.fleet import FleetPlan, FleetService, GpuType, plan_fleet, price_for
from simulator.traces.registry import load_trace

__all__ = ["Fleet", "Planned", "planned", "read_fleet"]


@dataclass(frozen=True)
class Fleet:
    """What `fleet.yaml` says: either a price of violated hours, or a share of time that all services share."""

    types: tuple[GpuType, ...]
    services: tuple[FleetService, ...]
    budget: float = math.inf
    violation_price: float | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class Planned:
    """The plan, the price of a violated hour behind it, and what one type alone would cost (None: it cannot)."""

    plan: FleetPlan
    violation_price: float
    alone: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Plain values; an unknown risk is null."""
        services = {
            name: {
                "replicas": dict(s.replicas),
                "cost_per_hour": s.cost,
                "risk": None if math.isnan(s.risk) else s.risk,
            }
            for name, s in self.plan.services.items()
        }
        return {
            "services": services,
            "cost_per_hour": self.plan.cost,
            "violation_price": self.violation_price,
            "one_type_cost_per_hour": self.alone,
            "kept": self.plan.kept,
        }


def planned(fleet: Fleet) -> Planned:
    """The plan of a fleet, and of each of its types alone for comparison."""
    price, plan = _solved(fleet)
    alone: dict[str, float | None] = {}
    for t in fleet.types if len(fleet.types) > 1 and not plan.kept else ():
        can = all(t.name in s.per_replica for s in fleet.services)
        only = [dataclasses.replace(o, available=1_000_000 if o is t else 0) for o in fleet.types]
        bare = [dataclasses.replace(s, current={}) for s in fleet.services]
        single = plan_fleet(only, bare, violation_price=price) if can else None
        alone[t.name] = None if single is None or single.kept or not _as_good(single, plan) else single.cost
    return Planned(plan, price, alone)


def _as_good(single: FleetPlan, plan: FleetPlan) -> bool:
    """Whether it violates about as little in any service: at one price it may pay to violate more."""
    return all(s.risk <= 2 * plan.services[n].risk + 0.01 for n, s in single.services.items())


def _solved(fleet: Fleet) -> tuple[float, FleetPlan]:
    if fleet.epsilon is not None:
        return price_for(fleet.types, fleet.services, epsilon=fleet.epsilon, budget=fleet.budget)
    price = fleet.violation_price or 0.0
    return price, plan_fleet(fleet.types, fleet.services, violation_price=price, budget=fleet.budget)


# ---- the file ----------------------------------------------------------------------------------------------------
def read_fleet(path: Path) -> Fleet:
    """The fleet that a file describes; `UsageError` for mistakes, one line each."""
    fields = read_fields(path)
    types = tuple(_type(one) for one in fields.parts("types"))
    services = tuple(_service(one, path.parent) for one in fields.parts("services"))
    budget = fields.number("budget", math.inf)
    price = fields.number("violationPrice") if fields.has("violationPrice") else None
    epsilon = fields.number("epsilon", most=1) if fields.has("epsilon") else None
    fields.done()
    if not types or not services:
        raise UsageError(f"{path}: expected types and services, each a list")
    if (price is None) == (epsilon is None):
        raise UsageError(
            f"{path}: expected either violationPrice (money an hour of violation is worth) or epsilon (the share of "
            "time that may be violated, over all services)"
        )
    return Fleet(types, services, budget, price, epsilon)


def _type(fields: Fields) -> GpuType:
    made = GpuType(fields.text("name"), fields.number("price"), fields.whole("available", 1_000_000))
    fields.done()
    return made


def _service(fields: Fields, folder: Path) -> FleetService:
    demand = _demand(fields, folder)
    with fields.here():
        service = FleetService(
            fields.text("name"),
            demand,
            fields.mapping("perReplica"),
            {k: _count(fields, "gpusPerReplica", v) for k, v in fields.mapping("gpusPerReplica").items()},
            {k: _count(fields, "current", v) for k, v in fields.mapping("current").items()},
            fields.number("priority", 1.0, above=True),
            fields.whole("minReplicas", 0),
            fields.number("maxRisk", 1.0, most=1),
        )
    fields.done()
    return service


def _count(fields: Fields, name: str, value: float) -> int:
    if value != round(value):
        raise UsageError(f"{fields.where}: {name} {value:g}: expected a whole number")
    return round(value)


def _demand(fields: Fields, folder: Path) -> FloatArray:
    """(samples, 1) demand to plan for: numbers, or every reading of a trace."""
    numbers = fields.numbers("demand") if not fields.has("trace") else None
    if numbers is not None:
        return np.array(numbers)[:, None]
    if not fields.has("trace"):
        raise UsageError(f"{fields.where}: expected demand (a list of numbers) or trace (a file) with demand in it")
    source = fields.text("trace")
    inside = folder / source
    column = fields.text("demand") if fields.has("demand") else None
    trace = load_trace(inside if inside.exists() else source, demand=column)
    values = trace.panel.values[:, 0]
    known = values[~np.isnan(values)] * fields.number("growth", 1.0)
    if not known.size:
        raise UsageError(f"{fields.where}: {source} has no demand")
    return np.asarray(known[:, None])
