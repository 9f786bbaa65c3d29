"""`plan_fleet`: how many replicas of which GPU type for which service: exact, by integer programming.

For one service or several that share types and money, over sample paths of their demand:

    minimise  sum of price n  +  sum of priority x violation price x R(service)
    subject to  GPUs of a type within what there is, cost within the budget, floors, and R <= the service's cap

R is the share of path-steps in which demand exceeds what serves: what is kept serves at once, what is new after the
type's lead time. All services pay the same price for a violated hour (times their priority): of all ways to spend a
total of violations, that one costs least, because a violation moved from where it saves little to where it saves more
would save the difference. `price_for` finds the price that keeps a given total.

It fails closed: what cannot be solved keeps what there is, and the plan says why. Absent demand never lowers anything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from forecasting.errors import UsageError
from forecasting.panel import FloatArray
from harmony.decision.risk import ROUND
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime

__all__ = ["FleetPlan", "FleetService", "GpuType", "Served", "plan_fleet", "price_for"]

LEVELS = 64  # demands of a service that are told apart at most; what lies between two counts as the higher one
TIME_LIMIT_S = 20.0
LEAD_QUANTILE = 0.9
STEPS_OF_SEARCH = 40


@dataclass(frozen=True, slots=True)
class GpuType:
    """A type of GPU: money per GPU-hour, how many GPUs of it there are, and steps until a new replica serves."""

    name: str
    price: float
    available: int = 1_000_000
    lead_steps: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.price) and self.price >= 0):
            raise UsageError(f"GPU type {self.name!r}: price {self.price}, expected a finite amount of 0 or more")
        if self.available < 0 or self.lead_steps < 0:
            raise UsageError(f"GPU type {self.name!r}: available and lead steps must be 0 or more")

    @classmethod
    def learned(cls, name: str, price: float, available: int, lead_time: LeadTime, step_s: float) -> GpuType:
        """A type whose lead time is a posterior: nine of ten starts serve by then."""
        return cls(name, price, available, max(1, math.ceil(lead_time.quantile_s(LEAD_QUANTILE) / step_s)))


@dataclass(frozen=True, eq=False)
class FleetService:
    """One service: its demand and what carries it.

    Attributes:
        name: what it is called.
        paths: (samples, steps) demand in its own unit; NaN where nothing is known: then its counts are not lowered.
        per_replica: demand that a replica carries, by type; a type that is not named cannot run it.
        gpus: GPUs of a replica, by type (1 where not named).
        current: replicas there are, by type.
        priority: factor on the price of its violations.
        least: replicas it has at least, of all types together.
        most_risk: cap on its R; 1 for none.
    """

    name: str
    paths: FloatArray
    per_replica: Mapping[str, float]
    gpus: Mapping[str, int] = field(default_factory=dict)
    current: Mapping[str, int] = field(default_factory=dict)
    priority: float = 1.0
    least: int = 0
    most_risk: float = 1.0

    def __post_init__(self) -> None:
        if self.paths.ndim != 2 or not self.paths.size:
            raise UsageError(f"service {self.name!r}: expected sample paths of demand (samples, steps)")
        if not self.per_replica or not all(math.isfinite(v) and v > 0 for v in self.per_replica.values()):
            raise UsageError(f"service {self.name!r}: expected what a replica carries, a positive number per GPU type")
        if not (self.priority > 0 and math.isfinite(self.priority) and 0 <= self.most_risk <= 1 and self.least >= 0):
            raise UsageError(f"service {self.name!r}: priority must be positive, its risk between 0 and 1")
        if any(n < 0 for n in self.current.values()) or any(n < 1 for n in self.gpus.values()):
            raise UsageError(f"service {self.name!r}: counts must be 0 or more, GPUs of a replica 1 or more")

    @classmethod
    def learned(cls, name: str, paths: FloatArray, capacities: Mapping[str, Capacity], **rest: object) -> FleetService:
        """A service whose capacity on each type is a posterior: its median counts."""
        return cls(name, paths, {k: c.median for k, c in capacities.items()}, **rest)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Served:
    """What a plan gives one service: replicas by type, their cost per hour, and the stated risk R (NaN: unknown)."""

    replicas: Mapping[str, int]
    cost: float
    risk: float


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A plan by service. `kept` says why everything stays as it is; empty for a plan that was found."""

    services: Mapping[str, Served]
    kept: str = ""

    @property
    def cost(self) -> float:
        """Money per hour."""
        return sum(s.cost for s in self.services.values())


def plan_fleet(
    types: Sequence[GpuType],
    services: Sequence[FleetService],
    *,
    violation_price: float,
    budget: float = math.inf,
    time_limit_s: float = TIME_LIMIT_S,
) -> FleetPlan:
    """The cheapest replicas of every type for every service; see the module's text.

    ``violation_price``: money that an hour of violation is worth at priority 1; ``budget``: money per hour at most.
    Raises `UsageError` for names that are given twice or not at all.
    """
    _check(types, services, violation_price, budget)
    program = _Program(types, services, violation_price, budget)
    try:
        found = program.solve(time_limit_s)
    except (ValueError, ArithmeticError) as error:  # the solver's own complaints about numbers
        return _kept(types, services, f"the solver failed: {error}")
    if isinstance(found, str):
        return _kept(types, services, found)
    return FleetPlan({s.name: _served(types, s, n) for s, n in zip(services, found, strict=True)})


def price_for(
    types: Sequence[GpuType], services: Sequence[FleetService], *, epsilon: float, budget: float = math.inf
) -> tuple[float, FleetPlan]:
    """The least price at which the mean risk (weighted by priority) is at most ``epsilon``, and the plan at it.

    One price for all services: the shared error budget is spent where it saves most. Where no price keeps it (too few
    GPUs, too little money) the plan is what there is, and says so. The price is found to one part in a thousand.
    """
    if not 0 <= epsilon <= 1:
        raise UsageError(f"epsilon {epsilon}: a share of time lies between 0 and 1")

    def plan(price: float) -> FleetPlan:
        return plan_fleet(types, services, violation_price=price, budget=budget)

    free = plan(0.0)
    if free.kept or _mean_risk(services, free) <= epsilon:
        return 0.0, free
    # Beyond this price one path-step costs more than the whole fleet.
    finest = min(s.priority / s.paths.size for s in services)
    dear = sum(_most_cost(types, s) for s in services) / finest + 1.0
    best = plan(dear)
    if best.kept or _mean_risk(services, best) > epsilon + 1e-12:
        least = "" if best.kept else f" (at best {_mean_risk(services, best):.3%} of the time is violated)"
        why = best.kept or f"no plan within GPUs and budget keeps {epsilon:.3%}{least}"
        return dear, _kept(types, services, why)
    low, high = 0.0, dear
    for _ in range(STEPS_OF_SEARCH):
        if high - low <= 1e-3 * high:
            break
        middle = math.sqrt(low * high) if low > 0 else high / 16
        tried = plan(middle)
        if tried.kept or _mean_risk(services, tried) > epsilon + 1e-12:
            low = middle
        else:
            high, best = middle, tried
    return high, best


def _mean_risk(services: Sequence[FleetService], plan: FleetPlan) -> float:
    """Mean risk of the services whose demand is known, weighted by priority."""
    known = [(s.priority, plan.services[s.name].risk) for s in services]
    known = [(w, r) for w, r in known if not math.isnan(r)]
    return sum(w * r for w, r in known) / sum(w for w, _ in known) if known else 0.0


def _most_cost(types: Sequence[GpuType], service: FleetService) -> float:
    """Money per hour of covering the service's highest demand on its dearest type."""
    peak = np.nanmax(service.paths) if np.isfinite(service.paths).any() else 0.0
    return max(
        (math.ceil(peak / service.per_replica[t.name]) + service.least + 1) * t.price * service.gpus.get(t.name, 1)
        for t in types if t.name in service.per_replica
    )  # fmt: skip


def _check(types: Sequence[GpuType], services: Sequence[FleetService], violation_price: float, budget: float) -> None:
    names = [t.name for t in types]
    if not types or not services:
        raise UsageError("a fleet needs at least one GPU type and one service")
    if len(set(names)) != len(names) or len({s.name for s in services}) != len(services):
        raise UsageError("GPU types and services need names of their own")
    for service in services:
        unknown = [n for part in (service.per_replica, service.gpus, service.current) for n in part if n not in names]
        if unknown:
            raise UsageError(f"service {service.name!r}: no GPU type {unknown[0]!r}; known: {', '.join(names)}")
    if not (math.isfinite(violation_price) and violation_price >= 0) or not budget >= 0:
        raise UsageError("the price of a violated hour and the budget must be 0 or more")


def _kept(types: Sequence[GpuType], services: Sequence[FleetService], why: str) -> FleetPlan:
    """Everything as it is."""
    return FleetPlan({s.name: _served(types, s, [s.current.get(t.name, 0) for t in types]) for s in services}, why)


def _served(types: Sequence[GpuType], service: FleetService, counts: Sequence[int]) -> Served:
    """What these counts cost, and the risk that they carry by the paths themselves."""
    steps = service.paths.shape[1]
    carried = np.zeros(steps)
    cost = 0.0
    for t, n in zip(types, counts, strict=True):
        per_replica = service.per_replica.get(t.name, 0.0)
        kept = min(n, service.current.get(t.name, 0))
        carried += per_replica * (kept + (n - kept) * (np.arange(1, steps + 1) >= t.lead_steps))
        cost += n * t.price * service.gpus.get(t.name, 1)
    known = ~np.isnan(service.paths)
    short = np.where(known, service.paths, 0.0) > carried[None, :] * (1 + ROUND) + ROUND
    risk = float(short[known].mean()) if known.all() else math.nan
    return Served({t.name: int(n) for t, n in zip(types, counts, strict=True)}, cost, risk)


@dataclass(eq=False, slots=True)
class _Rows:
    """Linear constraints ``low <= a x <= high``, row by row."""

    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    at: list[tuple[int, int, float]] = field(default_factory=list)

    def add(self, terms: Sequence[tuple[int, float]], low: float = -math.inf, high: float = math.inf) -> None:
        row = len(self.low)
        self.at += [(row, column, value) for column, value in terms]
        self.low.append(low)
        self.high.append(high)


class _Program:
    """The integer program: per service and type what is kept and what is new, per level of demand whether it is missed.

    Steps in which the same types serve are one group; its levels rise, and a level that is missed is one above all that
    are kept, so ``carried + sum of (level - level before) x missed >= highest level`` is the whole of a group.
    """

    def __init__(
        self, types: Sequence[GpuType], services: Sequence[FleetService], violation_price: float, budget: float
    ) -> None:
        self.types, self.services = types, services
        self.cost: list[float] = []
        self.most: list[float] = []
        self.least: list[float] = []
        self.rows = _Rows()
        self.counts: list[list[tuple[int, int]]] = []  # per service and type: columns of what is kept and new
        money: list[tuple[int, float]] = []
        used: list[list[tuple[int, float]]] = [[] for _ in types]
        for service in services:
            columns = [self._type(service, t) for t in types]
            self.counts.append(columns)
            for k, (t, (kept, new)) in enumerate(zip(types, columns, strict=True)):
                gpus = service.gpus.get(t.name, 1)
                used[k] += [(kept, gpus), (new, gpus)]
                money += [(kept, gpus * t.price), (new, gpus * t.price)]
            whole = [(c, 1.0) for pair in columns for c in pair]
            self.rows.add(whole, low=service.least)
            if np.isnan(service.paths).any():
                for t, (kept, _) in zip(types, columns, strict=True):
                    self.least[kept] = float(service.current.get(t.name, 0))
            else:
                self._risk(service, columns, violation_price)
        for t, terms in zip(types, used, strict=True):
            self.rows.add(terms, high=float(t.available))
        if budget < math.inf:
            self.rows.add(money, high=budget)

    def _column(self, cost: float, least: float, most: float) -> int:
        self.cost.append(cost)
        self.least.append(least)
        self.most.append(most)
        return len(self.cost) - 1

    def _type(self, service: FleetService, t: GpuType) -> tuple[int, int]:
        """Columns of the replicas that are kept and that are new."""
        price = t.price * service.gpus.get(t.name, 1)
        new = float(t.available) if t.name in service.per_replica else 0.0
        return self._column(price, 0.0, float(service.current.get(t.name, 0))), self._column(price, 0.0, new)

    def _risk(self, service: FleetService, columns: Sequence[tuple[int, int]], violation_price: float) -> None:
        """What violations cost, and that they are what they are."""
        steps = service.paths.shape[1]
        serves = np.array([[h + 1 >= t.lead_steps for h in range(steps)] for t in self.types])
        missed: list[tuple[int, float]] = []
        for pattern in np.unique(serves, axis=1).T:
            inside = (serves == pattern[:, None]).all(axis=0)
            levels, share = _levels(service.paths[:, inside])
            share = share * (inside.sum() / steps)
            price = violation_price * service.priority
            z = [self._column(price * w, 0.0, 1.0) for w in share.tolist()]
            missed += list(zip(z, share.tolist(), strict=True))
            carried: list[tuple[int, float]] = []
            for t, on, (kept, new) in zip(self.types, pattern, columns, strict=True):
                per_replica = service.per_replica.get(t.name, 0.0)
                carried += [(kept, per_replica), *([(new, per_replica)] if on else [])]
            rise = np.diff(levels, prepend=0.0)
            self.rows.add([*carried, *zip(z, rise.tolist(), strict=True)], low=float(levels[-1]) * (1 - ROUND))
            for a, b in itertools.pairwise(z):
                self.rows.add([(b, 1.0), (a, -1.0)], low=0.0)
        if service.most_risk < 1:
            self.rows.add(missed, high=service.most_risk + 1e-9)

    def solve(self, time_limit_s: float) -> list[list[int]] | str:
        """Counts per service and type, or why there are none."""
        rows, columns, values = (np.array(part) for part in zip(*self.rows.at, strict=True))
        matrix = csr_array((values.astype(float), (rows, columns)), shape=(len(self.rows.low), len(self.cost)))
        solved = milp(
            np.array(self.cost),
            integrality=np.ones(len(self.cost)),
            bounds=Bounds(np.array(self.least), np.array(self.most)),
            constraints=LinearConstraint(matrix, np.array(self.rows.low), np.array(self.rows.high)),
            options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
        )
        if solved.status == 2:
            return "no plan fits: floors, risk caps, GPUs and budget exclude each other"
        if solved.status != 0 or solved.x is None:
            return f"the solver found no proven plan in {time_limit_s:g} s ({solved.message})"
        x = np.rint(solved.x).astype(int)
        return [[int(x[a] + x[b]) for a, b in pairs] for pairs in self.counts]


def _levels(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rising levels of demand and the share at each; more than `LEVELS` are rounded up to some of them."""
    ordered = np.sort(values, axis=None)
    known, count = np.unique(ordered, return_counts=True)
    if known.size > LEVELS:
        # Half of them for the upper tenth, where risks are.
        at = np.unique(np.concatenate([np.linspace(0, 0.9, LEVELS // 2), np.linspace(0.9, 1, LEVELS // 2)]))
        known = np.unique(np.quantile(ordered, at, method="higher"))
        count = np.bincount(np.searchsorted(known, ordered), minlength=known.size)
    return known, count / ordered.size
