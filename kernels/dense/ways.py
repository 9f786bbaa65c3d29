"""Ways to compute the same dense attention: which is fastest depends on the shape, the mask and the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.checks import repeat_heads, visible
from kernels.dense.reference import reference_attention
from kernels.engines.partial import over_all_keys
from kernels.once import fused_once

__all__ = ["WAYS", "needs_mask", "scratch_bytes"]

_BYTES_OF_A_PAIR = 6
"""What a mask takes for each query and key: two of truth values and one of float32."""
_BYTES_OF_A_SCORE = 12
"""What scores, weights and a copy of either take for each of them where they are written out."""


def fused(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float) -> Tensor:
    """PyTorch's `scaled_dot_product_attention`, with a mask of all pairs where `needs_mask`; (B, H, Lq, Dv).

    Keys that heads share are not repeated on a CPU. Elsewhere they are: not every kernel takes them as they are, and
    what PyTorch falls back to then writes all pairs out.
    """
    lq, lk = q.shape[2], k.shape[2]
    if q.device.type != "cpu":
        k, v = (repeat_heads(x, q.shape[1]) for x in (k, v))
    shared = k.shape[1] != q.shape[1]
    if lk == 0:
        return q.new_zeros(*q.shape[:3], v.shape[3])
    causal = causal and lq > 1  # One query is the last one, which sees all keys.
    if not needs_mask(lq, lk, causal=causal, masked=key_mask is not None):
        return fused_once(scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=shared))
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    if mask is None:
        raise AssertionError("a mask is present here")
    sees = mask.any(dim=-1, keepdim=True)
    out = fused_once(scaled_dot_product_attention(q, k, v, attn_mask=mask | ~sees, scale=scale, enable_gqa=shared))
    return torch.where(sees, out, torch.zeros_like(out))


def blocks(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float) -> Tensor:
    """The block-sparse engine over all keys, which makes no mask; (B, H, Lq, Dv)."""
    return over_all_keys(q, k, v, causal=causal, key_mask=key_mask, scale=scale)[0]


WAYS: Mapping[str, Callable[..., Tensor]] = {"fused": fused, "blocks": blocks, "written out": reference_attention}
"""Each is called as `run(q, k, v, *, causal, key_mask, scale)` with checked tensors of equal head counts."""


def needs_mask(lq: int, lk: int, *, causal: bool, masked: bool) -> bool:
    """Whether PyTorch's attention needs a mask of pairs to compute this."""
    return masked or (causal and lq > 1 and lq != lk)


def scratch_bytes(way: str, *, batch: int, heads: int, lq: int, lk: int, causal: bool, masked: bool) -> int:
    """What a way holds for pairs of queries and keys."""
    if way == "written out":
        return batch * heads * lq * lk * _BYTES_OF_A_SCORE
    if way == "fused" and needs_mask(lq, lk, causal=causal, masked=masked):
        pairs = (batch if masked else 1) * (lq if causal else 1) * lk
        return pairs * _BYTES_OF_A_PAIR
    return 0
