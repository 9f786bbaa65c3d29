"""Pooling of forecasts: weights that past forecasts earned, one distribution of several, and its recalibration.

The linear pool of distributions F_k with weights w has the CRPS  sum_k w_k a_k - 1/2 sum_jk w_j w_k d_jk,  where a_k is
the mean distance of F_k from the outcome and d_jk that of F_j from F_k (Gneiting and Raftery 2007, eq. 21). So the sums
of a and d over past windows are all that is needed to find the weights of least CRPS: a convex problem on the simplex.
A pool keeps plateaus where they are, which an average of quantiles does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np

from forecasting.panel import BoolArray, FloatArray, IntArray

__all__ = ["Earned", "Levels", "arranged", "bands", "pooled", "sharing", "without_crumbs", "worth"]

GRID = 32  # quantiles of a member by which distances are measured
AT_ONCE = 400_000  # samples of a member: so many of all members a processor has at hand
CAUTION = 0.1  # how much the prior weighs against the evidence of one window
ALIKE_S = 1800.0  # windows that are nearer to each other than this tell the same
STEPS = 300
RATE = 3.0
CRUMB = 0.05  # of a pool: less than that adds little to its middle and too much to its tails
WINDOWS_AGAINST = 60.0  # windows that the levels as stated count as
MIDDLE = (0.02, 0.98)  # levels that are recalibrated: what lies beyond has too few outcomes to learn from


def bands(horizon: int) -> IntArray:
    """(horizon,) which leads share weights: 1, 2 to 3, 4 to 7, and so on."""
    return np.floor(np.log2(np.arange(1, horizon + 1))).astype(np.int64)


def worth(horizon: int, step_s: float, spacing_s: float) -> FloatArray:
    """(bands,) as how many windows one counts that starts ``spacing_s`` after the one before, at most one.

    Windows that are nearer than half an hour, or than as many steps as the root of the lead, tell the same.
    """
    lead = _last_leads(bands(horizon))
    out: FloatArray = np.minimum(1.0, spacing_s / np.maximum(ALIKE_S, np.sqrt(lead) * step_s))
    return out


def _last_leads(band: IntArray) -> FloatArray:
    """(bands,) the last lead of each."""
    return np.array([np.flatnonzero(band == b)[-1] + 1.0 for b in range(int(band[-1]) + 1)])


@dataclass(frozen=True, eq=False)
class Earned:
    """What members' past forecasts earned, summed by band of leads and indicator.

    Attributes:
        near: (bands, indicators, members) distances of members from outcomes.
        apart: (bands, indicators, members, members) distances of members from each other.
        windows: (bands, indicators) windows that were counted, each lead of a band as its part of one.
    """

    near: FloatArray
    apart: FloatArray
    windows: FloatArray

    @classmethod
    def of(cls, members: Sequence[FloatArray], outcome: FloatArray, each: FloatArray | None = None) -> Self:
        """From each member's paths (windows, samples, horizon, indicators) and outcomes (windows, horizon, indicators).

        A cell of a window counts where its outcome and all members are there, as ``each`` (bands,) windows (1).
        """
        horizon, indicators = outcome.shape[1:]
        count, cells = len(members), (horizon, indicators)
        near, apart, seen = np.zeros((count, *cells)), np.zeros((count, count, *cells)), np.zeros(cells)
        for part in _parts(members[0]):
            y = outcome[part]
            grids = [_grid(m[part]) for m in members]  # (windows, horizon, indicators, GRID) each
            there = ~np.isnan(y)
            for grid in grids:
                there &= ~np.isnan(grid[..., 0])
            seen += there.sum(axis=0)
            middle = np.where(there, y, 0.0)[..., None]
            grids = [np.where(there[..., None], grid - middle, 0.0) for grid in grids]
            own = [_apart(grid) for grid in grids]
            for j in range(count):
                near[j] += np.abs(grids[j]).mean(axis=-1).sum(axis=0)
                apart[j, j] += own[j].sum(axis=0) / GRID**2
                for k in range(j + 1, count):
                    both = np.concatenate([grids[j], grids[k]], axis=-1)
                    both.sort(axis=-1)
                    between = ((_apart(both) - own[j] - own[k]) / (2 * GRID**2)).sum(axis=0)
                    apart[j, k] += between
                    apart[k, j] += between
        band = bands(horizon)
        shape = (int(band[-1]) + 1, indicators)
        out = cls(np.zeros((*shape, count)), np.zeros((*shape, count, count)), np.zeros(shape))
        share = (1.0 if each is None else each) / np.bincount(band)
        for h, b in enumerate(band):
            out.near[b] += near[:, h].T * share[b]
            out.apart[b] += np.moveaxis(apart[:, :, h], -1, 0) * share[b]
            out.windows[b] += seen[h] * share[b]
        return out

    def without(self, member: int) -> Earned:
        """What the others earned."""
        near = np.delete(self.near, member, axis=-1)
        return Earned(near, np.delete(np.delete(self.apart, member, axis=-1), member, axis=-2), self.windows)

    def and_newer(self, newer: Earned, kept: float = 1.0) -> Earned:
        """Both together, the older fading to the share ``kept``."""
        return Earned(
            kept * self.near + newer.near, kept * self.apart + newer.apart, kept * self.windows + newer.windows
        )

    @property
    def crps(self) -> FloatArray:
        """(members,) mean CRPS of what was counted, every band of leads alike; NaN where nothing was."""
        known = self.windows > 0
        score = self.near - np.einsum("...kk->...k", self.apart) / 2
        if not known.any():
            return np.full(score.shape[-1], np.nan)
        out: FloatArray = (score[known] / self.windows[known][:, None]).mean(axis=0)
        return out

    def weights(self, prior: FloatArray, trust: float = 0.0) -> FloatArray:
        """(bands, indicators, members) weights of least CRPS, drawn to ``prior`` (members,) where windows are few.

        With ``trust`` the first member is believed where they are fewer than that: beside n windows stand trust^2 / n
        more in which the outcome was one of its own samples, so that the others have to be better by more than chance.
        What each has earned there follows from its distance to the first, whatever the unit.
        """
        windows = np.maximum(self.windows, 1e-9)[..., None]
        apart = self.apart / windows[..., None]
        believed = trust**2 / np.maximum(windows, 0.1)
        near = (self.near + believed * apart[..., 0, :]) / (windows + believed)
        unit = np.maximum(near.min(axis=-1, keepdims=True), 1e-300)
        near, apart = near / unit, apart / unit[..., None]
        caution = CAUTION / np.sqrt(np.maximum(windows + believed, 1.0))
        w = np.broadcast_to(prior, near.shape).copy()
        for _ in range(STEPS):
            slope = near - np.einsum("...jk,...k->...j", apart, w) + caution * np.log(np.maximum(w, 1e-12) / prior)
            slope -= (w * slope).sum(axis=-1, keepdims=True)
            w = w * np.exp(-np.clip(RATE * slope, -5.0, 5.0))
            w /= w.sum(axis=-1, keepdims=True)
        return np.where(self.windows[..., None] > 0, w, prior)


def pooled(members: Sequence[FloatArray], weights: FloatArray) -> FloatArray:
    """(windows, samples, horizon, indicators) rising samples of the pool of members' paths of that shape.

    ``weights`` (horizon, indicators, members). Where a member has no forecast the first stands in for it.
    """
    windows, samples, horizon, indicators = members[0].shape
    shares = _shares(weights, samples)
    some = [k for k in range(len(members)) if shares[..., k].any()]
    first = _rising(members[0])
    rising = [first if k == 0 else _standing_in(_rising(members[k]), first) for k in some]
    out = np.empty((windows, horizon, indicators, samples))
    for h, i in np.ndindex(horizon, indicators):
        at = 0
        for member, share in zip(rising, shares[h, i, some], strict=True):
            if share:
                out[:, h, i, at : at + share] = member[:, h, i].take(_spread(int(share), samples), axis=-1)
                at += share
    out.sort(axis=-1)
    return np.moveaxis(out, -1, 1)


def without_crumbs(weights: FloatArray) -> FloatArray:
    """(..., members) weights without those below `CRUMB`, the others in proportion; the greatest stays in any case."""
    kept = np.where((weights >= CRUMB) | (weights == weights.max(axis=-1, keepdims=True)), weights, 0.0)
    out: FloatArray = kept / kept.sum(axis=-1, keepdims=True)
    return out


def sharing(weights: FloatArray, samples: int) -> BoolArray:
    """(members,) who gives any of ``samples`` in any cell of a pool with ``weights`` (..., members).

    Without the others the pool is the same.
    """
    return np.asarray((_shares(weights, samples) > 0).reshape(-1, weights.shape[-1]).any(axis=0))


def arranged(rising: FloatArray, template: FloatArray) -> FloatArray:
    """Rising samples put into the order of a template's paths, both (windows, samples, horizon, indicators).

    Every marginal stays as it is and the paths get the template's dependence: ensemble copula coupling (Schefzik,
    Thorarinsdottir and Gneiting 2013).
    """
    cells = _cells(template)
    ordered = np.empty(cells.shape)
    np.put_along_axis(ordered, _order(cells), np.moveaxis(rising, 1, -1), axis=-1)
    absent = np.isnan(cells)
    if absent.any():
        ordered[absent] = np.nan
    return np.ascontiguousarray(np.moveaxis(ordered, -1, 1))


@dataclass(frozen=True, eq=False)
class Levels:
    """At which stated levels outcomes lay: what a level has to be for as much to lie below it as it says.

    Attributes:
        below: (bands, indicators, GRID) quantiles of the levels at which outcomes lay.
        windows: (bands, indicators) windows that were counted, each as one over the root of the lead: the farther
            ahead, the longer a spell in which all outcomes lie high or low.
    """

    below: FloatArray
    windows: FloatArray

    @classmethod
    def of(cls, rising: FloatArray, outcome: FloatArray) -> Self:
        """From rising samples (windows, samples, horizon, indicators) and outcomes (windows, horizon, indicators)."""
        horizon, indicators = outcome.shape[1:]
        y = outcome[:, None]
        level = ((rising < y).mean(axis=1) + (rising <= y).mean(axis=1)) / 2
        level[np.isnan(outcome) | np.isnan(rising).any(axis=1)] = np.nan
        band = bands(horizon)
        root = np.sqrt(_last_leads(band))
        below = np.empty((int(band[-1]) + 1, indicators, GRID))
        windows = np.zeros(below.shape[:2])
        at = (np.arange(GRID) + 0.5) / GRID
        for b in range(len(below)):
            for i in range(indicators):
                some = level[:, band == b, i]
                some = some[~np.isnan(some)]
                windows[b, i] = some.size / (band == b).sum() / root[b]
                below[b, i] = np.quantile(some, at) if some.size else at
        return cls(below, windows)

    def and_newer(self, newer: Levels, kept: FloatArray) -> Levels:
        """Both together, the older fading to shares ``kept`` (bands, indicators), weighed by their windows."""
        old, new = kept * self.windows, newer.windows
        part = (old / np.maximum(old + new, 1e-300))[..., None]
        return Levels(part * self.below + (1 - part) * newer.below, old + new)

    def columns(self, at: Sequence[int]) -> Levels:
        """Those of some indicators."""
        return Levels(self.below[:, list(at)], self.windows[:, list(at)])

    def applied(self, rising: FloatArray) -> FloatArray:
        """Rising samples at the levels that came true, in the middle of the distribution; its tails stay."""
        samples, horizon, indicators = rising.shape[1:]
        own = (np.arange(samples) + 0.5) / samples
        at = (np.arange(GRID) + 0.5) / GRID
        share = self.windows / (self.windows + WINDOWS_AGAINST)
        cells = np.moveaxis(rising, 1, -1)
        out = np.empty(cells.shape)
        inside = (at > MIDDLE[0]) & (at < MIDDLE[1])
        for h, b in enumerate(bands(horizon)):
            for i in range(indicators):
                to = at + share[b, i] * (self.below[b, i] - at)
                level = np.interp(own, [0.0, *at[inside], 1.0], [0.0, *to[inside], 1.0])
                place = np.clip(level * samples - 0.5, 0, samples - 1)
                left = np.minimum(place.astype(np.int64), samples - 2) if samples > 1 else np.zeros(1, dtype=np.int64)
                part = place - left
                cell = cells[:, h, i]
                out[:, h, i] = cell[:, left] * (1 - part) + cell[:, np.minimum(left + 1, samples - 1)] * part
        return np.moveaxis(out, -1, 1)


def _parts(paths: FloatArray) -> Iterator[slice]:
    """Windows some at a time."""
    size = max(1, AT_ONCE // max(1, paths[:1].size))
    return (slice(first, first + size) for first in range(0, len(paths), size))


def _apart(rising: FloatArray) -> FloatArray:
    """(...,) the sum of all distances between two of the rising values (..., count)."""
    count = rising.shape[-1]
    out: FloatArray = rising @ (2.0 * (2 * np.arange(count) - count + 1))
    return out


def _cells(paths: FloatArray) -> FloatArray:
    """(windows, horizon, indicators, samples), each cell's samples side by side in memory, where sorting is fast."""
    return np.ascontiguousarray(np.moveaxis(paths, 1, -1))


def _rising(paths: FloatArray) -> FloatArray:
    """(windows, horizon, indicators, samples) sorted."""
    cells = _cells(paths)
    if np.shares_memory(cells, paths):
        cells = cells.copy()
    cells.sort(axis=-1)
    return cells


def _order(cells: FloatArray) -> IntArray:
    """(..., samples) stable order of each cell; few have equal samples, and the others sort faster without the care."""
    order = np.argsort(cells, axis=-1)
    rising = np.take_along_axis(cells, order, axis=-1)
    tied = ~(rising[..., 1:] > rising[..., :-1]).all(axis=-1)
    order[tied] = np.argsort(cells[tied], axis=-1, kind="stable")
    return order


def _grid(paths: FloatArray) -> FloatArray:
    """(windows, horizon, indicators, GRID) quantiles of paths (windows, samples, ...), NaN where a sample is absent."""
    rising = _rising(paths)
    samples = rising.shape[-1]
    place = (np.arange(GRID) + 0.5) / GRID * (samples - 1)
    left = place.astype(np.int64)
    low, high = rising[..., left], rising[..., np.minimum(left + 1, samples - 1)]
    found: FloatArray = low + (high - low) * (place - left)
    absent = np.isnan(rising[..., -1])
    if absent.any():
        found[absent] = np.nan
    return found


def _standing_in(rising: FloatArray, first: FloatArray) -> FloatArray:
    """``rising`` (..., samples), and ``first`` where a sample is absent: those sort last."""
    absent = np.isnan(rising[..., -1:])
    return np.where(absent, first, rising) if absent.any() else rising


def _shares(weights: FloatArray, samples: int) -> IntArray:
    """(..., members) how many of the samples each member gives: by largest remainder, together all."""
    exact = weights * samples
    whole = np.floor(exact).astype(np.int64)
    missing = samples - whole.sum(axis=-1, keepdims=True)
    place = np.argsort(np.argsort(whole - exact, axis=-1, kind="stable"), axis=-1, kind="stable")
    out: IntArray = whole + (place < missing)
    return out


@lru_cache(maxsize=1024)
def _spread(share: int, samples: int) -> IntArray:
    """``share`` positions, read-only, spread evenly over ``samples`` rising ones."""
    out: IntArray = np.minimum(((np.arange(share) + 0.5) / share * samples).astype(np.int64), samples - 1)
    out.flags.writeable = False  # shared by all who ask alike
    return out
