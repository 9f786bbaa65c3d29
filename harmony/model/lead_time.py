"""`LeadTime`: the time from asking for a replica to having it ready, as a posterior learned from starts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from scipy.special import stdtr, stdtrit  # Student's t without the checks, and the memory, of scipy.stats

from forecasting.errors import UsageError

__all__ = ["LeadTime"]

LOG_MAX = 700.0  # seconds beyond exp(this) are no number any more


@dataclass(frozen=True, slots=True)
class LeadTime:
    """Posterior over a start-up time: log-seconds are normal with unknown mean and variance (normal-inverse-gamma).

    `mu`, `kappa`, `alpha`, `beta` are the usual hyper-parameters of log-seconds; ``kappa = inf`` means known exactly.
    The predictive distribution of the next start is a log-Student-t. Evidence is worth at most `memory` starts, so
    that old ones fade once there are more; infinite remembers all.
    """

    mu: float
    kappa: float = math.inf
    alpha: float = 1.0
    beta: float = 0.0
    memory: float = math.inf

    STUCK: ClassVar[float] = 0.99  # quantile beyond which a start that still runs is stuck
    MEMORY: ClassVar[float] = 50.0  # a new image or node pool counts for half after about 35 starts

    def __post_init__(self) -> None:
        if not math.isfinite(self.mu):
            raise UsageError("lead time: expected a positive number of seconds")
        if not (self.kappa > 0 and self.alpha > 0 and self.beta >= 0 and self.memory > 0):
            raise UsageError(
                f"lead time: kappa {self.kappa}, alpha {self.alpha} and memory {self.memory} must be positive, "
                f"beta {self.beta} not negative"
            )

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

    @classmethod
    def measured(cls, median_s: float, *, spread: float = 1.5, weight: float = 2.0) -> LeadTime:
        """A first guess for a live service: as `prior`, and forgetting starts beyond the last `MEMORY`."""
        return replace(cls.prior(median_s, spread=spread, weight=weight), memory=cls.MEMORY)

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
        return math.exp(self.mu + scale * float(stdtrit(2 * self.alpha, q)))

    @property
    def stuck_after_s(self) -> float:
        """Age beyond which a start that still runs is stuck, seconds: longer than nearly all starts take."""
        return self.quantile_s(self.STUCK)

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
        return LeadTime(mu, kappa, self.alpha + 0.5, beta, self.memory)._faded()

    def observe_failed(self, age_s: float) -> LeadTime:
        """Posterior after a start that failed at the age of ``age_s`` seconds: it would have taken at least that.

        One that was stuck before it failed says that something was wrong, and not how long starts take.
        """
        return self if age_s > self.stuck_after_s else self.with_pending((age_s,))

    def expected(self, pending_s: Iterable[float]) -> LeadTime:
        """What to decide with while starts still run: `with_pending`, as far as that may lengthen what is planned for.

        A start that does not end is no longer a slow one: without a limit, what is stuck for an hour would have
        decisions look an hour ahead, and count what they order meanwhile for nothing. So the 90 % quantile grows to
        `stuck_after_s` at most.
        """
        longer = self.with_pending(pending_s)
        if longer is self:
            return self
        usual_s, most_s = self.quantile_s(0.9), self.stuck_after_s
        if longer.quantile_s(0.9) <= most_s:
            return longer
        return replace(self, mu=self.mu + math.log(most_s / usual_s))

    def with_pending(self, ages_s: Iterable[float]) -> LeadTime:
        """What to expect while starts asked for ``ages_s`` seconds ago still run; for one decision, not to be kept.

        They are right-censored. Each that is older than the median of what is expected counts as if it took the
        conditional median (half of such starts take longer), youngest first; younger ones say nearly nothing. A
        start that has not ended cannot narrow the spread, so weight and degrees of freedom stay and the scale never
        shrinks: no quantile from the median up is shorter than before. Ages that are no positive number are ignored.
        """
        expected = self
        if self.is_known:
            return expected
        for age_s in sorted(a for a in ages_s if math.isfinite(a) and a > 0):
            expected = expected._censored(math.log(age_s))
        return expected

    def _censored(self, log_age: float) -> LeadTime:
        """After one start that has lasted exp(``log_age``) seconds and is not ready."""
        if log_age <= self.mu:
            return self
        freedom = 2 * self.alpha
        scale = math.sqrt(self.beta * (1 + 1 / self.kappa) / self.alpha)
        # survival functions rather than 1 - cdf: exact far out in the tail
        beyond = float(stdtr(freedom, -(log_age - self.mu) / scale)) if scale > 0.0 else 0.0
        x = log_age if beyond <= 0.0 else self.mu - scale * float(stdtrit(freedom, beyond / 2))
        full = self.observe(math.exp(x)) if x < LOG_MAX else self
        wider = max(self.beta, full.beta * self.alpha / full.alpha)
        return replace(self, mu=full.mu, beta=wider)

    def _faded(self) -> LeadTime:
        """With evidence worth at most `memory` starts; median and spread stay."""
        if self.kappa <= self.memory:
            return self
        alpha = min(self.alpha, 1.0 + self.memory / 2)
        return replace(self, kappa=self.memory, alpha=alpha, beta=self.beta * alpha / self.alpha)
