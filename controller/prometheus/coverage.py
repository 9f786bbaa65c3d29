"""`Coverage`: of the pods that should report at a moment, how many did; a reading that lacks some is incomplete.

A sum over pods falls when pods are not scraped, and looks like a loss of demand. What should report is known from the
cluster, what did from a count beside the sum. A pod that has just become ready is not found by monitoring at once, and
takes a share of the demand all the same: a reading without it is no whole, and no fault either. It is one once the pod
has been ready for long, or where so many pods reported a moment ago.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from controller.prometheus.answers import Moments
from controller.prometheus.families import Kin
from forecasting.panel import FloatArray

__all__ = ["Coverage", "Reporting"]

RECENT_S = 600.0  # pods that reported in this time, and still are, should go on
BEFORE_S = 120.0  # the first look at the cluster speaks for so long before it
MOST_SPANS = 64
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Reporting:
    """PromQL that counts the pods of a service that report its demand, and with whom it can be asked."""

    promql: str
    kin: Kin | None = None


class _Span(NamedTuple):
    """From one look to another, so many pods were ready."""

    from_s: float
    to_s: float
    pods: int


class Coverage:
    """What is known of one service's pods; `expect` what should report, `learn` what did, ask what is `lacking`.

    Where pods never reported (the demand is a gateway's, say), nothing is ever lacking.
    """

    __slots__ = ("_counts", "_known", "_pods", "_ready", "_recent", "_settled", "_silent_s", "_spans", "_times")

    def __init__(self) -> None:
        self._ready = self._settled = 0
        self._pods: list[tuple[float, int]] = [(-math.inf, 0)]  # (look, pods there were)
        self._spans: list[_Span] = []
        self._recent: list[tuple[float, float]] = []  # (time, pods that reported), of the newest rows
        self._times: FloatArray = np.empty(0)
        self._counts: FloatArray = np.empty(0)
        self._known = False  # that pods of the service report
        self._silent_s = math.inf  # since when it was answered that none does

    @property
    def ready(self) -> int:
        """How many pods are ready."""
        return self._ready

    @property
    def expected(self) -> int:
        """How many of them should report by now."""
        peak = max((n for _, n in self._recent), default=0.0)
        return max(self._settled, min(self._ready, math.floor(peak)))

    def expect(self, now_s: float, pods: int, ready: int, settled: int) -> None:
        """There are so many pods, so many are ready, and of them so many have been for longer than discovery takes."""
        self._ready, self._settled = ready, min(settled, ready)
        self._pods = [(at, n) for at, n in self._pods if now_s - RECENT_S <= at < now_s] + [(now_s, pods)]

    def learn(self, now_s: float, found: Moments | None) -> None:
        """How many pods reported at each moment up to now; None where that could not be read."""
        if self._spans and now_s < self._spans[-1].to_s:
            self._spans, self._recent = [], []  # the clock went back
        self._times, self._counts = np.empty(0), np.empty(0)
        if found is not None:
            most = 2 * max(n for _, n in self._pods)  # pods that go may still report; more is no count of them
            known = (found.values >= 0) & (found.values <= most)
            self._times, self._counts = found.times_s[known], found.values[known]
            self._heed(now_s)
        pods = dict(self._recent) | dict(zip(self._times.tolist(), self._counts.tolist(), strict=True))
        self._recent = [(at, n) for at, n in pods.items() if now_s - RECENT_S <= at <= now_s]
        self._note(now_s, self._ready)

    def _heed(self, now_s: float) -> None:
        """Pods of the service report if any did, until for a while it was answered that none does."""
        if (self._counts > 0).any():
            self._known, self._silent_s = True, math.inf
            return
        self._silent_s = min(self._silent_s, now_s)
        if now_s - self._silent_s > RECENT_S:
            self._known = False

    def _note(self, now_s: float, pods: int) -> None:
        last = self._spans[-1] if self._spans else None
        if last is not None and last.pods == pods:
            self._spans[-1] = last._replace(to_s=now_s)
        else:
            self._spans = [*self._spans[1 - MOST_SPANS :], _Span(now_s, now_s, pods)]

    def lacking(self, times_s: FloatArray) -> Mask:
        """(points,) at which of these times fewer pods reported than were ready, or nobody could say how many."""
        if not self._known or not self._spans:
            return np.zeros(times_s.shape, dtype=np.bool_)
        should = np.array([self._at(t) for t in times_s.tolist()])
        did = np.full(times_s.shape, -1.0)
        if self._times.size:
            at = np.minimum(np.searchsorted(self._times, times_s - 0.5e-3), self._times.size - 1)
            same = np.abs(self._times[at] - times_s) <= 1e-3
            did[same] = self._counts[at[same]]
        lacks: Mask = (did < should) & (should > 0)
        return lacks

    def reported(self, at_s: float) -> float:
        """How many pods reported at a moment; NaN where that is not known."""
        here = np.flatnonzero(np.abs(self._times - at_s) <= 1e-3)
        return float(self._counts[here[-1]]) if here.size else math.nan

    def _at(self, at_s: float) -> int:
        """How many pods were ready at a moment: what the look just after it saw, or both looks around it did."""
        before = next((span for span in reversed(self._spans) if span.from_s <= at_s), None)
        after = next((span for span in self._spans if span.to_s >= at_s), None)
        if after is not None and after.from_s - at_s <= BEFORE_S:
            return after.pods
        if before is None:
            return 0
        return before.pods if after is None else min(before.pods, after.pods)
