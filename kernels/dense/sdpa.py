"""PyTorch's fused attention, with bottom-right causal alignment and 0 (not NaN) for rows that see no key."""

from __future__ import annotations

from torch import Tensor

from kernels.dense.reference import reference_attention
from kernels.dense.ways import blocks, fused, scratch_bytes
from kernels.engines.kept import KEPT, kept_keys, kept_like
from kernels.engines.rules import full
from kernels.registry import Mechanism

__all__ = ["MECHANISM", "sdpa_attention"]


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float) -> Tensor:
    """Same as the reference, computed by `torch.nn.functional.scaled_dot_product_attention`; (B, H, Lq, Dv).

    That needs a mask of all pairs where a causal call has a ``key_mask`` or Lq differs from Lk. Where this mask would
    be larger than the inputs the block-sparse engine takes over, which makes none. Neighbouring heads of queries may
    share one of keys.
    """
    (batch, heads, lq, _), lk = q.shape, k.shape[2]
    masked = key_mask is not None
    scratch = scratch_bytes("fused", batch=batch, heads=heads, lq=lq, lk=lk, causal=causal, masked=masked)
    way = blocks if causal and lq > 1 and scratch > sum(x.numel() * x.element_size() for x in (q, k, v)) else fused
    return way(q, k, v, causal=causal, key_mask=key_mask, scale=scale)


MECHANISM = Mechanism(
    name="sdpa",
    summary="dense attention; PyTorch's fused scaled_dot_product_attention",
    paper="Vaswani et al. 2017, arXiv 1706.03762, eq. 1; Dao et al. 2022, arXiv 2205.14135 where a flash kernel serves",
    cost="O(Lq Lk (D + Dv)) time, O(L (D + Dv)) memory",
    use="the exact comparison, and the choice for short histories",
    reference=reference_attention,
    torch=sdpa_attention,
    rule=full,
    stateful=kept_keys(sdpa_attention, shares_keys=True),
    state_names=KEPT,
    state_like=kept_like(),
    shares_keys=True,
)
