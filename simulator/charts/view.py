"""`ChartView`: a replay result as the figures want it - order, styles, the part to show, and the canvas."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import maximum_filter1d

from forecasting.panel import BoolArray, FloatArray, IntArray
from simulator.charts.palette import Style, policy_styles
from simulator.result import PolicyRun, ReplayResult

__all__ = [
    "HALF",
    "NARROW",
    "WIDE",
    "Canvas",
    "ChartView",
    "busiest_window",
    "clean_text",
    "display_name",
    "fan_bands",
    "fan_with_gaps",
    "focus_name",
    "ordered_names",
]


@dataclass(frozen=True, slots=True)
class Canvas:
    """How wide a figure is drawn (units = CSS pixels), into how many bins long series go, how many time ticks fit."""

    width: float
    bins: int
    ticks: int
    key: str


WIDE = Canvas(960.0, 400, 9, "wide")
HALF = Canvas(430.0, 170, 4, "half")
NARROW = Canvas(372.0, 150, 4, "narrow")
ORDER = ("harmony", "hpa", "reactive", "static", "oracle")


def clean_text(text: str, limit: int = 10_000) -> str:
    """Text from outside, fit to be shown: what no page may hold is replaced, what is too long is cut."""
    valid = text.encode("utf-8", "replace").decode("utf-8")
    shown = "".join(c if c.isprintable() else " " for c in valid).strip()
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def display_name(name: str, limit: int = 28) -> str:
    """What a policy is called in text."""
    clean = clean_text(name, limit) or "(no name)"
    return {"harmony": "HARMONY", "hpa": "HPA"}.get(clean, clean)


def ordered_names(result: ReplayResult) -> list[str]:
    """HARMONY, then its rivals in their usual order, then others as given; the oracle last."""
    rank = {name: i for i, name in enumerate(ORDER)}
    return sorted(result.policies, key=lambda n: (n == "oracle", rank.get(n, len(ORDER))))


def focus_name(result: ReplayResult) -> str | None:
    """The policy that the report is about: HARMONY if it was run, else the first that has no foresight."""
    names = ordered_names(result)
    return names[0] if names else None


@dataclass(frozen=True, eq=False)
class ChartView:
    """Rows ``lo .. hi-1`` of a result, drawn on one canvas."""

    result: ReplayResult
    lo: int
    hi: int
    canvas: Canvas
    names: list[str] = field(init=False)
    styles: dict[str, Style] = field(init=False)
    focus: str | None = field(init=False)

    def __post_init__(self) -> None:
        names = ordered_names(self.result)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "styles", policy_styles(names))
        object.__setattr__(self, "focus", focus_name(self.result))

    @property
    def demand(self) -> FloatArray:
        """(rows,) demand of the part, NaN where absent."""
        return self.result.demand[self.lo : self.hi]

    @property
    def start_s(self) -> float:
        """Time of the first row: Unix seconds, or seconds since the start of the trace without a calendar."""
        origin = self.result.start_s if self.result.calendar else 0.0
        return origin + self.lo * self.result.step_s

    @property
    def span_s(self) -> float:
        """Length of the part in seconds."""
        return (self.hi - self.lo) * self.result.step_s

    def run(self, name: str) -> PolicyRun:
        """The run of one policy (whole trace)."""
        return self.result.policies[name]

    def rows(self, series: IntArray | BoolArray) -> FloatArray:
        """(rows,) the part of a whole-trace series, as numbers."""
        return np.asarray(series[self.lo : self.hi], dtype=np.float64)

    def missed(self, name: str) -> BoolArray:
        """(rows,) where known demand was more than the policy had ready."""
        return np.asarray(self.run(name).violated[self.lo : self.hi], dtype=np.bool_)

    def carried(self, name: str) -> FloatArray:
        """(rows,) demand that the policy's ready replicas carry."""
        return self.rows(self.run(name).ready) * self.result.replica_capacity

    def needed(self) -> FloatArray:
        """(rows,) replicas that the demand keeps busy (not rounded up), NaN where absent."""
        return self.demand / self.result.replica_capacity

    def fan(self) -> tuple[IntArray, dict[float, FloatArray]] | None:
        """The focus policy's forecast fan in this part: rows counted from ``lo``, quantiles; None without one."""
        run = None if self.focus is None else self.run(self.focus)
        if run is None or run.fan is None or not run.fan.quantiles:
            return None
        inside = (run.fan.steps >= self.lo) & (run.fan.steps < self.hi)
        if not inside.any():
            return None
        return run.fan.steps[inside] - self.lo, {q: v[inside] for q, v in sorted(run.fan.quantiles.items())}


def busiest_window(result: ReplayResult, most_hours: float = 24.0) -> tuple[int, int] | None:
    """The 6 to ``most_hours`` hours around the steepest rise of demand in the scored part; None if it is hardly longer.

    A rise is what demand gains within one lead time (at least one step); of equal ones the first counts. One that leads
    no higher than demand was before it, in the hours shown, is a wobble of a fall and no rise; None where there is no
    other. Steps longer than 7.5 minutes get more hours, so that there are 48 of them to see.
    """
    demand = result.demand[result.scored_from :]
    n = demand.size
    hours = float(np.clip(n * result.step_s / 3600 * most_hours / 192, 6.0, most_hours))
    width = max(48, math.ceil(hours * 3600 / result.step_s))
    if n < 1.5 * width:
        return None
    lead = min(max(1, round(result.lead_time_s / result.step_s)), n - 1)
    rise = np.nan_to_num(demand[lead:] - demand[:-lead], nan=-np.inf)
    before, after = _highest(np.nan_to_num(demand, nan=-np.inf), max(width // 2, lead + 1))
    rise = np.where(after[:-lead] > before[:-lead], rise, -np.inf)
    if not rise.max() > 0:
        return None
    at = int(np.argmax(rise)) + lead // 2
    lo = min(max(0, at - width // 2), n - width)
    return result.scored_from + lo, result.scored_from + lo + width


def _highest(values: FloatArray, width: int) -> tuple[FloatArray, FloatArray]:
    """(rows,) the highest of the ``width`` values up to each row, and of as many after it; -inf where there is none."""
    edge = np.full(width, -np.inf)
    padded = np.concatenate([edge, values, edge])
    highest = maximum_filter1d(
        padded, size=width, mode="constant", cval=-np.inf
    )  # of [i - width // 2, ...), width long
    rows = np.arange(values.size) + width
    return highest[rows - width + 1 + width // 2], highest[rows + 1 + width // 2]


def fan_bands(quantiles: dict[float, FloatArray]) -> list[tuple[float, float]]:
    """Pairs of levels, widest first, that lie symmetrically enough to be shaded: lowest with highest, and so on."""
    levels = sorted(quantiles)
    return [(levels[i], levels[-1 - i]) for i in range(len(levels) // 2)]


def fan_with_gaps(rows: IntArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rows and values of a forecast with a NaN wherever it pauses for much longer than usual."""
    x = rows.astype(np.float64)
    if rows.size < 3:
        return x, values
    gaps = np.diff(rows)
    cut = np.flatnonzero(gaps > 3 * max(1.0, float(np.median(gaps)))) + 1
    return np.insert(x, cut, x[cut - 1]), np.insert(values, cut, np.nan)
