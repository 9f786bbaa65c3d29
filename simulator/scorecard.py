"""Scorecards: how forecast and decision did against rivals, from files that anybody can recount.

Evidence of one replay is a folder with two files: `replay.json` (settings and figures of `harmony replay`, without what
depends on the machine) and `steps.csv.gz` (demand, every policy's desired and ready replicas, and what was forecast one
lead time before). The page is made of `steps.csv.gz`; figures that differ from `replay.json` are refused.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forecasting.errors import DataError
from forecasting.panel import BoolArray, FloatArray
from harmony.decision.risk import ROUND
from simulator.result import ReplayResult

__all__ = ["Card", "Decided", "Foretold", "read_card", "render_page", "write_evidence"]

DAY_S = 86_400.0
CLOSE = 1e-6  # relative: figures are written with all their digits


@dataclass(frozen=True, slots=True)
class Decided:
    """One policy's count: GPU-hours, the share of known steps that were violated, and what was stated of it."""

    policy: str
    gpu_hours: float
    violated: float
    stated: float | None
    changes: int


@dataclass(frozen=True, slots=True)
class Foretold:
    """One forecast one lead time ahead.

    `loss` is the mean quantile loss over mean demand (twice the pinball loss, so that a forecast of one value scores
    its mean absolute error); `inside` the share of steps in the widest interval, None for a forecast of one value.
    """

    name: str
    loss: float
    interval: float | None
    inside: float | None
    steps: int


@dataclass(frozen=True, slots=True)
class Card:
    """What one folder of evidence says."""

    trace: str
    epsilon: float
    lead_time_s: float
    steps: int
    tuned: bool
    """Whether every policy's settings were chosen on the part before the scored one."""
    decided: tuple[Decided, ...]
    foretold: tuple[Foretold, ...]


def write_evidence(result: ReplayResult, folder: Path) -> None:
    """Write `replay.json` and `steps.csv.gz`: the scored part, and a day before it for forecasts by yesterday."""
    told = result.to_json()
    for run in told["policies"].values():
        run.pop("seconds", None)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(told, sort_keys=True, indent=1, allow_nan=False)
    (folder / "replay.json").write_text(text + "\n", encoding="utf-8")
    begin = max(0, result.scored_from - math.ceil(DAY_S / result.step_s))
    columns: dict[str, list[Any]] = {
        "row": list(range(begin, result.demand.size)),
        "scored": [int(row >= result.scored_from) for row in range(begin, result.demand.size)],
        "demand": ["" if d != d else repr(d) for d in result.demand[begin:].tolist()],
    }
    for run in result.policies.values():
        columns[f"{run.name}_ordered"] = run.ordered[begin:].tolist()
        columns[f"{run.name}_ready"] = run.ready[begin:].tolist()
        if run.fan is not None:
            for level, at in run.fan.quantiles.items():
                whole = np.full(result.demand.size, np.nan)
                whole[run.fan.steps] = at
                told_at = whole[begin:].tolist()
                columns[f"{run.name}_q{level:g}"] = ["" if v != v else f"{v:.6g}" for v in told_at]
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    packed = gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)  # the same bytes whenever it is made
    (folder / "steps.csv.gz").write_bytes(packed)


def read_card(folder: Path) -> Card:
    """Recount a folder of evidence.

    Raises:
        DataError: files that are missing or cannot be read, and figures that the steps do not give.
    """
    try:
        told = json.loads((folder / "replay.json").read_text(encoding="utf-8"))
        text = gzip.decompress((folder / "steps.csv.gz").read_bytes()).decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        columns = {name: np.array([float(r[name] or "nan") for r in rows]) for name in (rows[0] if rows else {})}
        capacity, step_s, lead_s = (float(told[n]) for n in ("replica_capacity", "step_seconds", "lead_time_seconds"))
        scored, demand = columns["scored"] == 1, columns["demand"]
        decided = tuple(
            _decided(name, run, columns, scored, capacity, step_s) for name, run in told["policies"].items()
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: no evidence of a replay ({type(error).__name__}: {error})") from error
    for one in decided:
        run = told["policies"][one.policy]
        for what, counted, said in (
            ("GPU-hours", one.gpu_hours, run["gpu_hours"]),
            ("violation rate", one.violated, run["violation_rate"]),
        ):
            if not math.isclose(counted, said, rel_tol=CLOSE, abs_tol=CLOSE):
                raise DataError(
                    f"{folder}: {what} of {one.policy}: the steps give {counted:g}, replay.json says {said:g}"
                )
    lead = max(1, math.ceil(round(lead_s / step_s, 9)))
    foretold = _foretold(columns, demand, scored, lead, round(DAY_S / step_s))
    return Card(told["trace"], told["epsilon"], lead_s, int(scored.sum()), told["tuned"], decided, foretold)


def _decided(
    name: str,
    run: dict[str, Any],
    columns: dict[str, FloatArray],
    scored: BoolArray,
    capacity: float,
    step_s: float,
) -> Decided:
    ordered, ready = columns[f"{name}_ordered"][scored], columns[f"{name}_ready"][scored]
    demand = columns["demand"][scored]
    known = np.isfinite(demand)
    violated = known & (demand / capacity - ready > ROUND)
    before = columns[f"{name}_ordered"][np.flatnonzero(scored) - 1]
    return Decided(
        name,
        float(ordered.sum()) * step_s / 3600.0,
        float(violated.sum() / known.sum()),
        run["stated_risk"],
        int((ordered != before).sum()),
    )


def _foretold(
    columns: dict[str, FloatArray],
    demand: FloatArray,
    scored: BoolArray,
    lead: int,
    day: int,
) -> tuple[Foretold, ...]:
    """Every policy's forecast, and two that need no model, on the steps that all of them foretell."""
    made: dict[str, dict[float, FloatArray]] = {}
    for name, column in columns.items():
        policy, mark, level = name.rpartition("_q")
        if mark and level.replace(".", "", 1).isdigit():
            made.setdefault(policy, {})[float(level)] = column
    if not made:
        return ()
    made["the value one lead time before"] = {0.5: _shifted(demand, lead)}
    made["the value a day before"] = {0.5: _shifted(demand, day)}
    shared = scored & np.isfinite(demand)
    for levels in made.values():
        for column in levels.values():
            shared &= np.isfinite(column)
    if not shared.any():
        return ()
    truth = demand[shared]
    return tuple(_judged(name, levels, truth, shared) for name, levels in made.items())


def _judged(name: str, levels: dict[float, FloatArray], truth: FloatArray, shared: BoolArray) -> Foretold:
    losses = []
    for level, column in levels.items():
        short = truth - column[shared]
        losses.append(2.0 * float(np.maximum(level * short, (level - 1.0) * short).mean()))
    low, high = min(levels), max(levels)
    wide = None if low == high else round(high - low, 9)
    inside = ((levels[low][shared] <= truth) & (truth <= levels[high][shared])).mean() if wide else None
    scale = float(np.abs(truth).mean()) or 1.0
    return Foretold(name, float(np.mean(losses)) / scale, wide, None if inside is None else float(inside), truth.size)


def _shifted(values: FloatArray, by: int) -> FloatArray:
    out = np.full(values.size, np.nan)
    out[by:] = values[: values.size - by]
    return out


def render_page(evidence: Path, command: str) -> str:
    """The page of all evidence: one section a release, newest first, one table a trace.

    Raises `DataError` where there is none, or where figures cannot be recounted.
    """
    folders = sorted(path.parent for path in evidence.glob("*/*/replay.json"))
    if not folders:
        raise DataError(f"{evidence}: no evidence; expected RELEASE/TRACE/replay.json in it")
    out = [
        "# Scorecard",
        "",
        "Forecast and decision, release by release, beside rivals in the same world. Every figure is recounted from",
        f"the files named above its table; this page is made of them by `{command}`.",
        "",
        "*GPU-hours* are desired replicas times hours, *violated* the share of steps in which known demand exceeded",
        "what the ready replicas carried, *stated* what decisions said of it beforehand, *loss* the mean quantile loss",
        "one lead time ahead over mean demand (of one value: its mean absolute error), *inside* the share of steps in",
        "the widest interval.",
    ]
    for release in sorted({f.parent.name for f in folders}, key=_version, reverse=True):
        out += ["", f"## {release}"]
        for folder in (f for f in folders if f.parent.name == release):
            out += _section(read_card(folder), folder.relative_to(evidence.parent))
    return "\n".join(out) + "\n"


def _section(card: Card, where: Path) -> list[str]:
    out = ["", f"### {card.trace}", ""]
    settings = "settings chosen on the part before" if card.tuned else "settings as they come"
    out.append(
        f"Objective {card.epsilon:.4g} of the time, lead time {card.lead_time_s:g} s, {card.steps:,} scored steps, "
        f"{settings} (`{where.as_posix()}`)."
    )
    out += [
        "",
        "| policy | GPU-hours | violated | keeps the objective | stated | changes |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for one in sorted(card.decided, key=lambda d: d.gpu_hours):
        stated = "-" if one.stated is None else f"{one.stated:.2%}"
        kept = "yes" if one.violated <= card.epsilon else "no"
        out.append(
            f"| {one.policy} | {one.gpu_hours:,.1f} | {one.violated:.2%} | {kept} | {stated} | {one.changes:,} |"
        )
    if card.foretold:
        out += ["", "| forecast | loss | interval | inside | steps |", "|---|---:|---:|---:|---:|"]
        for made in sorted(card.foretold, key=lambda f: f.loss):
            wide = "-" if made.interval is None else f"{made.interval:.0%}"
            inside = "-" if made.inside is None else f"{made.inside:.1%}"
            out.append(f"| {made.name} | {made.loss:.4f} | {wide} | {inside} | {made.steps:,} |")
    return out


def _version(name: str) -> tuple[tuple[int, int | str], ...]:
    """Releases in their order: numbers as numbers."""
    parts = name.replace("-", ".").split(".")
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts)
