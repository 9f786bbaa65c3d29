"""Attention as it is defined: every score, an explicit mask, a softmax. Slow, obvious, and right in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import compute_dtype, visible

__all__ = ["masked_attention", "reference_attention"]


def reference_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float
) -> Tensor:
    """softmax(scale * q k^T, masked keys at -inf) v; (B, H, Lq, Dv), rows without a visible key are 0."""
    return masked_attention(q, k, v, visible(q, k, causal=causal, key_mask=key_mask), scale=scale)[0]


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention under an explicit mask, broadcastable to (B, H, Lq, Lk), with its log-sum-exp.

    ``bias``, broadcastable to the scores, is added to them. Returns the output (B, H, Lq, Dv) in the type of q and
    the log of the sum of exponentials (B, H, Lq), -inf where a query sees no key.
    """
    dtype = q.dtype
    q, k, v = (x.to(compute_dtype(x)) for x in (q, k, v))
    scores = scale * torch.einsum("bhid,bhjd->bhij", q, k)
    if bias is not None:
        scores = scores + bias
    if mask is None:
        mask = torch.ones((), dtype=torch.bool, device=q.device)
    mask = mask.expand(scores.shape)
    sees = mask.any(dim=-1, keepdim=True)
    # Rows without a visible key are computed as if they saw all, then thrown away: no -inf - -inf on the way back.
    scores = scores.masked_fill(~mask & sees, float("-inf"))
    weights = torch.softmax(scores, dim=-1) if k.shape[2] else scores
    out = torch.where(sees, torch.einsum("bhij,bhjd->bhid", weights, v), v.new_zeros(()))
    if k.shape[2] == 0:
        return out.to(dtype), scores.new_full(scores.shape[:3], float("-inf"))
    lse = torch.logsumexp(scores, dim=-1).masked_fill(~sees[..., 0], float("-inf"))
    return out.to(dtype), lse
