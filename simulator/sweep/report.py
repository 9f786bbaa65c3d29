"""`sweep.html`: a sweep as one page that needs nothing else: tables, frontiers, and stated against realised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.charts.palette import ROLES, Style, policy_styles
from simulator.charts.svg import draw, svg
from simulator.sweep.running import FIGURES, SweepResult, frontier

__all__ = ["render_sweep"]

MOST_FRONTIERS = 24
MISSED = ROLES["missed"][0]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and what it shows."""

    title: str
    caption: str
    drawing: Markup


def render_sweep(result: SweepResult) -> str:
    """The page as text; equal results give equal bytes."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simulator", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    styles = policy_styles(result.policies)
    charts = [_reliability(result, styles)]
    charts += [_frontier(result, styles, i) for i in range(min(len(result.worlds), MOST_FRONTIERS))]
    return environment.get_template("sweep.html.j2").render(
        roles=ROLES,
        charts=charts,
        left_out=max(0, len(result.worlds) - MOST_FRONTIERS),
        summaries=[(f"{100 * e:g} %", _summary(result, e)) for e in result.study.epsilons],
        titles=["policy", *FIGURES, "stated and realised, traces"],
        details=_details(result),
        traces=result.worlds,
        tuned=result.study.settings.tune,
    )


# ---- tables --------------------------------------------------------------------------------------------------------
def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _summary(result: SweepResult, epsilon: float) -> list[list[str]]:
    """A row a policy, the cheapest at equal violation first."""
    found = [(result.summary(p, epsilon), p) for p in result.policies]
    first = next(iter(FIGURES))
    found.sort(key=lambda pair: pair[0][first] if math.isfinite(pair[0][first]) else math.inf)
    rows = []
    for values, policy in found:
        cells = [number(values[title]) for title in FIGURES]
        low, high = result.interval(policy, epsilon)
        if math.isfinite(low):
            cells[0] += f" ({number(low)}–{number(high)})"
        rows.append([policy, *cells, result.judged(policy, epsilon)])
    return rows


def _details(result: SweepResult) -> list[list[str]]:
    """A row for every run."""
    return [
        [
            r.cell.trace, r.cell.policy, f"{100 * r.cell.epsilon:g} %", f"{r.cell.gpu_hours:,.0f}",
            f"{100 * r.cell.figures.violated:.3f} %", r.cell.figures.verdict,
            "–" if r.cell.stated_risk is None else f"{100 * r.cell.stated_risk:.3f} %", r.cell.stated_judgement or "–",
            number(r.compared.over["rival"]),
            number(r.compared.over["oracle"]), number(r.cell.figures.longest_min), number(r.cell.figures.worst_hour),
            f"{100 * r.cell.figures.unserved:.3f} %",
            ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in r.cell.settings.items()),
        ]
        for r in result.rows
    ]  # fmt: skip


# ---- charts --------------------------------------------------------------------------------------------------------
def _reliability(result: SweepResult, styles: dict[str, Style]) -> Chart:
    """Stated against realised: one point a policy, trace and objective."""

    def paint() -> Figure:
        figure = Figure(figsize=(9, 5))
        axes = figure.add_axes((0.09, 0.12, 0.66, 0.82))
        epsilons = result.study.epsilons
        low, high = min(epsilons) / 4, max(epsilons) * 4
        axes.plot([low, high], [low, high], color=MISSED, linewidth=1)
        for policy in result.policies:
            rows = [r for r in result.rows if r.cell.policy == policy]
            _points(axes, policy, styles, [r.cell.epsilon for r in rows], [r.cell.figures.violated for r in rows])
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=min(epsilons) / 2)
        axes.set_xlim(low, high)
        axes.set_ylim(bottom=-min(epsilons) / 10)
        axes.set_xlabel("share of time that may be violated")
        axes.set_ylabel("share that was")
        axes.grid(axis="both")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=10)
        return figure

    title = "Stated against realised"
    caption = "Every point is a policy on a trace. On the line a promise was kept to the point; above it broken."
    return Chart(title, caption, svg(draw(paint), "reliability", title, caption))


def _frontier(result: SweepResult, styles: dict[str, Style], number_: int) -> Chart:
    """GPU-hours against violations of every policy on one trace."""
    world = result.worlds[number_]
    least = float(world.yardstick.foresight.sum()) * world.hours_per_step

    def paint() -> Figure:
        figure = Figure(figsize=(9, 4.4))
        axes = figure.add_axes((0.09, 0.13, 0.66, 0.8))
        for policy in result.policies:
            points = result.points(world.trace, policy)
            _points(axes, policy, styles, [100 * v for v, _ in points], [h / least for _, h in points])
            kept = frontier(points)
            if len(kept) > 1:
                style = styles[policy]
                axes.plot([100 * v for v, _ in kept], [h / least for _, h in kept], color=style.colour, linewidth=1)
        for epsilon in result.study.epsilons:
            axes.axvline(100 * epsilon, color=MISSED, linewidth=0.8)
        axes.set_xscale("symlog", linthresh=50 * min(result.study.epsilons))
        axes.set_xlim(left=-5 * min(result.study.epsilons))
        axes.set_yscale("log")
        axes.set_xlabel("% of time violated")
        axes.set_ylabel("GPU-hours over perfect foresight")
        axes.grid(axis="both")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=10)
        return figure

    title = f"Cost against violations: {world.trace}"
    caption = "Left is safer, low is cheaper; lines join what no other run of the policy undercuts. Red: objectives."
    return Chart(title, caption, svg(draw(paint), f"frontier-{number_}", title, caption))


def _points(axes: Axes, policy: str, styles: dict[str, Style], x: Sequence[float], y: Sequence[float]) -> None:
    style = styles[policy]
    axes.plot(x, y, marker=style.marker, color=style.colour, linestyle="none", markersize=6, label=policy, alpha=0.85)
