"""Two replays side by side, from the files that they left: what differed between them, and what came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from forecasting.errors import DataError
from simulator.charts.axes import amount_label, percent_label
from simulator.charts.palette import ROLES, policy_styles
from simulator.charts.scatter import cost_limits
from simulator.charts.svg import draw, svg
from simulator.charts.view import clean_text, display_name

__all__ = ["Comparison", "Pair", "compare", "read_run", "render_comparison"]

TERMS = {
    "trace": "trace",
    "demand": "demand",
    "step_seconds": "seconds a step",
    "scored_steps": "scored steps",
    "replica_capacity": "a replica carries",
    "lead_time_seconds": "lead time, s",
    "epsilon": "objective",
    "seed": "seed",
    "tuned": "tuned",
    "world": "world",
}
"""What a replay was asked, by its key in `replay.json`."""

FIGURES = ("gpu_hours", "cost", "violation_rate", "stated_risk", "scale_events")


@dataclass(frozen=True, slots=True)
class Pair:
    """One policy in both runs; None where a run did not have it."""

    policy: str
    a: Mapping[str, Any] | None
    b: Mapping[str, Any] | None

    def change(self, figure: str) -> float | None:
        """B over A less one; None where either is missing or A is 0."""
        before, after = (None if run is None else run.get(figure) for run in (self.a, self.b))
        return None if before is None or after is None or not before else after / before - 1

    @property
    def settings(self) -> dict[str, tuple[Any, Any]]:
        """Settings that differ, as (A, B)."""
        if self.a is None or self.b is None:
            return {}
        return _differing(self.a.get("settings", {}), self.b.get("settings", {}))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs by name, the terms in which they differ, and their policies, those of A first.

    `comparable`: both scored the same demand under the same objective, so that figures may be held against each other.
    """

    names: tuple[str, str]
    terms: dict[str, tuple[Any, Any]]
    comparable: bool
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "a": self.names[0],
            "b": self.names[1],
            "comparable": self.comparable,
            "differs": {key: {"a": a, "b": b} for key, (a, b) in self.terms.items()},
            "policies": {
                pair.policy: {
                    "settings": {key: {"a": a, "b": b} for key, (a, b) in pair.settings.items()},
                    **{
                        figure: {
                            "a": None if pair.a is None else pair.a.get(figure),
                            "b": None if pair.b is None else pair.b.get(figure),
                            "change": pair.change(figure),
                        }
                        for figure in FIGURES
                    },
                }
                for pair in self.pairs
            },
        }


def read_run(path: Path) -> dict[str, Any]:
    """The `replay.json` of a folder, or that file; `DataError` for anything else."""
    file = path / "replay.json" if path.is_dir() else path
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: no replay there ({error.strerror}); expected a folder that `harmony replay --out` made"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON; expected the replay.json of `harmony replay --out`") from error
    runs = found.get("policies") if isinstance(found, dict) else None
    if not isinstance(runs, dict) or not all(map(_is_run, runs.values())) or not _is_number(found.get("epsilon")):
        raise DataError(f"{file}: not a replay's figures; expected the replay.json of `harmony replay --out`")
    return dict(found)


def _is_run(run: object) -> bool:
    """Whether it has the figures that are compared."""
    return isinstance(run, dict) and all(_is_number(run.get(f)) for f in FIGURES if f != "stated_risk")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def compare(a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Hold two runs (as `read_run` gives them) against each other."""
    terms = _differing({k: a.get(k) for k in TERMS}, {k: b.get(k) for k in TERMS})
    asked = ("trace_digest", "demand", "step_seconds", "scored_steps", "epsilon", "world")
    same = all(a.get(k) == b.get(k) for k in asked)
    policies = dict.fromkeys([*a["policies"], *b["policies"]])
    pairs = tuple(Pair(p, a["policies"].get(p), b["policies"].get(p)) for p in policies)
    return Comparison(names, terms, same, pairs)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {k: (a.get(k), b.get(k)) for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)}


# ---- the page ---------------------------------------------------------------------------------------------------
def render_comparison(found: Comparison) -> str:
    """The page as text, which needs nothing from elsewhere; equal runs give equal bytes."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simulator", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    a, b = (clean_text(name, 80) for name in found.names)
    return environment.get_template("compare.html.j2").render(
        roles=ROLES,
        a=a,
        b=b,
        comparable=found.comparable,
        terms=[(TERMS[k], _text(was), _text(now)) for k, (was, now) in found.terms.items()],
        rows=[_row(pair) for pair in found.pairs],
        settings=[
            (display_name(pair.policy), clean_text(key, 40), _text(was), _text(now))
            for pair in found.pairs
            for key, (was, now) in pair.settings.items()
        ],
        drawing=_drawing(found),
    )


def _row(pair: Pair) -> tuple[str, list[tuple[str, str, str]]]:
    """A policy's figures in A and B, and the change."""
    cells = []
    for figure in FIGURES:
        share = figure in ("violation_rate", "stated_risk")
        was, now = (_figure(run, figure, share=share) for run in (pair.a, pair.b))
        change = pair.change(figure)
        if share and pair.a and pair.b and pair.a.get(figure) is not None and pair.b.get(figure) is not None:
            said = f"{100 * (pair.b[figure] - pair.a[figure]):+.3f} points"
        else:
            said = "–" if change is None else f"{change:+.1%}"
        cells.append((was, now, said.replace("-", "−")))
    return display_name(pair.policy), cells


def _figure(run: Mapping[str, Any] | None, figure: str, *, share: bool) -> str:
    value = None if run is None else run.get(figure)
    if value is None:
        return "–"
    return f"{value:.3%}" if share else f"{value:,.0f}" if figure == "scale_events" else f"{value:,.1f}"


def _text(value: object) -> str:
    return "–" if value is None else clean_text(f"{value:g}" if isinstance(value, float) else str(value), 80)


def _drawing(found: Comparison) -> Markup | None:
    """Cost against violations, an arrow a policy from A to B; None where no policy is in both."""
    both = [pair for pair in found.pairs if pair.a is not None and pair.b is not None]
    if not both:
        return None
    styles = policy_styles(pair.policy for pair in found.pairs)

    def paint() -> Figure:
        figure = Figure(figsize=(9, 4.6))
        axes = figure.add_axes((0.09, 0.13, 0.66, 0.8))
        hours = []
        for pair in both:
            assert pair.a is not None
            assert pair.b is not None
            x, y = ([run[k] for run in (pair.a, pair.b)] for k in ("gpu_hours", "violation_rate"))
            hours += x
            style = styles[pair.policy]
            axes.plot(x, y, color=style.colour, linewidth=1.2)
            axes.plot(x[:1], y[:1], marker=style.marker, color=style.colour, fillstyle="none", markersize=8)
            label = display_name(pair.policy)
            axes.plot(
                x[1:], y[1:], marker=style.marker, color=style.colour, linestyle="none", markersize=8, label=label
            )
        axes.set_xlim(*cost_limits(min(hours), max(hours)))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(FuncFormatter(amount_label))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: percent_label(share)))
        axes.set_xlabel("GPU-hours")
        axes.set_ylabel("share of time violated")
        axes.grid(axis="both")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=10)
        return figure

    title = "Cost against violations"
    return svg(
        draw(paint), "compare", title, "Of each policy: hollow in A, filled in B. Left is cheaper, low is safer."
    )
