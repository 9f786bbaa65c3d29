"""Attention over blocks of keys that were chosen from the data, by engine 1.

Each sequence and head has lists of its own. Engine 1 has lists per head but none per sequence, so that the batch is
folded into the heads; the key mask then is part of the rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.checks import compute_dtype
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.plan import BlockPlan, plan_from_lists
from kernels.engines.rules import Call, Sees
from kernels.registry import Backend
from kernels.triton.block_sparse import planned_attention

__all__ = ["Choice", "chosen_attention", "is_empty", "nothing"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Blocks of keys for tiles of consecutive queries.

    `index` (B, H, tiles, n) holds numbers of blocks of ``block_k`` keys, each at most once for a tile, -1 for none.
    """

    block_q: int
    block_k: int
    index: Tensor


def chosen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    choice: Choice,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    offset: int | None = None,
    further: Sees | None = None,
    backend: Backend = "torch",
) -> tuple[Tensor, Tensor]:
    """Softmax attention of q (B, H, Lq, D) over the chosen keys among k (B, H, Lk, D), v (B, H, Lk, Dv).

    Args:
        q: queries.
        k: keys.
        v: values.
        choice: blocks of keys for each tile of queries.
        causal: query i sees a chosen key j only if j <= i + offset.
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: factor on the dot products.
        offset: position of query 0 on the axis of the keys, Lk - Lq if None.
        further: what else hides keys, `further(b * H + h, query position, key position)`.
        backend: "torch" or "triton".

    Returns:
        Output (B, H, Lq, Dv) in the type of q, 0 where nothing is seen, and log-sum-exp (B, H, Lq), -inf there; both
        with gradients.
    """
    (batch, heads, lq, _), lk = q.shape, k.shape[2]
    if is_empty(q, k):
        return nothing(q, k, v), q.new_full(q.shape[:3], float("-inf"), dtype=compute_dtype(q))
    offset = lk - lq if offset is None else offset
    shown = None if key_mask is None else key_mask.repeat_interleave(heads, dim=0)
    plan = _plan(choice, lk=lk, offset=offset, causal=causal, shown=shown, asked=further is not None)

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = (j <= i) if causal else (j >= 0) & (i == i)
        if shown is not None:
            seen = seen & shown[h.long(), j.clamp(0, lk - 1).long()]
        return seen if further is None else seen & further(h, i, j)

    fq, fk, fv = (x.reshape(1, batch * heads, *x.shape[2:]) for x in (q, k, v))
    if backend == "triton":
        call = Call(batch * heads, lq, lk, causal, q.device, offset)
        o, lse = planned_attention(fq, fk, fv, plan, sees, call, scale=scale)
    else:
        o, lse = block_sparse_attention(fq, fk, fv, plan=plan, sees=sees, scale=scale, offset=offset)
    return o.view(batch, heads, lq, v.shape[3]), lse.view(batch, heads, lq)


def is_empty(q: Tensor, k: Tensor) -> bool:
    """Whether there is nothing to compute: no sequence, no query or no key."""
    return 0 in (q.shape[0], q.shape[2], k.shape[2])


def nothing(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What no key or no query gives, (B, H, Lq, Dv) of 0, still with a gradient (of zero)."""
    found = q[..., :0].sum() + k[..., :0].sum() + v[..., :0].sum()
    return found.expand(*q.shape[:3], v.shape[3]).clone()


def _plan(choice: Choice, *, lk: int, offset: int, causal: bool, shown: Tensor | None, asked: bool) -> BlockPlan:
    """The lists in the order of engine 1, with the blocks that every query of a tile sees last."""
    index = choice.index.flatten(0, 1)
    block_q, block_k, device = choice.block_q, choice.block_k, index.device
    blocks = -(-lk // block_k)
    whole = (index >= 0) & ((index + 1) * block_k <= lk)
    if causal:
        first = torch.arange(index.shape[1], device=device) * block_q + offset
        whole &= (index + 1) * block_k - 1 <= first[:, None]
    if shown is not None:
        full = torch.nn.functional.pad(shown, (0, blocks * block_k - lk)).view(-1, blocks, block_k).all(dim=2)
        head = torch.arange(index.shape[0], device=device)[:, None, None]
        whole &= full[head, index.clamp_min(0)]
    if asked:
        whole &= False
    return plan_from_lists(index, whole, blocks=blocks, block_q=block_q, block_k=block_k)
