"""PyTorch's fused attention, with bottom-right causal alignment and 0 (not NaN) for rows that see no key."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.checks import visible
from kernels.dense.reference import reference_attention
from kernels.registry import Mechanism

__all__ = ["MECHANISM", "sdpa_attention"]


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float) -> Tensor:
    """Same as the reference, computed by `torch.nn.functional.scaled_dot_product_attention`; (B, H, Lq, Dv)."""
    if k.shape[2] == 0:
        return q.new_zeros(*q.shape[:3], v.shape[3])
    if key_mask is None and (not causal or q.shape[2] == k.shape[2]):
        return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    if mask is None:
        raise AssertionError("a mask is present here")
    sees = mask.any(dim=-1, keepdim=True)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask | ~sees, scale=scale)
    return torch.where(sees, out, torch.zeros_like(out))


MECHANISM = Mechanism(
    name="sdpa",
    summary="dense attention; PyTorch's fused scaled_dot_product_attention",
    paper="Vaswani et al. 2017, arXiv 1706.03762, eq. 1; Dao et al. 2022, arXiv 2205.14135 where a flash kernel serves",
    cost="O(Lq Lk (D + Dv)) time, O(L (D + Dv)) memory",
    reference=reference_attention,
    torch=sdpa_attention,
)
