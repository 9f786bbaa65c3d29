"""Engine 1: exact softmax attention over listed blocks of keys, forward and backward, in plain PyTorch.

A chunk of query tiles gathers its blocks of keys and values and computes dense scores over them, masked by the rule.
Chunks are sized to stay in cache; nothing of size Lq x Lk is made, and the backward pass recomputes the scores from
the saved log-sum-exp, so that memory is that of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.checks import compute_dtype
from kernels.engines.plan import Plan

__all__ = ["block_sparse_attention"]

_CHUNK_SCORES = 1 << 19
"""Scores held at once: 2 MiB in float32, about what a core keeps near."""

Sees = Callable[[Tensor, Tensor, Tensor], Tensor]


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    plan: Plan,
    sees: Sees,
    scale: float,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
    offset: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of q (B, H, Lq, D) over the keys k (B, H, Lk, D), v (B, H, Lk, Dv) of a plan that a rule shows.

    Args:
        q: queries.
        k: keys.
        v: values.
        plan: which blocks of keys each tile of queries visits; a key outside of them is not seen.
        sees: the rule within the blocks, `sees(head, query position, key position)`.
        scale: factor on the dot products.
        key_mask: bool (B, Lk), True where a key may be seen.
        bias: (H or 1, block_q, n block_k), added to the scores of every tile in the order of the plan's lists.
        offset: position of query 0 on the axis of the keys, Lk - Lq if None.

    Returns:
        The output (B, H, Lq, Dv) in the type of q, 0 where nothing is seen, and the log-sum-exp (B, H, Lq) in float32
        (float64 for float64), -inf there. Both carry gradients.
    """
    if q.shape[2] == 0 or k.shape[2] == 0:
        lse = q.new_full(q.shape[:3], float("-inf"), dtype=compute_dtype(q))
        nothing = q[..., :0].sum() + k[..., :0].sum() + v[..., :0].sum()
        return nothing.expand(*q.shape[:3], v.shape[3]).clone(), lse
    offset = k.shape[2] - q.shape[2] if offset is None else offset
    o, lse = _BlockSparse.apply(q, k, v, bias, key_mask, plan, sees, scale, offset)  # type: ignore[no-untyped-call]
    return o, lse


@dataclass(frozen=True, slots=True)
class _Layout:
    """How (B, H, L, D) becomes (B, R, G * blocks, block, D) and back; R heads share each of the G lists."""

    plan: Plan
    lq: int
    lk: int
    heads: int

    def _blocked(self, x: Tensor, blocks: int, block: int) -> Tensor:
        pad = blocks * block - x.shape[2]
        if pad:
            x = torch.nn.functional.pad(x, (0, 0, 0, pad))
        return x.reshape(x.shape[0], self.heads // self.plan.groups, self.plan.groups * blocks, block, x.shape[3])

    @property
    def key_blocks(self) -> int:
        return -(-self.lk // self.plan.block_k)

    def tile(self, x: Tensor) -> Tensor:
        """Rows of queries, (B, H, Lq, D), in tiles."""
        if self.plan.order is not None:
            x = x.index_select(2, self.plan.order.clamp_min(0))
        return self._blocked(x, self.plan.tiles, self.plan.block_q)

    def untile(self, x: Tensor) -> Tensor:
        """Tiles back to rows, (B, H, Lq, D)."""
        x = x.reshape(x.shape[0], self.heads, -1, x.shape[4])
        order = self.plan.order
        if order is None:
            return x[:, :, : self.lq]
        real = (order >= 0).nonzero()[:, 0]
        return x.new_empty(x.shape[0], self.heads, self.lq, x.shape[3]).index_copy_(
            2, order[real], x.index_select(2, real)
        )

    def block_keys(self, x: Tensor) -> Tensor:
        """Rows of keys or values, (B, H, Lk, D), in blocks."""
        return self._blocked(x, self.key_blocks, self.plan.block_k)

    def unblock_keys(self, x: Tensor) -> Tensor:
        """Blocks back to rows, (B, H, Lk, D)."""
        return x.reshape(x.shape[0], self.heads, -1, x.shape[4])[:, :, : self.lk]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tiles computed together: where they are, which blocks they gather, and what they see of them."""

    jobs: Tensor
    blocks: Tensor
    unseen: Tensor
    """What the rule hides of the first keys, (jobs, block_q, n); the rest is seen whole."""
    hidden: Tensor | None
    """What the key mask hides, (B, 1, jobs, 1, keys)."""

    def gather(self, x: Tensor) -> Tensor:
        """Blocked keys or values to (B, R, jobs, slots * block, D)."""
        return x.index_select(2, self.blocks).reshape(*x.shape[:2], len(self.jobs), -1, x.shape[4])


def _chunks(layout: _Layout, sees: Sees, key_mask: Tensor | None, offset: int, rows: int) -> Iterator[_Chunk]:
    """All tiles in chunks of tiles with about equally long lists; ``rows`` is how many problems share a chunk."""
    plan, lk = layout.plan, layout.lk
    index, counts, whole = plan.index.flatten(0, 1), plan.counts.flatten(), plan.whole.flatten()
    device, most = index.device, index.shape[1]
    order = torch.argsort(counts * (most + 1) - whole, descending=True, stable=True)
    sorted_counts = counts[order].tolist()
    within = torch.arange(plan.block_k, device=device)
    start = 0
    while start < len(sorted_counts):
        slots = max(sorted_counts[start], 1)
        take = max(1, _CHUNK_SCORES // (rows * plan.block_q * plan.block_k * slots))
        jobs = order[start : start + take].sort().values
        start += take
        listed = index[jobs, most - slots :]
        group = jobs // plan.tiles
        j = (listed[:, :, None] * plan.block_k + within).flatten(1)
        asked = j[:, : (slots - int(whole[jobs].min())) * plan.block_k]
        hidden = None
        if key_mask is not None:
            hidden = ~key_mask[:, j.clamp(0, lk - 1)][:, None, :, None, :]
        blocks = (listed.clamp_min(0) + group[:, None] * layout.key_blocks).flatten()
        yield _Chunk(jobs, blocks, _unseen(layout, sees, jobs, asked, offset), hidden)


def _unseen(layout: _Layout, sees: Sees, jobs: Tensor, j: Tensor, offset: int) -> Tensor:
    """What the rule hides from each query of the tiles ``jobs``, of the keys j (jobs, n); (jobs, block_q, n)."""
    plan = layout.plan
    i = (jobs % plan.tiles)[:, None] * plan.block_q + torch.arange(plan.block_q, device=j.device)
    if plan.order is not None:
        i = plan.order[i]
    i, j = i[:, :, None], j[:, None, :]
    # The rule is evaluated for every score: half as wide numbers are twice as fast.
    seen = sees((jobs // plan.tiles)[:, None, None], (i + offset).int(), j.int()) & ((j >= 0) & (j < layout.lk))
    if plan.order is not None:
        seen = seen & (i >= 0)
    return ~seen.expand(len(jobs), plan.block_q, j.shape[2])


def _scores(chunk: _Chunk, qj: Tensor, kj: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Masked scores (B, R, jobs, block_q, keys) of the gathered queries and keys."""
    s = (qj * scale) @ kj.transpose(-1, -2)
    if bias is not None:
        s = s + bias[None, :, None]
    s[..., : chunk.unseen.shape[2]].masked_fill_(chunk.unseen, float("-inf"))
    return s if chunk.hidden is None else s.masked_fill_(chunk.hidden, float("-inf"))


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    how: tuple[_Layout, Sees, float, int]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _BlockSparse(torch.autograd.Function):
    """The chunked computation with its recomputing backward pass."""

    @staticmethod
    def forward(
        ctx: _Context,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        key_mask: Tensor | None,
        plan: Plan,
        sees: Sees,
        scale: float,
        offset: int,
    ) -> tuple[Tensor, Tensor]:
        batch, heads, lq, _ = q.shape
        layout = _Layout(plan, lq, k.shape[2], heads)
        to = compute_dtype(q)
        qt, kt, vt = layout.tile(q), layout.block_keys(k), layout.block_keys(v)
        # Tiles outside of every chunk do not exist: each tile is in exactly one, so nothing stays unwritten.
        ot = q.new_empty(*qt.shape[:4], v.shape[3])
        lt = q.new_empty(*qt.shape[:4], 1, dtype=to)
        wide = None if bias is None else bias.to(to)
        for chunk in _chunks(layout, sees, key_mask, offset, batch * qt.shape[1]):
            s = _scores(chunk, qt.index_select(2, chunk.jobs).to(to), chunk.gather(kt).to(to), wide, scale)
            top = s.amax(dim=-1, keepdim=True)
            top.masked_fill_(top == float("-inf"), 0.0)
            p = s.sub_(top).exp_()
            total = p.sum(dim=-1, keepdim=True)
            out = (p @ chunk.gather(vt).to(to)) / total.clamp_min(torch.finfo(to).tiny)
            ot.index_copy_(2, chunk.jobs, out.to(q.dtype))
            lt.index_copy_(2, chunk.jobs, top + total.log())
        o, lse = layout.untile(ot), layout.untile(lt)[..., 0]
        ctx.save_for_backward(q, k, v, bias, key_mask, o, lse)
        ctx.how = (layout, sees, scale, offset)
        return o, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, do: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, key_mask, o, lse = ctx.saved_tensors
        layout, sees, scale, offset = ctx.how
        to = compute_dtype(q)
        delta = (do.to(to) * o.to(to)).sum(dim=-1) - dlse.masked_fill(lse == float("-inf"), 0.0)
        lse = lse.masked_fill(lse == float("-inf"), 0.0)
        qt, kt, vt, gt = layout.tile(q), layout.block_keys(k), layout.block_keys(v), layout.tile(do)
        lt, dt = layout.tile(lse[..., None]), layout.tile(delta[..., None])
        dq = torch.zeros_like(qt, dtype=to)
        dk, dv = torch.zeros_like(kt, dtype=to), torch.zeros_like(vt, dtype=to)
        wide = None if bias is None else bias.to(to)
        dbias = None if wide is None else torch.zeros_like(wide)
        for chunk in _chunks(layout, sees, key_mask, offset, q.shape[0] * qt.shape[1]):
            qj, kj, vj = qt.index_select(2, chunk.jobs).to(to), chunk.gather(kt).to(to), chunk.gather(vt).to(to)
            gj = gt.index_select(2, chunk.jobs).to(to)
            p = _scores(chunk, qj, kj, wide, scale).sub_(lt.index_select(2, chunk.jobs)).exp_()
            ds = (gj @ vj.transpose(-1, -2)).sub_(dt.index_select(2, chunk.jobs)).mul_(p)
            dq.index_copy_(2, chunk.jobs, (ds @ kj).mul_(scale))
            _scatter(dk, chunk, ds.transpose(-1, -2) @ (qj * scale))
            _scatter(dv, chunk, p.transpose(-1, -2) @ gj)
            if dbias is not None:
                dbias += ds.sum(dim=(0, 2)).sum_to_size(dbias.shape)
        return (
            layout.untile(dq).to(q.dtype),
            layout.unblock_keys(dk).to(k.dtype),
            layout.unblock_keys(dv).to(v.dtype),
            None if dbias is None else dbias.to(bias.dtype),
            *(None,) * 5,
        )


def _scatter(into: Tensor, chunk: _Chunk, grad: Tensor) -> None:
    """Add the gradients of gathered rows to the blocks that they came from."""
    into.index_add_(2, chunk.blocks, grad.reshape(*into.shape[:2], -1, *into.shape[3:]))
