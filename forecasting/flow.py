"""The conditional normalizing flow over indicators and steps jointly; the only module that imports nflows.

    values y  --mixture CDF, then probit-->  u  --unit-row triangular map-->  z ~ N(0, I)

The first transform gives every cell (indicator, step) its own mixture of logistics, so that plateaus, skew and tails
are represented; the second ties the cells. Its matrix has rows of unit length, so that u is standard normal in every
cell whatever the matrix: the mixtures *are* the marginals, and any subset of cells can be sampled alone.

Cells are ordered indicator by indicator (demand first), steps within. The context is always required.

References:
    Flow++ (Ho et al. 2019, arXiv 1902.00275, eq. 12: mixture-of-logistics CDF); nflows 0.14 (transform machinery).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from nflows.distributions.normal import StandardNormal
from nflows.flows.base import Flow
from nflows.transforms.base import CompositeTransform, Transform
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FlowContext", "JointFlow", "MixtureTransform", "TriangularTransform", "inverse_table", "mixture_crps"]

_FREE_OFFSETS = (-4.6, -2.6, -1.4, -0.6, 0.0, 0.6, 1.4, 2.6, 4.6)
_SPIKE_OFFSETS = (-1.5, 0.0, 1.5)
_REACH = 14.0
_BLOCK_CELLS = 1024
_EQUAL_LOGISTICS = 1.0 / (math.sqrt(2.0) * math.log(2.0)) - 1.0


@dataclass(frozen=True, eq=False)
class FlowContext:
    """What the network says of one batch of windows, in normalised units.

    Attributes:
        log_weights: (B, C, K) log mixture weights, normalised over K.
        means: (B, C, K) component centres.
        scales: (B, C, K) component scales (logistic), positive.
        factor: (B, C, C) lower triangular with rows of unit length: the Cholesky factor of the correlation of u.
    """

    log_weights: Tensor
    means: Tensor
    scales: Tensor
    factor: Tensor

    def cells(self, index: Tensor) -> FlowContext:
        """The marginals of some cells only; the factor keeps their rows and all columns (it is then not square)."""
        return FlowContext(
            self.log_weights[:, index], self.means[:, index], self.scales[:, index], self.factor[:, index]
        )

    def double(self) -> FlowContext:
        """The same in float64."""
        return FlowContext(self.log_weights.double(), self.means.double(), self.scales.double(), self.factor.double())


def _standard(y: Tensor, context: FlowContext) -> Tensor:
    """(..., C, K) distance of each value from each component in units of its scale; y is (..., C)."""
    return (y[..., None] - context.means) / context.scales


def _probit(lower: Tensor, upper: Tensor) -> Tensor:
    """The normal quantile of a probability given from below and from above, accurate in both tails."""
    tiny = torch.finfo(lower.dtype).tiny
    below = torch.special.ndtri(lower.clamp(tiny, 0.5))
    above = -torch.special.ndtri(upper.clamp(tiny, 0.5))
    return torch.where(lower <= upper, below, above)


class MixtureTransform(Transform):  # type: ignore[misc]
    """u = probit(sum_k w_k sigmoid((y - m_k) / s_k)) cell by cell; increasing in y."""

    def forward(self, inputs: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """Values (B, C) to u (B, C) and the log-determinant (B,)."""
        u, log_density = self.marginals(inputs, context)
        log_normal = -0.5 * (u**2 + math.log(2 * math.pi))
        return u, (log_density - log_normal).sum(dim=-1)

    @staticmethod
    def marginals(y: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """U (B, C) and the marginal log-densities (B, C) of the values y (B, C)."""
        t = _standard(y, context)
        weights = context.log_weights.exp()
        u = _probit((weights * torch.sigmoid(t)).sum(-1), (weights * torch.sigmoid(-t)).sum(-1))
        parts = context.log_weights - context.scales.log() - t - 2 * F.softplus(-t)
        return u, torch.logsumexp(parts, dim=-1)

    def inverse(self, inputs: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """U (B, C) back to values (B, C) by bisection, with the log-determinant (B,)."""
        weights = context.log_weights.exp()
        span = 2.0 * _REACH * context.scales + (inputs.abs() ** 2)[..., None] * context.scales
        low = (context.means - span).amin(-1)
        high = (context.means + span).amax(-1)
        for _ in range(90 if inputs.dtype == torch.float64 else 50):
            middle = 0.5 * (low + high)
            t = _standard(middle, context)
            u = _probit((weights * torch.sigmoid(t)).sum(-1), (weights * torch.sigmoid(-t)).sum(-1))
            low = torch.where(u < inputs, middle, low)
            high = torch.where(u < inputs, high, middle)
        values = 0.5 * (low + high)
        _, forward_log_det = self.forward(values, context)
        return values, -forward_log_det


class TriangularTransform(Transform):  # type: ignore[misc]
    """z = L^{-1} u with the lower triangular, unit-row factor L of the context."""

    def forward(self, inputs: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """U (B, C) to z (B, C) by a triangular solve, and the log-determinant (B,)."""
        z = torch.linalg.solve_triangular(context.factor, inputs[..., None], upper=False)[..., 0]
        return z, -self._log_diagonal(context)

    def inverse(self, inputs: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """Z (B, C) to u = L z (B, C), and the log-determinant (B,)."""
        return (context.factor @ inputs[..., None])[..., 0], self._log_diagonal(context)

    @staticmethod
    def _log_diagonal(context: FlowContext) -> Tensor:
        """(B,) sum of the logs of the factor's diagonal."""
        return torch.diagonal(context.factor, dim1=-2, dim2=-1).log().sum(-1)


class JointFlow(Flow):  # type: ignore[misc]
    """The flow of both transforms over a standard normal base, with its context as a required argument."""

    def __init__(self) -> None:
        super().__init__(CompositeTransform([MixtureTransform(), TriangularTransform()]), StandardNormal([1]))

    def log_prob(self, inputs: Tensor, context: FlowContext) -> Tensor:
        """Joint log-density (B,) of values (B, C)."""
        z, log_det = self._transform(inputs, context)
        out: Tensor = log_det - 0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)
        return out

    def log_prob_parts(self, inputs: Tensor, observed: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """Log-density of the observed cells only, split into marginals and dependence.

        Absent cells are integrated out exactly: the copula of the rest has the sub-matrix of the correlation.

        Args:
            inputs: values (B, C); anything finite where absent.
            observed: bool (B, C).
            context: of the same batch.

        Returns:
            (marginal log-densities (B, C), 0 where absent; log copula density (B,), whose gradient reaches the factor
            alone: the marginals are fitted to their own likelihood).
        """
        u, log_density = MixtureTransform.marginals(inputs, context)
        log_density = torch.where(observed, log_density, torch.zeros_like(log_density))
        u = torch.where(observed, u.detach().clamp(-6.0, 6.0), torch.zeros_like(u))
        factor = context.factor
        if not bool(observed.all()):
            seen = observed.to(u.dtype)
            correlation = factor @ factor.transpose(-1, -2) * seen[:, :, None] * seen[:, None, :]
            factor = torch.linalg.cholesky(correlation + torch.diag_embed(1 - seen + 1e-6))
        z = torch.linalg.solve_triangular(factor, u[..., None], upper=False)[..., 0]
        log_diagonal = torch.diagonal(factor, dim1=-2, dim2=-1).log().sum(-1)
        return log_density, 0.5 * (u**2 - z**2).sum(-1) - log_diagonal

    def _sample(self, num_samples: int, context: FlowContext) -> Tensor:
        """(B, samples, C) drawn with torch's own generator (use `sample_from` for shared noise)."""
        noise = torch.randn(
            num_samples, context.factor.shape[-1], dtype=context.factor.dtype, device=context.factor.device
        )
        return self.sample_from(noise, context)

    @staticmethod
    def sample_from(noise: Tensor, context: FlowContext, *, spikes: int = 0) -> Tensor:
        """Values (B, M, C) for base noise (M, columns of the factor) shared by the whole batch, by tabulated inverse.

        ``spikes``: how many of the first components are narrow (a coarse table is enough there).
        """
        u = context.factor @ noise.T
        few = max(1, _BLOCK_CELLS // u.shape[1])
        parts = []
        for lo in range(0, len(u), few):
            rows = slice(lo, lo + few)
            block = FlowContext(
                context.log_weights[rows], context.means[rows], context.scales[rows], context.factor[rows]
            )
            parts.append(_look_up(u[rows], *inverse_table(block, spikes=spikes)))
        return torch.cat(parts).transpose(1, 2)


def _look_up(u: Tensor, grid: Tensor, at: Tensor) -> Tensor:
    """Values (B, C, M) of u (B, C, M) by linear interpolation in the table of `inverse_table`."""
    right = torch.searchsorted(at, u).clamp_(1, at.shape[-1] - 1)
    left = right - 1
    u0, u1 = at.gather(-1, left), at.gather(-1, right)
    share = ((u - u0) / (u1 - u0).clamp_min(1e-12)).clamp_(0.0, 1.0)
    return torch.lerp(grid.gather(-1, left), grid.gather(-1, right), share)


def _grid(context: FlowContext, spikes: int) -> Tensor:
    """(B, C, G) sorted points that resolve every component and reach beyond all of them."""
    m, s = context.means, context.scales
    fine = m.new_tensor(_FREE_OFFSETS)
    coarse = m.new_tensor(_SPIKE_OFFSETS)
    spans = [
        (m[..., :spikes, None] + s[..., :spikes, None] * coarse).flatten(-2),
        (m[..., spikes:, None] + s[..., spikes:, None] * fine).flatten(-2),
        (m - _REACH * s).amin(-1, keepdim=True),
        (m + _REACH * s).amax(-1, keepdim=True),
    ]
    return torch.cat(spans, dim=-1).sort(dim=-1).values


def inverse_table(context: FlowContext, *, spikes: int = 0) -> tuple[Tensor, Tensor]:
    """Points x (B, C, G) and u(x) (B, C, G), both increasing: a table of the inverse of the mixture transform."""
    x = _grid(context, spikes)
    weights, rates = context.log_weights.exp(), 1.0 / context.scales
    shifts = -context.means * rates
    lower = torch.zeros_like(x)
    t = torch.empty_like(x)
    for k in range(weights.shape[-1]):  # one component at a time stays in the cache, all at once does not
        torch.addcmul(shifts[..., k, None], x, rates[..., k, None], out=t)
        lower.addcmul_(t.sigmoid_(), weights[..., k, None])
    return x, torch.special.ndtri(lower.clamp_(1e-7, 1 - 1e-7)).cummax(dim=-1).values


def mixture_crps(y: Tensor, context: FlowContext) -> Tensor:
    """CRPS (B, C) of the marginals at y (B, C): E|X - y| - E|X - X'| / 2, differentiable in the mixtures.

    The first term is exact. In the second, the difference of two logistics is taken for a logistic of the same
    variance (times a correction that is exact for equal scales): within 0.5 % of the truth.
    """
    w = context.log_weights.exp()
    m, s = context.means, context.scales
    near = (w * _mean_distance(m - y[..., None], s)).sum(-1)
    k = m.shape[-1]
    i, j = torch.triu_indices(k, k, offset=1, device=m.device)
    first, second = F.one_hot(i, k).to(m.dtype).T, F.one_hot(j, k).to(m.dtype).T
    # Products with 0/1 matrices pick the pairs: far quicker here than indexing, forwards and backwards.
    total = s**2 @ (first + second)
    product = torch.exp(2 * s.log() @ (first + second))
    spread = total.sqrt() * (1 + 4 * _EQUAL_LOGISTICS * product / total**2)
    pairs = torch.exp(context.log_weights @ (first + second))
    apart = pairs * _mean_distance(m @ (first - second), spread)
    return near - apart.sum(-1) - (w**2 * s).sum(-1)


def _mean_distance(offset: Tensor, scale: Tensor) -> Tensor:
    """E|D| of a logistic D with the given centre and scale."""
    size = offset.abs()
    return size + 2 * scale * F.softplus(-size / scale)
