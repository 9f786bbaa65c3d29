"""`explain`: why a count is what it is, in words, and whether deciding again from the journal gives the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from harmony.decision.bill import bill_per_hour
from harmony.decision.in_force import again
from harmony.decision.past.tried import YET_TO_REPLAY, why_not
from harmony.decision.rule import lead_window
from harmony.decision.turn import decide_turn
from harmony.journal.inputs import whole
from harmony.journal.store import JournalStore
from harmony.journal.stored import StoredDecision
from harmony.model.decision import Decision, Reason, Tried
from harmony.model.observation import Observation
from harmony.schema.fields import Field, Shape, columns_of, fields_of
from harmony.serving.further import further
from harmony.serving.snapshot import Snapshot
from harmony.serving.views import decision_json, utc
from harmony.serving.words import QUANTITY, allowed, amount, chance, decider, duration, percent, sentence, within_band

__all__ = ["Difference", "Explanation", "explain", "recompute"]

# reasons that only other policies than HARMONY's own give
OTHERS = frozenset({Reason.TARGET_RATIO, Reason.WITHIN_TOLERANCE, Reason.FIXED, Reason.MARGIN, Reason.FORESIGHT})
MEASURED = {
    "time": "of time violated",
    "window": "of windows with a violation",
    "requests": "of the demand not carried",
}
NEAR = 3  # candidates shown to either side of the choice


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which the recomputed decision differs from the stored one."""

    field: str
    stored: str
    recomputed: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.field}: stored {self.stored}, recomputed {self.recomputed}"


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A stored decision, the same decision made again, and the words for both.

    Attributes:
        decision: what the journal holds.
        recomputed: what deciding again gives; None where that is not possible.
        problem: why it is not possible; empty where it is.
        differences: fields that differ; empty where all are equal to the last bit.
        lines: the explanation, for a terminal or a page.
    """

    decision: StoredDecision
    recomputed: Decision | None
    problem: str
    differences: tuple[Difference, ...]
    lines: tuple[str, ...]

    @property
    def same(self) -> bool | None:
        """Whether deciding again gives the same; None where that is not possible."""
        return None if self.recomputed is None else not self.differences

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.decision.id,
            "same": self.same,
            "problem": self.problem,
            "differences": [
                {"field": d.field, "stored": d.stored, "recomputed": d.recomputed} for d in self.differences
            ],
            "text": list(self.lines),
            "decision": {"id": self.decision.id, **decision_json(self.decision.snapshot)},
        }


def explain(store: JournalStore, decision_id: str) -> Explanation | None:
    """Why the decision is what it is, and whether it comes out the same again; None when there is none of that id."""
    stored = store.decision(decision_id)
    if stored is None:
        return None
    snapshot = stored.snapshot
    problem = _problem(stored)
    again = None if problem else recompute(snapshot)
    differences = () if again is None else tuple(_differences(snapshot.record.decision, again, stored.rounded))
    lines = (*_words(stored), *_verdict(problem, differences, stored.rounded))
    return Explanation(stored, again, problem, differences, lines)


def recompute(snapshot: Snapshot) -> Decision:
    """The decision made again of what the snapshot says was seen and remembered, by the loop's own code."""
    record = snapshot.record

    def decide(seen: Observation) -> Decision:
        return again(seen, record.decision, record.before)

    return decide_turn(record.observation, decide, snapshot.behavior, record.before)[0]


def _problem(stored: StoredDecision) -> str:
    if not stored.has_inputs:
        return "its inputs are no longer kept (see: harmony journal retain)"
    if stored.snapshot.record.decision.reason in OTHERS:
        return f"{stored.snapshot.record.decision.reason} is a reason of another policy, whose memory is not kept"
    return ""


TOLD_LATER = frozenset({"held_for_s"})
"""What follows from the rest and older journals did not keep: absent there, it is no difference."""


# ---- comparing -----------------------------------------------------------------------------------------------
def _differences(stored: Decision, again: Decision, rounded: bool) -> list[Difference]:
    """Every field that is told, to the last bit."""
    out: list[Difference] = []
    for f in fields_of(type(stored)):
        mine, new = getattr(stored, f.name), getattr(again, f.name)
        if f.shape is Shape.TABLE:
            out += _table_differences(f.name, mine, new)
        elif f.shape is Shape.CURVES:
            out += _curve_differences(f.name, mine, new, rounded)
        elif f.shape is Shape.SERIES:
            out += [] if np.array_equal(mine, new, equal_nan=True) else [Difference(f.name, str(mine), str(new))]
        elif not _same(f, mine, new):
            out.append(Difference(f.name, _written(f, mine), _written(f, new)))
    return out


def _same(told: Field, mine: Any, new: Any) -> bool:  # noqa: ANN401
    if told.name in TOLD_LATER and isinstance(mine, float) and math.isnan(mine):
        return True
    if told.shape is Shape.NUMBER and mine is not None and new is not None:
        return bool(mine == new or (math.isnan(mine) and math.isnan(new)))
    return bool(mine == (whole(new) if told.shape is Shape.WHOLE and new is not None else new))


def _written(told: Field, value: Any) -> str:  # noqa: ANN401
    return str(value) if told.shape is Shape.WHOLE else repr(str(value) if told.shape is Shape.WORD else value)


def _table_differences(name: str, stored: Any, again: Any) -> list[Difference]:  # noqa: ANN401
    """The first differing row of every column."""
    if stored is None or again is None:
        if stored is again:
            return []
        return [Difference(name, *("none" if c is None else f"{len(c)}" for c in (stored, again)))]
    out = []
    columns = columns_of(type(stored))
    key = getattr(stored, columns[0].name)
    for column in columns:
        mine, new = getattr(stored, column.name), getattr(again, column.name)
        if mine.shape != new.shape:
            return [Difference(name, f"{mine.size} of them", f"{new.size} of them")]
        differ = mine != new
        if not column.is_text:
            differ &= ~(np.isnan(mine.astype(float)) & np.isnan(new.astype(float)))
        if differ.any():
            at = int(np.argmax(differ))
            row = str(key[at]) if columns[0].is_text else int(key[at])
            where = f"{name}.{column.name} at {row} {columns[0].name}"
            out.append(Difference(where, repr(mine[at].item()), repr(new[at].item())))
    return out


def _curve_differences(name: str, stored: Any, again: Any, rounded: bool) -> list[Difference]:  # noqa: ANN401
    """Of rounded paths the quantiles are the rounded quantiles (rounding keeps the order)."""
    if set(stored) != set(again):
        return [Difference(name, str(sorted(stored)), str(sorted(again)))]
    out = []
    for level, mine in stored.items():
        new = again[level]
        kept = mine.astype(np.float32).astype(np.float64) if rounded else mine
        if not np.array_equal(kept, new, equal_nan=True):
            out.append(Difference(f"{name}.{level:g}", str(mine.tolist()), str(new.tolist())))
    return out


# ---- words ---------------------------------------------------------------------------------------------------
def _words(stored: StoredDecision) -> list[str]:
    snapshot, decision = stored.snapshot, stored.snapshot.record.decision
    return [
        f"{snapshot.service} at {utc(snapshot.at_s) or snapshot.at_s} (decision {stored.id})",
        sentence(snapshot),
        "",
        *_seen(snapshot),
        *_setting(decision),
        *_candidates(snapshot),
        *_bound(snapshot),
    ]


def _seen(snapshot: Snapshot) -> list[str]:
    seen = snapshot.record.observation
    objective, steps = seen.objective, lead_window(seen)
    low, high = seen.capacity.interval(0.9)
    known = f" ({amount(low)} to {amount(high)})" if high > low else ""
    unit = f" {snapshot.unit}" if snapshot.unit else ""
    counts = f"{seen.ordered} replicas current, {seen.ready} ready"
    if snapshot.has_shadow:
        counts = f"{snapshot.ordered} replicas current, {snapshot.ready} ready (the shadow has {seen.ordered}, "
        counts += f"{seen.ready} ready, and this decision is about those)"
    out = [
        f"Seen: demand {amount(seen.demand)}{unit}; {counts}; "
        f"a replica carries {amount(seen.capacity.median)}{unit}{known}.",
        f"Window: {duration(steps * seen.step_s)} ({steps} steps): a replica takes "
        f"{duration(seen.lead_time.quantile_s(0.9))} to start (90 % of the time), the next decision is "
        f"{duration(seen.interval_s)} away.",
        f"Objective: at most {allowed(objective.epsilon)} "
        f"{MEASURED[objective.measure]}; "
        f"so far that has meant deciding at the model's {percent(seen.risk_level)}.",
    ]
    forecast = seen.forecast
    if forecast is not None:
        out.append(f"Forecast: {forecast.samples} sample paths by {forecast.model or 'an unnamed model'}.")
    return out


def _setting(decision: Decision) -> list[str]:
    """Which setting is in force and why, and how the error budget stands."""
    out = []
    if decision.setting:
        paid = (
            "" if math.isnan(decision.price) else f"; a violated hour is worth {amount(decision.price)} replica-hours"
        )
        out.append(f"In force: {decision.setting}{paid}. Decided by {decider(decision)}.")
    if decision.tried is not None:
        out += _tried(decision.tried)
        if YET_TO_REPLAY in decision.why:
            out.append(f"{YET_TO_REPLAY.capitalize()}.")
    elif decision.why:
        out.append(f"Chosen on the service's own past: {decision.why}.")
    if not math.isnan(decision.budget_left):
        left = percent(decision.budget_left, decision.budget_least, decision.budget_most)
        out.append(
            f"Error budget: {left} left, spent since the full hour at {amount(decision.burn_rate)} times the rate that "
            f"lasts. {within_band(decision)}".rstrip()
        )
    return out


def _tried(tried: Tried) -> list[str]:
    """The best of every family on the own past, the one in force first."""
    wide = max(map(len, tried.family.tolist()))
    out = [
        f"Replayed on the service's own past, {percent(tried.allowed)} aimed at, the best of every family would have "
        "set and violated:",
        "",
    ]
    for i, family in enumerate(tried.family.tolist()):
        replicas, violated = amount(float(tried.replicas[i])), percent(float(tried.violated[i]), tried.allowed)
        out.append(f"  {family:<{wide}}  {replicas:>6} replicas  {violated:>9}  {why_not(tried, i)}")
    return [*out, ""]


def _candidates(snapshot: Snapshot) -> list[str]:
    """The alternatives around the choice."""
    decision = snapshot.record.decision
    weighed = decision.candidates
    if weighed is None or len(weighed) == 0:
        return []
    at = min(int(np.searchsorted(weighed.replicas, decision.replicas)), len(weighed) - 1)
    seen = snapshot.record.observation
    bill = f"bill {snapshot.currency}".rstrip() + "/h"
    out = ["", f"  {'replicas':>8}  {'risk':>9}  {'any violation':>13}  {bill:>12}"]
    for i in range(max(0, at - NEAR), min(len(weighed), at + NEAR + 1)):
        count = int(weighed.replicas[i])
        risk, anything = float(weighed.violation_probability[i]), float(weighed.violated_window[i])
        mark = "  <- decided" if count == decision.replicas else ""
        mark += "  <- current" if count == decision.current and count != decision.replicas else ""
        cells = f"{chance(risk, weighed.paths, seen.objective.epsilon):>9}  {chance(anything, weighed.paths):>13}"
        out.append(f"  {count:>8}  {cells}  {bill_per_hour(count, seen):>12.2f}{mark}")
    name = QUANTITY[seen.objective.measure]
    return [*out, f"  risk: {name} over the window, as stated; any violation: as the model has it", ""]


def _bound(snapshot: Snapshot) -> list[str]:
    record = snapshot.record
    decision = record.decision
    out = []
    if decision.unconstrained not in (-1, decision.replicas):
        bound = decision.bound_by or decision.reason
        out.append(f"The rule alone asked for {decision.unconstrained}; {bound} made it {decision.replicas}.")
    elif decision.bound_by:
        out.append(f"What bound it: {decision.bound_by}.")
    out += [f"{f.label}: {f.value}." for f in further(decision)]
    if record.before.absent_turns:
        out.append(f"Data had been absent for {record.before.absent_turns} turns before.")
    if snapshot.desired != decision.replicas or snapshot.held_by:
        out.append(
            f"Desired replicas within the authority ({snapshot.effective_mode}): {snapshot.desired}"
            + (f", held by {snapshot.held_by}." if snapshot.held_by else ".")
        )
    return out


def _verdict(problem: str, differences: tuple[Difference, ...], rounded: bool) -> list[str]:
    if problem:
        return ["", f"It cannot be decided again: {problem}."]
    if not differences:
        note = " (quantiles to single precision)" if rounded else ""
        return ["", f"Decided again from the journal: the same, bit for bit{note}."]
    return ["", "Decided again from the journal it DIFFERS:", *(f"  {d}" for d in differences)]
