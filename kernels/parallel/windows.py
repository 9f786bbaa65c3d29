"""Sliding windows over processes: only the keys at the edges of the parts are exchanged."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kernels.checks import blanked, check_qkv, default_scale, positive, repeat_heads
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.plan import block_for, plan_from_spans
from kernels.engines.rules import Call
from kernels.once import differentiable_once
from kernels.parallel.ranks import Ranks
from kernels.windows.sliding_window import sliding_window

__all__ = ["parallel_sliding_window"]


def parallel_sliding_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ranks: Ranks,
    window: int = 256,
    causal: bool = False,
    key_mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """`attention(..., method="sliding_window")` of this process's part of a sequence, (B, H, L / P, Dv).

    Each process sends the window - 1 keys and values at the end of its part on (and, unless causal, those at its start
    back), to as many processes as the window reaches; gradients go the other way.

    Args:
        q: own queries (B, Hq, L / P, D), parts in order (`own_positions`) and of equal lengths.
        k: own keys (B, Hk, L / P, D).
        v: own values (B, Hv, L / P, Dv).
        ranks: the processes.
        window: as in `sliding_window`.
        causal: as in `attention`.
        key_mask: own bool (B, L / P), given by every process or by none.
        scale: 1 / sqrt(D) if None.
    """
    heads, reach = check_qkv(q, k, v), positive("window", window) - 1
    scale = default_scale(q, scale)
    edges = _Edges(ranks, k.shape[2], reach, causal)
    k, v = (edges.around(blanked(key_mask, x)) for x in (k, v))
    mask = None
    if key_mask is not None:
        flags = key_mask[:, None, :, None].to(q.dtype)
        mask = edges.around(flags)[:, 0, :, 0] > 0
    q, k, v = (repeat_heads(x, heads) for x in (q, k, v))
    call = Call(heads, q.shape[2], k.shape[2], causal, q.device, edges.before)
    rule = sliding_window(call, window=window)
    block = block_for(rule, call)
    plan = plan_from_spans(rule, call, block_q=block, block_k=block)
    return block_sparse_attention(q, k, v, plan=plan, sees=rule.sees, scale=scale, key_mask=mask, offset=edges.before)[
        0
    ]


class _Edges:
    """How many rows of its neighbours a process needs, and which of its own they need."""

    def __init__(self, ranks: Ranks, length: int, reach: int, causal: bool) -> None:
        self.ranks, self.length = ranks, length
        self.earlier, self.later = {}, {}
        for apart in range(1, ranks.size):
            rows = min(length, reach - (apart - 1) * length)
            if rows <= 0:
                break
            self.earlier[apart] = rows
            if not causal:
                self.later[apart] = rows
        self.before = sum(n for apart, n in self.earlier.items() if ranks.rank - apart >= 0)

    def around(self, x: Tensor) -> Tensor:
        """``x`` (B, H, L / P, D) with the rows that are needed before and behind it. With gradients."""
        if self.ranks.size == 1:
            return x
        found: Tensor = _Around.apply(x, self)  # type: ignore[no-untyped-call]
        return found

    def ends(self) -> list[tuple[int, slice, slice]]:
        """By neighbour: its rank, which of its rows come here, and which of the own rows go there."""
        found = []
        for sign, needed, asked in ((-1, self.earlier, self.later), (1, self.later, self.earlier)):
            for apart in range(1, self.ranks.size):
                other = self.ranks.rank + sign * apart
                if not 0 <= other < self.ranks.size:
                    continue
                come, go = needed.get(apart, 0), asked.get(apart, 0)
                # Of an earlier part its last rows come, and the own first rows go there; of a later one the reverse.
                last, first = slice(self.length - come, self.length), slice(0, come)
                own_first, own_last = slice(0, go), slice(self.length - go, self.length)
                found.append((other, last if sign < 0 else first, own_first if sign < 0 else own_last))
        return found


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    edges: _Edges


class _Around(torch.autograd.Function):
    """Rows of the neighbours, and their gradients home."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, edges: _Edges) -> Tensor:
        ctx.edges = edges
        ends = edges.ends()
        coming = {other: _room(x, rows) for other, rows, _ in ends}
        edges.ranks.exchange(
            {other: [x[:, :, rows]] for other, _, rows in ends if rows.stop > rows.start},
            {other: [room] for other, room in coming.items() if room.shape[2]},
        )
        # In the order of the sequence.
        earlier = [coming[other] for other in sorted(coming) if other < edges.ranks.rank]
        later = [coming[other] for other in sorted(coming) if other > edges.ranks.rank]
        return torch.cat([*earlier, x, *later], dim=2)

    @staticmethod
    @differentiable_once
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        edges, own = ctx.edges, ctx.edges.before
        dx = gradient[:, :, own : own + edges.length].clone()
        ends, first = edges.ends(), 0
        going, coming = {}, {}
        for other, rows, _ in sorted(ends, key=lambda end: end[0]):
            if other > edges.ranks.rank and first == own:
                first += edges.length
            count = rows.stop - rows.start
            going[other] = gradient[:, :, first : first + count].contiguous()
            first += count
        for other, _, rows in ends:
            coming[other] = _room(dx, rows)
        edges.ranks.exchange(
            {other: [x] for other, x in going.items() if x.shape[2]},
            {other: [x] for other, x in coming.items() if x.shape[2]},
        )
        for other, _, rows in ends:
            dx[:, :, rows] += coming[other]
        return dx, None


def _room(x: Tensor, rows: slice) -> Tensor:
    return x.new_empty(*x.shape[:2], rows.stop - rows.start, x.shape[3])
