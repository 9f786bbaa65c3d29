"""Attention as it is defined: every score, an explicit mask, a softmax. Slow, obvious, and right in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import visible
from kernels.registry import Mechanism

__all__ = ["MECHANISM", "reference_attention"]


def reference_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float
) -> Tensor:
    """softmax(scale * q k^T, masked keys at -inf) v; (B, H, Lq, Dv), rows without a visible key are 0."""
    scores = scale * torch.einsum("bhid,bhjd->bhij", q, k)
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    if mask is None:
        return torch.einsum("bhij,bhjd->bhid", torch.softmax(scores, dim=-1), v)
    mask = mask.expand(scores.shape)
    weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)
    weights = torch.where(mask.any(dim=-1, keepdim=True), weights, torch.zeros_like(weights))
    return torch.einsum("bhij,bhjd->bhid", weights, v)


MECHANISM = Mechanism(
    name="reference",
    run=reference_attention,
    summary="the definition: all scores, explicit mask, softmax",
    source="Vaswani et al. 2017, arXiv 1706.03762, eq. 1",
)
