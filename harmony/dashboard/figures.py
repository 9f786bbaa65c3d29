"""Figures as plain values for plotly.js; colours are roles ("@blue", "@blue/18") that the page resolves per theme.

Absent values are null and drawn as gaps. Every figure comes with one sentence that says what it shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from harmony.dashboard.trail import Point
from harmony.decision.bill import bill_per_hour
from harmony.model.decision import Candidates
from harmony.schema.fields import columns_of
from harmony.serving import Snapshot, forecast_json
from harmony.serving.views import number, numbers
from harmony.serving.words import amount, chance, percent, within_band

__all__ = ["Figure", "calibration", "candidates", "demand", "replicas", "shown_candidates"]

Json = dict[str, Any]
ROWS = 72  # newest readings that are in view
CANDIDATES = 25  # around the choice
MINOR = "minor"  # left out of the legend where there is little room
GAP_INTERVALS = 6.0  # a longer pause between two turns is a gap


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


def _time_axis(first_s: float, last_s: float) -> Json:
    return {"type": "date", "range": [_ms(first_s), _ms(last_s)], "hoverformat": "%H:%M:%S", "nticks": 8}


def span_s(snapshot: Snapshot) -> tuple[float, float]:
    """First and last moment that the charts over time show."""
    seen, forecast = snapshot.record.observation, snapshot.record.observation.forecast
    horizon = 0 if forecast is None else forecast.horizon
    last = max(snapshot.at_s, -math.inf if forecast is None else float(forecast.times_s[-1]))
    rows = max(ROWS, 6 * horizon)
    first = snapshot.at_s - rows * seen.step_s
    if snapshot.history_s.size:
        first = max(first, float(snapshot.history_s[0]))
    return first, last + 0.02 * (last - first)


# ---- demand -------------------------------------------------------------------------------------------------
def demand(snapshot: Snapshot, points: list[Point]) -> Figure:
    """Demand, its forecast fan, and what ready and recommended replicas carry."""
    unit, forecast = snapshot.unit, forecast_json(snapshot)
    first, last = span_s(snapshot)
    shown = snapshot.history_s >= first - snapshot.record.observation.step_s  # an axis fits what it is given
    points = [p for p in points if p.at_s >= first - snapshot.record.observation.interval_s]
    times = [_ms(t) for t in snapshot.history_s[shown].tolist()]
    data: list[Json] = []
    shapes, notes = [_upright(_ms(snapshot.at_s), "@axis")], list[Json]()
    text = [f"Demand ({unit or 'own unit'})."]
    now = snapshot.record.observation.demand
    text.append(f"Newest reading {amount(now)}." if math.isfinite(now) else "The newest reading is absent.")
    if forecast is None:
        text.append("There is no forecast.")
    else:
        ahead = [_ms(t) for t in snapshot.record.observation.forecast.times_s.tolist()]  # type: ignore[union-attr]
        levels = forecast["indicators"][forecast["demand"]]["quantiles"]
        data += _fan(ahead, levels)
        step = max(1, forecast["lead_steps"]) - 1
        shapes.append(_upright(ahead[step], "@blue"))
        notes.append(_note(ahead[step], " lead time"))
        low, mid, high = (levels[q][step] for q in ("0.05", "0.5", "0.95"))
        if None not in (low, mid, high):
            text.append(f"One lead time ahead: {amount(mid)} (90 % interval {amount(low)} to {amount(high)}).")
    data.append(_line("demand", times, numbers(snapshot.history[shown]), "@text", width=1.8, connectgaps=False))
    carries = snapshot.record.observation.capacity.median
    data += _capacity(snapshot, points, last)
    text.append(f"{snapshot.ready} ready replicas carry {amount(snapshot.ready * carries)}, ")
    text[-1] += f"the {snapshot.recommended} recommended would carry {amount(snapshot.recommended * carries)}."
    layout: Json = {
        "annotations": notes,
        "xaxis": _time_axis(first, last),
        "yaxis": {"title": {"text": unit or snapshot.demand_name}, "rangemode": "tozero"},
        "shapes": shapes,
    }
    return Figure("demand", " ".join(text), data, layout)


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


def _capacity(snapshot: Snapshot, points: list[Point], last: float) -> list[Json]:
    carries = snapshot.record.observation.capacity.median
    x, ready = _steps(points, snapshot, lambda p: p.ready * p.per_replica)
    now = _ms(snapshot.at_s)
    data = [
        _line("ready replicas carry", [*x, _ms(last)], [*ready, number(snapshot.ready * carries)], "@green",
              line={"shape": "hv"}, connectgaps=False),
        _line("recommended would carry", [now, _ms(last)], [number(snapshot.recommended * carries)] * 2, "@orange",
              line={"dash": "dash"}),
    ]  # fmt: skip
    return data


def _steps(points: list[Point], snapshot: Snapshot, value: Any) -> tuple[list[Any], list[Any]]:  # noqa: ANN401
    """Times and values of turns, with a null where turns are missing."""
    longest = GAP_INTERVALS * snapshot.record.observation.interval_s
    x: list[Any] = []
    y: list[Any] = []
    before = math.nan
    for p in points:
        if p.at_s - before > longest:
            x.append(_ms(before + longest / GAP_INTERVALS))
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


# ---- replicas -----------------------------------------------------------------------------------------------
def replicas(snapshot: Snapshot, points: list[Point]) -> Figure:
    """Replicas current, ready and recommended over time, and the bounds."""
    first, last = span_s(snapshot)
    points = [p for p in points if p.at_s >= first - snapshot.record.observation.interval_s]
    step = {"shape": "hv"}
    x, ready = _steps(points, snapshot, lambda p: p.ready)
    ordered = _steps(points, snapshot, lambda p: p.ordered)[1]
    wanted = _steps(points, snapshot, lambda p: p.recommended)[1]
    data = [
        _line("ready", x, ready, "@green", width=3, line=step, connectgaps=False),
        _line("current", x, ordered, "@text", line=step, connectgaps=False),
        _line("recommended", x, wanted, "@orange", line={"shape": "hv", "dash": "dash"}, connectgaps=False),
    ]
    shapes: list[Json] = [_upright(_ms(snapshot.at_s), "@axis")]
    text = (
        f"Replicas over the {len(points)} newest turns: now {snapshot.ordered} current, {snapshot.ready} ready, "
        f"{snapshot.recommended} recommended; bounds {snapshot.record.observation.objective.min_replicas} to "
        f"{snapshot.record.observation.objective.max_replicas}."
    )
    layout: Json = {
        "xaxis": _time_axis(first, last),
        "yaxis": {"title": {"text": "replicas"}, "rangemode": "tozero", "tickformat": "d"},
        "shapes": shapes,
    }
    return Figure("replicas", text, data, layout)


def budget(snapshot: Snapshot, points: list[Point]) -> Figure | None:
    """The share of the error budget that is left, over time; None where none is kept."""
    if math.isnan(snapshot.record.decision.budget_left):
        return None
    first, last = span_s(snapshot)
    points = [p for p in points if p.at_s >= first - snapshot.record.observation.interval_s]
    x, left = _steps(points, snapshot, lambda p: p.budget_left)
    least, most = (_steps(points, snapshot, lambda p, at=at: p.budget_band[at])[1] for at in (0, 1))
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
    text = f"Share of the error budget of 30 days that is left: now {percent(snapshot.record.decision.budget_left)}."
    text += f" {within_band(snapshot.record.decision)}".rstrip()
    lowest, highest = min(known, default=0.0), max(known, default=1.0)
    margin = max(0.01, 0.08 * (highest - lowest))
    layout: Json = {
        "xaxis": _time_axis(first, last),
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
    cap = 1.0 if math.isnan(decision.price) else snapshot.record.before.cap  # a price may take more at a time
    most = seen.objective.epsilon * cap
    rows = zip(*(getattr(part, name).tolist() for name in columns), strict=True)
    return [
        row
        | {
            "chosen": row["replicas"] == decision.replicas,
            "present": row["replicas"] == seen.ordered,
            "keeps": row["violation_probability"] <= most * (1 + 1e-9),
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
    said = [percent(p) if p > 0 else f"on none of {paths} paths" for p in risks]
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
             "text": f"objective {percent(epsilon)}", "showarrow": False, "font": {"color": "@missed", "size": 12}}],
    }  # fmt: skip
    text = (
        f"Risk and bill of {counts[0]} to {counts[-1]} replicas. {decision.replicas} is chosen: "
        f"stated risk {chance(decision.violation_probability, paths)}, objective {percent(epsilon)}. "
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
