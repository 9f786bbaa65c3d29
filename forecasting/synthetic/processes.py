"""Gaussian processes over composed stationary kernels, sampled by FFT.

A stationary covariance on a uniform grid of n rows is a Toeplitz matrix; wrapped to a circulant one of twice the size
its eigenvalues are one FFT, and a sample is two more: O(n log n) where a Cholesky factor takes O(n^3).

References:
    Dietrich and Newsam 1997 (circulant embedding); Duvenaud et al. 2013, arXiv 1302.4922 (composed kernels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from forecasting.panel import FloatArray
from forecasting.windows import DAY_S, WEEK_S

__all__ = ["KERNELS", "Composed", "Factor", "draw_kernel", "sample"]

_OTHER_PERIODS_S = (900.0, 3600.0, 2 * 3600.0, 6 * 3600.0, 12 * 3600.0)


def _smooth(lag: FloatArray, scale: float, _: float) -> FloatArray:
    return np.asarray(np.exp(-0.5 * (lag / scale) ** 2))


def _rough(lag: FloatArray, scale: float, _: float) -> FloatArray:
    return np.asarray(np.exp(-lag / scale))


def _once_smooth(lag: FloatArray, scale: float, _: float) -> FloatArray:
    r = np.sqrt(3.0) * lag / scale
    return np.asarray((1.0 + r) * np.exp(-r))


def _twice_smooth(lag: FloatArray, scale: float, _: float) -> FloatArray:
    r = np.sqrt(5.0) * lag / scale
    return np.asarray((1.0 + r + r**2 / 3.0) * np.exp(-r))


def _many_scales(lag: FloatArray, scale: float, shape: float) -> FloatArray:
    return np.asarray((1.0 + (lag / scale) ** 2 / (2.0 * shape)) ** -shape)


def _periodic(lag: FloatArray, period: float, width: float) -> FloatArray:
    return np.asarray(np.exp(-2.0 * (np.sin(np.pi * lag / period) / width) ** 2))


def _cosine(lag: FloatArray, period: float, _: float) -> FloatArray:
    return np.asarray(np.cos(2.0 * np.pi * lag / period))


def _white(lag: FloatArray, _: float, __: float) -> FloatArray:
    return np.asarray((lag == 0.0).astype(np.float64))


KERNELS: dict[str, Callable[[FloatArray, float, float], FloatArray]] = {
    "smooth": _smooth,
    "rough": _rough,
    "once smooth": _once_smooth,
    "twice smooth": _twice_smooth,
    "many scales": _many_scales,
    "periodic": _periodic,
    "cosine": _cosine,
    "white": _white,
}
"""Correlation (...,) at lags (...,) in seconds, by name: squared exponential, Matérn 1/2, 3/2 and 5/2, rational
quadratic, periodic, cosine, white noise; the second argument is the scale or period in seconds, the third a shape."""
_SEASONAL = ("periodic", "cosine")


@dataclass(frozen=True, slots=True)
class Factor:
    """One base kernel: a name of `KERNELS`, its scale or period in seconds, and its shape where it has one."""

    name: str
    scale_s: float
    shape: float = 1.0

    def __call__(self, lag_s: FloatArray) -> FloatArray:
        """(...,) correlation at lags (...,) in seconds."""
        return KERNELS[self.name](lag_s, self.scale_s, self.shape)


@dataclass(frozen=True, slots=True)
class Composed:
    """A sum of products of base kernels; the weights of the sum are its terms' variances and sum to 1."""

    terms: tuple[tuple[float, tuple[Factor, ...]], ...]

    def __call__(self, lag_s: FloatArray) -> FloatArray:
        """(...,) covariance at lags (...,) in seconds, 1 at lag 0."""
        total = np.zeros_like(lag_s)
        for weight, factors in self.terms:
            product = np.full_like(lag_s, weight)
            for factor in factors:
                product *= factor(lag_s)
            total += product
        return total

    def periods_s(self, least: float) -> tuple[float, ...]:
        """Periods in seconds of the seasonal terms that hold at least that share of the variance."""
        found = {
            factor.scale_s
            for weight, factors in self.terms
            if weight >= least
            for factor in factors
            if factor.name in _SEASONAL
        }
        return tuple(sorted(found))


def sample(
    rng: np.random.Generator,
    covariance: Callable[[FloatArray], FloatArray],
    *,
    rows: int,
    step_s: float,
    paths: int = 1,
) -> FloatArray:
    """(paths, rows) samples of a Gaussian process of mean 0 with that covariance of lags in seconds.

    Where the wrapped covariance is not positive (seasons that do not fit the circle) its negative eigenvalues are left
    out and the variance is kept.
    """
    half = fft.next_fast_len(max(rows, 2), real=True)
    lags = step_s * np.arange(half + 1)
    values = covariance(lags)
    power = np.maximum(fft.rfft(np.concatenate([values, values[-2:0:-1]])).real, 0.0)
    ends = power[0] + power[-1]
    variance = (2.0 * power.sum() - ends) / (2 * half)
    if variance <= 0.0:
        return np.zeros((paths, rows))
    white = fft.rfft(rng.standard_normal((paths, 2 * half)))
    out = fft.irfft(white * np.sqrt(power * (values[0] / variance)), n=2 * half)
    return np.asarray(out[:, :rows])


def draw_kernel(rng: np.random.Generator, *, rows: int, step_s: float, calendar: Sequence[float] = ()) -> Composed:
    """A kernel of one to four terms, each a product of one or two base kernels whose scales a panel of that size shows.

    Args:
        rng: what is drawn from.
        rows: of the panel.
        step_s: seconds a row.
        calendar: periods in seconds that seasonal terms have besides those of minutes to hours.
    """
    span = rows * step_s
    periods = [p for p in (*calendar, *calendar, *calendar, *_OTHER_PERIODS_S) if 4 * step_s <= p <= span / 2]
    count = int(rng.integers(1, 5))
    shares = rng.dirichlet(np.full(count, 1.5))
    terms = [(float(share), _draw_product(rng, periods, step_s, span)) for share in shares]
    return Composed(tuple(terms))


def _draw_product(rng: np.random.Generator, periods: Sequence[float], step_s: float, span: float) -> tuple[Factor, ...]:
    """One base kernel, or a season that changes slowly."""
    if periods and rng.random() < 0.45:
        period = float(rng.choice(np.asarray(periods)))
        season = Factor(str(rng.choice(_SEASONAL, p=[0.75, 0.25])), period, float(np.exp(rng.uniform(-1.2, 0.7))))
        if rng.random() < 0.5:
            return (season,)
        return season, Factor("twice smooth", period * float(np.exp(rng.uniform(0.7, 3.0))))
    if rng.random() < 0.12:
        return (Factor("white", step_s),)
    name = str(
        rng.choice(("smooth", "rough", "once smooth", "twice smooth", "many scales"), p=[0.15, 0.3, 0.2, 0.15, 0.2])
    )
    scale = float(np.exp(rng.uniform(np.log(1.5 * step_s), np.log(max(span / 3, 2 * step_s)))))
    return (Factor(name, scale, float(np.exp(rng.uniform(-1.0, 1.5)))),)


CALENDAR_S: tuple[float, ...] = (DAY_S, WEEK_S)
"""Periods that services have by the clock, seconds."""
