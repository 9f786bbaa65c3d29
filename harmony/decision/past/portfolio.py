"""The portfolio: ways of deciding that are scored on a service's own past, as tables of replicas (rows, settings)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.ndimage import rank_filter

from forecasting.errors import UsageError
from forecasting.panel import FloatArray
from forecasting.specialists import TARGETS, LeadGrid, Target
from harmony.decision.risk import ROUND

__all__ = [
    "PRICES",
    "RISKS",
    "THUMBS",
    "Base",
    "Portfolio",
    "PortfolioSetting",
    "RuleName",
    "Thumb",
    "forecasters_of",
    "held",
    "least_risks",
    "priced",
    "ready_of",
    "replicas",
    "settings_of",
    "thumb_counts",
]

Base = Literal["forecast", "ridge", "boosted"]
RuleName = Literal["price", "quantile"]
Thumb = Literal["reactive", "percentile", "percentile 90", "percentile 98"]

# Risks at which a forecast's demand is read off: every tenth below one in two, finer in the tail.
RISKS: FloatArray = np.concatenate([np.linspace(0.7, 0.05, 27)[:-1], np.geomspace(0.05, 3e-5, 40)])
# Replica-hours that an hour of violation is worth; services of one replica to thousands find theirs in between.
PRICES: tuple[float, ...] = tuple(float(p) for p in np.geomspace(0.5, 1e6, 26))
MARGINS: tuple[float, ...] = (1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.5, 5.0)
HOLDS_S: tuple[float, ...] = (1800.0, 3600.0)
THUMB_HOLDS_S: tuple[float, ...] = (1800.0, 3600.0, 10_800.0)
THUMBS: tuple[Thumb, ...] = ("reactive", "percentile", "percentile 90", "percentile 98")
LEVELS: dict[str, float] = {"percentile": 0.95, "percentile 90": 0.9, "percentile 98": 0.98}
LONG_S: tuple[float, ...] = (43_200.0, 86_400.0)  # what the other percentiles look back
LONG_ROWS = 100  # ... where that is so many rows at least: a percentile of fewer says nothing of violations of 1 %


@dataclass(frozen=True, slots=True)
class PortfolioSetting:
    """One way of deciding: who forecasts, what, which rule with which knob, and how long a count is held.

    `expert` is the forecasters whose mean is used joined by "+", or a rule of thumb; `target` what is forecast (empty
    for a rule of thumb); `rule` "price" (knob: replica-hours per violated hour), "quantile" (knob: risk) or "margin"
    (knob: factor on demand); `hold` in steps. With `ceiling` no count is above what the highest demand of the last week
    needs.
    """

    expert: str
    target: str
    rule: str
    knob: float
    hold: int
    ceiling: bool = False

    @property
    def family(self) -> str:
        """Its name without target, knob and hold."""
        return self.expert if self.rule == "margin" else f"{self.rule} on {self.expert}"

    @property
    def label(self) -> str:
        """All of it, for people."""
        target = f" {self.target}" if self.target else ""
        most = ", at most the week's highest" if self.ceiling else ""
        return f"{self.family}{target}, {self.rule} {self.knob:.3g}, hold {self.hold} steps{most}"


@dataclass(frozen=True, slots=True)
class Portfolio:
    """Which ways of deciding are tried.

    Attributes:
        experts: each a tuple of bases whose forecasts are averaged; "forecast" is what the policy is given.
        rules: "price", "quantile" or both.
        prices: the ladder of prices, ascending.
        holds_s: holds on the way down besides one lead time, seconds.
        thumbs: rules of thumb that are tried too.
        margins: factors on demand that these try.
        ceilings: whether counts of the experts are cut at what the highest demand of the last week needs.
    """

    experts: tuple[tuple[Base, ...], ...] = (("ridge",), ("forecast",), ("ridge", "forecast"))
    rules: tuple[RuleName, ...] = ("price",)
    prices: tuple[float, ...] = PRICES
    holds_s: tuple[float, ...] = HOLDS_S
    thumbs: tuple[Thumb, ...] = THUMBS
    margins: tuple[float, ...] = field(default=MARGINS)
    ceilings: tuple[bool, ...] = (False, True)

    def __post_init__(self) -> None:
        if not (self.experts or self.thumbs):
            raise UsageError("portfolio: expected at least one expert or rule of thumb")
        if not self.prices or list(self.prices) != sorted(self.prices) or not all(p > 0 for p in self.prices):
            raise UsageError("portfolio: expected prices above 0 in ascending order")
        if not self.ceilings or len(set(self.ceilings)) < len(self.ceilings):
            raise UsageError("portfolio: expected ceilings to be False, True or both")

    @property
    def bases(self) -> tuple[Base, ...]:
        """All forecasters that are needed."""
        return tuple(dict.fromkeys(b for e in self.experts for b in e))

    def stand_in(self, expert: tuple[Base, ...]) -> tuple[Base, ...] | None:
        """Who stands in for an expert where the given forecast is absent; None for one that does not need it."""
        if "forecast" not in expert:
            return None
        return next((e for e in self.experts if "forecast" not in e), None)

    def holds(self, grid: LeadGrid, target: Target) -> tuple[int, ...]:
        """Steps that counts are held; a forecast of one point is held for a lead time at least.

        Ready replicas are the minimum of what was set over the lead, so a point's count serves only if held.
        """
        k = grid.lead_steps
        every = {1, k + 1, *(grid.steps(s) for s in self.holds_s)}
        return tuple(h for h in sorted(every) if target == "max" or h > k)

    def knobs(self, rule: RuleName, cap: float) -> tuple[float, ...]:
        """The ladder of a rule: prices, or risks up to ``cap``."""
        return self.prices if rule == "price" else tuple(float(r) for r in least_risks(cap)[::2])

    def settings(self, grid: LeadGrid, cap: float) -> tuple[PortfolioSetting, ...]:
        """All settings in the order of the table's columns; ``cap`` is the most risk of one decision."""
        out = [
            PortfolioSetting("+".join(expert), target, rule, knob, hold, ceiling)
            for expert in self.experts
            for target in TARGETS
            for rule in self.rules
            for ceiling in self.ceilings
            for hold in self.holds(grid, target)
            for knob in self.knobs(rule, cap)
        ]
        for thumb in self.thumbs:
            holds = self.thumb_holds(grid, thumb)
            out += [PortfolioSetting(thumb, "", "margin", m, h) for h in holds for m in self.margins]
        return tuple(out)

    def thumb_holds(self, grid: LeadGrid, thumb: Thumb) -> tuple[int, ...]:
        """Steps that a rule of thumb holds (or looks back)."""
        if thumb in ("reactive", "percentile"):
            return tuple(sorted({grid.lead_steps + 1, *(grid.steps(s) for s in THUMB_HOLDS_S)}))
        return tuple(sorted({h for s in LONG_S if (h := grid.steps(s)) >= LONG_ROWS}))


def forecasters_of(label: str) -> tuple[str, ...]:
    """Whose mean forecast a setting's label or family names; none for a rule of thumb."""
    _, on, rest = label.partition(",")[0].partition(" on ")
    return tuple(rest.split(" ")[0].split("+")) if on else ()


@lru_cache(maxsize=64)
def settings_of(portfolio: Portfolio, grid: LeadGrid, cap: float) -> tuple[PortfolioSetting, ...]:
    """`Portfolio.settings`, one tuple for all services that try the same."""
    return portfolio.settings(grid, cap)


@lru_cache(maxsize=64)
def least_risks(cap: float) -> FloatArray:
    """The risks of the table that one decision may take, descending: those up to ``cap``, the smallest at least."""
    allowed = RISKS[cap * (1 + 1e-9) >= RISKS]
    return allowed if allowed.size else RISKS[-1:]


def priced(counts: FloatArray, risks: FloatArray, prices: FloatArray) -> FloatArray:
    """(rows, prices) the cheapest of ``counts`` (rows, risks) at each price: argmin n + price x risk.

    ``counts``, which are whole, rise as ``risks`` (descending) fall, so of equal counts the least risk stands for all.
    """
    rows, most = np.arange(len(counts)), float(risks[0])
    dear = [p for p in prices if p * most >= 1.0]  # for less than that nobody takes one replica more
    picked = [counts[rows, np.argmin(counts + p * risks, axis=1)] for p in dear]
    return np.column_stack([counts[:, 0]] * (len(prices) - len(dear)) + picked)


def held(counts: FloatArray, steps: int) -> FloatArray:
    """Maximum of the last ``steps`` rows at every row (fewer at the beginning)."""
    return _swept(np.maximum, counts, steps)


def ready_of(ordered: FloatArray, lead_steps: int) -> FloatArray:
    """Ready replicas: the minimum of what was set over the lead, (rows, settings)."""
    return _swept(np.minimum, ordered, lead_steps + 1)


def _swept(of: np.ufunc, counts: FloatArray, steps: int) -> FloatArray:
    """``of`` the last ``steps`` rows at every row: windows grow by as much as they are long, all columns at once."""
    out, reach = counts, 1
    while reach < min(steps, len(counts)):
        more = min(reach, steps - reach)
        longer = np.empty_like(out)
        longer[:more] = out[:more]
        of(out[more:], out[:-more], out=longer[more:])
        out, reach = longer, reach + more
    return out


def replicas(load: FloatArray) -> FloatArray:
    """Whole replicas for ``load`` (demand over capacity), at least one."""
    return np.maximum(np.ceil(load - ROUND), 1.0)


def thumb_counts(thumb: Thumb, load: FloatArray, hold: int, margins: FloatArray) -> FloatArray:
    """(rows, margins) counts of a rule of thumb that sees ``load`` (rows,) = demand over capacity.

    *reactive*: the last value times a margin, held (what a HorizontalPodAutoscaler without tolerance sets).
    *percentile*: the 95th percentile of the last ``hold`` steps times a margin; *percentile 90*, *percentile 98* those.
    """
    if thumb in LEVELS:
        return replicas(_percentile(load, max(4, hold), LEVELS[thumb])[:, None] * margins)
    return held(replicas(load[:, None] * margins), hold)


def _percentile(load: FloatArray, steps: int, level: float) -> FloatArray:
    at = min(steps - 1, math.ceil(level * steps) - 1)
    return np.asarray(rank_filter(load, at, size=steps, origin=(steps - 1) // 2, mode="nearest"))
