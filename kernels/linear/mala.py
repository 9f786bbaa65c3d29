"""MALA: linear attention whose weights keep the magnitude of the query.

With f = ELU + 1, s_j = c f(q).f(k_j) and S their sum over the N visible keys, key j has the weight

    (1 + 1 / S) s_j - S / N

which sums to 1 and may be negative: ordinary linear attention plus c times the centred raw score.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import elu, pad

from kernels.checks import compute_dtype, visible
from kernels.engines.linear_scan import linear_attention
from kernels.errors import KernelError
from kernels.registry import Mechanism

__all__ = ["MECHANISM", "mala_attention", "reference_mala"]

_EPS = 1e-6


def mala_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    c: str | float = "code",
) -> Tensor:
    """Magnitude-aware linear attention, (B, H, Lq, Dv); rows that see no key are 0.

    Args:
        q: queries (B, H, Lq, D).
        k: keys (B, H, Lk, D).
        v: values (B, H, Lk, Dv).
        causal: each query sees the keys up to it, and N counts those.
        key_mask: bool (B, Lk).
        scale: used by ``c="code"``.
        c: factor on the scores: "code" for scale / N as the authors' code has it, or a number (1 in the paper, which
            half types cannot hold at large N).
    """
    to, dtype = compute_dtype(q), q.dtype
    fq, fk, v = 1.0 + elu(q.to(to)), 1.0 + elu(k.to(to)), v.to(to)
    if key_mask is not None:
        shown = key_mask[:, None, :, None]
        fk, v = fk.masked_fill(~shown, 0.0), v.masked_fill(~shown, 0.0)
    seen, values = _counts(k, v, q.shape[2], causal, key_mask)
    origin = torch.zeros_like(values)
    if not causal:
        # Weights sum to 1, so that values may be counted from their mean: then nothing large is subtracted.
        origin, values = values / seen.clamp_min(1.0), origin
        v = v - origin
    # A last column of ones makes the sum of the scores come out beside the sum of the values.
    both = linear_attention(fq, fk, pad(v, (0, 1), value=1.0), log_decay=None, causal=causal)
    raw, total = both[..., :-1], both[..., -1:]
    factor = _factor(c, scale, seen)
    total = factor * total
    out = (1.0 + 1.0 / (total + _EPS)) * factor * raw - total * values / seen.clamp_min(1.0)
    out = out + origin * total / (total + _EPS)
    return torch.where(seen > 0, out, torch.zeros_like(out)).to(dtype)


def reference_mala(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    c: str | float = "code",
) -> Tensor:
    """The definition: the Lq x Lk matrix of weights; arguments as for `mala_attention`."""
    to, dtype = compute_dtype(q), q.dtype
    fq, fk = 1.0 + elu(q.to(to)), 1.0 + elu(k.to(to))
    scores = torch.einsum("bhid,bhjd->bhij", fq, fk)
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    seen = mask.sum(dim=-1, keepdim=True).to(to)
    scores = (_factor(c, scale, seen) * scores).masked_fill(~mask, 0.0)
    total = scores.sum(dim=-1, keepdim=True)
    weights = (1.0 + 1.0 / (total + _EPS)) * scores - total / seen.clamp_min(1.0)
    return torch.einsum("bhij,bhjd->bhid", weights.masked_fill(~mask, 0.0), v.to(to)).to(dtype)


def _counts(k: Tensor, v: Tensor, lq: int, causal: bool, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Number of visible keys (B or 1, 1, Lq or 1, 1) and the sum of their values (B, H, Lq or 1, Dv) of each query."""
    lk = k.shape[2]
    shown = torch.ones(1, lk, device=k.device) if key_mask is None else key_mask
    shown = shown.to(v.dtype)[:, None, :, None]
    if not causal:
        return shown.sum(dim=2, keepdim=True), v.sum(dim=2, keepdim=True)
    sums = shown.cumsum(dim=2), v.cumsum(dim=2)
    if lq <= lk:
        return sums[0][:, :, lk - lq :], sums[1][:, :, lk - lq :]
    return pad(sums[0], (0, 0, lq - lk, 0)), pad(sums[1], (0, 0, lq - lk, 0))


def _factor(c: str | float, scale: float, seen: Tensor) -> Tensor:
    """The factor on the scores, broadcastable to (B, H, Lq, 1)."""
    if c == "code":
        return scale / seen.clamp_min(1.0)
    if isinstance(c, str) or not 0.0 < c < float("inf"):
        raise KernelError(f"c is {c!r}, expected 'code' or a positive number")
    return torch.full_like(seen, float(c))


MECHANISM = Mechanism(
    name="mala",
    summary="linear attention that keeps the magnitude of the query",
    paper="MALA, Magnitude-Aware Linear Attention, arXiv 2507.00698 (the causal form is ours)",
    cost="O(L D Dv) time, O(L D + D Dv) memory",
    function="magnitude-aware linear attention",
    reference=reference_mala,
    torch=mala_attention,
)
