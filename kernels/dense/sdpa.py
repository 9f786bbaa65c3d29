"""PyTorch's fused attention, with bottom-right causal alignment and 0 (not NaN) for rows that see no key."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.checks import visible
from kernels.dense.reference import reference_attention
from kernels.engines.kept import kept_keys
from kernels.engines.partial import over_all_keys
from kernels.engines.rules import full
from kernels.registry import Mechanism

__all__ = ["MECHANISM", "sdpa_attention"]

_BYTES_OF_A_PAIR = 6
"""What a mask takes for each query and key: two of truth values and one of float32."""


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float) -> Tensor:
    """Same as the reference, computed by `torch.nn.functional.scaled_dot_product_attention`; (B, H, Lq, Dv).

    That needs a mask of all pairs where a causal call has a ``key_mask`` or Lq differs from Lk. Where this mask would
    be larger than the inputs the block-sparse engine takes over, which makes none.
    """
    lq, lk = q.shape[2], k.shape[2]
    if lk == 0:
        return q.new_zeros(*q.shape[:3], v.shape[3])
    causal = causal and lq > 1  # One query is the last one, which sees all keys.
    if key_mask is None and (not causal or lq == lk):
        return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    batch = 1 if key_mask is None else key_mask.shape[0]
    if causal and batch * lq * lk * _BYTES_OF_A_PAIR > sum(x.numel() * x.element_size() for x in (q, k, v)):
        return over_all_keys(q, k, v, causal=True, key_mask=key_mask, scale=scale)[0]
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
    use="the exact comparison, and the choice for short histories",
    reference=reference_attention,
    torch=sdpa_attention,
    rule=full,
    stateful=kept_keys(sdpa_attention),
)
