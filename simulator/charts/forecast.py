"""A forecast as a picture: what was seen last, and the fan of what may come, a panel an indicator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from forecasting.distribution import ForecastDistribution
from forecasting.panel import FloatArray, Panel
from simulator.charts.axes import DAY, amount_label, time_ticks
from simulator.charts.palette import ROLES
from simulator.charts.view import clean_text, fan_bands

__all__ = ["MOST_PANELS", "forecast_figure"]

MOST_PANELS = 12
WIDTH, EACH, GAP, LEFT, RIGHT, TOP, BOTTOM = 900.0, 190.0, 40.0, 60.0, 20.0, 34.0, 46.0
_SEEN = 3
"""Rows of history that are drawn for each step foretold, at least `_LEAST`."""
_LEAST = 36
_BLUE, _DEMAND, _MUTED = (ROLES[r][0] for r in ("blue", "demand", "muted"))


def forecast_figure(panel: Panel, found: ForecastDistribution, levels: Sequence[float]) -> Figure:
    """The last rows of ``panel`` and the quantiles ``levels`` of the forecast that follows them.

    The first `MOST_PANELS` indicators are drawn, each on an axis of its own; absent readings leave a gap, and where all
    of the last rows are absent the day before the gap is shown as well. Times are UTC, and the axis says so. The lowest
    and the highest level bound the outer band, and so on inwards; a level without a partner is a line.
    """
    shown = min(len(found.indicators), MOST_PANELS)
    history = np.column_stack([panel.column(i.name) for i in found.indicators[:shown]])
    seen = _rows_shown(history, panel.step_s, max(_LEAST, _SEEN * found.horizon))
    past = panel.times_s[-seen:]
    height = TOP + BOTTOM + shown * EACH + (shown - 1) * GAP
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    values = dict(zip(levels, found.quantile(list(levels)), strict=True))
    start, end = float(past[0]), float(found.times_s[-1])
    ticks = time_ticks(start, end - start, 9, calendar=panel.calendar)
    for k, indicator in enumerate(found.indicators[:shown]):
        low = height - TOP - (k + 1) * EACH - k * GAP
        axes = figure.add_axes((LEFT / WIDTH, low / height, (WIDTH - LEFT - RIGHT) / WIDTH, EACH / height))
        newest = history[-seen:, k]
        axes.plot(past - start, newest, color=_DEMAND, linewidth=1.4, label="seen")
        axes.axvline(found.origin_s - start, color=_MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        times = found.times_s - start
        for depth, (low_q, high_q) in enumerate(fan_bands({q: v[:, k] for q, v in values.items()})):
            axes.fill_between(
                times, values[low_q][:, k], values[high_q][:, k], color=_BLUE, alpha=0.15 + 0.12 * min(depth, 3),
                linewidth=0, label=f"{low_q:.4g} to {high_q:.4g}",
            )  # fmt: skip
        if len(levels) % 2:
            middle = sorted(levels)[len(levels) // 2]
            axes.plot(times, values[middle][:, k], color=_BLUE, linewidth=1.6, label=f"{middle:.4g}")
        drawn = np.concatenate([newest, *(v[:, k] for v in values.values())])
        if np.nanmin(drawn, initial=0.0) >= 0:
            axes.set_ylim(bottom=0)
        axes.set_xlim(0, end - start)
        axes.set_xticks([t for t, _ in ticks], [text for _, text in ticks])
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(amount_label))
        axes.grid(axis="y")
        unit = f" ({clean_text(indicator.unit, 40)})" if indicator.unit else ""
        axes.set_title(f"{clean_text(indicator.name, 60)}{unit}", loc="left", fontsize=13)
        if k == 0:
            axes.legend(
                loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, fontsize=11, borderaxespad=0.2
            )
        if k == shown - 1 and panel.calendar:
            axes.set_xlabel("UTC", loc="right", fontsize=11, labelpad=1)
    return figure


def _rows_shown(history: FloatArray, step_s: float, usual: int) -> int:
    """Newest rows of (rows, indicators) to draw: the usual ones, and a day of what was seen if they hold no line."""
    rows = len(history)
    heard = np.flatnonzero(~np.isnan(history).all(axis=1))
    if len(heard) < 2 or heard[-2] >= rows - usual:
        return min(rows, usual)
    return min(rows, rows - int(heard[-1]) + max(_LEAST, round(DAY / step_s)))
