"""A decision in words: one or two sentences that a person on call can act on."""

from __future__ import annotations

import math

from harmony.decision.rule import lead_window
from harmony.model.decision import Reason
from harmony.serving.snapshot import Snapshot

__all__ = ["amount", "duration", "percent", "sentence"]


def sentence(snapshot: Snapshot) -> str:
    """What was decided, why, at what stated risk, and what kept it from being ordered."""
    if "sentence" not in snapshot.cache:
        parts = (_what(snapshot), _why(snapshot), _risk(snapshot), _held(snapshot))
        snapshot.cache["sentence"] = " ".join(part for part in parts if part)
    text: str = snapshot.cache["sentence"]
    return text


def percent(share: float) -> str:
    """A probability for people: ``0.4 %``, ``< 0.01 %``, ``12 %``; "unknown" for NaN."""
    if math.isnan(share):
        return "unknown"
    if 0.0 < share < 0.0001:
        return "< 0.01 %"
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


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


def _what(snapshot: Snapshot) -> str:
    """The count and the change."""
    decision = snapshot.record.decision
    count = f"{decision.replicas} replica{'' if decision.replicas == 1 else 's'}"
    if decision.replicas == decision.current:
        return f"Stay at {count}:"
    return f"{'Up' if decision.replicas > decision.current else 'Down'} from {decision.current} to {count}:"


def _why(snapshot: Snapshot) -> str:
    """The reason of the closed set, as a sentence."""
    seen, decision = snapshot.record.observation, snapshot.record.decision
    demand = f"{snapshot.demand_name or 'demand'} of {amount(seen.demand)} {snapshot.unit}".rstrip()
    wanted, low, high = decision.unconstrained, seen.objective.min_replicas, seen.objective.max_replicas
    said = {
        Reason.FORECAST: _forecast(snapshot),
        Reason.REACTIVE_FLOOR: f"{demand} already needs this many, whatever the forecast says.",
        Reason.WARMING_UP: f"no forecast yet, so {demand} plus a margin decides.",
        Reason.ABSENT_DATA: f"data are missing ({decision.bound_by or 'absent data'}), so the count is never lowered.",
        Reason.STABILIZED: f"{wanted} would do, but a recommendation within the stabilisation window was different.",
        Reason.RATE_LIMITED: f"{wanted} is wanted, but {decision.bound_by or 'a rate limit'} allows no more at once.",
        Reason.MIN_REPLICAS: f"{wanted} would do, but the minimum is {low}.",
        Reason.MAX_REPLICAS: f"{wanted} is wanted, but the maximum is {high}.",
        Reason.FALLBACK: "data have been missing for several turns, so the fallback decides.",
        Reason.UNREACHABLE: f"even the maximum of {high} may miss more than was promised.",
        Reason.PAUSED: "scaling is paused.",
        Reason.MODE_LIMITED: f"mode {snapshot.effective_mode} allows no more.",
    }
    return said.get(decision.reason, f"{decision.reason}.")


def _forecast(snapshot: Snapshot) -> str:
    """Why this candidate and not the next smaller one."""
    seen, decision = snapshot.record.observation, snapshot.record.decision
    window = duration(lead_window(seen) * seen.step_s)
    candidates = decision.candidates
    if candidates is None:
        return f"the least cost over the next {window}."
    at = int(candidates.replicas.searchsorted(decision.replicas))
    if decision.bound_by != "epsilon" or at == 0:
        return f"of all counts that keep the promise over the next {window} it costs least."
    fewer, risk = int(candidates.replicas[at - 1]), float(candidates.violation_probability[at - 1])
    return f"with {fewer} a miss within the next {window} has probability {percent(risk)}."


def _risk(snapshot: Snapshot) -> str:
    """Stated risk beside the promise, and the cost."""
    seen, decision = snapshot.record.observation, snapshot.record.decision
    if math.isnan(decision.violation_probability):
        return ""
    text = f"Stated risk {percent(decision.violation_probability)}, promised {percent(seen.objective.epsilon)}"
    if not math.isnan(decision.expected_cost):
        text += f"; expected cost {decision.expected_cost:.2f} {snapshot.currency}".rstrip() + " per hour"
    return text + "."


def _held(snapshot: Snapshot) -> str:
    """What kept the order from the recommendation."""
    if not snapshot.held_by:
        return ""
    return f"Ordered: {snapshot.desired} ({snapshot.held_by})."
