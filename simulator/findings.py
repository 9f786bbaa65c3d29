"""What a replay found, in words: the headline, the objective met or not, and figures the way people write them."""

from __future__ import annotations

import math

import numpy as np

from harmony.decision.agreement import Judgement
from simulator.charts.axes import percent_label
from simulator.charts.view import display_name, focus_name, ordered_names
from simulator.result import PolicyRun, ReplayResult

__all__ = [
    "headline",
    "hours",
    "met",
    "objective",
    "percent_change",
    "ratio_to_oracle",
    "scored_known",
    "sentences",
    "violation",
]


def hours(value: float) -> str:
    """GPU-hours or money: no decimals from 100 on, one below."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}"


def percent_change(new: float, old: float) -> str:
    """``14% less than``, ``3% more than`` or ``as much as``."""
    if old <= 0:
        return "beside"
    change = new / old - 1
    if abs(change) < 0.0005:
        return "as much as"
    size = f"{abs(change):.1%}" if abs(change) < 0.0995 else f"{abs(change):.0%}"
    return f"{size} {'more' if change > 0 else 'less'} than"


def scored_known(result: ReplayResult) -> int:
    """Scored steps with known demand: what the violated share is a share of."""
    return int(np.isfinite(result.demand[result.scored_from :]).sum())


def met(result: ReplayResult, run: PolicyRun) -> bool:
    """Whether no more of the known time was violated than the objective allows."""
    return run.violation_rate <= result.epsilon + 1e-12


def ratio_to_oracle(result: ReplayResult, run: PolicyRun) -> float:
    """GPU-hours over those of perfect foresight; NaN without an oracle."""
    oracle = result.policies.get("oracle")
    return run.gpu_hours / oracle.gpu_hours if oracle is not None and oracle.gpu_hours > 0 else math.nan


def headline(result: ReplayResult) -> str:
    """One sentence: did the policy that the report is about meet its objective, and at what cost."""
    focus = focus_name(result)
    if focus is None:
        return "No policy was replayed."
    run, name = result.policies[focus], display_name(focus)
    if scored_known(result) == 0:
        return f"Nothing can be said about {name}: no demand is known in the scored part of the trace."
    verb = "met its objective" if met(result, run) else "did not meet its objective"
    allowed = f"({percent_label(result.epsilon)} allowed)"
    if run.violation_rate == 0:
        never = "no step had too many late requests" if late(result) else "demand never exceeded what was ready"
        return f"{name} {verb}: {never} {allowed}."
    return f"{name} {verb}: {violation(result)} {percent_label(run.violation_rate)} of the time {allowed}."


def judged(result: ReplayResult, run: PolicyRun) -> str:
    """That stated and realised risk differ beyond chance, in words; empty where they do not, or nothing was stated."""
    found = result.agreement(run)
    if found is None or found.judgement in (None, Judgement.AGREES):
        return ""
    return f"{str(found.judgement).lower()} beyond chance"


def late(result: ReplayResult) -> bool:
    """Whether late requests are what violates a step, rather than demand beyond capacity."""
    return result.world == "requests"


def objective(result: ReplayResult) -> str:
    """What may happen for a share of the time."""
    return "more than 5% of the requests are late" if late(result) else "demand exceeds what is ready"


def violation(result: ReplayResult) -> str:
    """What a violated step is."""
    if late(result):
        return "more than 5% of the requests had no first token within the bound"
    return "demand exceeded what was ready"


def sentences(result: ReplayResult) -> list[str]:
    """What else a reader should know before the first chart: cost, rivals, and objectives out of reach."""
    focus = focus_name(result)
    if focus is None or scored_known(result) == 0:
        return _reach(result)
    return [_cost(result, focus), *(s[0].upper() + s[1:] for s in _rivals(result, focus)), *_reach(result)]


def _cost(result: ReplayResult, focus: str) -> str:
    """GPU-hours beside HPA (or the cheapest other policy) and perfect foresight."""
    run = result.policies[focus]
    text = f"It took {hours(run.gpu_hours)} GPU-hours"
    others = [n for n in ordered_names(result) if n not in (focus, "oracle")]
    parts = []
    if others:
        rival = "hpa" if "hpa" in others else min(others, key=lambda n: result.policies[n].gpu_hours)
        other = result.policies[rival]
        change = percent_change(run.gpu_hours, other.gpu_hours)
        how = "met the objective too" if met(result, other) else "did not meet the objective"
        how = "met the objective" if met(result, other) and not met(result, run) else how
        parts.append(
            f"{change} {display_name(rival)} ({hours(other.gpu_hours)}), "
            f"which violated {percent_label(other.violation_rate)} and {how}"
        )
    ratio = ratio_to_oracle(result, run)
    if focus != "oracle" and math.isfinite(ratio):
        parts.append(f"{ratio:.2f} times what perfect foresight needs")
    return text + (": " + "; ".join(parts) if parts else "") + "."


def _rivals(result: ReplayResult, focus: str) -> list[str]:
    """Who else met the objective, and whether someone did so for less."""
    others = [n for n in ordered_names(result) if n not in (focus, "oracle")]
    if len(others) < 2:
        return []
    good = [n for n in others if met(result, result.policies[n])]
    bad = [n for n in others if n not in good]
    out = []
    if bad:
        out.append(f"{_listed(bad)} did not meet the objective.")
    cheaper = [n for n in good if result.policies[n].gpu_hours < result.policies[focus].gpu_hours]
    if cheaper:
        best = min(cheaper, key=lambda n: result.policies[n].gpu_hours)
        cost = percent_change(result.policies[best].gpu_hours, result.policies[focus].gpu_hours)
        out.append(f"{display_name(best)} met it for {cost.removesuffix(' than')}.")
    elif good:
        too = " too" if met(result, result.policies[focus]) else ""
        out.append(f"{_listed(good)} met it{too}, at a higher cost.")
    return out


def _reach(result: ReplayResult) -> list[str]:
    """Where no permitted replica count could have met the objective."""
    return [
        f"{display_name(n)} could not meet the objective at {result.policies[n].unreachable_steps:,} decisions: "
        "there, no permitted number of replicas meets the objective."
        for n in ordered_names(result)
        if not result.policies[n].objective_met
    ]


def _listed(names: list[str]) -> str:
    shown = [display_name(n) for n in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
