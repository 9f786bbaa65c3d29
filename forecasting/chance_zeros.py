"""Zeros that come by chance: readings of zero that say nothing of what an indicator does, and nothing foretells."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from forecasting.panel import BoolArray, FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["ChanceZeros"]

LEAST_ROWS = 500  # readings of which it can be told whether zeros come by chance
SHARE = (0.02, 0.75)  # of readings that are zero
LAGS = (1, 2, 3)
UNRELATED = 0.12  # correlations below this are none: four standard errors of a thousand readings
KNOWN = 400.0  # readings that the share in what was learned counts as, beside the window's own
BEYOND_CHANCE = 1e-4  # probability of a run of zeros: a rarer one is an indicator that has stopped


@dataclass(frozen=True, eq=False)
class ChanceZeros:
    """Which indicators read zero by chance, and how often.

    A count of sockets or a rate of bytes that is zero in one reading of five, whatever was read before, is a scrape
    that found nothing. Who learns from all readings as they are sees no rhythm through such gaps. So these zeros are
    hidden from the forecasters, which forecast what is read otherwise, and zeros are put back as often as they come. As
    they are independent of all before, nothing is lost by that.

    Attributes:
        share: (indicators,) of the readings that are zero by chance; 0 where none are.
    """

    share: FloatArray

    @classmethod
    def of(cls, panels: Sequence[Panel]) -> Self:
        """From what was read: zeros unrelated to the zeros and the values of the steps before them."""
        columns = range(panels[0].values.shape[1])
        return cls(np.array([_share([p.values[:, k] for p in panels]) for k in columns]))

    def __bool__(self) -> bool:
        return bool((self.share > 0).any())

    def hidden(self, panels: Sequence[Panel]) -> list[Panel]:
        """The panels with such zeros absent."""
        return [p.replace(values=self._without(p.values)) for p in panels] if self else list(panels)

    def hidden_in(self, windows: WindowBatch) -> WindowBatch:
        """The windows with such zeros absent."""
        if not self:
            return windows
        seasonal = None if windows.seasonal is None else self._without(windows.seasonal)
        return dataclasses.replace(windows, values=self._without(windows.values), seasonal=seasonal)

    def put_back(
        self, paths: FloatArray, windows: WindowBatch, columns: Sequence[int], rng: np.random.Generator
    ) -> FloatArray:
        """Paths (windows, samples, horizon, columns) of what is read otherwise, with zeros among them.

        Of each cell's sorted samples every so many become zero, so that the others keep their distribution; steps begin
        to count at places of their own, so that zeros of one step say nothing of those of the next. ``windows`` are as
        they were read. Where an indicator has read zero for longer than chance allows, most samples are zero.
        """
        samples, horizon = paths.shape[1:3]
        start = rng.random((horizon, len(self.share)))[:, list(columns)]  # whatever else is asked for
        for i, k in enumerate(columns):
            if not self.share[k]:
                continue
            share = self._now(windows.values[:, :, k], float(self.share[k]))[:, None, None]
            cells = paths[..., i]
            order = np.argsort(cells, axis=1, kind="stable")
            rank = np.empty_like(order)
            np.put_along_axis(rank, order, np.arange(samples)[None, :, None], axis=1)
            zero = np.asarray(np.floor((rank + 1) * share + start[:, i]) > np.floor(rank * share + start[:, i]))
            seen = np.asarray(~np.isnan(windows.values[:, :, k]).all(axis=1))
            zero |= np.isnan(cells) & seen[:, None, None]  # it read nothing but zeros
            paths[..., i] = np.where(zero, 0.0, cells)
        return paths

    def _without(self, values: FloatArray) -> FloatArray:
        out: FloatArray = np.where((values == 0.0) & (self.share > 0), np.nan, values)
        return out

    def _now(self, values: FloatArray, share: float) -> FloatArray:
        """(batch,) how often zero comes next, by windows (batch, time) and what was learned."""
        seen, zero = ~np.isnan(values), values == 0.0
        now = (KNOWN * share + zero.sum(axis=1)) / (KNOWN + seen.sum(axis=1))
        other = np.asarray(seen & ~zero)[:, ::-1]
        run = (zero[:, ::-1] & (np.cumsum(other, axis=1) == 0)).sum(axis=1)
        stopped = share**run < BEYOND_CHANCE
        out: FloatArray = np.where(stopped, np.maximum(now, (run + 1) / (run + 2)), now)
        return out


def _share(series: Sequence[FloatArray]) -> float:
    """How many of an indicator's readings are zero by chance, 0 if none."""
    values = np.concatenate([x[~np.isnan(x)] for x in series])
    if len(values) < LEAST_ROWS or values.min() < 0.0:
        return 0.0
    zero = values == 0.0
    share = float(zero.mean())
    if not SHARE[0] <= share <= SHARE[1]:
        return 0.0
    related = [_correlation(zero[lag:], zero[:-lag]) for lag in LAGS]
    before = ~zero[:-1]
    related.append(_correlation(zero[1:][before], values[:-1][before]))
    return share if max(map(abs, related)) < UNRELATED else 0.0


def _correlation(a: BoolArray, b: FloatArray | BoolArray) -> float:
    """Of two series, 0 where one does not vary."""
    x, y = a - a.mean(), b - b.mean()
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / size if size > 0 else 0.0
