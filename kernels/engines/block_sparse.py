"""Engine 1: exact softmax attention over listed blocks of keys, forward and backward, in plain PyTorch.

Tiles of queries are cut into parts (`cutting.py`), sized to stay in a core's own cache, with dense scores over the keys
of each. Scores are in units of log 2, as powers of two are cheaper than those of e. Nothing of size Lq x Lk is made,
and the backward pass recomputes the scores from the saved log-sum-exp, so that memory is that of the inputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kernels.autocast import in_declared_types
from kernels.checks import compute_dtype
from kernels.engines.cutting import View, parts_of
from kernels.engines.layout import Layout
from kernels.engines.parts import Part, Scratch
from kernels.engines.plan import BlockPlan
from kernels.engines.rules import Sees
from kernels.engines.singles import Singles, add_gradients, add_singles
from kernels.once import differentiable_once

__all__ = ["block_sparse_attention"]

_LOG2_E = 1.0 / math.log(2.0)
_PIECES = 2
"""The most pieces that a part has."""


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    plan: BlockPlan,
    sees: Sees,
    scale: float,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
    offset: int | None = None,
    singles: Singles | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of q (B, H, Lq, D) over the keys k (B, H, Lk, D), v (B, H, Lk, Dv) of a plan that a rule shows.

    Keys and values may have fewer heads, as many of both; neighbouring heads of queries then share one.

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
        singles: further keys, at fixed distances, which the rule does not show.

    Returns:
        The output (B, H, Lq, Dv) in the type of q, 0 where nothing is seen, and the log-sum-exp (B, H, Lq) in float32
        (float64 for float64), -inf there. Both carry gradients.
    """
    if 0 in (q.shape[0], q.shape[2], k.shape[2]):
        lse = q.new_full(q.shape[:3], float("-inf"), dtype=compute_dtype(q))
        nothing = q[..., :0].sum() + k[..., :0].sum() + v[..., :0].sum()
        return nothing.expand(*q.shape[:3], v.shape[3]).clone(), lse
    offset = k.shape[2] - q.shape[2] if offset is None else offset
    how = (plan, sees, scale, offset, singles)
    o, lse = _BlockSparse.apply(q, k, v, bias, key_mask, how)  # type: ignore[no-untyped-call]
    return o, lse


def _scores(
    part: Part, q: Tensor, keys: Sequence[Tensor], bias: Tensor | None, scale: float, rooms: Sequence[Scratch]
) -> list[Tensor]:
    """Masked scores (problems * jobs, block_q, columns) of the part's queries and each piece, in units of log 2.

    A hidden score that is no number stays so: `_hide` mends it.
    """
    found = []
    for piece, rows, room in zip(part.pieces, keys, rooms, strict=False):
        s = _products(q, rows, room, scale * _LOG2_E)
        by_job = s.view(-1, len(part.jobs), *s.shape[1:])
        if bias is not None:
            heads = torch.arange(part.problems.start, part.problems.stop, device=s.device) % bias.shape[0]
            by_job.add_(bias[heads][:, None], alpha=_LOG2_E)
        # Several times as fast as to fill by a mask.
        for columns, bounds in piece.ruled:
            by_job[..., columns].clamp_max_(bounds)
        if piece.shown is not None:
            by_job.clamp_max_(piece.shown)
        found.append(s)
    return found


def _hide(part: Part, scores: Sequence[Tensor]) -> None:
    """Let hidden scores be -inf where they are no numbers, as of keys that are not finite."""
    for piece, s in zip(part.pieces, scores, strict=True):
        by_job = s.view(-1, len(part.jobs), *s.shape[1:])
        for columns, bounds in piece.ruled:
            by_job[..., columns].masked_fill_(bounds < 0, float("-inf"))
        if piece.shown is not None:
            by_job.masked_fill_(piece.shown < 0, float("-inf"))


def _row_maximum(scores: Sequence[Tensor]) -> Tensor:
    """The largest score of each row over all pieces, (problems * jobs, block_q, 1)."""
    return functools.reduce(torch.maximum, [s.amax(dim=-1, keepdim=True) for s in scores])


def _products(x: Tensor, rows: Tensor, room: Scratch, scale: float = 1.0) -> Tensor:
    """Dot products (n, block_q, columns) of x (n, block_q, D) with rows (n, columns, D), or the same (columns, D)."""
    found = room.take(*x.shape[:2], rows.shape[-2])
    if rows.dim() == 3:
        return torch.baddbmm(found, x, rows.mT, beta=0.0, alpha=scale, out=found)
    flat = found.flatten(0, 1)
    torch.addmm(flat, x.flatten(0, 1), rows.T, beta=0.0, alpha=scale, out=flat)
    return found


def _weighted(weights: Sequence[Tensor], rows: Sequence[Tensor], into: Tensor) -> Tensor:
    """Sum over the pieces of rows (problems * jobs, columns, D) by their weights, written to ``into``."""
    for n, (p, x) in enumerate(zip(weights, rows, strict=True)):
        if x.dim() == 3:
            torch.baddbmm(into, p, x, beta=float(n > 0), out=into)
        else:
            flat = into.flatten(0, 1)
            torch.addmm(flat, p.flatten(0, 1), x, beta=float(n > 0), out=flat)
    return into


def _rooms(like: Tensor, dtype: torch.dtype, count: int) -> list[Scratch]:
    return [Scratch(like, dtype) for _ in range(count)]


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    how: tuple[View, float, Singles | None, bool]

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
        how: tuple[BlockPlan, Sees, float, int, Singles | None],
    ) -> tuple[Tensor, Tensor]:
        plan, sees, scale, offset, singles = how
        to = compute_dtype(q)
        layout = Layout(plan, q.shape[2], k.shape[2], q.shape[1], k.shape[1])
        view = View(layout, sees, key_mask, offset, to)
        qt, kt, vt = layout.tile(q), layout.block_keys(k), layout.block_keys(v)
        # Each tile is in exactly one part, so nothing stays unwritten.
        ot = q.new_empty(*qt.shape[:3], v.shape[3], dtype=q.dtype if singles is None else to)
        lt = q.new_empty(*qt.shape[:3], 1, dtype=to)
        wide = None if bias is None else bias.to(to)
        scores, gathered, outputs = _rooms(qt, to, _PIECES), Scratch(kt, kt.dtype), Scratch(qt, to)
        numbers = True
        for part in parts_of(view, problems=len(qt), in_order=bias is not None):
            keys = [piece.rows(kt, to, gathered) for piece in part.pieces]
            p = _scores(part, part.tiles(qt).to(to), keys, wide, scale, scores)
            top = _row_maximum(p)
            if bool(top.isnan().any()):
                numbers = False
                _hide(part, p)
                top = _row_maximum(p)
            top.masked_fill_(top == float("-inf"), 0.0)
            total = functools.reduce(torch.add, [s.sub_(top).exp2_().sum(dim=-1, keepdim=True) for s in p])
            values = [piece.rows(vt, to, gathered) for piece in part.pieces]
            straight = part.tile is not None and ot.dtype == to
            into = part.tiles(ot) if straight else outputs.take(*p[0].shape[:2], v.shape[3])
            out = _weighted(p, values, into).div_(total.clamp_min(torch.finfo(to).tiny))
            if not straight:
                part.put(ot, out.to(ot.dtype))
            part.put(lt, total.log2_().add_(top).div_(_LOG2_E))
        o, lse = layout.untile(ot), layout.untile(lt)[..., 0]
        if singles is not None:
            add_singles(q, k, v, o, lse, singles=singles, key_mask=key_mask, scale=scale, offset=offset)
            o = o.to(q.dtype)
        ctx.save_for_backward(q, k, v, bias, key_mask, o, lse)
        ctx.how = (view, scale, singles, numbers)
        return o, lse

    @staticmethod
    @differentiable_once
    @in_declared_types
    def backward(ctx: _Context, do: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, key_mask, o, lse = ctx.saved_tensors
        view, scale, singles, numbers = ctx.how
        layout, to = view.layout, view.dtype
        delta = (do.to(to) * o.to(to)).sum(dim=-1) - dlse.masked_fill(lse == float("-inf"), 0.0)
        lse = lse.masked_fill(lse == float("-inf"), 0.0)
        qt, kt, vt, gt = layout.tile(q), layout.block_keys(k), layout.block_keys(v), layout.tile(do)
        lt, dt = layout.tile(lse[..., None] * _LOG2_E), layout.tile(delta[..., None])
        dq = torch.empty_like(qt, dtype=to)
        dk, dv = torch.zeros_like(kt, dtype=to), torch.zeros_like(vt, dtype=to)
        wide = None if bias is None else bias.to(to)
        dbias = None if wide is None else torch.zeros_like(wide)
        scores, changes = _rooms(qt, to, _PIECES), _rooms(qt, to, _PIECES)
        gathered, outputs = (Scratch(kt, kt.dtype), Scratch(vt, vt.dtype)), Scratch(qt, to)
        for part in parts_of(view, problems=len(qt), in_order=bias is not None):
            qj, gj = part.tiles(qt).to(to), part.tiles(gt).to(to)
            keys = [piece.rows(kt, to, gathered[0]) for piece in part.pieces]
            values = [piece.rows(vt, to, gathered[1]) for piece in part.pieces]
            p = _scores(part, qj, keys, wide, scale, scores)
            if not numbers:
                _hide(part, p)
            ds = []
            for s, rows, room in zip(p, values, changes, strict=False):
                s.sub_(part.tiles(lt)).exp2_()
                ds.append(_products(gj, rows, room).sub_(part.tiles(dt)).mul_(s))
            part.put(dq, _weighted(ds, keys, outputs.take(*qj.shape)).mul_(scale))
            for piece, s, change in zip(part.pieces, p, ds, strict=True):
                piece.add_gradients(dk, change, qj, scale)
                piece.add_gradients(dv, s, gj)
            if dbias is not None:
                heads = torch.arange(part.problems.start, part.problems.stop, device=qj.device) % len(dbias)
                (change,) = ds
                dbias.index_add_(0, heads, change.view(-1, len(part.jobs), *change.shape[1:]).sum(dim=1))
        sums = (layout.untile(dq), layout.unblock_keys(dk), layout.unblock_keys(dv))
        if singles is not None:
            add_gradients(
                (q, k, v), do, lse, delta, sums, singles=singles, key_mask=key_mask, scale=scale, offset=view.offset
            )
        return (
            *(x.to(y.dtype) for x, y in zip(sums, (q, k, v), strict=True)),
            None if dbias is None else dbias.to(bias.dtype),
            *(None,) * 2,
        )
