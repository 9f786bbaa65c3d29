"""A decision in words: one or two sentences that a person on call can act on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from harmony.decision.bill import bill_per_hour
from harmony.decision.past.portfolio import forecasters_of
from harmony.decision.rule import lead_window
from harmony.model.decision import Candidates, Decision, Reason
from harmony.model.record import Record
from harmony.serving.snapshot import Snapshot

__all__ = [
    "QUANTITY",
    "SHARE_OF",
    "Said",
    "allowed",
    "amount",
    "chance",
    "decider",
    "duration",
    "in_words",
    "kept_back",
    "percent",
    "rescaled_from",
    "sentence",
    "uses_joint_forecast",
    "within_band",
]

# What a stated risk is, and what epsilon is a share of, by the objective's measure.
QUANTITY = {
    "time": "expected share of violated time",
    "window": "probability of any violation",
    "requests": "expected share of violated time",
}
SHARE_OF = {"time": "time", "window": "windows", "requests": "demand"}
LEAST_SHOWN = 0.0001  # smaller probabilities are not told apart
MOST_DIGITS = 6


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


def percent(share: float, *limits: float) -> str:
    """A probability for people: ``0.4 %``, ``< 0.01 %``, ``12 %``; "unknown" for NaN.

    ``limits`` are what it stands beside: it has as many digits as it takes to be seen above or below each of them.
    """
    if math.isnan(share):
        return "unknown"
    if 0.0 < share < LEAST_SHOWN and not any(0.0 < limit < LEAST_SHOWN for limit in limits):
        return f"< {_digits(LEAST_SHOWN, 2)} %"
    apart = [limit for limit in limits if not math.isclose(share, limit, rel_tol=1e-5, abs_tol=1e-12)]
    for digits in range(2, MOST_DIGITS + 2):
        shown = float(text := _digits(share, digits))
        beside = [(limit, float(_digits(limit, MOST_DIGITS))) for limit in apart]
        if all((shown > read, shown < read) == (share > limit, share < limit) for limit, read in beside):
            return f"{text} %"
    return f"{_digits(share, MOST_DIGITS)} %"


def allowed(share: float) -> str:
    """A limit for people, as it was given: ``1 %``, ``0.125 %``."""
    return f"{_digits(share, MOST_DIGITS)} %"


def _digits(share: float, digits: int) -> str:
    """In percent, with so many significant digits and no exponent."""
    value = 100 * share
    text = f"{value:.{digits}g}"
    return np.format_float_positional(float(text), trim="-") if "e" in text else text


def chance(probability: float | None, paths: int, *limits: float) -> str:
    """A probability that was counted on ``paths`` sample paths: none of them is no 0, but less than one of them.

    ``limits`` as in `percent`.
    """
    if probability is None:
        return "unknown"
    return f"< {percent(1 / paths)}" if probability == 0.0 and paths > 0 else percent(probability, *limits)


def within_band(decision: Decision) -> str:
    """What is left of the error budget beside what chance makes of an objective kept exactly; empty for nothing known.

    The band is the central 95 %, with violations in runs of one lead time.
    """
    left, least, most = decision.budget_left, decision.budget_least, decision.budget_most
    if math.isnan(left) or math.isnan(least):
        return ""
    band = f"chance leaves {percent(least, left)} to {percent(most, left)} where the objective is kept exactly (95 %)"
    if left > most:
        return f"Less is spent than might be: {band}."
    return f"Within the band: {band}." if left >= least else f"More is spent than chance explains: {band}."


def uses_joint_forecast(decision: Decision) -> bool:
    """Whether the forecast that pages draw is (also) what was decided by."""
    if not decision.setting:
        return decision.candidates is not None
    return bool(decision.model) and "forecast" in forecasters_of(decision.setting)


def decider(decision: Decision) -> str:
    """Who forecast what was decided by, or which rule of thumb did without."""
    joint = f"the joint forecast ({decision.model})" if decision.model else "the joint forecast"
    if not decision.setting:
        return f"{joint}, at one fixed risk level" if decision.candidates is not None else "no forecast in this turn"
    if decision.held < 0:
        return "no forecast in this turn"
    named = forecasters_of(decision.setting)
    if not named:
        return f"{decision.setting.partition(',')[0]}, a rule of thumb on demand itself"
    own = " and ".join(name for name in named if name != "forecast")
    learned = f"{own}, learned from this service's own past"
    if not uses_joint_forecast(decision):
        return learned if own else "what stands in for the joint forecast, learned from this service's own past"
    return f"the mean of {joint} and {learned}" if own else joint


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


def kept_back(record: Record) -> str:
    """What was asked for before that still keeps a count, and until when (UTC, the minute it has ended by)."""
    decision, now_s = record.decision, record.observation.now_s
    wanted, count = decision.unconstrained, decision.replicas
    until = "" if math.isnan(decision.held_for_s) else _minute(now_s + decision.held_for_s)
    if wanted > count:
        ends = f"; it may rise from {until}" if until else " and it waits"
        return f"{wanted} is wanted, but no more than {count} was asked for a short while ago{ends}"
    ends = f"; it may fall from {until}" if until else " and is held"
    return f"{wanted} would do, but {count} was asked for a short while ago{ends}"


def _minute(at_s: float) -> str:
    """The time of day of a moment, to the minute that it has come by."""
    return datetime.fromtimestamp(60 * math.ceil(at_s / 60), UTC).strftime("%H:%M UTC")


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
        Reason.STABILIZED: f"{kept_back(said.record)}.",
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
        if decision.stood >= 0:
            worth += f"; what changes cost was weighed from {decision.stood}"
        if at == 0:
            return f"no count that was weighed is worth less; {worth}."
        return f"with {_fewer(said, candidates, at - 1, window)}, and {worth}."
    if decision.bound_by != "epsilon" or at == 0:
        return f"of all counts that keep the objective over the next {window} it costs least."
    return f"with {_fewer(said, candidates, at - 1, window)}."


def _fewer(said: Said, candidates: Candidates, at: int, window: str) -> str:
    """A smaller candidate's stated risk by the name of its quantity, and the model's chance of any violation."""
    measure = said.record.observation.objective.measure
    count, risk = int(candidates.replicas[at]), float(candidates.violation_probability[at])
    text = f"{count} the {QUANTITY[measure]} over the next {window} would be "
    text += chance(risk, candidates.paths, said.record.observation.objective.epsilon)
    if measure == "window":
        return text
    return text + f" (any violation at all: {chance(float(candidates.violated_window[at]), candidates.paths)})"


def rescaled_from(record: Record) -> float | None:
    """The model's own figure where the stated risk was rescaled by what such statements have realised; else None."""
    decision = record.decision
    if decision.candidates is None or not decision.violation_probability < 1.0:
        return None
    at = max(0, int(decision.candidates.replicas.searchsorted(decision.replicas, side="right")) - 1)
    own = decision.candidates
    model = float((own.violated_window if record.observation.objective.measure == "window" else own.violated_time)[at])
    return None if math.isclose(model, decision.violation_probability, rel_tol=0.01, abs_tol=1e-6) else model


def _risk(said: Said) -> str:
    """Stated risk by the name of its quantity, beside the objective, and the bill."""
    seen, decision = said.record.observation, said.record.decision
    if math.isnan(decision.violation_probability):
        return ""
    objective = seen.objective
    window = duration(lead_window(seen) * seen.step_s)
    stated = chance(decision.violation_probability, decision.paths, objective.epsilon)
    text = f"Stated risk {stated}: {QUANTITY[objective.measure]} over "
    text += f"the next {window}"
    if (model := rescaled_from(said.record)) is not None:
        text += f", rescaled by what came true from the model's {chance(model, decision.paths)}"
    text += f"; objective {allowed(objective.epsilon)} of the {SHARE_OF[objective.measure]}."
    if objective.replica_price_per_hour > 0.0:
        bill = f"{bill_per_hour(decision.replicas, seen):,.2f} {said.currency}".rstrip()
        text += f" {decision.replicas} replica{'' if decision.replicas == 1 else 's'} cost {bill} per hour."
    return text


def _held(said: Said) -> str:
    """What keeps the desired replicas from the recommendation."""
    if not said.held_by:
        return ""
    return f"Desired replicas: {said.desired} ({said.held_by})."
