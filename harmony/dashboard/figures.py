"""Figures as plain values for plotly.js; colours are roles ("@blue", "@blue/18") that the page resolves per theme.

Absent values are null and drawn as gaps. Every figure comes with one sentence that says what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecasting.explaining import weighed
from harmony.decision.bill import bill_per_hour
from harmony.model.decision import Candidates
from harmony.schema.fields import columns_of
from harmony.serving import Snapshot, forecast_json
from harmony.serving.points import Point
from harmony.serving.views import number, numbers
from harmony.serving.words import allowed, amount, chance, decider, percent, uses_joint_forecast, within_band

__all__ = [
    "Figure",
    "View",
    "calibration",
    "candidates",
    "demand",
    "experts",
    "replicas",
    "shown_candidates",
    "span_s",
]

Json = dict[str, Any]
ROWS = 72  # newest readings that are in view
CANDIDATES = 25  # around the choice
MINOR = "minor"  # left out of the legend where there is little room
GAP_INTERVALS = 6.0  # a longer pause between two turns is a gap
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Figure:
    """`data` and `layout` for plotly; `text` says what it shows."""

    name: str
    text: str
    data: list[Json]
    layout: Json

    @property
    def json(self) -> Json:
        """What the page needs to draw it."""
        return {"data": self.data, "layout": self.layout}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _line(name: str, x: list[Any], y: list[Any], colour: str, **more: Any) -> Json:  # noqa: ANN401
    line = {"color": colour, "width": more.pop("width", 2)} | more.pop("line", {})
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": line, **more}


@dataclass(frozen=True, slots=True)
class View:
    """The part of time that is drawn (seconds since the epoch); ``name`` is that of what was asked for."""

    first_s: float
    last_s: float
    name: str = ""

    @classmethod
    def usual(cls, snapshot: Snapshot) -> View:
        """What is drawn where nobody asked for another part."""
        return cls(*span_s(snapshot))

    def axis(self) -> Json:
        """Its axis."""
        hover = "%H:%M:%S" if self.last_s - self.first_s < DAY_S else "%b %d %H:%M"
        shown = [_ms(self.first_s), _ms(self.last_s)]
        return {"type": "date", "range": shown, "hoverformat": hover, "nticks": 8, "uirevision": f"range {self.name}"}

    def holds(self, at_s: float) -> bool:
        """Whether a moment is inside."""
        return self.first_s <= at_s <= self.last_s

    def points(self, snapshot: Snapshot, points: list[Point]) -> list[Point]:
        """Those inside, and the one before, from which lines begin."""
        return [p for p in points if self.first_s - snapshot.record.observation.interval_s <= p.at_s <= self.last_s]


def span_s(snapshot: Snapshot) -> tuple[float, float]:
    """First and last moment that the charts over time show by themselves."""
    seen, forecast = snapshot.record.observation, snapshot.record.observation.forecast
    horizon = 0 if forecast is None else forecast.horizon
    last = max(snapshot.at_s, -math.inf if forecast is None else float(forecast.times_s[-1]))
    rows = max(ROWS, 6 * horizon)
    first = snapshot.at_s - rows * seen.step_s
    if snapshot.history_s.size:
        first = max(first, float(snapshot.history_s[0]))
    return first, last + 0.02 * (last - first)


# ---- demand -------------------------------------------------------------------------------------------------
def demand(snapshot: Snapshot, points: list[Point], view: View | None = None, every_s: float = 0.0) -> Figure:
    """Demand, its forecast fan, and what ready and recommended replicas carry.

    Before the readings that the snapshot holds, demand is what the turns in ``points`` saw, of which there is one in
    ``every_s`` seconds, or each (0).
    """
    view = view or View.usual(snapshot)
    unit, seen = snapshot.unit, snapshot.record.observation
    shown = (snapshot.history_s >= view.first_s - seen.step_s) & (snapshot.history_s <= view.last_s)
    points = view.points(snapshot, points)
    text = [f"Demand ({unit or 'own unit'})."]
    layout: Json = {
        "xaxis": view.axis(),
        "yaxis": {"title": {"text": unit or snapshot.demand_name}, "rangemode": "tozero"},
    }
    read_s = float(snapshot.history_s[0]) if snapshot.history_s.size else math.inf
    x, y = _steps([p for p in points if p.at_s < read_s], snapshot, lambda p: p.demand, every_s)
    x += [_ms(t) for t in snapshot.history_s[shown].tolist()]
    y += numbers(snapshot.history[shown])
    drawn = _line("demand", x, y, "@text", width=1.8, connectgaps=False)
    if not view.holds(snapshot.at_s):
        known = [(v, t) for t, v in zip(x, y, strict=True) if v is not None]
        high = max(known, default=None)
        text.append("None is known of this time." if high is None else f"At most {amount(high[0])} in this time.")
        return Figure("demand", " ".join(text), [drawn, *_capacity(snapshot, points, view, every_s)], layout)
    fan, shapes, notes, said = _ahead(snapshot)
    text.append(
        f"Newest reading {amount(seen.demand)}." if math.isfinite(seen.demand) else "The newest reading is absent."
    )
    text += said
    carries = seen.capacity.median
    text.append(f"{snapshot.ready} ready replicas carry {amount(snapshot.ready * carries)}, ")
    text[-1] += f"the {snapshot.recommended} recommended would carry {amount(snapshot.recommended * carries)}."
    layout |= {"annotations": notes, "shapes": [_upright(_ms(snapshot.at_s), "@axis"), *shapes]}
    return Figure("demand", " ".join(text), [*fan, drawn, *_capacity(snapshot, points, view, every_s)], layout)


def _ahead(snapshot: Snapshot) -> tuple[list[Json], list[Json], list[Json], list[str]]:
    """The forecast: its traces, shapes and notes, and what is said of it."""
    forecast, law = forecast_json(snapshot), snapshot.record.observation.forecast
    if forecast is None or law is None:
        return [], [], [], ["There is no forecast."]
    ahead = [_ms(t) for t in law.times_s.tolist()]
    levels = forecast["indicators"][forecast["demand"]]["quantiles"]
    step = max(1, forecast["lead_steps"]) - 1
    low, mid, high = (levels[q][step] for q in ("0.05", "0.5", "0.95"))
    said = []
    if None not in (low, mid, high):
        said.append(f"One lead time ahead: {amount(mid)} (90 % interval {amount(low)} to {amount(high)}).")
    decision = snapshot.record.decision
    if not uses_joint_forecast(decision):
        said.append(f"The fan is the joint forecast beside what was decided by: {decider(decision)}.")
    return _fan(ahead, levels), [_upright(ahead[step], "@blue")], [_note(ahead[step], " lead time")], said


def _fan(ahead: list[int], levels: dict[str, list[float | None]]) -> list[Json]:
    hidden = {"hoverinfo": "skip", "showlegend": False}
    bare = {"width": 0, "color": "@blue/0"}
    return [
        {"type": "scatter", "mode": "lines", "x": ahead, "y": levels["0.05"], "line": bare, **hidden},
        {
            "type": "scatter", "mode": "lines", "name": "90 % interval", "x": ahead, "y": levels["0.95"], "line": bare,
            "fill": "tonexty", "fillcolor": "@blue/24", "hoverinfo": "skip",
        },
        {"type": "scatter", "mode": "lines", "x": ahead, "y": levels["0.25"], "line": bare, **hidden},
        {
            "type": "scatter", "mode": "lines", "name": "50 % interval", "x": ahead, "y": levels["0.75"], "line": bare,
            "fill": "tonexty", "fillcolor": "@blue/45", "hoverinfo": "skip", "meta": MINOR,
        },
        _line("99 % quantile", ahead, levels["0.99"], "@blue", width=1, line={"dash": "dot"}, meta=MINOR),
        _line("forecast median", ahead, levels["0.5"], "@blue", width=2, meta=MINOR),
    ]  # fmt: skip


def _capacity(snapshot: Snapshot, points: list[Point], view: View, every_s: float) -> list[Json]:
    carries = snapshot.record.observation.capacity.median
    x, ready = _steps(points, snapshot, lambda p: p.ready * p.per_replica, every_s)
    step = {"shape": "hv"}
    if not view.holds(snapshot.at_s):
        return [_line("ready replicas carry", x, ready, "@green", line=step, connectgaps=False)]
    now, last = _ms(snapshot.at_s), _ms(view.last_s)
    return [
        _line("ready replicas carry", [*x, last], [*ready, number(snapshot.ready * carries)], "@green",
              line=step, connectgaps=False),
        _line("recommended would carry", [now, last], [number(snapshot.recommended * carries)] * 2, "@orange",
              line={"dash": "dash"}),
    ]  # fmt: skip


def _steps(
    points: list[Point],
    snapshot: Snapshot,
    value: Callable[[Point], float],
    every_s: float = 0.0,
) -> tuple[list[Any], list[Any]]:
    """Times and values of turns, with a null where turns are missing."""
    usual = max(snapshot.record.observation.interval_s, 2 * every_s / GAP_INTERVALS)
    longest = GAP_INTERVALS * usual
    x: list[Any] = []
    y: list[Any] = []
    before = math.nan
    for p in points:
        if p.at_s - before > longest:
            x.append(_ms(before + max(usual, every_s)))
            y.append(None)
        x.append(_ms(p.at_s))
        y.append(number(value(p)))
        before = p.at_s
    return x, y


def _upright(x: int, colour: str) -> Json:
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1,
            "line": {"color": colour, "width": 1, "dash": "dot"}}  # fmt: skip


def _note(x: int, text: str) -> Json:
    return {"x": x, "y": 1, "yref": "paper", "yanchor": "top", "xanchor": "left", "showarrow": False,
            "text": text, "font": {"color": "@blue", "size": 11}}  # fmt: skip


def experts(snapshot: Snapshot) -> Figure | None:
    """What the forecast of demand is made of, as one bar; None where there is no forecast or its model does not say."""
    forecast = forecast_json(snapshot)
    shares: dict[str, float] = {} if forecast is None else forecast["indicators"][forecast["demand"]].get("experts", {})
    if not shares:
        return None
    colours = ("@blue", "@green", "@orange", "@blue/55", "@green/55", "@axis/70")
    data: list[Json] = [
        {"type": "bar", "orientation": "h", "x": [share], "y": [""], "name": name, "marker": {"color": colour},
         "hovertemplate": name + ": %{x:.0%}<extra></extra>"}
        for (name, share), colour in zip(shares.items(), [*colours, *["@axis/45"] * len(shares)], strict=False)
    ]  # fmt: skip
    layout: Json = {
        "barmode": "stack",
        "xaxis": {"range": [0, 1], "tickformat": ".0%", "nticks": 6},
        "yaxis": {"showticklabels": False},
        "bargap": 0.2,
    }
    return Figure("experts", f"The forecast is made of {weighed(shares, len(shares))}.", data, layout)


# ---- replicas -----------------------------------------------------------------------------------------------
def replicas(snapshot: Snapshot, points: list[Point], view: View | None = None, every_s: float = 0.0) -> Figure:
    """Replicas current, ready and recommended over time, and the bounds."""
    view = view or View.usual(snapshot)
    points = view.points(snapshot, points)
    step = {"shape": "hv"}
    x, ready = _steps(points, snapshot, lambda p: p.ready, every_s)
    ordered = _steps(points, snapshot, lambda p: p.ordered, every_s)[1]
    wanted = _steps(points, snapshot, lambda p: p.recommended, every_s)[1]
    data = [
        _line("ready", x, ready, "@green", width=3, line=step, connectgaps=False),
        _line("current", x, ordered, "@text", line=step, connectgaps=False),
        _line("recommended", x, wanted, "@orange", line={"shape": "hv", "dash": "dash"}, connectgaps=False),
    ]
    objective = snapshot.record.observation.objective
    layout: Json = {
        "xaxis": view.axis(),
        "yaxis": {"title": {"text": "replicas"}, "rangemode": "tozero", "tickformat": "d"},
    }
    if view.holds(snapshot.at_s):
        layout["shapes"] = [_upright(_ms(snapshot.at_s), "@axis")]
        text = (
            f"Replicas over {len(points)} turns: now {snapshot.ordered} current, {snapshot.ready} ready, "
            f"{snapshot.recommended} recommended; bounds {objective.min_replicas} to {objective.max_replicas}."
        )
    elif points:
        low, high = min(p.ready for p in points), max(p.ready for p in points)
        text = f"Replicas over {len(points)} turns: {low} to {high} ready."
    else:
        text = "Nothing is kept of this time."
    return Figure("replicas", text, data, layout)


def _least(point: Point) -> float:
    return point.budget_band[0]


def _most(point: Point) -> float:
    return point.budget_band[1]


def budget(snapshot: Snapshot, points: list[Point], view: View | None = None, every_s: float = 0.0) -> Figure | None:
    """The share of the error budget that is left, over time; None where none is kept."""
    if math.isnan(snapshot.record.decision.budget_left):
        return None
    view = view or View.usual(snapshot)
    points = view.points(snapshot, points)
    x, left = _steps(points, snapshot, lambda p: p.budget_left, every_s)
    least, most = (_steps(points, snapshot, end, every_s)[1] for end in (_least, _most))
    known = [v for p in points for v in (p.budget_left, *p.budget_band) if not math.isnan(v)]
    bare = {"width": 0, "color": "@blue/0", "shape": "hv"}
    hidden = {"hoverinfo": "skip", "showlegend": False}
    band: list[Json] = [
        {"type": "scatter", "mode": "lines", "x": x, "y": least, "line": bare, **hidden},
        {"type": "scatter", "mode": "lines", "name": "objective kept exactly: 95 %", "x": x, "y": most, "line": bare,
         "fill": "tonexty", "fillcolor": "@blue/18", "hoverinfo": "skip"},
    ]  # fmt: skip
    data = band if any(v is not None for v in most) else []
    data.append(_line("left", x, left, "@green", width=3, line={"shape": "hv"}, connectgaps=False))
    newest = snapshot.record.decision
    now_left = percent(newest.budget_left, newest.budget_least, newest.budget_most)
    text = f"Share of the error budget of 30 days that is left: now {now_left}. {within_band(newest)}".rstrip()
    lowest, highest = min(known, default=0.0), max(known, default=1.0)
    margin = max(0.01, 0.08 * (highest - lowest))
    layout: Json = {
        "xaxis": view.axis(),
        "yaxis": {"title": {"text": "budget left"}, "range": [lowest - margin, highest + margin], "tickformat": ".2~%"},
    }
    return Figure("budget", text, data, layout)


# ---- candidates ---------------------------------------------------------------------------------------------
def shown_candidates(snapshot: Snapshot) -> list[Json]:
    """At most `CANDIDATES` candidates around the choice, each with whether it keeps the objective and is chosen."""
    decision, seen = snapshot.record.decision, snapshot.record.observation
    if decision.candidates is None:
        return []
    columns = [column.name for column in columns_of(Candidates)]
    at = max(0, int(np.searchsorted(decision.candidates.replicas, decision.replicas, side="right")) - 1)
    start = max(0, min(at - CANDIDATES // 2, len(decision.candidates) - CANDIDATES))
    part = decision.candidates[start : start + CANDIDATES]
    rows = zip(*(getattr(part, name).tolist() for name in columns), strict=True)
    return [
        row
        | {
            "chosen": row["replicas"] == decision.replicas,
            "present": row["replicas"] == seen.ordered,
            "keeps": row["violation_probability"] <= snapshot.most_risk * (1 + 1e-9),
        }
        for row in (dict(zip(columns, values, strict=True)) for values in rows)
    ]


def candidates(snapshot: Snapshot) -> Figure | None:
    """Risk (above, logarithmic) and bill (below) of every candidate; None when none were weighed."""
    rows = shown_candidates(snapshot)
    if not rows:
        return None
    seen, decision = snapshot.record.observation, snapshot.record.decision
    epsilon = seen.objective.epsilon
    paths = decision.paths
    risks = [row["violation_probability"] for row in rows]
    positive = [p for p in risks if p > 0]
    floor = min([epsilon or 1.0, *positive]) / 3  # a logarithmic axis has no 0
    counts = [row["replicas"] for row in rows]
    said = [percent(p, epsilon) if p > 0 else f"on none of {paths} paths" for p in risks]
    colours = ["@blue" if r["chosen"] else "@green/55" if r["keeps"] else "@missed/55" for r in rows]
    costs = [bill_per_hour(row["replicas"], seen) for row in rows]
    hover = "%{x} replicas: %{customdata}<extra></extra>"
    data: list[Json] = [
        {"type": "bar", "x": counts, "y": [max(p, floor) for p in risks], "customdata": said, "yaxis": "y2",
         "marker": {"color": colours}, "hovertemplate": hover, "name": "stated risk", "showlegend": False},
        {"type": "bar", "x": counts, "y": costs, "name": "bill", "showlegend": False,
         "marker": {"color": ["@blue" if r["chosen"] else "@axis/70" for r in rows]},
         "hovertemplate": "%{x} replicas: %{y:.2f} " + "per hour<extra></extra>"},
    ]  # fmt: skip
    layout: Json = {
        "xaxis": {"title": {"text": "replicas"}, "tickformat": "d", "anchor": "y", "nticks": 14},
        "yaxis": {"title": {"text": "bill per hour"}, "domain": [0, 0.42], "rangemode": "tozero"},
        "yaxis2": {"title": {"text": "stated risk"}, "domain": [0.54, 1], "type": "log", "tickformat": ".2~%",
                   "range": [math.log10(floor / 1.5), 0.05], "nticks": 5, "anchor": "x"},
        "bargap": 0.25,
        "shapes": [] if epsilon <= 0 else [
            {"type": "line", "xref": "paper", "yref": "y2", "x0": 0, "x1": 1, "y0": epsilon, "y1": epsilon,
             "line": {"color": "@missed", "width": 1.5, "dash": "dash"}}],
        "annotations": [] if epsilon <= 0 else [
            {"xref": "paper", "yref": "y2", "x": 1, "y": math.log10(epsilon), "xanchor": "right", "yanchor": "bottom",
             "text": f"objective {allowed(epsilon)}", "showarrow": False, "font": {"color": "@missed", "size": 12}}],
    }  # fmt: skip
    text = (
        f"Risk and bill of {counts[0]} to {counts[-1]} replicas. {decision.replicas} is chosen: "
        f"stated risk {chance(decision.violation_probability, paths, epsilon)}, objective {allowed(epsilon)}. "
        "The table below has every figure."
    )
    return Figure("candidates", text, data, layout)


# ---- calibration --------------------------------------------------------------------------------------------
def calibration(snapshot: Snapshot) -> Figure | None:
    """Nominal against observed coverage of central intervals; None before anything was scored."""
    known = sorted((q, c) for q, c in snapshot.coverage.items() if math.isfinite(c))
    if not known:
        return None
    nominal, observed = [q for q, _ in known], [c for _, c in known]
    data = [
        _line("right", [0, 1], [0, 1], "@axis", width=1, line={"dash": "dash"}, hoverinfo="skip"),
        {"type": "scatter", "mode": "lines+markers", "name": "observed", "x": nominal, "y": observed,
         "line": {"color": "@blue", "width": 2}, "marker": {"color": "@blue", "size": 8},
         "hovertemplate": "nominal %{x:.0%}: observed %{y:.1%}<extra></extra>"},
    ]  # fmt: skip
    axis = {"range": [0.4, 1.02], "tickformat": ".0%", "nticks": 7}
    text = "Share of readings inside central intervals: " + ", ".join(
        f"{percent(c)} inside the {percent(q)} interval" for q, c in known
    )
    layout: Json = {
        "xaxis": axis | {"title": {"text": "nominal"}},
        "yaxis": axis | {"title": {"text": "observed"}, "range": [min(0.4, *observed) - 0.02, 1.02]},
        "showlegend": False,
    }
    return Figure("calibration", text + ".", data, layout)
