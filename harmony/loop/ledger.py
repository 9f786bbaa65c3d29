"""`Ledger`: what was ordered and ready when, so that each step of demand can be judged once its demand is known."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from harmony.decision.risk import ROUND

__all__ = ["JudgedStep", "Ledger", "Note"]

KEEP_S = 7200.0


@dataclass(frozen=True, slots=True)
class Note:
    """Counts at one moment: the target's own, and those of the shadow (equal to them while we act).

    `teaches` says whether the moment may teach what a replica carries: nothing is starting and nothing has just
    started, so that no cold replica is counted. `answers` says whether the counts are what was decided, so that a miss
    says something about the decisions.
    """

    at_s: float
    ordered: int
    ready: int
    shadow_ordered: int
    shadow_ready: int
    teaches: bool
    answers: bool = True


@dataclass(frozen=True, slots=True)
class JudgedStep:
    """One step of known demand: what served it, and whether the promise held for the target and for the shadow.

    `held` is None where it cannot be said (the bound's indicator was absent).
    """

    at_s: float
    demand: float
    note: Note
    missed: bool | None
    shadow_missed: bool
    load_per_replica: float  # NaN where the step teaches nothing about capacity
    held: bool | None


@dataclass(slots=True)
class Ledger:
    """Notes of the recent past; `judge` gives every step exactly once, in order."""

    step_s: float
    max_gap_s: float
    judged_until_s: float = -math.inf
    _notes: list[Note] = field(default_factory=list)

    def add(self, note: Note) -> None:
        """Keep what was seen; a clock that went back starts the book anew (nothing is judged twice)."""
        if self._notes and note.at_s < self._notes[-1].at_s:
            self._notes = []
        self._notes.append(note)
        cutoff = note.at_s - KEEP_S
        while self._notes[0].at_s < cutoff:
            self._notes.pop(0)

    @property
    def newest(self) -> Note | None:
        """The last note."""
        return self._notes[-1] if self._notes else None

    def judge(
        self,
        rows: Iterable[tuple[float, float, float]],
        per_replica: float,
        at_most: float | None,
        settled_before_s: float,
    ) -> list[JudgedStep]:
        """Steps that can be judged now. ``rows``: (time, demand, value of the bound's indicator), oldest first.

        A row with absent demand is waited for until ``settled_before_s`` and then given up. With a bound
        (``at_most``) the target's miss is what the indicator says; the shadow's is always judged by capacity.
        """
        out: list[JudgedStep] = []
        for at_s, demand, value in rows:
            if at_s <= self.judged_until_s:
                continue
            if math.isnan(demand) and at_s > settled_before_s:
                break  # may still arrive; later rows wait with it, so that steps stay in order
            self.judged_until_s = at_s
            note = self._at(at_s)
            if note is None or math.isnan(demand):
                continue
            out.append(self._judged(at_s, demand, value, note, per_replica, at_most))
        return out

    def _judged(
        self, at_s: float, demand: float, value: float, note: Note, per_replica: float, at_most: float | None
    ) -> JudgedStep:
        short = demand / per_replica - note.ready > ROUND
        held: bool | None = None
        missed: bool | None = short
        if at_most is not None:
            held = None if math.isnan(value) else value <= at_most
            missed = None if held is None else not held
        teaches = note.teaches and note.ready > 0 and held is not None
        return JudgedStep(
            at_s=at_s,
            demand=demand,
            note=note,
            missed=missed,
            shadow_missed=demand / per_replica - note.shadow_ready > ROUND,
            load_per_replica=demand / note.ready if teaches else math.nan,
            held=held,
        )

    def _at(self, at_s: float) -> Note | None:
        """The counts in force at a moment; None where nobody looked."""
        found = bisect.bisect_right(self._notes, at_s, key=lambda n: n.at_s) - 1
        if found < 0 or at_s - self._notes[found].at_s > self.max_gap_s:
            return None
        return self._notes[found]
