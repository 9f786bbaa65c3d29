"""Figures over time: demand against capacity, replicas, the error budget being spent, cost along the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from simulator.charts.frame import (
    BOTTOM,
    DEMAND,
    LEFT,
    MISSED,
    RIGHT,
    TEXT,
    TOP,
    draw_area,
    draw_fan,
    draw_missed,
    draw_note,
    draw_steps,
    draw_times,
    draw_values,
    new_figure,
)
from simulator.charts.palette import ROLES
from simulator.charts.view import ChartView, clean_text, display_name

__all__ = ["budget_figure", "demand_figure", "extra_hours_figure", "overview_figure", "replicas_figure"]

BAND_POINTS = 200


def demand_figure(view: ChartView, policies: Sequence[str], *, height: float = 300.0) -> Figure:
    """Demand, the forecast fan, and what the ready replicas of ``policies`` carried."""
    figure, (axes,) = new_figure(view, height)
    _demand_panel(view, axes, policies)
    draw_times(view, axes)
    return figure


def _demand_panel(view: ChartView, axes: Axes, policies: Sequence[str]) -> None:
    """Demand as an area, the fan, capacity lines, and marks where the focus policy violated."""
    draw_area(view, axes, view.demand, color=DEMAND, alpha=0.22)
    draw_fan(view, axes)
    draw_steps(view, axes, view.demand, color=DEMAND, linewidth=1.1)
    top = float(np.nanmax(view.demand)) if np.isfinite(view.demand).any() else 0.0
    for name in policies:
        style, number = view.styles[name], view.names.index(name)
        carried = view.carried(name)
        main = name == view.focus
        thick = 1.2 if carried.size > 8 * view.canvas.bins else 2.0
        draw_steps(
            view, axes, carried, color=style.colour, linewidth=thick if main else 1.5, alpha=1.0 if main else 0.9,
            dashes=style.dash or (None, None), gid=f"series-{number}", zorder=4 if main else 3,
        )  # fmt: skip
        top = max(top, float(carried.max()))
        if main:
            draw_missed(view, axes, name, gid=f"series-{number}")
    draw_values(axes, clean_text(view.result.unit or view.result.demand_name, 40), 1.06 * top)


def replicas_figure(view: ChartView, *, each: float = 92.0) -> Figure:
    """One row per policy: replicas needed (area), ready (line), desired (thin), and violations."""
    figure, panels = new_figure(view, TOP + BOTTOM + (each + 22) * len(view.names) - 22, len(view.names), gap=22.0)
    needed = view.needed()
    for number, (name, axes) in enumerate(zip(view.names, panels, strict=True)):
        style, run = view.styles[name], view.run(name)
        ordered, ready = view.rows(run.ordered), view.rows(run.ready)
        draw_area(view, axes, needed, color=DEMAND, alpha=0.30)
        if not np.array_equal(ordered, ready):
            draw_steps(view, axes, ordered, color=style.colour, linewidth=0.9, alpha=0.55)
        draw_steps(view, axes, ready, color=style.colour, linewidth=1.2 if ready.size > 8 * view.canvas.bins else 1.8)
        draw_missed(view, axes, name, gid=f"series-{number}", high=0.08)
        known = needed[np.isfinite(needed)]
        top = max(float(ordered.max()), float(ready.max()), float(known.max()) if known.size else 0.0)
        draw_values(axes, "", 1.08 * top, bins=3)
        axes.annotate(
            display_name(name), (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points",
            color=style.colour, fontsize=12.5, fontweight="bold",
        )  # fmt: skip
        draw_times(view, axes, labels=number == len(view.names) - 1)
    return figure


def budget_figure(view: ChartView, *, height: float = 250.0) -> Figure:
    """How much of the error budget each policy had spent, as a share of it."""
    figure, (axes,) = new_figure(view, height)
    budget = view.result.epsilon * max(1, int(np.isfinite(view.demand).sum()))
    ends = [0.0]
    for number, name in enumerate(view.names):
        used = np.cumsum(view.missed(name)) / max(budget, 1e-12)
        ends.append(float(used[-1]))
        style = view.styles[name]
        draw_steps(
            view, axes, used, color=style.colour, linewidth=2.0 if name == view.focus else 1.6,
            dashes=style.dash or (None, None), gid=f"series-{number}", zorder=3,
        )  # fmt: skip
    top = float(np.clip(max(ends), 1.0, 3.0)) * 1.12
    axes.axhspan(1.0, top, color=MISSED, alpha=0.07, linewidth=0)
    axes.axhline(1.0, color=MISSED, linewidth=1.2)
    draw_note(axes, "all of it spent", 1.0, left=True)
    few, many = (part / max(budget, 1e-12) for part in view.result.chance_band())
    at = np.unique(np.linspace(0, few.size - 1, BAND_POINTS).round().astype(int))
    x, shade = at * view.result.step_s, ROLES["axis"][0]
    axes.fill_between(x, few[at], many[at], color=shade, alpha=0.2, linewidth=0, step="post", zorder=1)
    draw_values(axes, "share of the error budget", top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    draw_times(view, axes)
    return figure


def extra_hours_figure(view: ChartView, gpus_per_replica: float, *, height: float = 230.0) -> Figure:
    """GPU-hours so far, less those of the oracle where there is one."""
    figure, (axes,) = new_figure(view, height)
    hours = view.result.step_s / 3600 * gpus_per_replica
    base = view.rows(view.run("oracle").ordered) if "oracle" in view.names else np.zeros(view.hi - view.lo)
    low, high = 0.0, 0.0
    for number, name in enumerate(view.names):
        if name == "oracle":
            continue
        extra = np.cumsum((view.rows(view.run(name).ordered) - base) * hours)
        low, high = min(low, float(extra.min())), max(high, float(extra.max()))
        style = view.styles[name]
        draw_steps(
            view, axes, extra, color=style.colour, linewidth=2.0 if name == view.focus else 1.6,
            dashes=style.dash or (None, None), gid=f"series-{number}",
        )  # fmt: skip
    draw_values(axes, "GPU-hours above the oracle" if "oracle" in view.names else "GPU-hours so far", 1.08 * high)
    axes.set_ylim(1.08 * low, 1.08 * high if high > low else low + 1.0)
    axes.axhline(0.0, color=ROLES["axis"][0], linewidth=1.0)
    draw_times(view, axes)
    return figure


def overview_figure(view: ChartView, title: str) -> Figure:
    """One picture: demand, fan and capacity of the focus policy above, replicas of every policy below."""
    width, height = view.canvas.width, 520.0
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    wide = (width - LEFT - RIGHT) / width
    top = figure.add_axes((LEFT / width, 244 / height, wide, 194 / height))
    low = figure.add_axes((LEFT / width, 28 / height, wide, 164 / height), sharex=top)
    figure.text(6 / width, 1 - 26 / height, title, fontsize=15, fontweight="bold", color=TEXT)
    _demand_panel(view, top, [] if view.focus is None else [view.focus])
    draw_times(view, top, labels=False)
    ends = []
    for name in view.names:
        style, ready = view.styles[name], view.rows(view.run(name).ready)
        ends.append(float(ready.max()))
        main = name == view.focus
        draw_steps(
            view, low, ready, color=style.colour, linewidth=2.0 if main else 1.5, dashes=style.dash or (None, None),
            zorder=4 if main else 3, label=display_name(name),
        )  # fmt: skip
    draw_values(low, "replicas ready", 1.08 * max(ends, default=1.0))
    draw_times(view, low)
    _legend(view, figure, top, low)
    return figure


def _legend(view: ChartView, figure: Figure, top: Axes, low: Axes) -> None:
    """Keys of the overview picture, above each panel on the right."""
    common = {"loc": "lower right", "frameon": False, "fontsize": 12, "borderaxespad": 0.0, "handlelength": 2.2}
    keys: list[Any] = [Patch(color=DEMAND, alpha=0.4, label="demand")]
    if view.focus is not None:
        style, name = view.styles[view.focus], display_name(view.focus)
        if view.fan() is not None:
            keys.append(Patch(color=style.colour, alpha=0.3, label=f"forecast of {name}, one lead time before"))
        keys.append(Line2D([], [], color=style.colour, linewidth=2.2, label=f"ready replicas of {name} carry"))
        keys.append(Patch(color=MISSED, label="violated"))
    top.legend(handles=keys, bbox_to_anchor=(1, 1.03), ncols=4, **common)
    low.legend(bbox_to_anchor=(1, 1.04), ncols=6, **common)
