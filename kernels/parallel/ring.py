"""Ring attention: keys and values go round, and each process joins what its queries find in every part of them.

Nothing longer than a process's own part is held, forward or backward: on the way back keys and values go round again,
with the gradients that each process adds to. Zigzag parts make causal work even. References: Ring Attention, arXiv
2310.01889; LongCA-bench, arXiv 2510.17896, for the layouts.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.autocast import agreed, as_declared, in_declared_types
from kernels.checks import blanked, check_qkv, compute_dtype, default_scale
from kernels.engines.partial import merge, partial_attention
from kernels.errors import KernelError
from kernels.once import differentiable_once
from kernels.parallel.ranks import Ranks

__all__ = ["ring_attention"]

_Task = tuple[slice, slice, bool]
"""Rows of queries, rows of keys, and whether the two are the same piece of a causal call."""


def ring_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ranks: Ranks,
    causal: bool = False,
    zigzag: bool = False,
    key_mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Dense attention of this process's queries over the keys of all, (B, H, L / P, Dv).

    Each process sends (P - 1) times its keys and values forward, and twice that on the way back.

    Args:
        q: own queries (B, Hq, L / P, D), of `own_positions(L, rank, P, zigzag=zigzag)`.
        k: own keys (B, Hk, L / P, D).
        v: own values (B, Hv, L / P, Dv).
        ranks: the processes.
        causal: query i sees key j only if j <= i.
        zigzag: whether the parts are zigzag ones.
        key_mask: own bool (B, L / P), given by every process or by none; it goes round as well.
        scale: 1 / sqrt(D) if None.
    """
    q, k, v = agreed(q, k, v)
    check_qkv(q, k, v)
    k, v = blanked(key_mask, k), blanked(key_mask, v)
    if q.shape[2] != k.shape[2]:
        raise KernelError(f"{q.shape[2]} queries and {k.shape[2]} keys, expected those of the same positions")
    if zigzag and q.shape[2] % 2:
        raise KernelError(f"a zigzag part has two pieces, but {q.shape[2]} positions were given")
    how = (ranks, causal, zigzag, default_scale(q, scale))
    with as_declared(q):
        done: Tensor = _Ring.apply(q, k, v, key_mask, how)  # type: ignore[no-untyped-call]
    return done


def _tasks(rank: int, source: int, length: int, causal: bool, zigzag: bool) -> list[_Task]:
    """What the queries of a rank see of the keys of another."""
    whole = slice(0, length)
    if not causal:
        return [(whole, whole, False)]
    if not zigzag:
        return [(whole, whole, source == rank)] if source <= rank else []
    first, second = slice(0, length // 2), slice(length // 2, length)
    if source == rank:
        # The first piece precedes the second by all that others hold.
        return [(first, first, True), (second, first, False), (second, second, True)]
    return [(whole, first, False)] if source < rank else [(second, whole, False)]


_How = tuple[Ranks, bool, bool, float]


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    how: _How

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _Round:
    """Tensors that go from each rank to the next while it computes with them."""

    def __init__(self, ranks: Ranks, tensors: list[Tensor]) -> None:
        self.ranks, self.here = ranks, tensors
        self.coming: list[Tensor] = []
        self.work: list[dist.Work] = []

    def start(self) -> None:
        """Send what is here on, and begin to receive what comes next."""
        ranks = self.ranks
        self.coming = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in self.here]
        onward, back = (ranks.rank + 1) % ranks.size, (ranks.rank - 1) % ranks.size
        self.work = ranks.start({onward: self.here}, {back: self.coming})

    def finish(self) -> None:
        """Wait for it."""
        for work in self.work:
            work.wait()
        self.here = self.coming


class _Ring(torch.autograd.Function):
    """The round with its round back."""

    @staticmethod
    def forward(ctx: _Context, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, how: _How) -> Tensor:
        ranks, causal, zigzag, scale = how
        heads, length = max(q.shape[1], k.shape[1], v.shape[1]), q.shape[2]
        out = q.new_zeros(q.shape[0], heads, length, v.shape[3], dtype=compute_dtype(q))
        lse = out.new_full(out.shape[:3], float("-inf"))
        going = _Round(ranks, [k, v] if key_mask is None else [k, v, key_mask.to(torch.uint8)])
        for t in range(ranks.size):
            more = t + 1 < ranks.size
            if more:
                going.start()
            for rows, keys, same in _tasks(ranks.rank, (ranks.rank - t) % ranks.size, length, causal, zigzag):
                part = _part(q, going.here, rows, keys, same, scale)
                before = (out[:, :, rows], lse[:, :, rows])
                out[:, :, rows], lse[:, :, rows] = merge(before, (part[0].to(out.dtype), part[1]))
            if more:
                going.finish()
        ctx.save_for_backward(q, k, v, key_mask, out, lse)
        ctx.how = how
        return out.to(q.dtype)

    @staticmethod
    @differentiable_once
    @in_declared_types
    def backward(ctx: _Context, do: Tensor) -> tuple[Tensor | None, ...]:
        ranks, causal, zigzag, scale = ctx.how
        q, k, v, key_mask, out, lse = ctx.saved_tensors
        do = do.to(out.dtype)
        dq = torch.zeros_like(q, dtype=out.dtype)
        own: list[Tensor] = []
        going = _Round(ranks, [k, v] if key_mask is None else [k, v, key_mask.to(torch.uint8)])
        # Gradients of keys and values travel with them, from the first rank that adds to them until they are home.
        grads = _Round(ranks, [])
        for t in range(ranks.size):
            more = t + 1 < ranks.size
            if more:
                going.start()
            found = [torch.zeros_like(x, dtype=out.dtype) for x in (k, v)]
            for rows, keys, same in _tasks(ranks.rank, (ranks.rank - t) % ranks.size, q.shape[2], causal, zigzag):
                _add_part(dq, found, q, going.here, (do, out, lse), rows, keys, same, scale)
            if t == 0:
                own = found
            else:
                if t > 1:
                    grads.finish()
                    found = [a.add_(b) for a, b in zip(found, grads.here, strict=True)]
                grads.here = found
                grads.start()
            if more:
                going.finish()
        if ranks.size > 1:
            grads.finish()
            own = [a.add_(b) for a, b in zip(own, grads.here, strict=True)]
        return dq.to(q.dtype), own[0].to(k.dtype), own[1].to(v.dtype), None, None


def _part(q: Tensor, here: list[Tensor], rows: slice, keys: slice, same: bool, scale: float) -> tuple[Tensor, Tensor]:
    """What some queries find in some keys, with its log-sum-exp."""
    mask = None if len(here) < 3 else here[2][:, keys].to(torch.bool)
    return partial_attention(
        q[:, :, rows], here[0][:, :, keys], here[1][:, :, keys], causal=same, key_mask=mask, scale=scale
    )


def _add_part(
    dq: Tensor,
    found: list[Tensor],
    q: Tensor,
    here: list[Tensor],
    whole: tuple[Tensor, Tensor, Tensor],
    rows: slice,
    keys: slice,
    same: bool,
    scale: float,
) -> None:
    """Add the gradients by one part: it is computed again, and weighs exp(its lse - the whole lse)."""
    leaves = [x.detach().requires_grad_() for x in (q[:, :, rows], here[0][:, :, keys], here[1][:, :, keys])]
    with torch.enable_grad():
        o, lse = _part(leaves[0], [*_at(here, keys, leaves)], slice(None), slice(None), same, scale)
    do, out, total = (x[:, :, rows] for x in whole)
    seen = total > float("-inf")
    weight = torch.exp(lse.detach() - total.masked_fill(~seen, 0.0)).masked_fill(~seen, 0.0)
    to_o = weight[..., None] * do
    to_lse = weight * (do * (o.detach().to(do.dtype) - out)).sum(dim=-1)
    grads = torch.autograd.grad([o, lse], leaves, [to_o.to(o.dtype), to_lse])
    dq[:, :, rows] += grads[0]
    for into, grad in zip(found, grads[1:], strict=True):
        into[:, :, keys] += grad


def _at(here: list[Tensor], keys: slice, leaves: list[Tensor]) -> list[Tensor]:
    """Leaves of keys and values, and the mask of theirs."""
    return [leaves[1], leaves[2], *(x[:, keys] for x in here[2:])]
