"""`Capacity`: what one ready replica carries while the objective holds, as a posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
from scipy.special import ndtr, ndtri

from forecasting.errors import UsageError
from forecasting.panel import FloatArray

__all__ = ["Capacity"]

REACH = 4.0  # the grid goes this many prior standard deviations to either side


@dataclass(frozen=True, slots=True)
class Capacity:
    """Posterior over the demand that one ready replica carries (in the demand indicator's unit).

    Lognormal until something was learned from an indicator bound; from then on the probabilities of a grid of values.

    Attributes:
        median: its median.
        sigma: standard deviation of its logarithm; 0 means known exactly.
        prior_median, prior_sigma: what was believed at first, which is what evidence that ages gives way to (see
            `drift`); 0 where nothing is forgotten.
        weights: probability of every grid point (see `log_grid`); empty while the posterior is the lognormal.
    """

    median: float
    sigma: float = 0.0
    prior_median: float = 0.0
    prior_sigma: float = 0.0
    weights: tuple[float, ...] = ()

    TAU: ClassVar[float] = 0.1  # the bound gives way gradually: at 10 % above capacity it still holds in 16 % of steps
    LAPSE: ClassVar[float] = 0.02  # share of labels that say nothing about load (a slow disk, a lost scrape)
    DRIFT_S: ClassVar[float] = 14 * 86_400.0  # a new model, version or kind of traffic is expected once in this time

    def __post_init__(self) -> None:
        if not (math.isfinite(self.median) and self.median > 0):
            raise UsageError(f"replica capacity {self.median}: expected a positive number in the demand's unit")
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise UsageError(f"replica capacity sigma {self.sigma}: expected 0 or more")
        prior = (self.prior_median, self.prior_sigma)
        if prior != (0.0, 0.0) and not all(math.isfinite(p) and p > 0 for p in prior):
            raise UsageError(f"replica capacity prior {prior}: expected a positive median and sigma, or neither")
        if self.weights and (self.prior_sigma == 0.0 or len(self.weights) != self.log_grid().size):
            raise UsageError(f"replica capacity: {len(self.weights)} weights do not fit the grid of its prior {prior}")

    @classmethod
    def known(cls, per_replica: float) -> Capacity:
        """A capacity that is known exactly."""
        return cls(per_replica)

    @classmethod
    def prior(cls, median: float, spread: float = 2.0) -> Capacity:
        """A guess to learn from: ``spread`` (above 1) is the factor that one standard deviation stands for."""
        if not (math.isfinite(spread) and spread > 1.0):
            raise UsageError(f"replica capacity spread {spread}: expected a factor above 1")
        sigma = math.log(spread)
        return cls(median, sigma, median, sigma)

    @property
    def is_known(self) -> bool:
        """True when there is nothing to learn."""
        return self.sigma == 0.0

    def quantile(self, q: FloatArray | float) -> FloatArray:
        """Quantiles of the posterior, shape of ``q``, in the demand's unit."""
        if self.sigma == 0.0:
            return np.full(np.shape(q), self.median)
        if not self.weights:
            out: FloatArray = self.median * np.exp(self.sigma * ndtri(q))
            return out
        return np.exp(_log_quantile(self.log_grid(), np.asarray(self.weights), q))

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Central credible interval of that probability, in the demand's unit."""
        low, high = self.quantile(np.array([(1 - level) / 2, (1 + level) / 2]))
        return float(low), float(high)

    def draws(self, n: int) -> FloatArray:
        """(n,) equally likely values, to be paired with ``n`` sample paths.

        Midpoint quantiles in an order that is fixed but unrelated to the paths' (a golden-ratio sequence), so the
        same inputs always give the same decision.
        """
        if self.sigma == 0.0:
            return np.full(n, self.median)
        u = (np.arange(n) * 0.6180339887498949 + 0.5) % 1.0
        ranks = np.argsort(np.argsort(u, kind="stable"), kind="stable")
        return self.quantile((ranks + 0.5) / n)

    def observe(self, log_capacity_samples: FloatArray, noise_sigma: float) -> Capacity:
        """Posterior after independent readings of log-capacity with known noise (conjugate normal update)."""
        x = np.asarray(log_capacity_samples, dtype=np.float64)
        x = x[np.isfinite(x)]
        if x.size == 0 or self.sigma == 0.0:
            return self
        prior = 1.0 / self.sigma**2
        data = x.size / noise_sigma**2
        mean = (prior * math.log(self.median) + data * float(x.mean())) / (prior + data)
        return replace(self, median=math.exp(mean), sigma=math.sqrt(1.0 / (prior + data)), weights=())

    def observe_held(self, load_per_replica: float, held: bool) -> Capacity:
        """Posterior after one step in which a serving replica carried ``load_per_replica`` and the bound held or not.

        Probit observation with lapses: P(held) = `LAPSE` + (1 - 2 `LAPSE`) Phi((log c - log load) / `TAU`). The
        update is exact on the grid. (The usual closed form, a normal of equal mean and variance, Rasmussen and
        Williams 2006, eq. 3.58, grows overconfident when thousands of steps at low load all say "held": it counts
        the same tail again each time.) A label that was expected teaches next to nothing. Absent or non-positive
        loads teach nothing, nor does anything where capacity is known.
        """
        if self.sigma == 0.0 or not (math.isfinite(load_per_replica) and load_per_replica > 0):
            return self
        learner = self if self.prior_sigma > 0.0 else replace(self, prior_median=self.median, prior_sigma=self.sigma)
        log_c = learner.log_grid()
        z = (log_c - math.log(load_per_replica)) / self.TAU
        likely = self.LAPSE + (1.0 - 2 * self.LAPSE) * ndtr(z if held else -z)
        return learner._with_weights(learner._probabilities() * likely)

    def drift(self, dt_s: float) -> Capacity:
        """What is still believed ``dt_s`` seconds later: a little of the prior is mixed in again.

        Now and then a new model or version makes capacity another draw from the prior; one is expected in `DRIFT_S`.
        So evidence of a minute ago counts in full and that of several release cycles ago not at all, and a few
        surprises in a row are taken for a change rather than for as many lapses.
        """
        if self.prior_sigma == 0.0 or not dt_s > 0.0 or not (self.weights or self.sigma != self.prior_sigma):
            return self
        share = -math.expm1(-dt_s / self.DRIFT_S)
        return self._with_weights((1.0 - share) * self._probabilities() + share * _normal(self.prior_sigma))

    def log_grid(self) -> FloatArray:
        """(n,) logarithms of the values that have `weights`: equally spaced around the prior's median."""
        return math.log(self.prior_median) + _offsets(self.prior_sigma)

    def _probabilities(self) -> FloatArray:
        """(n,) present probabilities of the grid points."""
        if self.weights:
            return np.asarray(self.weights)
        z = (self.log_grid() - math.log(self.median)) / self.sigma
        density = np.exp(-0.5 * (z**2 - (z**2).min()))
        return np.asarray(density / density.sum())

    def _with_weights(self, weights: FloatArray) -> Capacity:
        """The same prior with these (not yet normalised) probabilities."""
        p = weights / weights.sum()
        log_c = self.log_grid()
        mean = float(p @ log_c)
        cell = float(log_c[1] - log_c[0])
        variance = float(p @ (log_c - mean) ** 2) + cell**2 / 12
        median = math.exp(float(_log_quantile(log_c, p, 0.5)))
        return replace(self, median=median, sigma=math.sqrt(variance), weights=tuple(p.tolist()))


@lru_cache(maxsize=1024)
def _offsets(sigma: float) -> FloatArray:
    """(n,) grid around 0, fine enough for the probit's width and for the prior's."""
    step = min(Capacity.TAU / 2, sigma / 8)
    half = math.ceil(REACH * sigma / step)
    return np.asarray(np.arange(-half, half + 1) * step, dtype=np.float64)


@lru_cache(maxsize=1024)
def _normal(sigma: float) -> FloatArray:
    """(n,) probabilities of a normal with mean 0 on that grid."""
    density = np.exp(-0.5 * (_offsets(sigma) / sigma) ** 2)
    return np.asarray(density / density.sum())


def _log_quantile(log_c: FloatArray, p: FloatArray, q: FloatArray | float) -> FloatArray:
    """Quantiles of a density that is constant in the cell around every grid point."""
    half = (log_c[1] - log_c[0]) / 2
    edges = np.concatenate([log_c - half, [log_c[-1] + half]])
    below = np.concatenate([[0.0], np.cumsum(p)])
    return np.asarray(np.interp(q, below / below[-1], edges))
