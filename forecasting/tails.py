"""The outer twentieths of a forecast, from how far outcomes lay beyond what it stated, and whether it can be believed.

Beyond its stated 0.95 quantile a pool rests on few samples, and a learned service on few outcomes. Both together are
enough for a generalised Pareto distribution of the excess, measured in units of the window's own width (from its median
to that quantile), so that what calm and busy windows missed by is one sample. The same is done below the 0.05 quantile.
Windows far narrower than usual, on plateaus, have no width to measure by; they are not counted and stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from forecasting.panel import BoolArray, FloatArray
from forecasting.pooling import WINDOWS_AGAINST, Levels, bands

__all__ = ["Tails", "Verdict", "drifted", "verdict"]

START = 0.95  # where the upper tail begins
SHAPE_MAX = 0.5  # heavier shapes have no variance, and are noise at these counts
NARROW = 0.2  # of the usual width: narrower windows are left alone
OWN_VALUES = 4000  # of the pool's own tail are enough
LEAST_WINDOWS = 40  # for a verdict
LEAST_TRIED = 20  # windows that a tail is tried on before it is believed
TRIED = (0.96, 0.98, 0.99, 0.995, 0.999)  # at these levels, and at their opposites
NOMINAL, WITHIN = 0.8, 0.03  # the interval that a verdict is about, and by how much it may be off
EXTREME, FACTOR = 0.99, 2.0  # the same of the upper quantile
DRIFT = 0.1  # of their levels, by which newer outcomes may lie higher or lower than older ones


@dataclass(frozen=True, eq=False)
class Tails:
    """How often and how far outcomes lay beyond the stated quantiles; (2, bands, indicators) each, upper tail first.

    Attributes:
        windows: that were counted.
        beyond: windows whose outcome lay beyond the quantile.
        mean: mean excess of these and of the pool's own samples, in units of the windows' widths.
        weighted: mean of the excess times the share of excesses above it (the second probability-weighted moment).
        width: usual width of the windows, in the indicator's unit.
        farthest: the largest excess of all; no sample is put farther out.
    """

    windows: FloatArray
    beyond: FloatArray
    mean: FloatArray
    weighted: FloatArray
    width: FloatArray
    farthest: FloatArray

    @classmethod
    def of(cls, rising: FloatArray, outcome: FloatArray) -> Self:
        """From rising samples (windows, samples, horizon, indicators) and outcomes (windows, horizon, indicators)."""
        band = bands(outcome.shape[1])
        out = np.zeros((6, 2, int(band[-1]) + 1, outcome.shape[2]))
        for side, (r, y) in enumerate(((rising, outcome), (-rising[:, ::-1], -outcome))):
            for b in range(out.shape[2]):
                leads = np.flatnonzero(band == b)
                for i in range(out.shape[3]):
                    out[:, side, b, i] = _moments(r[:, :, leads, i], y[:, leads, i])
        return cls(*out)

    @classmethod
    def tried(cls, rising: FloatArray, outcome: FloatArray) -> Self:
        """The same where it pays: the tail of either half has to lower the quantile loss on the other half.

        Windows are in time order. A series that jumps between plateaus has no such tail, whatever is fitted to it.
        """
        half, whole = len(outcome) // 2, cls.of(rising, outcome)
        pays = np.full(whole.mean.shape, half >= LEAST_TRIED)
        for learned, other in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
            if pays.any():
                after = cls.of(rising[learned], outcome[learned]).applied(rising[other])
                pays &= _loss(after, outcome[other]) < _loss(rising[other], outcome[other])
        return whole.only(pays)

    def and_newer(self, newer: Tails, kept: FloatArray) -> Tails:
        """Both together, the older fading to the shares ``kept`` (bands, indicators)."""
        old = kept * (self.beyond + WINDOWS_AGAINST * (1 - START))
        new = newer.beyond + WINDOWS_AGAINST * (1 - START)
        part = np.where((self.mean > 0) & (newer.mean > 0), old / (old + new), 0.0)
        return Tails(
            kept * self.windows + newer.windows,
            kept * self.beyond + newer.beyond,
            part * self.mean + (1 - part) * newer.mean,
            part * self.weighted + (1 - part) * newer.weighted,
            part * self.width + (1 - part) * newer.width,
            np.where(part > 0, np.maximum(self.farthest, newer.farthest), newer.farthest),
        )

    def only(self, kept: BoolArray) -> Self:
        """The tails that are ``kept`` (2, bands, indicators); others leave samples as they are."""
        return replace(self, mean=np.where(kept, self.mean, 0.0))

    def columns(self, at: Sequence[int]) -> Tails:
        """Those of some indicators."""
        return Tails(*(getattr(self, f.name)[..., list(at)] for f in fields(self)))

    def applied(self, rising: FloatArray) -> FloatArray:
        """Rising samples with the tails that came true; what lies between is spread over the rest of the levels."""
        share = (self.beyond + WINDOWS_AGAINST * (1 - START)) / (self.windows + WINDOWS_AGAINST)
        band, upper = bands(rising.shape[2]), rising.copy()
        for side in (0, 1):
            if side:
                upper = -upper[:, ::-1]
            for h, b in enumerate(band):
                for i in range(rising.shape[3]):
                    cell = side, b, i
                    if self.mean[cell] > 0:
                        upper[:, :, h, i] = _with_tail(
                            upper[:, :, h, i],
                            float(share[cell]),
                            (self.mean[cell], self.weighted[cell], self.farthest[cell]),
                            NARROW * float(self.width[cell]),
                        )
        return np.sort(-upper[:, ::-1], axis=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a forecast means what it says, judged on held-out windows that its calibration did not see.

    Attributes:
        calibrated: whether it does, within what chance explains.
        reason: the figures that say so, or what is missing.
    """

    calibrated: bool
    reason: str


def drifted(older: Levels, newer: Levels) -> BoolArray:
    """(bands, indicators) whether newer outcomes lie elsewhere among the levels than older ones did, beyond chance."""
    few = 1 / np.maximum(older.windows, 1.0) + 1 / np.maximum(newer.windows, 1.0)
    moved = np.abs(newer.below.mean(axis=-1) - older.below.mean(axis=-1))
    out: BoolArray = moved > np.maximum(DRIFT, 2 * np.sqrt(few / 12))
    return out


def verdict(rising: FloatArray, outcome: FloatArray, name: str, *, tails: bool = False) -> Verdict:
    """Levels (and ``tails``) learned on the older half of the windows, judged on the newer one; shapes as `Tails.of`.

    Windows are in time order; ``name`` is what the reason calls the indicator, which should be the only one. An outcome
    on a plateau of the forecast lies on all of its levels at once and counts at each by its part (Czado, Gneiting and
    Held 2009). The count in the reason is always that of all windows.
    """
    seen = ~(np.isnan(outcome).any(axis=(1, 2)) | np.isnan(rising).any(axis=(1, 2, 3)))
    rising, outcome = rising[seen], outcome[seen]
    count, horizon = outcome.shape[:2]
    if count < LEAST_WINDOWS:
        return Verdict(False, f"only {count} held-out windows of {name}, fewer than the {LEAST_WINDOWS} that it takes")
    if np.ptp(outcome) == 0 and np.allclose(rising, outcome.flat[0]):
        stays = f"{name} did not move in {count} held-out windows, and its forecasts say that it stays"
        return Verdict(True, f"{stays}: how wide they would be if it moved was not tried")
    half = count // 2
    levels = Levels.of(rising[:half], outcome[:half])
    older, newer = levels.applied(rising[:half]), levels.applied(rising[half:])
    if tails:
        learned = Tails.tried(older, outcome[:half])
        older, newer = learned.applied(older), learned.applied(newer)
    held = float(_inside(newer, outcome[half:], (1 - NOMINAL) / 2, (1 + NOMINAL) / 2).mean())
    above = float(_inside(newer, outcome[half:], EXTREME, 1.0).mean())
    moved = float(_middle(newer, outcome[half:]).mean() - _middle(older, outcome[:half]).mean())
    # Windows that overlap say the same: what counts are stretches of one horizon, of both halves.
    blocks = max(1.0, half / horizon) / 2
    chance = 2 * np.sqrt(NOMINAL * (1 - NOMINAL) / blocks)
    most = FACTOR * (1 - EXTREME) + 2 * np.sqrt((1 - EXTREME) / blocks)
    figures = (
        f"on the newer half of {count} held-out windows of {name}, central {NOMINAL:.0%} intervals held {held:.0%} "
        f"and {above:.1%} lay above the {EXTREME} quantile"
    )
    if np.ptp(outcome) == 0:
        figures += "; it did not move in any of them"
    if abs(moved) > max(DRIFT, 2 * np.sqrt(1 / 12 / blocks)):
        way = "higher" if moved > 0 else "lower"
        return Verdict(False, f"{figures}; they drift: their levels are {abs(moved):.0%} {way} than before")
    return Verdict(bool(abs(held - NOMINAL) <= max(WITHIN, chance) and above <= most), figures)


def _loss(rising: FloatArray, outcome: FloatArray) -> FloatArray:
    """(2, bands, indicators) summed quantile loss at the outer levels, upper ones first, of what is there."""
    band, out = bands(outcome.shape[1]), []
    for r, y in ((rising, outcome), (-rising[:, ::-1], -outcome)):
        miss = y - np.quantile(r, TRIED, axis=1)
        level = np.asarray(TRIED)[:, None, None, None]
        lost = np.nansum(np.maximum(level * miss, (level - 1) * miss), axis=(0, 1))  # (horizon, indicators)
        out.append(np.stack([lost[band == b].sum(axis=0) for b in range(int(band[-1]) + 1)]))
    return np.stack(out)


def _moments(rising: FloatArray, outcome: FloatArray) -> tuple[float, ...]:
    """What `Tails` keeps of one upper tail, of (windows, samples, leads) and (windows, leads)."""
    at, leads = min(int(START * rising.shape[1]), rising.shape[1] - 1), outcome.shape[1]
    start, width = rising[:, at], rising[:, at] - rising[:, rising.shape[1] // 2]
    known = ~(np.isnan(outcome) | np.isnan(start)) & (width > 0)
    usual = float(width[known].mean()) if known.any() else 0.0
    known &= width >= NARROW * usual
    if not known.any():
        return (0.0,) * 6
    unit = np.where(known, width, 1.0)
    excess = ((outcome - start) / unit)[known]
    excess = excess[excess > 0]
    own = np.moveaxis((rising[:, at + 1 :] - start[:, None]) / unit[:, None], 1, 2)[known].ravel()
    own = own[:: max(1, own.size // OWN_VALUES)]
    # The pool's own tail counts as that of so many windows.
    values = np.concatenate([excess, own])
    weights = np.concatenate(
        [np.ones(excess.size), np.full(own.size, WINDOWS_AGAINST * (1 - START) * leads / max(1, own.size))]
    )
    if not weights.sum() > 0:
        return known.sum() / leads, 0.0, 0.0, 0.0, usual, 0.0
    order = np.argsort(values)
    values, weights = values[order], weights[order] / weights.sum()
    above = 1 - (np.cumsum(weights) - weights / 2)
    mean, weighted = float(weights @ values), float((weights * values) @ above)
    return known.sum() / leads, excess.size / leads, mean, weighted, usual, float(values[-1])


def _with_tail(rising: FloatArray, share: float, moments: tuple[float, float, float], narrow: float) -> FloatArray:
    """(windows, samples) with a generalised Pareto tail that holds ``share`` of the samples, from both moments.

    Windows narrower than ``narrow`` stay as they are. Probability-weighted moments: Hosking and Wallis 1987, eq. 8.
    """
    mean, weighted, farthest = moments
    shape = 2.0 - mean / (mean - 2.0 * weighted) if mean > 2.0 * weighted else 0.0
    shape = float(np.clip(shape, -SHAPE_MAX, SHAPE_MAX))
    scale = mean * (1.0 - shape)
    samples = rising.shape[1]
    own = (np.arange(samples) + 0.5) / samples
    at, first = min(int(START * samples), samples - 1), 1 - share
    start, width = rising[:, at], rising[:, at] - rising[:, samples // 2]
    far = np.log(share / (1 - own[own > first]))
    excess = scale * (far if abs(shape) < 1e-6 else np.expm1(shape * far) / shape)
    excess = np.minimum(excess, farthest)
    between = (own > 0.5) & (own <= first)
    level = 0.5 + (own[between] - 0.5) * (START - 0.5) / (first - 0.5)
    place = np.clip(level * samples - 0.5, 0, samples - 1)
    left = np.minimum(place.astype(np.int64), max(0, samples - 2))
    part, right = place - left, np.minimum(left + 1, samples - 1)
    out = rising.copy()
    out[:, between] = rising[:, left] * (1 - part) + rising[:, right] * part
    out[:, own > first] = start[:, None] + width[:, None] * excess
    return np.where(((width > 0) & (width >= narrow))[:, None], out, rising)


def _bounds(rising: FloatArray, outcome: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The lowest and the highest level at which each outcome lies."""
    y = outcome[:, None]
    return (rising < y).mean(axis=1), (rising <= y).mean(axis=1)


def _middle(rising: FloatArray, outcome: FloatArray) -> FloatArray:
    low, high = _bounds(rising, outcome)
    return (low + high) / 2


def _inside(rising: FloatArray, outcome: FloatArray, first: float, last: float) -> FloatArray:
    """The part of each outcome's levels that lies between two."""
    low, high = _bounds(rising, outcome)
    wide = high - low
    part = (np.clip(high, first, last) - np.clip(low, first, last)) / np.where(wide > 0, wide, 1.0)
    return np.where(wide > 0, part, (low >= first) & (low <= last))
