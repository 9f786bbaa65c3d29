"""`report.html`: a replay as one page that needs nothing else - no network, no scripts from elsewhere, no fonts."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from harmony.decision.past.tried import why_not
from simulator import findings as words
from simulator.charts import timelines
from simulator.charts.axes import duration_label, moment, percent_label
from simulator.charts.palette import ROLES
from simulator.charts.scatter import scatter_figure
from simulator.charts.svg import draw, save_png, svg
from simulator.charts.view import (
    HALF,
    NARROW,
    WIDE,
    Canvas,
    ChartView,
    busiest_window,
    clean_text,
    display_name,
    focus_name,
    ordered_names,
)
from simulator.result import PolicyRun, ReplayResult

__all__ = ["render_report", "save_overview_png", "write_report"]

REQUEST_TITLES = {
    "requests": "requests",
    "unfinished": "unfinished",
    "slo_attainment": "requests within the TTFT bound",
    "slo_miss_rate": "requests beyond the TTFT bound",
    "ttft_p50_s": "TTFT p50",
    "ttft_p95_s": "TTFT p95",
    "ttft_p99_s": "TTFT p99",
    "e2e_p50_s": "end to end p50",
    "e2e_p95_s": "end to end p95",
    "e2e_p99_s": "end to end p99",
    "queue_wait_p95_s": "queue wait p95",
    "itl_p50_s": "between tokens p50",
    "itl_p95_s": "between tokens p95",
    "itl_p99_s": "between tokens p99",
    "gave_up": "gave up",
    "retries": "sent again",
    "drain_replica_hours": "replica-hours of draining",
}


REQUEST_BOUNDS = {  # the same for every policy
    "ttft_slo_s": "The bound on TTFT is",
    "idle_ttft_p95_s": "An idle replica needs for the 95th percentile prompt",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One chart of the page: SVG for every width that is needed, and what it shows."""

    title: str
    caption: str
    drawings: list[Markup]


def write_report(result: ReplayResult, path: Path) -> None:
    """Write `report.html`; equal results give equal bytes but for the cells that say how long a replay took."""
    path.write_bytes(render_report(result).encode("utf-8", "replace"))


def render_report(result: ReplayResult) -> str:
    """The page as text: headline, figures of every policy, charts, set-up and definitions."""
    script = _template_text("report.js").strip()
    page = _environment().get_template("report.html.j2")
    focus = focus_name(result)
    return page.render(
        result=result,
        title=clean_text(result.trace),
        headline=words.headline(result),
        sentences=words.sentences(result),
        tiles=_tiles(result),
        policies=_policy_rows(result),
        focus=None if focus is None else display_name(focus),
        charts=_charts(result),
        requests=_request_table(result),
        reasons=_reasons(result),
        tried=None if focus is None else _tried(result.policies[focus]),
        setup=_setup(result),
        notes=[clean_text(n) for n in result.notes],
        has_fan=focus is not None and ChartView(result, result.scored_from, result.demand.size, WIDE).fan() is not None,
        roles=ROLES,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        has_oracle="oracle" in result.policies,
    )


def save_overview_png(result: ReplayResult, path: Path, *, scale: float = 2.0) -> None:
    """One picture for a README: demand, forecast fan and capacity above, replicas of every policy below.

    It shows up to three days of the scored part around the steepest rise of demand (all of it if it is short).
    """
    lo, hi = busiest_window(result, most_hours=72.0) or (result.scored_from, result.demand.size)
    view = ChartView(result, lo, hi, WIDE)
    save_png(draw(lambda: timelines.overview_figure(view, words.headline(result))), path, scale=scale)


# ---- charts -----------------------------------------------------------------------------------------------------
def _charts(result: ReplayResult) -> dict[str, Picture]:
    """Every chart that this result has something to show on, by key."""
    lo, hi = result.scored_from, result.demand.size
    focus = focus_name(result)
    if focus is None or hi <= lo:
        return {}
    name, lead = display_name(focus), duration_label(result.lead_time_s)
    fan = ChartView(result, lo, hi, WIDE).fan() is not None
    shade = f" The shaded band is what {name} forecast one lead time ({lead}) before." if fan else ""
    clock = "Times are UTC." if result.calendar else "Times count from the start of the trace."
    both = (WIDE, NARROW)
    out = {
        "demand": _picture(
            result, (lo, hi), "demand", "Demand and what was ready for it",
            f"Demand (grey) and what the ready replicas of {name} carried (line), over the whole scored part.{shade} "
            f"Red marks along the bottom: {words.violation(result)}. {clock}",
            both, lambda view: timelines.demand_figure(view, [focus]),
        ),
        "replicas": _picture(
            result, (lo, hi), "replicas", "Replicas, policy by policy",
            "Grey: replicas that the demand keeps busy. Thick line: ready. Thin line: desired, starting ones included. "
            f"Red marks: {words.violation(result)}.",
            both, timelines.replicas_figure,
        ),
        "scatter": _picture(
            result, (lo, hi), "scatter", "Cost against violations",
            "Left is cheaper, low is safer. Above the red line the objective is not met.", (HALF,), scatter_figure,
        ),
        "budget": _picture(
            result, (lo, hi), "budget", "When the error budget was spent",
            "Violated time so far as a share of the error budget of the scored part. A line that leaves the chart "
            "at the top spent it many times over. The shaded band is where 95 % of all policies would be that keep the "
            "objective exactly, violated in runs of one lead time.", (HALF,), timelines.budget_figure,
        ),
        "hours": _picture(
            result, (lo, hi), "hours", "What it cost along the way",
            f"GPU-hours so far{', above what perfect foresight needs' if 'oracle' in result.policies else ''}.",
            (HALF,), lambda view: timelines.extra_hours_figure(view, _gpus_per_replica(result)),
        ),
    }  # fmt: skip
    busiest = busiest_window(result)
    if busiest is not None:
        hours = f"{(busiest[1] - busiest[0]) * result.step_s / 3600:,.0f} hours"
        out["zoom"] = _picture(
            result, busiest, "zoom", "The steepest rise, close up",
            f"The {hours} around the steepest rise of demand within one lead time. Lines: what the ready replicas of "
            f"each policy carried. Red marks: violations under {name}.{shade}",
            both, lambda view: timelines.demand_figure(view, view.names),
        )  # fmt: skip
    return out


def _picture(
    result: ReplayResult,
    part: tuple[int, int],
    key: str,
    title: str,
    caption: str,
    canvases: Sequence[Canvas],
    paint: Callable[[ChartView], Figure],
) -> Picture:
    """Draw one chart on every canvas it is wanted on."""
    drawings = []
    for canvas in canvases:
        view = ChartView(result, *part, canvas)
        figure = draw(lambda view=view: paint(view))  # type: ignore[misc]
        css = canvas.key if len(canvases) > 1 else ""
        drawings.append(svg(figure, f"{key}-{canvas.key}", title, f"{caption} {_described(view)}", css))
    return Picture(title, caption, drawings)


def _described(view: ChartView) -> str:
    """The part of a time axis and the figures of every policy, for those who cannot see the chart."""
    result = view.result
    start, end = (moment(view.start_s + offset, calendar=result.calendar) for offset in (0.0, view.span_s))
    rates = ", ".join(f"{display_name(n)} {percent_label(float(view.missed(n).mean()))}" for n in view.names)
    return f"From {start} to {end}. Violated steps: {rates}."


def _gpus_per_replica(result: ReplayResult) -> float:
    """GPUs of one replica, as the GPU-hours of the runs tell."""
    for run in result.policies.values():
        ordered = float(run.ordered[result.scored_from :].sum()) * result.step_s / 3600
        if ordered > 0:
            return run.gpu_hours / ordered
    return 1.0


# ---- tables -----------------------------------------------------------------------------------------------------
def _tiles(result: ReplayResult) -> list[dict[str, str]]:
    """The four figures that matter most, of the policy that the report is about."""
    focus = focus_name(result)
    if focus is None:
        return []
    run = result.policies[focus]
    good = words.met(result, run)
    known = words.scored_known(result) > 0
    tiles = [
        {
            "label": "time violated",
            "value": percent_label(run.violation_rate) if known else "-",
            "note": f"objective: at most {percent_label(result.epsilon)}",
            "state": ("good" if good else "bad") if known else "",
        },
        {
            "label": "GPU-hours",
            "value": words.hours(run.gpu_hours),
            "note": f"cost {words.hours(run.cost)}",
            "state": "",
        },
    ]
    hpa = result.policies.get("hpa")
    if focus != "hpa" and hpa is not None and hpa.gpu_hours > 0:
        change = run.gpu_hours / hpa.gpu_hours - 1
        beside = f"HPA violated {percent_label(hpa.violation_rate)}"
        tiles.append({"label": "GPU-hours beside HPA", "value": f"{change:+.0%}".replace("-", "−"), "note": beside,
                      "state": ""})  # fmt: skip
    ratio = words.ratio_to_oracle(result, run)
    if focus != "oracle" and math.isfinite(ratio):
        tiles.append({"label": "beside perfect foresight", "value": f"{ratio:.2f}×", "note": "GPU-hours of the oracle",
                      "state": ""})  # fmt: skip
    if run.stated_risk is not None:
        note = f"realised: {percent_label(run.violation_rate)}" if known else "realised: unknown"
        said = words.judged(result, run)
        note += f"; {said}" if said else ""
        tiles.append({"label": "risk it stated", "value": percent_label(run.stated_risk), "note": note, "state": ""})
    return tiles


def _policy_rows(result: ReplayResult) -> list[dict[str, Any]]:
    """The table of policies, in the order of the charts."""
    names = ordered_names(result)
    styles = ChartView(result, 0, result.demand.size, WIDE).styles
    known = words.scored_known(result)
    rows = []
    for number, name in enumerate(names):
        run = result.policies[name]
        ratio = words.ratio_to_oracle(result, run)
        rows.append(
            {
                "number": number,
                "name": display_name(name, 60),
                "style": styles[name],
                "main": name == focus_name(result),
                "met": words.met(result, run) if known else None,
                "missed": percent_label(run.violation_rate) if known else "-",
                "missed_steps": f"{round(run.violated_seconds / result.step_s):,} of {known:,} steps",
                "missed_for": duration_label(run.violated_seconds),
                "stated": "-" if run.stated_risk is None else percent_label(run.stated_risk),
                "judged": words.judged(result, run),
                "gpu_hours": words.hours(run.gpu_hours),
                "ratio": f"{ratio:.2f}×" if math.isfinite(ratio) else "-",
                "cost": words.hours(run.cost),
                "events": f"{run.scale_events:,}",
                "seconds": f"{run.seconds:.1f}",
                "settings": _settings(run),
                "reach": "" if run.objective_met else f"{run.unreachable_steps:,} decisions",
            }
        )
    return rows


def _settings(run: PolicyRun) -> str:
    """Settings as ``name value, ...``."""
    shown = (f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in run.settings.items())
    return clean_text(", ".join(shown))


def _request_table(result: ReplayResult) -> dict[str, Any] | None:
    """Latencies of the request-level world, one row per policy; None for a rate-level one."""
    runs = [(n, result.policies[n].requests) for n in ordered_names(result) if result.policies[n].requests]
    if not runs:
        return None
    known = [k for k in REQUEST_TITLES if any(k in r for _, r in runs)]
    keys = known + sorted({k for _, r in runs for k in r} - set(known) - set(REQUEST_BOUNDS))
    rows = [(display_name(n, 60), [_request_cell(k, r.get(k)) for k in keys]) for n, r in runs]
    bounds = [
        f"{text} {_request_cell(k, next((r[k] for _, r in runs if k in r), None))}."
        for k, text in REQUEST_BOUNDS.items()
        if any(k in r for _, r in runs)
    ]
    bound, idle = (next((r[k] for _, r in runs if k in r), math.nan) for k in REQUEST_BOUNDS)
    if bound < idle:
        bounds.append("No number of replicas keeps the bound for such prompts.")
    return {"titles": [REQUEST_TITLES.get(k, clean_text(k)) for k in keys], "rows": rows, "bounds": " ".join(bounds)}


def _request_cell(key: str, value: float | None) -> str:
    """A latency in seconds, a count, or a share."""
    if value is None or not math.isfinite(value):
        return "-"
    if key.endswith(("_rate", "_attainment")):
        return percent_label(value)
    if key.endswith("_s"):
        return f"{value:,.1f} s" if value >= 100 else f"{value:.3g} s"
    return f"{value:,.0f}"


def _reasons(result: ReplayResult) -> list[dict[str, Any]]:
    """Per policy: why its replica counts were what they were, most frequent first."""
    out = []
    for name in ordered_names(result):
        counts = result.policies[name].reasons
        total = sum(counts.values())
        if total:
            ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            bars = [
                {"reason": clean_text(r), "count": f"{c:,}", "share": f"{100 * c / total:.1f}"} for r, c in ranked if c
            ]
            out.append({"name": display_name(name, 60), "bars": bars})
    return out


def _tried(run: PolicyRun) -> dict[str, Any] | None:
    """What the best setting of every family would have set and violated on the past, for a policy that tried them."""
    if run.tried is None:
        return None
    rows = [
        (
            clean_text(str(run.tried.setting[i])), f"{float(run.tried.replicas[i]):.3g}",
            percent_label(float(run.tried.violated[i])), why_not(run.tried, i),
        )
        for i in range(len(run.tried))
    ]  # fmt: skip
    return {"rows": rows, "allowed": percent_label(run.tried.allowed)}


def _setup(result: ReplayResult) -> list[tuple[str, str]]:
    """What was replayed, in which world, under which objective."""
    n, first, step = result.demand.size, result.scored_from, result.step_s
    origin = result.start_s if result.calendar else 0.0
    start, end = (moment(origin + i * step, calendar=result.calendar) for i in (first, n))
    absent = int(np.isnan(result.demand[first:]).sum())
    unit = f" {clean_text(result.unit)}" if result.unit else ""
    items = [
        ("trace", clean_text(result.trace)),
        ("demand", clean_text(result.demand_name) + (f" in{unit}" if unit else "")),
        ("trace length", f"{n:,} steps of {duration_label(step)} ({duration_label(n * step)})"),
        ("scored part", f"the last {n - first:,} steps ({duration_label((n - first) * step)}), {start} to {end}"),
        ("absent demand", f"{absent:,} scored steps; they count neither way" if absent else "none in the scored part"),
        ("objective", f"{words.objective(result)} at most {percent_label(result.epsilon)} of the time"),
        ("one replica carries", f"{result.replica_capacity:.4g}{unit}"),
        ("lead time", f"{duration_label(result.lead_time_s)} from request to ready"),
        ("settings", "tuned on what lies before the scored part" if result.tuned else "as given, not tuned"),
        ("world", f"{clean_text(result.world)} level"),
        ("seed", str(result.seed)),
        ("digest of the trace", clean_text(result.trace_digest)),
    ]
    return items


# ---- template ---------------------------------------------------------------------------------------------------
def _loader() -> jinja2.PackageLoader:
    return jinja2.PackageLoader("simulator", "templates")


def _environment() -> jinja2.Environment:
    """Templates with everything escaped that is not marked as safe here."""
    return jinja2.Environment(
        loader=_loader(), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


def _template_text(name: str) -> str:
    environment = _environment()
    return _loader().get_source(environment, name)[0]
