"""A decision in words: one or two sentences that a person on call can act on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harmony.decision.rule import lead_window
from harmony.model.decision import Decision, Reason
from harmony.model.record import Record
from harmony.serving.snapshot import Snapshot

__all__ = ["Said", "amount", "chance", "duration", "in_words", "percent", "sentence", "within_band"]


@dataclass(frozen=True, slots=True)
class Said:
    """What a decision is put into words from.

    Attributes:
        record: the turn.
        demand_name, unit, currency: names for people; may be empty.
        mode: the authority in force.
        ordered: current replicas of the real target (the record's are a shadow's while there is no authority).
        desired, held_by: the desired replicas, and what kept them from the recommendation ("" for nothing).
    """

    record: Record
    demand_name: str
    unit: str
    currency: str
    mode: str
    ordered: int
    desired: int
    held_by: str


def in_words(said: Said) -> str:
    """What was decided, why, at what stated risk, and what holds it back."""
    return " ".join(part for part in (_what(said), _why(said), _risk(said), _held(said)) if part)


def sentence(snapshot: Snapshot) -> str:
    """A snapshot's decision in words; made once."""
    if "sentence" not in snapshot.cache:
        snapshot.cache["sentence"] = in_words(
            Said(
                record=snapshot.record,
                demand_name=snapshot.demand_name,
                unit=snapshot.unit,
                currency=snapshot.currency,
                mode=snapshot.effective_mode,
                ordered=snapshot.ordered,
                desired=snapshot.desired,
                held_by=snapshot.held_by,
            )
        )
    text: str = snapshot.cache["sentence"]
    return text


def percent(share: float) -> str:
    """A probability for people: ``0.4 %``, ``< 0.01 %``, ``12 %``; "unknown" for NaN."""
    if math.isnan(share):
        return "unknown"
    if 0.0 < share < 0.0001:
        return "< 0.01 %"
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def chance(probability: float | None, paths: int) -> str:
    """A probability that was counted on ``paths`` sample paths: none of them is no 0, but less than one of them."""
    if probability is None:
        return "unknown"
    return f"< {percent(1 / paths)}" if probability == 0.0 and paths > 0 else percent(probability)


def within_band(decision: Decision) -> str:
    """What is left of the error budget beside what chance makes of an objective kept exactly; empty for nothing known.

    The band is the central 95 %, with violations in runs of one lead time.
    """
    left, least, most = decision.budget_left, decision.budget_least, decision.budget_most
    if math.isnan(left) or math.isnan(least):
        return ""
    band = f"chance leaves {percent(least)} to {percent(most)} where the objective is kept exactly (95 %)"
    if left > most:
        return f"Less is spent than might be: {band}."
    return f"Within the band: {band}." if left >= least else f"More is spent than chance explains: {band}."


def amount(value: float) -> str:
    """A quantity for people: three significant digits, no exponent; "unknown" for NaN."""
    if math.isnan(value):
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A duration for people: ``90 s``, ``6 min``, ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _what(said: Said) -> str:
    """The count and the change; where the decision was a shadow's, the real count beside it."""
    decision = said.record.decision
    count = f"{decision.replicas} replica{'' if decision.replicas == 1 else 's'}"
    held = said.held_by and decision.replicas not in (decision.current, said.desired)
    if held or (said.held_by and decision.current != said.ordered):
        return f"{count} recommended, currently {said.ordered}:"
    if decision.replicas == decision.current:
        return f"Stay at {count}:"
    return f"{'Up' if decision.replicas > decision.current else 'Down'} from {decision.current} to {count}:"


def _why(said: Said) -> str:
    """The reason of the closed set, as a sentence."""
    seen, decision = said.record.observation, said.record.decision
    demand = f"{said.demand_name or 'demand'} of {amount(seen.demand)} {said.unit}".rstrip()
    wanted, low, high = decision.unconstrained, seen.objective.min_replicas, seen.objective.max_replicas
    reasons = {
        Reason.FORECAST: _forecast(said),
        Reason.REACTIVE_FLOOR: f"{demand} already needs this many, whatever the forecast says.",
        Reason.WARMING_UP: f"no forecast yet, so {demand} plus a margin decides.",
        Reason.ABSENT_DATA: f"data are missing ({decision.bound_by or 'absent data'}), so the count is never lowered.",
        Reason.STABILIZED: f"{wanted} would do, but a recommendation within the stabilisation window was different.",
        Reason.RATE_LIMITED: f"{wanted} is wanted, but {decision.bound_by or 'a rate limit'} allows no more at once.",
        Reason.MIN_REPLICAS: f"{wanted} would do, but the minimum is {low}.",
        Reason.MAX_REPLICAS: f"{wanted} is wanted, but the maximum is {high}.",
        Reason.FALLBACK: "data have been missing for several turns, so the fallback decides.",
        Reason.UNREACHABLE: f"even at the maximum of {high} the stated risk exceeds the objective.",
        Reason.PAUSED: "scaling is paused.",
        Reason.MODE_LIMITED: f"mode {said.mode} allows no more.",
    }
    return reasons.get(decision.reason, f"{decision.reason}.")


def _forecast(said: Said) -> str:
    """Why this candidate and not the next smaller one."""
    seen, decision = said.record.observation, said.record.decision
    window = duration(lead_window(seen) * seen.step_s)
    candidates = decision.candidates
    if candidates is None:
        return f"the least cost over the next {window}."
    at = int(candidates.replicas.searchsorted(decision.replicas))
    if not math.isnan(decision.price):
        worth = f"a violated hour is worth {amount(decision.price)} replica-hours"
        if at == 0:
            return f"no count that was weighed is worth less; {worth}."
        fewer, risk = int(candidates.replicas[at - 1]), float(candidates.violation_probability[at - 1])
        said_risk = chance(risk, candidates.paths)
        return f"with {fewer} the risk within the next {window} would be {said_risk}, and {worth}."
    if decision.bound_by != "epsilon" or at == 0:
        return f"of all counts that keep the objective over the next {window} it costs least."
    fewer, risk = int(candidates.replicas[at - 1]), float(candidates.violation_probability[at - 1])
    return f"with {fewer} the risk of a violation within the next {window} would be {chance(risk, candidates.paths)}."


def _risk(said: Said) -> str:
    """Stated risk beside the objective, and the cost."""
    seen, decision = said.record.observation, said.record.decision
    if math.isnan(decision.violation_probability):
        return ""
    risk = chance(decision.violation_probability, decision.paths)
    text = f"Stated risk {risk}, objective {percent(seen.objective.epsilon)}"
    if not math.isnan(decision.expected_cost):
        text += f"; expected cost {decision.expected_cost:.2f} {said.currency}".rstrip() + " per hour"
    return text + "."


def _held(said: Said) -> str:
    """What keeps the desired replicas from the recommendation."""
    if not said.held_by:
        return ""
    return f"Desired replicas: {said.desired} ({said.held_by})."
