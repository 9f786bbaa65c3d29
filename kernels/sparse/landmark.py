"""Landmark attention: the last key of each block stands for it, and a grouped softmax gates the block by it.

A query sees its own block as usual. An earlier block takes part in the same softmax with one score, that of its
landmark; what it gets is shared out inside of the block by a softmax of its own. Only the blocks with the best
landmarks need to be read.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels.checks import compute_dtype, positive
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.plan import block_for, plan_from_spans
from kernels.engines.ruled import call_of
from kernels.engines.rules import Rule
from kernels.registry import Backend, Mechanism, Taxonomy
from kernels.sparse.chosen import Choice, chosen_attention, is_empty, nothing
from kernels.triton.block_sparse import ruled_attention

__all__ = ["MECHANISM", "landmark_attention", "reference_landmark", "retrieved_blocks"]

_TILE = 64
"""Queries of a tile that read the same block."""
_LANDMARKS_AT_ONCE, _SCORES_AT_ONCE = 1 << 20, 1 << 22
"""Scores of landmarks, and of keys, that are held at once."""


def landmark_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    block: int = 64,
    top_k: int | None = 4,
    backend: Backend = "torch",
) -> Tensor:
    """Grouped softmax of q (B, H, Lq, D) over blocks of keys k (B, H, Lk, D), v (B, H, Lk, Dv); (B, H, Lq, Dv).

    Args:
        q: queries.
        k: keys; key ``block`` - 1 of each block is its landmark, whose value is never read.
        v: values.
        causal: must be true; query i stands at key i + (Lk - Lq).
        key_mask: bool (B, Lk). A block whose landmark or whose every other key is hidden is not read by later ones.
        scale: factor on the dot products.
        block: keys of a block with its landmark, at least 2.
        top_k: earlier blocks that each query of each head reads, those of the best landmarks; all of them, the form
            for training, if None.
        backend: of engine 1, "torch" or "triton"; all blocks are PyTorch's.
    """
    c, top_k = _checked(block, top_k)
    if is_empty(q, k):
        return nothing(q, k, v)
    to = compute_dtype(q)
    wide = (q.to(to), k.to(to), v.to(to))
    if top_k is None:
        return _over_all_blocks(*wide, key_mask, scale, c).to(q.dtype)
    o, lse = _own_block(*wide, key_mask=key_mask, scale=scale, block=c, backend=backend)
    index = retrieved_blocks(wide[0], wide[1], key_mask=key_mask, scale=scale, block=c, top_k=top_k)
    if index.shape[3] == 0:
        return o.to(q.dtype)
    inner = _inside(*wide, index, key_mask=key_mask, scale=scale, block=c, backend=backend)
    gates = _gates(wide[0], wide[1], index, scale, c)
    shares = _softmax(torch.cat([lse[..., None], gates], dim=-1))
    o = shares[..., :1] * o + (shares[..., 1:, None] * inner).sum(dim=3)
    return o.to(q.dtype)


def retrieved_blocks(q: Tensor, k: Tensor, *, key_mask: Tensor | None, scale: float, block: int, top_k: int) -> Tensor:
    """The earlier blocks with the best landmarks for each query, (B, H, Lq, n) with n <= ``top_k``, -1 for none."""
    (batch, heads, lq, _), lk = q.shape, k.shape[2]
    landmarks = k[:, :, block - 1 :: block].detach().mT
    blocks = landmarks.shape[3]
    n = min(top_k, blocks)
    found = torch.empty(batch, heads, lq, n, dtype=torch.int64, device=q.device)
    rows = max(1, _LANDMARKS_AT_ONCE // max(batch * heads * blocks, 1))
    readable = _readable(k, key_mask, block)
    at = torch.arange(lq, device=q.device) + (lk - lq)
    for first in range(0, lq, rows):
        some = slice(first, first + rows)
        earlier = torch.arange(blocks, device=q.device) < at[some, None].div(block, rounding_mode="floor")
        allowed = earlier[None, None] & readable[:, None, None]
        scores = (q[:, :, some].detach() @ landmarks).mul_(scale).masked_fill_(~allowed, float("-inf"))
        best, index = scores.topk(n, dim=-1)
        found[:, :, some] = torch.where(best == float("-inf"), -1, index)
    return found


def reference_landmark(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    block: int = 64,
    top_k: int | None = 4,
) -> Tensor:
    """The definition with every weight written out; arguments as for `landmark_attention`."""
    c, top_k = _checked(block, top_k)
    to, dtype, lq, lk = compute_dtype(q), q.dtype, q.shape[2], k.shape[2]
    if is_empty(q, k):
        return nothing(q, k, v)
    q, k, v = q.to(to), k.to(to), v.to(to)
    scores = scale * torch.einsum("bhid,bhjd->bhij", q, k)
    shown = torch.ones(q.shape[0], lk, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    i = torch.arange(lq, device=q.device)[:, None] + (lk - lq)
    j = torch.arange(lk, device=q.device)[None, :]
    ordinary = shown[:, None, None] & (j % c != c - 1)
    own = ordinary & (j // c == i.div(c, rounding_mode="floor")) & (j <= i)
    # Inside of each block, a softmax over its ordinary keys; a short block at the end is filled up.
    blocks = -(-lk // c)
    fill = (0, blocks * c - lk)
    by_block = torch.nn.functional.pad(ordinary, fill).view(-1, 1, 1, blocks, c)
    filled = torch.nn.functional.pad(scores, fill).view(*scores.shape[:3], blocks, c)
    inside = _softmax(filled.masked_fill(~by_block, float("-inf"))).flatten(-2)[..., :lk]
    # The gate of an earlier block stands in the column of its landmark.
    with_keys = by_block.any(dim=-1).repeat_interleave(c, dim=-1)[..., :lk]
    gate = shown[:, None, None] & (j % c == c - 1) & (j // c < i.div(c, rounding_mode="floor")) & with_keys
    gate = gate.expand(scores.shape)
    if top_k is not None:
        ranked = scores.masked_fill(~gate, float("-inf")).argsort(dim=-1, descending=True)
        rank = torch.empty_like(ranked).scatter_(-1, ranked, torch.arange(lk, device=q.device).expand(ranked.shape))
        gate = gate & (rank < top_k)
    shares = _softmax(scores.masked_fill(~(own | gate), float("-inf")))
    of_block = torch.nn.functional.pad(torch.where(gate, shares, torch.zeros_like(shares)), fill)
    of_key = of_block[..., c - 1 :: c].repeat_interleave(c, dim=-1)[..., :lk]
    weights = torch.where(own, shares, torch.zeros_like(shares)) + of_key * inside
    return torch.einsum("bhij,bhjd->bhid", weights, v).to(dtype)


def _checked(block: object, top_k: object) -> tuple[int, int | None]:
    """Block and top_k; `KernelError` for what is no such number."""
    return positive("block", block, least=2), None if top_k is None else positive("top_k", top_k, least=0)


def _softmax(scores: Tensor) -> Tensor:
    """The softmax along the last axis, 0 where all scores are -inf, with gradients that are numbers."""
    none = (scores == float("-inf")).all(dim=-1, keepdim=True)
    return torch.softmax(scores.masked_fill(none, 0.0), dim=-1).masked_fill(none, 0.0)


def _readable(k: Tensor, key_mask: Tensor | None, block: int) -> Tensor:
    """Which complete blocks have a landmark and another key that are shown, (B, blocks)."""
    blocks = k.shape[2] // block
    if key_mask is None:
        return torch.ones(k.shape[0], blocks, dtype=torch.bool, device=k.device)
    by_block = key_mask[:, : blocks * block].reshape(k.shape[0], blocks, block)
    found: Tensor = by_block[..., -1] & by_block[..., :-1].any(dim=-1)
    return found


def _own_block(
    q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None, scale: float, block: int, backend: Backend
) -> tuple[Tensor, Tensor]:
    """Attention within the query's own block, without its landmark, and its log-sum-exp."""
    call = call_of(q, k, causal=True)
    rule = _own(block)
    if backend == "triton":
        return ruled_attention(q, k, v, rule, call, scale=scale, key_mask=key_mask)
    side = block_for(rule, call)
    plan = plan_from_spans(rule, call, block_q=side, block_k=side)
    return block_sparse_attention(q, k, v, plan=plan, sees=rule.sees, scale=scale, key_mask=key_mask)


def _own(block: int) -> Rule:
    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        at = i.div(block, rounding_mode="floor") * block
        return (j >= at) & (j < at + block - 1) & (j <= i)

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        at = i.div(block, rounding_mode="floor") * block
        return at[None], torch.minimum(at + block - 1, i + 1)[None]

    return Rule(sees, spans, block=block)


def _inside(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    *,
    key_mask: Tensor | None,
    scale: float,
    block: int,
    backend: Backend,
) -> Tensor:
    """Attention of each query inside of each of its blocks, (B, H, Lq, n, Dv).

    Pairs of a query and a block are sorted by block, so that tiles of queries read one block and no keys are copied.
    """
    (batch, heads, lq, _), n = q.shape, index.shape[3]
    blocks = k.shape[2] // block
    head = torch.arange(batch * heads, device=q.device).view(batch, heads, 1, 1)
    # Pairs without a block read some block; their gate is shut.
    of = (head * blocks + index.clamp_min(0)).flatten()
    order = torch.argsort(of, stable=True)
    counts = torch.bincount(of, minlength=batch * heads * blocks)
    tiles = -(-counts // _TILE)
    start, tile_start = counts.cumsum(0) - counts, tiles.cumsum(0) - tiles
    listed = of[order]
    place = tile_start[listed] * _TILE + torch.arange(len(of), device=q.device) - start[listed]
    total = int(tiles.sum())
    rows = torch.zeros(total * _TILE, dtype=torch.int64, device=q.device).index_copy_(0, place, order // n)
    where = torch.empty_like(order).index_copy_(0, order, place)
    read = torch.arange(len(counts), device=q.device).repeat_interleave(tiles)

    queries = q.reshape(-1, q.shape[3]).index_select(0, rows)
    # Without the landmarks, so that blocks are read whole.
    keys, values = (
        x[:, :, : blocks * block].reshape(-1, block, x.shape[3])[:, :-1].reshape(1, 1, -1, x.shape[3]) for x in (k, v)
    )
    shown = None
    if key_mask is not None:
        by_block = key_mask[:, None, : blocks * block].expand(-1, heads, -1).reshape(-1, block)
        shown = by_block[:, :-1].reshape(1, -1)
    found, _ = chosen_attention(
        queries[None, None],
        keys,
        values,
        Choice(_TILE, block - 1, read[None, None, :, None]),
        causal=False,
        key_mask=shown,
        scale=scale,
        offset=0,
        backend=backend,
    )
    return found[0, 0].index_select(0, where).view(batch, heads, lq, n, v.shape[3])


def _gates(q: Tensor, k: Tensor, index: Tensor, scale: float, block: int) -> Tensor:
    """Scores of the landmarks of the blocks (B, H, Lq, n), -inf for none, in the same shape."""
    landmarks = k[:, :, block - 1 :: block]
    found = []
    for of in index.unbind(dim=-1):
        rows = landmarks.gather(2, of.clamp_min(0)[..., None].expand(-1, -1, -1, k.shape[3]))
        found.append((scale * (q * rows).sum(dim=-1)).masked_fill(of < 0, float("-inf")))
    return torch.stack(found, dim=-1)


def _over_all_blocks(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, block: int) -> Tensor:
    """The form for training: every earlier block takes part. Some rows at a time, computed again on the way back."""
    (batch, heads, lq, _), lk = q.shape, k.shape[2]
    call = call_of(q, k, causal=True)
    rows = max(1, _SCORES_AT_ONCE // max(batch * heads * lk, 1))
    parts = []
    for first in range(0, lq, rows):
        some = q[:, :, first : first + rows]
        behind = min(max(first + some.shape[2] + call.offset, 0), lk)
        work = partial(_rows_of_all, key_mask=key_mask, scale=scale, block=block, first=first + call.offset)
        keys, values = k[:, :, :behind], v[:, :, :behind]
        parts.append(
            checkpoint(work, some, keys, values, use_reentrant=False) if behind else nothing(some, keys, values)
        )
    return torch.cat(parts, dim=2)


def _rows_of_all(
    q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None, scale: float, block: int, first: int
) -> Tensor:
    """Queries from position ``first`` over all earlier blocks and their own, with a row of weights for each."""
    lk = k.shape[2]
    blocks = -(-lk // block)
    pad = blocks * block - lk
    i = torch.arange(first, first + q.shape[2], device=q.device)[:, None]
    j = torch.arange(blocks * block, device=q.device)
    shown = (j < lk)[None]
    if key_mask is not None:
        shown = torch.nn.functional.pad(key_mask[:, :lk], (0, pad)) & shown
    scores = torch.nn.functional.pad(scale * (q @ k.mT), (0, pad))
    at = i.div(block, rounding_mode="floor")
    ordinary = shown & (j % block != block - 1)
    own = (ordinary[:, None] & (j // block == at) & (j <= i))[:, None]
    earlier = (ordinary[:, None] & (j // block < at)).view(-1, 1, q.shape[2], blocks, block)
    inside = _softmax(scores.reshape(*q.shape[:3], blocks, block).masked_fill(~earlier, float("-inf")))
    gates = scores[..., block - 1 :: block]
    landmark = shown[:, block - 1 :: block][:, None, None] & earlier.any(dim=-1)
    both = torch.cat([scores.masked_fill(~own, float("-inf")), gates.masked_fill(~landmark, float("-inf"))], dim=-1)
    shares = _softmax(both)
    weights = shares[..., : blocks * block] + (shares[..., blocks * block :, None] * inside).flatten(-2)
    return weights[..., :lk] @ v


MECHANISM = Mechanism(
    name="landmark",
    summary="its own block, and earlier blocks gated by the scores of their last keys (landmarks), the best few or all",
    paper="Landmark Attention, arXiv 2305.16300",
    cost="O(L (L / block + top_k block) D) time, O(L top_k D) memory; O(L^2 D) time with all blocks",
    use="a summary token per day lets a step look up the few past days that matter, however long the history",
    function="grouped softmax; equal to a softmax where a landmark's score is the log-sum-exp of its block's",
    reference=reference_landmark,
    torch=landmark_attention,
    triton=partial(landmark_attention, backend="triton"),
    causal="only",
    taxonomy=Taxonomy(unit="block", importance="content-aware, by landmarks", budget="uniform", kv="keep all"),
)
