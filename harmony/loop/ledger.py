"""`Ledger`: which replicas there were when, so that each step can be judged once its demand is known."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from typing import NamedTuple

from harmony.decision.risk import ROUND

__all__ = ["JudgedStep", "Ledger", "Note", "Row"]

KEEP_S = 7200.0
Orders = tuple[tuple[float, int], ...]  # since when (seconds) how many were ordered, oldest first
Row = tuple[float, float, float]  # time of a step, its demand, value of the bound's indicator (NaN where absent)


class Note(NamedTuple):
    """Counts at one moment: the target's own, and those of the shadow (equal to them while we act).

    `teaches` says whether the moment may teach what a replica carries: nothing is starting and nothing has just
    started, so that no cold replica is counted. `answers` says whether the counts are what was decided, so that a
    violation says something about the decisions.
    """

    at_s: float
    ordered: int
    ready: int
    shadow_ordered: int
    shadow_ready: int
    teaches: bool
    answers: bool = True


class JudgedStep(NamedTuple):
    """One step of known demand: what served it, and whether the objective was kept for the target and for the shadow.

    `held` is None where it cannot be said (the bound's indicator was absent). `covered`: it was violated although the
    replicas that it needed had been ordered in good time; they did not serve, which says nothing about decisions.
    """

    at_s: float
    demand: float
    note: Note
    missed: bool | None
    shadow_missed: bool
    load_per_replica: float  # NaN where the step teaches nothing about capacity
    held: bool | None
    covered: bool = False


class Ledger(NamedTuple):
    """Notes of the recent past, oldest first; `judge` gives every step exactly once, in order. A value.

    `orders` are the changes of the ordered count, for as long as a start may take before the oldest step in question.
    """

    notes: tuple[Note, ...] = ()
    judged_until_s: float = -math.inf
    orders: Orders = ()

    def add(self, note: Note, keep_s: float = KEEP_S, lead_s: float = 0.0) -> Ledger:
        """With what was seen now; a clock that went back starts the book anew (nothing is judged twice).

        ``lead_s``: how long a start takes at most, seconds.

        A second note of one moment stands in for what was noted of it before. Notes that no step can refer to any more
        are dropped: older than ``keep_s`` seconds, or followed by one that was in force when the last judged step was.
        """
        notes = self.notes
        if not notes or note.at_s < notes[-1].at_s:
            return Ledger((note,), self.judged_until_s, ((note.at_s, note.ordered),))
        end = len(notes)
        while end and notes[end - 1].at_s == note.at_s:
            end -= 1
        oldest = max(note.at_s - keep_s, self.judged_until_s)
        first = 0
        while first < end - 1 and notes[first + 1].at_s <= oldest:
            first += 1
        return Ledger((*notes[first:end], note), self.judged_until_s, self._ordered(note, oldest - lead_s))

    def _ordered(self, note: Note, oldest_s: float) -> Orders:
        """The changes of the count with this one, without those that were over at ``oldest_s``."""
        orders = self.orders
        if not orders or orders[-1][1] != note.ordered:
            orders = (*orders, (note.at_s, note.ordered))
        first = 0
        while first < len(orders) - 1 and orders[first + 1][0] <= oldest_s:
            first += 1
        return orders[first:] if first else orders

    def ordered_throughout(self, at_s: float, lead_s: float) -> int:
        """The least count ordered in the ``lead_s`` seconds up to ``at_s``; 0 where nobody looked that long."""
        begin_s, least = at_s - lead_s, None
        for since_s, ordered in reversed(self.orders):
            if since_s > at_s:
                continue
            least = ordered if least is None else min(least, ordered)
            if since_s <= begin_s:
                return least
        return 0

    def then(self, shadow_ordered: int, shadow_ready: int) -> Ledger:
        """With other counts of the shadow from just after the newest note on: its counts act at once."""
        if not self.notes:
            return self
        after = self.notes[-1]._replace(shadow_ordered=shadow_ordered, shadow_ready=shadow_ready)
        return Ledger((*self.notes, after), self.judged_until_s, self.orders)

    @property
    def newest(self) -> Note | None:
        """The last note."""
        return self.notes[-1] if self.notes else None

    def judge(
        self,
        rows: Iterable[Row],
        per_replica: float,
        at_most: float | None,
        settled_before_s: float,
        max_gap_s: float,
        lead_s: float = math.inf,
    ) -> tuple[Ledger, list[JudgedStep]]:
        """The book after judging, and the steps that could be judged now. ``rows``: oldest first.

        A row with absent demand is waited for until ``settled_before_s`` and then given up. With a bound
        (``at_most``) the target's violation is what the indicator says; the shadow's is always judged by capacity. A
        step more than ``max_gap_s`` after the last note before it was watched by nobody. Replicas that do not serve
        ``lead_s`` seconds after they were ordered are stuck.
        """
        out: list[JudgedStep] = []
        until_s = self.judged_until_s
        for at_s, demand, value in rows:
            if at_s <= until_s:
                continue
            absent = not demand < math.inf  # NaN, and what no service was ever asked for
            if absent and at_s > settled_before_s:
                break  # may still arrive; later rows wait with it, so that steps stay in order
            until_s = at_s
            note = None if absent else self._at(at_s, max_gap_s)
            if note is not None:
                step = _judged(at_s, demand, value, note, per_replica, at_most)
                needed = demand / per_replica - ROUND
                if step.missed and note.ready < needed <= note.ordered:
                    step = step._replace(covered=needed <= self.ordered_throughout(at_s, lead_s))
                out.append(step)
        return (self if until_s == self.judged_until_s else Ledger(self.notes, until_s, self.orders)), out

    def _at(self, at_s: float, max_gap_s: float) -> Note | None:
        """The counts in force at a moment; None where nobody looked."""
        notes = self.notes
        if notes and notes[-1].at_s <= at_s:
            found = len(notes) - 1
        else:
            found = bisect.bisect_right(notes, at_s, key=_time_of) - 1
        if found < 0 or at_s - notes[found].at_s > max_gap_s:
            return None
        while found and notes[found - 1].at_s == at_s:
            found -= 1  # what came just after does not hold yet
        return notes[found]


def _time_of(note: Note) -> float:
    return note.at_s


def _judged(
    at_s: float, demand: float, value: float, note: Note, per_replica: float, at_most: float | None
) -> JudgedStep:
    needed = demand / per_replica
    held: bool | None = None
    missed: bool | None = needed - note.ready > ROUND
    if at_most is not None:
        held = None if math.isnan(value) else value <= at_most
        missed = None if held is None else not held
    teaches = note.teaches and note.ready > 0 and held is not None
    load = demand / note.ready if teaches else math.nan
    return JudgedStep(at_s, demand, note, missed, needed - note.shadow_ready > ROUND, load, held)
