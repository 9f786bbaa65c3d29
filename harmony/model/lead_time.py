"""`LeadTime`: the time from asking for a replica to having it ready, as a posterior learned from starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import t as student_t

from forecasting.errors import UsageError

__all__ = ["LeadTime"]


@dataclass(frozen=True, slots=True)
class LeadTime:
    """Posterior over a start-up time: log-seconds are normal with unknown mean and variance (normal-inverse-gamma).

    `mu`, `kappa`, `alpha`, `beta` are the usual hyper-parameters of log-seconds; ``kappa = inf`` means known exactly.
    The predictive distribution of the next start is a log-Student-t.
    """

    mu: float
    kappa: float = math.inf
    alpha: float = 1.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.mu):
            raise UsageError("lead time: expected a positive number of seconds")

    @classmethod
    def known(cls, seconds: float) -> LeadTime:
        """A lead time that is known exactly; `UsageError` unless it is positive."""
        if not (math.isfinite(seconds) and seconds > 0):
            raise UsageError(f"lead time {seconds} s: expected a positive number of seconds")
        return cls(math.log(seconds))

    @classmethod
    def prior(cls, median_s: float, *, spread: float = 1.5, weight: float = 2.0) -> LeadTime:
        """A guess worth ``weight`` starts: ``spread`` is the factor that one standard deviation stands for."""
        known = cls.known(median_s)
        if not (spread > 1.0 and weight > 0.0):
            raise UsageError(f"lead time prior: spread {spread} must exceed 1 and weight {weight} must be positive")
        return cls(known.mu, weight, 1.0 + weight / 2, (weight / 2) * math.log(spread) ** 2)

    @property
    def is_known(self) -> bool:
        """True when there is nothing to learn."""
        return math.isinf(self.kappa)

    @property
    def median_s(self) -> float:
        """Median of the next start, seconds."""
        return math.exp(self.mu)

    def quantile_s(self, q: float) -> float:
        """Quantile ``q`` of the next start, seconds."""
        if self.is_known:
            return self.median_s
        scale = math.sqrt(self.beta * (1 + 1 / self.kappa) / self.alpha)
        return math.exp(self.mu + scale * float(student_t.ppf(q, 2 * self.alpha)))

    def steps(self, step_s: float, q: float = 0.9) -> int:
        """Steps until a replica asked for now is ready, at quantile ``q``: max(1, ceil(lead / step))."""
        return max(1, math.ceil(round(self.quantile_s(q) / step_s, 9)))

    def observe(self, start_s: float) -> LeadTime:
        """Posterior after one start that took ``start_s`` seconds (conjugate update)."""
        if self.is_known:
            return self
        if not (math.isfinite(start_s) and start_s > 0):
            raise UsageError(f"observed start of {start_s} s: expected a positive number of seconds")
        x = math.log(start_s)
        kappa = self.kappa + 1
        mu = (self.kappa * self.mu + x) / kappa
        beta = self.beta + self.kappa * (x - self.mu) ** 2 / (2 * kappa)
        return LeadTime(mu, kappa, self.alpha + 0.5, beta)
