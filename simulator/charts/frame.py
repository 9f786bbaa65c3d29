"""What all figures share: a frame with quiet axes, and series that stay small however long the trace is."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from forecasting.panel import FloatArray, IntArray
from simulator.charts.axes import amount_label, time_ticks
from simulator.charts.palette import ROLES
from simulator.charts.thinning import bin_extremes, bins_with, extreme_rows
from simulator.charts.view import ChartView, fan_bands, fan_with_gaps

__all__ = [
    "BOTTOM", "DEMAND", "LEFT", "MISSED", "MUTED", "RIGHT", "TEXT", "TOP", "draw_area", "draw_fan", "draw_missed",
    "draw_note", "draw_steps", "draw_times", "draw_values", "new_figure",
]  # fmt: skip

TEXT, MUTED, DEMAND, MISSED = (ROLES[r][0] for r in ("text", "muted", "demand", "missed"))
LEFT, RIGHT, TOP, BOTTOM = 46.0, 20.0, 26.0, 26.0  # margins in units


# ---- frame ------------------------------------------------------------------------------------------------------
def new_figure(
    view: ChartView, height: float, panels: int = 1, gap: float = 10.0, bottom: float = BOTTOM
) -> tuple[Figure, list[Axes]]:
    """A figure of the view's width with ``panels`` axes of equal height below each other, sharing the time axis."""
    width = view.canvas.width
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # one unit is one pixel
    each = (height - TOP - bottom - gap * (panels - 1)) / panels
    axes: list[Axes] = []
    for i in range(panels):
        low = bottom + (panels - 1 - i) * (each + gap)
        box = (LEFT / width, low / height, (width - LEFT - RIGHT) / width, each / height)
        axes.append(figure.add_axes(box, sharex=axes[0] if axes else None))
    return figure, axes


def draw_values(axes: Axes, title: str, top: float, *, bins: int = 4) -> None:
    """A value axis from 0 with quiet horizontal lines; its title stands above, not on its side."""
    axes.set_ylim(0, top if top > 0 else 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(amount_label))
    axes.grid(axis="y")
    axes.annotate(
        title, (0, 1), (-LEFT + 6, 9), xycoords="axes fraction", textcoords="offset points", color=MUTED, fontsize=12
    )


def draw_times(view: ChartView, axes: Axes, *, labels: bool = True) -> None:
    """A time axis in seconds from the first row, labelled with dates or time elapsed."""
    axes.set_xlim(0, view.span_s)
    ticks = time_ticks(view.start_s, view.span_s, view.canvas.ticks, calendar=view.result.calendar)
    axes.set_xticks([t for t, _ in ticks], [text for _, text in ticks])  # shared by panels below each other
    axes.tick_params(axis="x", length=4.0 if labels else 0.0, labelbottom=labels)


def draw_note(axes: Axes, text: str, y: float, *, left: bool) -> None:
    """A word on a horizontal red line, at its left or right end."""
    axes.annotate(
        text, (0 if left else 1, y), (4 if left else -4, 4), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="left" if left else "right", color=MISSED, fontsize=12,
    )  # fmt: skip


# ---- series -----------------------------------------------------------------------------------------------------
def draw_steps(view: ChartView, axes: Axes, values: FloatArray, **style: Any) -> None:  # noqa: ANN401
    """A value that holds for one step, as a line; absent rows leave a gap."""
    rows = extreme_rows(values, view.canvas.bins)
    x, y = rows * view.result.step_s, values[rows]
    axes.plot(np.append(x, view.span_s), np.append(y, y[-1:]), drawstyle="steps-post", solid_joinstyle="round", **style)


def draw_area(view: ChartView, axes: Axes, values: FloatArray, **style: Any) -> None:  # noqa: ANN401
    """A value that holds for one step, as the area below it; absent rows leave a gap."""
    rows = extreme_rows(values, view.canvas.bins)
    x, y = rows * view.result.step_s, values[rows]
    axes.fill_between(np.append(x, view.span_s), np.append(y, y[-1:]), 0, step="post", linewidth=0, **style)


def draw_band(view: ChartView, axes: Axes, rows: IntArray, low: FloatArray, high: FloatArray, **style: Any) -> None:  # noqa: ANN401
    """The range between two forecast quantiles."""
    first, least, most = bin_extremes(low, high, view.canvas.bins)
    x, least = fan_with_gaps(rows[first], least)
    _, most = fan_with_gaps(rows[first], most)
    x, least, most = np.append(x, rows[-1] + 1), np.append(least, least[-1]), np.append(most, most[-1])
    axes.fill_between(x * view.result.step_s, least, most, step="post", linewidth=0, **style)


def draw_fan(view: ChartView, axes: Axes) -> None:
    """The focus policy's forecasts, made one lead time before."""
    fan = view.fan()
    if fan is None or view.focus is None:
        return
    rows, quantiles = fan
    colour = view.styles[view.focus].colour
    bands = fan_bands(quantiles)
    for low, high in bands:
        strength = 0.20 if len(bands) < 3 else 0.14
        draw_band(view, axes, rows, quantiles[low], quantiles[high], color=colour, alpha=strength, gid="series-900")


def draw_missed(view: ChartView, axes: Axes, name: str, *, gid: str, low: float = 0.0, high: float = 0.045) -> None:
    """Red marks along the lower edge wherever the policy violated."""
    step = view.result.step_s
    runs = [(a * step, (b - a) * step) for a, b in bins_with(view.missed(name), view.canvas.bins)]
    if runs:
        least = 1.5 * view.span_s / view.canvas.width  # never thinner than can be seen
        axes.broken_barh(
            [(start, max(length, least)) for start, length in runs], (low, high - low),
            transform=axes.get_xaxis_transform(), color=MISSED, linewidth=0, gid=gid, zorder=5,
        )  # fmt: skip
