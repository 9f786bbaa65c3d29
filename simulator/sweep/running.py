"""`sweep`: do a study's jobs and put together what they found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harmony.decision.agreement import Judgement
from simulator.sweep.cells import Cell, Compared, World, compared, is_slow, run_cell, run_world, rungs_of
from simulator.sweep.study import Study
from simulator.sweep.workers import Job, Processes, Workers

__all__ = ["FIGURES", "Row", "SweepResult", "frontier", "sweep"]


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """One policy on one trace at one epsilon, beside the rules of thumb and perfect foresight."""

    cell: Cell
    compared: Compared

    def figure(self, key: str) -> float:
        """A figure by its name in `FIGURES`; NaN where there is none."""
        if key in self.compared.over:
            return self.compared.over[key]
        if key == "stated":
            return math.nan if self.cell.stated_risk is None else self.cell.stated_risk
        return float(getattr(self.cell.figures, key))

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that do not exist are null."""
        cell, figures = self.cell, self.cell.figures
        return {
            "trace": cell.trace,
            "policy": cell.policy,
            "epsilon": cell.epsilon,
            "settings": cell.settings,
            "gpu_hours": cell.gpu_hours,
            "cost": cell.cost,
            "violation_rate": figures.violated,
            "verdict": figures.verdict,
            "stated_risk": cell.stated_risk,
            "stated_judgement": cell.stated_judgement,
            "objective_met": cell.objective_met,
            "over": {k: plain(v) for k, v in self.compared.over.items()},
            "intervals": {k: [plain(x) for x in pair] for k, pair in self.compared.intervals.items()},
            "longest_run_minutes": figures.longest_min,
            "worst_hour": figures.worst_hour,
            "unserved": figures.unserved,
            "changes_per_day": figures.changes_per_day,
        } | ({"requests": cell.requests} if cell.requests else {})


@dataclass(frozen=True, eq=False, slots=True)
class SweepResult:
    """A finished study: a row for every trace, policy and epsilon, in the study's order, and the further rungs."""

    study: Study
    worlds: tuple[World, ...]
    rows: tuple[Row, ...]
    rungs: tuple[Cell, ...]

    @property
    def policies(self) -> list[str]:
        """Titles, in the study's order."""
        return [p.title for p in self.study.policies]

    def of(self, policy: str, epsilon: float) -> list[Row]:
        """The rows of a policy at one epsilon, trace by trace."""
        return [r for r in self.rows if r.cell.policy == policy and r.cell.epsilon == epsilon]

    def summary(self, policy: str, epsilon: float) -> dict[str, float]:
        """A policy's figures over all traces; NaN where there is none."""
        return summarised([{key: r.figure(key) for key, *_ in FIGURES.values()} for r in self.of(policy, epsilon)])

    def judged(self, policy: str, epsilon: float) -> str:
        """On how many traces what a policy stated was realised, in words; "-" where it stated nothing."""
        said = Counter(r.cell.stated_judgement for r in self.of(policy, epsilon) if r.cell.stated_risk is not None)
        parts = [f"{said[judgement]} {judgement.lower()}" for judgement in Judgement if said[judgement]]
        parts += [f"{said[None]} too early"] if said[None] else []
        return ", ".join(parts) or "-"

    def interval(self, policy: str, epsilon: float, key: str = "rival") -> tuple[float, float]:
        """5-95 % of a policy's ratio, the geometric mean of its traces' ends (wider than that of the mean itself).

        NaN where no trace has one.
        """
        pairs = np.array([r.compared.intervals.get(key, (math.nan, math.nan)) for r in self.of(policy, epsilon)])
        known = pairs[np.isfinite(pairs).all(axis=1)]
        if not known.size:
            return math.nan, math.nan
        low, high = np.exp(np.log(known).mean(axis=0))
        return float(low), float(high)

    def points(self, trace: str, policy: str) -> list[tuple[float, float]]:
        """(violated share, GPU-hours) of every run of a policy on a trace."""
        cells = [r.cell for r in self.rows] + list(self.rungs)
        mine = [c for c in cells if c.trace == trace and c.policy == policy]
        return [(c.figures.violated, c.gpu_hours) for c in mine]

    def to_json(self) -> dict[str, Any]:
        """All of it in plain values; the same study gives the same text, wherever its jobs ran."""
        return {
            "study": self.study.to_json(),
            "traces": {w.trace: w.about | {"oracle_gpu_hours": oracle_hours(w)} for w in self.worlds},
            "rows": [r.to_json() for r in self.rows],
            "summary": [
                {"policy": p, "epsilon": e} | {k: plain(v) for k, v in self.summary(p, e).items()}
                for e in self.study.epsilons
                for p in self.policies
            ],
            "frontier": {
                w.trace: {p: [list(point) for point in frontier(self.points(w.trace, p))] for p in self.policies}
                for w in self.worlds
            },
        }


# ---- running -------------------------------------------------------------------------------------------------------
def sweep(
    study: Study, workers: Workers | None = None, on_progress: Callable[[str, int, int], None] | None = None
) -> SweepResult:
    """Do all jobs of ``study``, the long ones first; results do not depend on who does them, or on their order.

    Raises what the first job that failed raised: `DataError` for a trace that cannot be replayed, `UsageError`.
    """
    report = on_progress or (lambda *_: None)
    workers = workers or Processes()
    settings = study.settings
    jobs: list[tuple[float, str, Job]] = []
    for trace in study.traces:
        jobs.append((30.0, f"{trace.title}: rules of thumb", (run_world, (trace, settings))))
        for policy in study.policies:
            made = policy.made(settings.forecaster)
            # Tuning replays every ladder some times over.
            weight = (20.0 if is_slow(made) else 1.0) * (
                10.0 if settings.tune and not hasattr(made, "portfolio") else 1.0
            )
            name = f"{trace.title}: {policy.title}"
            jobs += [(weight, name, (run_cell, (trace, policy, settings, e, None))) for e in study.epsilons]
            if study.rungs:
                at = study.epsilons[0]
                rungs = rungs_of(trace, policy, settings, study.rungs)
                slow = 20.0 if is_slow(made) else 1.0
                jobs += [(slow, name, (run_cell, (trace, policy, settings, at, rung))) for rung in rungs]
    order = sorted(range(len(jobs)), key=lambda i: (-jobs[i][0], i))
    total, ended = len(jobs) + len(study.traces), 0

    def done(number: int) -> None:
        nonlocal ended
        ended += 1
        report(f"{ended} of {total}, {jobs[order[number]][1]}", ended, total)

    report(f"0 of {total}", 0, total)
    found = workers.run([jobs[i][2] for i in order], done)
    results = _restored(found, order)
    worlds = [r for r in results if isinstance(r, World)]
    cells = [r for r in results if isinstance(r, Cell)]
    of = {w.trace: [c for c in cells if c.trace == w.trace and c.is_compared] for w in worlds}
    seed = settings.seed
    last: list[Job] = [(compared, (w, of[w.trace], study.resamples, seed)) for w in worlds]

    def judged(number: int) -> None:
        nonlocal ended
        ended += 1
        report(f"{ended} of {total}, {worlds[number].trace}: intervals", ended, total)

    beside = workers.run(last, judged)
    rows = [Row(c, b) for w, made in zip(worlds, beside, strict=True) for c, b in zip(of[w.trace], made, strict=True)]
    return SweepResult(study, tuple(worlds), tuple(rows), tuple(c for c in cells if not c.is_compared))


def _restored(found: list[Any], order: list[int]) -> list[Any]:
    """Results in the order of the jobs."""
    out: list[Any] = [None] * len(found)
    for result, place in zip(found, order, strict=True):
        out[place] = result
    return out


# ---- putting together ----------------------------------------------------------------------------------------------
FIGURES: dict[str, tuple[str, str, float]] = {  # title: which figure, how it is brought together, in which unit
    "over the best rule of thumb": ("rival", "geometric", 1.0),
    "over the best rule of thumb, worst trace": ("rival", "most", 1.0),
    "over HPA, default window": ("hpa", "geometric", 1.0),
    "over HPA, tuned window": ("hpa_window", "geometric", 1.0),
    "over perfect foresight": ("oracle", "geometric", 1.0),
    "realised, median (%)": ("violated", "median", 100.0),
    "realised, most (%)": ("violated", "most", 100.0),
    "stated, median (%)": ("stated", "median", 100.0),
    "longest violation, median (minutes)": ("longest_min", "median", 1.0),
    "worst hour, median (share violated)": ("worst_hour", "median", 1.0),
    "demand not served, mean (%)": ("unserved", "mean", 100.0),
    "changes a day, median": ("changes_per_day", "median", 1.0),
}
_TOGETHER: dict[str, Callable[[Any], Any]] = {
    "geometric": lambda v: np.exp(np.mean(np.log(v))),
    "most": np.max,
    "median": np.median,
    "mean": np.mean,
}


def summarised(rows: list[dict[str, float]]) -> dict[str, float]:
    """By title of `FIGURES` what these rows (one a trace) come to; NaN where none of them has the figure."""
    out = {}
    for title, (key, how, unit) in FIGURES.items():
        values = np.array([r[key] for r in rows], dtype=float) * unit
        values = values[np.isfinite(values)]
        out[title] = float(_TOGETHER[how](values)) if values.size else math.nan
    return out


def frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (violated share, hours) those that no other undercuts in both, by rising violations."""
    kept: list[tuple[float, float]] = []
    for share, hours in sorted(points):
        if not kept or hours < kept[-1][1]:
            kept.append((share, hours))
    return kept


def oracle_hours(world: World) -> float:
    """GPU-hours of perfect foresight in the scored part."""
    return float(world.yardstick.foresight.sum()) * world.hours_per_step


def plain(value: float) -> float | None:
    """A number for JSON."""
    return value if math.isfinite(value) else None
