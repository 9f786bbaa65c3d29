"""Beyond habit: which stretches of the past a forecast's attention is on more than in the service's other forecasts.

What is looked at in any forecast, the newest rows or a pulse at this hour of every day, says little about this one. So
the attention of one forecast is divided by that of a general question (`kernels.readouts.contrast`): the mean over
earlier windows of the service, those that ended at the same time of day where there are enough of them.

References:
    CARVE, contrastive attention refinement, arXiv 2509.06461 (that the general question is earlier windows is ours).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from forecasting.explaining import Stretch, weighed
from forecasting.panel import FloatArray, IntArray
from forecasting.windows import DAY_S, RowSource, WindowBatch
from kernels.readouts.contrast import contrast

__all__ = ["BeyondHabit", "Looking", "beyond_habit", "contrasted", "earlier_ends"]

LEAST_WINDOWS = 10  # of fewer, what is usual cannot be told
MOST_DAYS, MOST_SPREAD = 28, 64
FLOOR = 0.05  # of the mean weight, added to both: what is hardly ever looked at must not count for everything
UNUSUAL = 0.9
CLEARLY = 1.5  # times the even share, from which on a stretch is named
STILL = 1e-6  # weights in float32 that differ by less are the same


@runtime_checkable
class Looking(Protocol):
    """A forecaster that can tell what its attention is on."""

    def looks(self, windows: WindowBatch, indicator: str, horizon: int) -> tuple[FloatArray, int]:
        """(batch, stretches) how its attention is shared among stretches of the past, oldest first, and their rows.

        Shares sum to 1, or to 0 where nothing was read.
        """
        ...


@dataclass(frozen=True, slots=True)
class BeyondHabit:
    """What the attention of a forecast is on beyond what it is on in the service's other forecasts.

    Attributes:
        stretches: of the window, newest first; shares sum to 1, and are even where there is nothing beyond habit.
        unusual: share of the earlier windows whose own attention is nearer to habit than that of this one.
        windows: how many earlier windows habit is taken from.
        same_hour: whether these ended at this time of day.
    """

    stretches: tuple[Stretch, ...]
    unusual: float
    windows: int
    same_hour: bool

    @property
    def sentence(self) -> str:
        """The same in one sentence."""
        usual = "earlier forecasts at this time of day" if self.same_hour else "earlier forecasts"
        if self.unusual < UNUSUAL:
            return f"Its attention is where it is in {usual}: nothing beyond habit."
        least = CLEARLY / sum(s.share > 0 for s in self.stretches)
        named = {s.label: s.share for s in self.stretches if s.share >= least}
        if not named:
            return f"Its attention is not where it is in {usual}, but on no stretch clearly more."
        return f"Beyond what it is on in {usual}, its attention is on {weighed(named)}."

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        stretches = [{"label": s.label, **dataclasses.asdict(s)} for s in self.stretches]
        return dataclasses.asdict(self) | {"stretches": stretches, "sentence": self.sentence}


def beyond_habit(
    model: Looking, source: RowSource, end: int, lookback: int, indicator: str, horizon: int
) -> BeyondHabit | None:
    """What the forecast of ``indicator`` from row ``end`` on looks at beyond habit; None with too little before it.

    Earlier windows share no row with this one. Nothing is forecast, so it costs little.
    """
    ends, same_hour = earlier_ends(end, lookback, source.step_s)
    if len(ends) < LEAST_WINDOWS:
        return None
    found, rows = model.looks(WindowBatch.of(source, np.append(ends, end), lookback), indicator, horizon)
    now, before = found[-1], found[:-1]
    before = before[before.sum(axis=1) > 0]
    if len(before) < LEAST_WINDOWS or not now.sum() > 0:
        return None
    shares, unusual = contrasted(now, before)
    stretches = tuple(
        Stretch(k * rows + 1, max(k * rows + 1, min((k + 1) * rows, lookback)), 0.0, float(share))
        for k, share in enumerate(shares[::-1])
    )
    return BeyondHabit(stretches, unusual, len(before), same_hour)


def earlier_ends(end: int, lookback: int, step_s: float) -> tuple[IntArray, bool]:
    """Last rows of earlier windows that share no row with the one that ends at ``end``, and whether at its time of day.

    Those at the same time of day, of the newest four weeks, where there are enough; else windows spread over all rows.
    """
    newest = end - lookback
    day = round(DAY_S / step_s)
    if day > 1:
        daily = np.arange(end - day, lookback - 2, -day, dtype=np.int64)
        daily = daily[daily <= newest][:MOST_DAYS][::-1]
        if len(daily) >= LEAST_WINDOWS:
            return daily, True
    if newest < lookback - 1:
        return np.empty(0, dtype=np.int64), False
    return np.unique(np.linspace(lookback - 1, newest, MOST_SPREAD).round().astype(np.int64)), False


def contrasted(now: FloatArray, before: FloatArray) -> tuple[FloatArray, float]:
    """Shares (stretches,) of what ``now`` is on beyond the mean of ``before`` (windows, stretches); how unusual it is.

    Shares are over the stretches that ``now`` is on at all, even where it is as the mean is. How unusual: the share of
    earlier windows that are nearer to the mean of the others than ``now`` is to that of all (in relative entropy).
    """
    seen = now > 0
    now, before = _levelled(now[seen]), _levelled(before[:, seen])
    usual = before.mean(axis=0)
    others = (before.sum(axis=0) - before) / (len(before) - 1)
    away = float(_apart(now, usual))
    shares = np.zeros(len(seen))
    if away <= STILL:
        shares[seen] = 1.0 / seen.sum()
        return shares, 0.0
    # The floor is in both already.
    shares[seen] = contrast(torch.from_numpy(now), torch.from_numpy(usual), floor=0.0).numpy()
    return shares, float((_apart(before, others) < away).mean())


def _levelled(weights: FloatArray) -> FloatArray:
    """Weights (..., stretches) that sum to 1, none of them next to nothing."""
    total = weights.sum(axis=-1, keepdims=True)
    even = 1.0 / weights.shape[-1]
    known = np.where(total > 0, weights / np.where(total > 0, total, 1.0), even)
    out: FloatArray = (known + FLOOR * even) / (1.0 + FLOOR)
    return out


def _apart(weights: FloatArray, usual: FloatArray) -> FloatArray:
    """Relative entropy along the last axis."""
    out: FloatArray = (weights * np.log(weights / usual)).sum(axis=-1)
    return out
