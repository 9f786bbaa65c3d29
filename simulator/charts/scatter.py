"""Cost against violations: one point per policy, told apart by colour and shape and named where it stands."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from forecasting.panel import FloatArray
from simulator.charts.axes import amount_label, percent_label
from simulator.charts.frame import LEFT, MISSED, MUTED, draw_note, new_figure
from simulator.charts.view import ChartView, display_name

__all__ = ["cost_limits", "scatter_figure"]

ROUND_SHARES = [m * 10.0**e for e in range(-6, 0) for m in (1, 2, 5)] + [1.0]
Box = tuple[float, float, float, float]  # left, bottom, right, top in units


def scatter_figure(view: ChartView, *, height: float = 320.0) -> Figure:
    """Cost against violations: one point per policy, the objective as a line."""
    figure, (axes,) = new_figure(view, height, bottom=42.0)
    epsilon = view.result.epsilon
    x = np.array([view.run(n).gpu_hours for n in view.names])
    y = np.array([view.run(n).violation_rate for n in view.names])
    linear = epsilon if epsilon > 0 else max(float(y[y > 0].min()) if (y > 0).any() else 0.0, 1e-4)
    axes.set_yscale("symlog", linthresh=2 * linear, linscale=1.0)
    top = max(4 * linear, 1.6 * float(y.max()))
    _cost_axis(view, axes, x)
    axes.set_ylim(-0.18 * linear, top)
    axes.axhspan(epsilon, top, color=MISSED, alpha=0.07, linewidth=0)
    axes.axhline(epsilon, color=MISSED, linewidth=1.2)
    for number, name in enumerate(view.names):
        style = view.styles[name]
        size = 13 if style.marker == "*" else 9
        axes.plot(
            [x[number]], [y[number]], marker=style.marker, color=style.colour, linestyle="none", markersize=size,
            gid=f"series-{number}", zorder=4, clip_on=False,
        )  # fmt: skip
    _label(view, axes, x, y)
    axes.grid(axis="both")
    ticks = [0.0, *(t for t in ROUND_SHARES if 0.999 * linear <= t <= top)]
    axes.set_yticks(ticks, [percent_label(t) for t in ticks])
    axes.minorticks_off()
    axes.annotate("share of time violated", (0, 1), (-LEFT + 6, 9), xycoords="axes fraction",
                  textcoords="offset points", color=MUTED, fontsize=12)  # fmt: skip
    axes.annotate("GPU-hours", (1, 0), (0, -36), xycoords="axes fraction", textcoords="offset points", ha="right",
                  color=MUTED, fontsize=12)  # fmt: skip
    return figure


def cost_limits(low: float, high: float) -> tuple[float, float]:
    """Ends of a cost axis for values from ``low`` to ``high``: half as long as the highest at least.

    An axis that is fitted to them would make a difference of 1 % look like all there is.
    """
    length = max(1.2 * (high - low), 0.5 * high, 1e-9)
    start = max(0.0, (low + high - length) / 2) if low >= 0 else (low + high - length) / 2
    return start, start + length


def _cost_axis(view: ChartView, axes: Axes, x: FloatArray) -> None:
    """GPU-hours from left to right; by factors where the dearest costs several times the cheapest."""
    low, high = float(x.min()), float(x.max())
    if low > 0 and high / low > 4:
        axes.set_xscale("log")
        pad = (high / low) ** 0.10
        axes.set_xlim(low / pad, high * pad)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        axes.set_xlim(*cost_limits(low, high))
        axes.xaxis.set_major_locator(MaxNLocator(view.canvas.ticks - 1))
    axes.xaxis.set_major_formatter(FuncFormatter(amount_label))


def _label(view: ChartView, axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Name the line of the objective and the points: right, left, above or below, the first place that is free."""
    spots = [tuple(p) for p in axes.transData.transform(np.column_stack([x, y]))]
    taken: list[Box] = [(px - 7, py - 7, px + 7, py + 7) for px, py in spots]
    box = axes.get_window_extent()
    note, line = (
        f"objective: at most {percent_label(view.result.epsilon)}",
        axes.transData.transform((0, view.result.epsilon))[1],
    )
    wide = 7.0 * len(note)
    right = (box.x1 - wide, line, box.x1, line + 18)
    left = any(_overlap(right, point) for point in taken)
    draw_note(axes, note, view.result.epsilon, left=left)
    taken.append((box.x0, line, box.x0 + wide, line + 18) if left else right)
    for number, name in enumerate(view.names):
        text = display_name(name)
        wide, (px, py) = 8.0 * len(text), spots[number]
        choices = [("left", 11.0, -4.0), ("right", -11.0, -4.0), ("center", 0.0, 11.0), ("center", 0.0, -20.0)]
        choices += [("left", 11.0, 10.0), ("left", 11.0, -18.0), ("right", -11.0, 10.0), ("right", -11.0, -18.0)]
        for ha, dx, dy in choices:
            left = px + dx - {"left": 0.0, "center": wide / 2, "right": wide}[ha]
            place = (left, py + dy - 2, left + wide, py + dy + 12)
            inside = place[0] >= box.x0 and place[2] <= box.x1 and place[1] >= box.y0 - 4
            if inside and not any(_overlap(place, other) for other in taken):
                break
        else:
            ha, dx, dy = choices[0] if px < (box.x0 + box.x1) / 2 else choices[1]
            left = px + dx - (0.0 if ha == "left" else wide)
            place = (left, py + dy - 2, left + wide, py + dy + 12)
        taken.append(place)
        axes.annotate(text, (x[number], y[number]), (dx, dy), textcoords="offset points", ha=ha,
                      color=view.styles[name].colour, fontsize=12.5, fontweight="bold", gid=f"series-{number}",
                      zorder=6, annotation_clip=False)  # fmt: skip


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
