"""The jobs of a sweep: one policy over one trace, the rules of thumb of one trace, and the comparison of both."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from forecasting.panel import BoolArray, FloatArray
from forecasting.specialists import LeadGrid
from harmony.decision.risk import ROUND
from harmony.policies.base import Past, Policy
from simulator.hindsight import KINDS, Yardstick, day_sums, filled, yardstick
from simulator.replaying import ReplaySettings, replay, sized
from simulator.result import PolicyRun, ReplayResult
from simulator.sweep.study import PolicyChoice, TraceChoice
from simulator.traces.trace import Trace

__all__ = ["Cell", "Compared", "RunFigures", "World", "compared", "run_cell", "run_figures", "run_world"]

LOW, HIGH = 0.05, 0.95  # of the bootstrap interval


@dataclass(frozen=True, eq=False, slots=True)
class RunFigures:
    """One run's scored part in figures; `ordered` and `missed` (days,) are replica-steps and violated steps by day.

    Attributes:
        longest_min: longest run of violated steps, minutes.
        worst_hour: most of any hour that was violated, 0..1.
        unserved: demand beyond what was ready over all demand, 0..1.
        changes_per_day: changes of the desired count.
        most: most replicas ordered, in the whole trace.
        verdict: the violated share beside the one that is allowed ("as stated", "more", "less"), by blocks of one lead
            time.
    """

    ordered: FloatArray
    missed: FloatArray
    known: FloatArray
    violated: float
    longest_min: float
    worst_hour: float
    unserved: float
    changes_per_day: float
    most: int
    verdict: str


@dataclass(frozen=True, eq=False, slots=True)
class Cell:
    """One policy's run in a sweep; `rung` names a setting of its ladders, empty for the run that is compared.

    `stated_judgement` says whether what it stated was realised (a `Judgement`); None where nothing can be said.
    """

    trace: str
    policy: str
    epsilon: float
    rung: str
    settings: dict[str, float | int | str]
    gpu_hours: float
    cost: float
    stated_risk: float | None
    objective_met: bool
    figures: RunFigures
    requests: dict[str, float]
    stated_judgement: str | None

    @property
    def is_compared(self) -> bool:
        """Whether it is the policy as it was asked for."""
        return not self.rung


@dataclass(frozen=True, eq=False, slots=True)
class World:
    """A trace as all policies meet it, and its rules of thumb."""

    trace: str
    about: dict[str, Any]
    hours_per_step: float
    yardstick: Yardstick


@dataclass(frozen=True, eq=False, slots=True)
class Compared:
    """A cell beside the rules of thumb and perfect foresight: ratios of hours, and 5-95 % intervals over days.

    `over` holds "oracle" and every one of `KINDS` (NaN where no setting of that kind violates as little);
    `intervals` the same and "violated".
    """

    over: dict[str, float]
    intervals: dict[str, tuple[float, float]]


# ---- figures of one run --------------------------------------------------------------------------------------------
def run_figures(result: ReplayResult, run: PolicyRun) -> RunFigures:
    """The scored part of ``run`` in figures."""
    part = slice(result.scored_from, None)
    demand, step_s = result.demand[part], result.step_s
    known = ~np.isnan(demand)
    violated, ordered = run.violated[part], run.ordered[part]
    grid = LeadGrid(step_s, max(1, math.ceil(round(result.lead_time_s / step_s, 9))))
    load = np.where(known, demand / result.replica_capacity, 0.0)
    hour = max(1, round(3600 / step_s))
    within = np.convolve(violated, np.ones(min(hour, violated.size)), "valid")
    missing = np.where(known, np.maximum(load - run.ready[part], 0.0), 0.0)
    share = float(violated.sum() / max(1, known.sum()))
    return RunFigures(
        ordered=day_sums(ordered, grid.day),
        missed=day_sums(violated & known, grid.day),
        known=day_sums(known, grid.day),
        violated=share,
        longest_min=longest_run(violated) * step_s / 60,
        worst_hour=float(within.max() / min(hour, violated.size)),
        unserved=float(missing.sum() / max(load.sum(), ROUND)),
        changes_per_day=run.scale_events / (violated.size * step_s / 86_400),
        most=int(run.ordered.max()),
        verdict=as_stated(violated[known], result.epsilon, grid.lead_steps + 1),
    )


def longest_run(violated: BoolArray) -> int:
    """Most True in a row."""
    padded = np.concatenate([[0], violated.astype(np.int8), [0]])
    change = np.flatnonzero(np.diff(padded))
    return int((change[1::2] - change[::2]).max()) if change.size else 0


def as_stated(violated: BoolArray, epsilon: float, block: int) -> str:
    """Whether the share of ``violated`` agrees with the allowed ``epsilon``: "as stated", "more" or "less".

    Violations last, so steps do not count by themselves: by means of blocks of one lead time, at 95 %, with at least
    the spread that ``epsilon`` alone would give.
    """
    if not violated.size:
        return "as stated"
    blocks = max(1, violated.size // block)
    means = np.add.reduceat(violated.astype(float), np.arange(blocks) * block) / block
    share = float(violated.mean())
    spread = max(float(means.std(ddof=1)) if blocks > 1 else 0.0, math.sqrt(epsilon * (1 - epsilon) / block))
    bound = 1.96 * spread / math.sqrt(blocks)
    if abs(share - epsilon) <= bound:
        return "as stated"
    return "more" if share > epsilon else "less"


# ---- jobs ----------------------------------------------------------------------------------------------------------
def one_thread() -> None:
    """A worker computes on one thread: two of them use two cores, and sums come out the same wherever they run."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def run_world(choice: TraceChoice, settings: ReplaySettings) -> World:
    """What a sweep says of a trace, and its rules of thumb."""
    one_thread()
    trace = _loaded(choice)
    result = replay(trace, ["oracle"], choice.settings(settings, settings.objective.epsilon))
    scored = result.demand.size - result.scored_from
    lead = max(1, math.ceil(round(result.lead_time_s / result.step_s, 9)))
    about = {
        "digest": result.trace_digest,
        "demand": result.demand_name,
        "unit": result.unit,
        "steps": int(result.demand.size),
        "scored_steps": int(scored),
        "step_seconds": result.step_s,
        "lead_time_seconds": result.lead_time_s,
        "replica_capacity": result.replica_capacity,
        "notes": [*result.notes],
    }
    yard = yardstick(result.demand, result.replica_capacity, LeadGrid(result.step_s, lead), result.scored_from)
    hours = result.step_s / 3600 * settings.objective.gpus_per_replica
    return World(choice.title, about, hours, yard)


def run_cell(
    choice: TraceChoice, policy: PolicyChoice, settings: ReplaySettings, epsilon: float, rung: tuple[int, int] | None
) -> Cell:
    """One policy over one trace; with a ``rung`` (ladder, place in it) at that setting, untuned."""
    one_thread()
    trace = _loaded(choice)
    chosen = choice.settings(settings, epsilon)
    made = policy.made(settings.forecaster)
    name = ""
    if rung is not None:
        chosen = dataclasses.replace(chosen, tune=False)
        made = made.ladders(_past(trace, chosen))[rung[0]][rung[1]]
        name = f"{rung[0]}.{rung[1]}"
    result = replay(trace, [made], chosen)
    run = result.policies[made.name]
    return Cell(
        choice.title, policy.title, epsilon, name, run.settings, run.gpu_hours, run.cost, run.stated_risk,
        run.objective_met, run_figures(result, run), run.requests, result.judgement(run),
    )  # fmt: skip


def rungs_of(choice: TraceChoice, policy: PolicyChoice, settings: ReplaySettings, count: int) -> list[tuple[int, int]]:
    """``count`` places, evenly spaced, in each of the policy's ladders; none for a policy with nothing to set."""
    trace = _loaded(choice)
    ladders = policy.made(settings.forecaster).ladders(_past(trace, choice.settings(settings, 0.01)))
    if count == 0 or (len(ladders) == 1 and len(ladders[0]) == 1):
        return []
    return [
        (number, int(at))
        for number, ladder in enumerate(ladders)
        for at in np.unique(np.linspace(0, len(ladder) - 1, min(count, len(ladder))).round().astype(int))
    ]


def compared(world: World, cells: list[Cell], resamples: int, seed: int) -> list[Compared]:
    """Every cell of a trace beside its rules of thumb, with intervals over resampled days."""
    one_thread()
    yard = world.yardstick
    days = yard.known.size
    over = _over(cells, yard, np.ones(days))
    rng = np.random.default_rng([seed, 2])
    drawn = []
    for _ in range(resamples if days > 1 else 0):
        weights = np.bincount(rng.integers(0, days, days), minlength=days).astype(float)
        drawn.append(_over(cells, yard, weights))
    out = []
    for i in range(len(cells)):
        found = {key: _known(values[i]) for key, values in over.items() if key != "violated"}
        intervals = {key: _interval([float(again[key][i]) for again in drawn]) for key in over} if drawn else {}
        out.append(Compared(found, intervals))
    return out


def _over(cells: list[Cell], yard: Yardstick, weights: FloatArray) -> dict[str, FloatArray]:
    """(cells,) the violated share, and the ratios of hours; 0 where no rule of thumb violates as little."""
    ordered = np.array([float(weights @ c.figures.ordered) for c in cells])
    known = np.array([max(1.0, float(weights @ c.figures.known)) for c in cells])
    shares = np.array([float(weights @ c.figures.missed) for c in cells]) / known
    curves = yard.curves(weights)
    found = {"violated": shares, "oracle": ordered / float(weights @ yard.foresight)}
    return found | {kind: ordered / np.min([c.at(shares) for c in curves[kind]], axis=0) for kind in KINDS}


def _known(ratio: float) -> float:
    """A ratio of hours; NaN where there was nothing to compare with."""
    return float(ratio) if ratio > 0 else math.nan


def _interval(values: list[float]) -> tuple[float, float]:
    known: list[float] = [v for v in values if math.isfinite(v)]
    if not known:
        return math.nan, math.nan
    low, high = np.quantile(known, (LOW, HIGH))
    return float(low), float(high)


def _loaded(choice: TraceChoice) -> Trace:
    return _kept(choice) if isinstance(choice.trace, str) else choice.loaded()


@lru_cache(maxsize=4)
def _kept(choice: TraceChoice) -> Trace:
    return choice.loaded()


def _past(trace: Trace, settings: ReplaySettings) -> Past:
    """What ladders may depend on."""
    demand = trace.panel.values[:, 0]
    capacity, _ = sized(trace, settings, float(np.nanmean(demand)))
    scored_from = math.floor(demand.size * (1 - settings.test_fraction) + 1e-9)
    need: FloatArray = np.ceil(filled(demand[:scored_from]) / capacity - ROUND)
    return Past(need, trace.panel.step_s, settings.start_up.median_s, settings.objective.epsilon)


def is_slow(policy: Policy) -> bool:
    """Whether its replay takes far longer than most, so that it is better begun first."""
    return policy.forecaster not in ("", "truth") or hasattr(policy, "portfolio")
