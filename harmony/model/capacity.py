"""`Capacity`: what one ready replica carries while the objective holds, as a posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from forecasting.errors import UsageError
from forecasting.panel import FloatArray

__all__ = ["Capacity"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """Lognormal posterior over the demand that one ready replica carries (in the demand indicator's unit).

    `median` is its median, `sigma` the standard deviation of its logarithm; 0 means known exactly. `prior_sigma` is
    what `sigma` goes back to as evidence ages (see `drift`); 0 means that nothing is forgotten.
    """

    median: float
    sigma: float = 0.0
    prior_sigma: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.median) and self.median > 0):
            raise UsageError(f"replica capacity {self.median}: expected a positive number in the demand's unit")
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise UsageError(f"replica capacity sigma {self.sigma}: expected 0 or more")
        if not (math.isfinite(self.prior_sigma) and self.prior_sigma >= 0):
            raise UsageError(f"replica capacity prior sigma {self.prior_sigma}: expected 0 or more")

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
        return cls(median, sigma, sigma)

    @property
    def is_known(self) -> bool:
        """True when there is nothing to learn."""
        return self.sigma == 0.0 and self.prior_sigma == 0.0

    def draws(self, n: int) -> FloatArray:
        """(n,) equally likely values, to be paired with ``n`` sample paths.

        Midpoint quantiles in an order that is fixed but unrelated to the paths' (a golden-ratio sequence), so the
        same inputs always give the same decision.
        """
        if self.sigma == 0.0:
            return np.full(n, self.median)
        u = (np.arange(n) * 0.6180339887498949 + 0.5) % 1.0
        ranks = np.argsort(np.argsort(u, kind="stable"), kind="stable")
        z = norm.ppf((ranks + 0.5) / n)
        out: FloatArray = self.median * np.exp(self.sigma * z)
        return out

    def observe(self, log_capacity_samples: FloatArray, noise_sigma: float) -> Capacity:
        """Posterior after independent readings of log-capacity with known noise (conjugate normal update)."""
        x = np.asarray(log_capacity_samples, dtype=np.float64)
        x = x[np.isfinite(x)]
        if x.size == 0 or self.sigma == 0.0:
            return self
        prior = 1.0 / self.sigma**2
        data = x.size / noise_sigma**2
        mean = (prior * math.log(self.median) + data * float(x.mean())) / (prior + data)
        return replace(self, median=math.exp(mean), sigma=math.sqrt(1.0 / (prior + data)))
