"""Engine 3 in Triton: attention over some of the keys with its log-sum-exp is engine 1, and received attention."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.triton.block_sparse import launch_for
from kernels.triton.support import LOG2E, capability, launch_options, on_device, padded, precision, widened

__all__ = ["received_attention"]


def received_attention(q: Tensor, k: Tensor, lse: Tensor, *, causal: bool, scale: float) -> Tensor:
    """The sum over queries of their weights on each key, (B, H, Lk) float32, without a gradient.

    q is (B, H, Lq, D), k (B, Hk, Lk, D) with Hk dividing H, lse (B, H, Lq) the log-sum-exp of the queries over all keys
    that they see.
    """
    from kernels.triton.partial_kernels import received

    q, k = widened(q), widened(k)
    (batch, heads, lq, d), lk = q.shape, k.shape[2]
    total = torch.zeros(batch, heads, lk, dtype=torch.float32, device=q.device)
    if 0 in (batch, heads, lq, lk):
        return total
    how = launch_for(lk, None, d, q.dtype, backward=True, arch=capability(q))
    blocks = -(-lk // how.block_n)
    with on_device(q):
        received[(blocks * batch * heads,)](
            q,
            k,
            lse.float().contiguous(),
            total,
            *q.stride(),
            *k.stride(),
            heads,
            heads // k.shape[1],
            lq,
            lk,
            blocks,
            lk - lq,
            scale * LOG2E,
            D=d,
            BLOCK_M=how.block_m,
            BLOCK_N=how.block_n,
            BLOCK_D=padded(d),
            CAUSAL=causal,
            PRECISION=precision(q.dtype),
            **launch_options(how.warps, how.stages),
        )
    return total
