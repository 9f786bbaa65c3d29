"""Engine 1: exact softmax attention over listed blocks of keys, forward and backward, in plain PyTorch.

A chunk of query tiles shares what the rule says about its blocks of keys; a part of it, sized to stay in a core's own
cache, gathers these blocks and computes dense scores over them. Scores are in units of log 2, as powers of two are
cheaper than those of e. Nothing of size Lq x Lk is made, and the backward pass recomputes the scores from the saved
log-sum-exp, so that memory is that of the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.checks import compute_dtype
from kernels.engines.plan import Plan
from kernels.engines.singles import Singles, add_gradients, add_singles

__all__ = ["block_sparse_attention"]

_CHUNK_PAIRS = 1 << 20
"""Pairs of query and key for which the rule is asked at once."""
_PART_SCORES = 1 << 19
"""Scores held at once by each thread: 2 MiB in float32, about what a core keeps near."""
_PART_SCORES_GPU = 1 << 24
_LOG2_E = 1.0 / math.log(2.0)

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
    singles: Singles | None = None,
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
        singles: further keys, at fixed distances, which the rule does not show.

    Returns:
        The output (B, H, Lq, Dv) in the type of q, 0 where nothing is seen, and the log-sum-exp (B, H, Lq) in float32
        (float64 for float64), -inf there. Both carry gradients.
    """
    if q.shape[2] == 0 or k.shape[2] == 0:
        lse = q.new_full(q.shape[:3], float("-inf"), dtype=compute_dtype(q))
        nothing = q[..., :0].sum() + k[..., :0].sum() + v[..., :0].sum()
        return nothing.expand(*q.shape[:3], v.shape[3]).clone(), lse
    offset = k.shape[2] - q.shape[2] if offset is None else offset
    how = (plan, sees, scale, offset, singles)
    o, lse = _BlockSparse.apply(q, k, v, bias, key_mask, how)  # type: ignore[no-untyped-call]
    return o, lse


@dataclass(frozen=True, slots=True)
class _Layout:
    """How (B, H, L, D) becomes (B R, G * blocks, block, D) and back; R heads share each of the G lists.

    Each of the B R is a problem of its own with the same lists.
    """

    plan: Plan
    lq: int
    lk: int
    heads: int

    def _blocked(self, x: Tensor, blocks: int, block: int) -> Tensor:
        pad = blocks * block - x.shape[2]
        if pad:
            x = torch.nn.functional.pad(x, (0, 0, 0, pad))
        # Contiguous, as parts take whole blocks of it by their number.
        return x.reshape(x.shape[0] * self.sharing, self.plan.groups * blocks, block, x.shape[3]).contiguous()

    @property
    def sharing(self) -> int:
        """R, the number of heads that share a list."""
        return self.heads // self.plan.groups

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
        x = x.reshape(x.shape[0] // self.sharing, self.heads, -1, x.shape[3])
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
        return x.reshape(x.shape[0] // self.sharing, self.heads, -1, x.shape[3])[:, :, : self.lk]


@dataclass(frozen=True, slots=True)
class _Part:
    """Tiles of some problems computed together: where they are, which blocks they gather, what is hidden from them."""

    problems: slice
    jobs: Tensor
    blocks: Tensor
    unseen: Tensor
    """What the rule hides of the first keys, (jobs, block_q, n); the rest is seen whole."""
    hidden: Tensor | None
    """What the key mask hides, (problems, jobs, 1, keys)."""

    def tiles(self, x: Tensor) -> Tensor:
        """Tiles of queries to (problems * jobs, block_q, D)."""
        return _picked(x[self.problems], self.jobs).view(-1, *x.shape[2:])

    def gather(self, x: Tensor) -> Tensor:
        """Blocked keys or values to (problems * jobs, slots * block, D)."""
        some = x[self.problems]
        return _picked(some, self.blocks).view(some.shape[0] * len(self.jobs), -1, x.shape[3])

    def put(self, into: Tensor, x: Tensor) -> None:
        """Write (problems * jobs, block_q, D) to their tiles."""
        into[self.problems].index_copy_(1, self.jobs, x.view(-1, len(self.jobs), *x.shape[1:]))

    def add(self, into: Tensor, x: Tensor) -> None:
        """Add the gradients of gathered rows to the blocks that they came from."""
        some = into[self.problems]
        numbers = _numbers(some, self.blocks)
        some.view(-1, some.shape[2] * some.shape[3]).index_add_(0, numbers, x.reshape(len(numbers), -1))


def _numbers(x: Tensor, blocks: Tensor) -> Tensor:
    """Where the blocks (n,) of each problem of x (P, N, block, D) are among all P N blocks; (P n,)."""
    of_problem = torch.arange(x.shape[0], device=blocks.device)[:, None] * x.shape[1]
    return (of_problem + blocks).flatten()


def _picked(x: Tensor, blocks: Tensor) -> Tensor:
    """The blocks (n,) of each problem of x (P, N, block, D), (P n, block D).

    As rows of a matrix they are copied by all threads, which PyTorch does not do along a later axis.
    """
    return x.view(-1, x.shape[2] * x.shape[3]).index_select(0, _numbers(x, blocks))


def _parts(layout: _Layout, sees: Sees, key_mask: Tensor | None, offset: int, problems: int) -> Iterator[_Part]:
    """All tiles of all problems; tiles with about equally long lists come together."""
    plan, lk = layout.plan, layout.lk
    index, counts, whole = plan.index.flatten(0, 1), plan.counts.flatten(), plan.whole.flatten()
    device, most = index.device, index.shape[1]
    budget = _PART_SCORES_GPU if device.type == "cuda" else _PART_SCORES * torch.get_num_threads()
    order = torch.argsort(counts * (most + 1) - whole, descending=True, stable=True)
    sorted_counts = counts[order].tolist()
    within = torch.arange(plan.block_k, device=device)
    start = 0
    while start < len(sorted_counts):
        slots = max(sorted_counts[start], 1)
        scores = plan.block_q * plan.block_k * slots
        jobs = order[start : start + max(1, max(budget, _CHUNK_PAIRS) // scores)].sort().values
        start += len(jobs)
        listed = index[jobs, most - slots :]
        j = (listed[:, :, None] * plan.block_k + within).flatten(1)
        asked = j[:, : (slots - int(whole[jobs].min())) * plan.block_k]
        unseen = _unseen(layout, sees, jobs, asked, offset)
        hidden = None if key_mask is None else ~key_mask[:, j.clamp(0, lk - 1)][:, :, None, :]
        blocks = listed.clamp_min(0) + (jobs // plan.tiles)[:, None] * layout.key_blocks
        together = min(max(1, budget // scores), len(jobs))
        side_by_side = max(1, budget // (scores * together))
        for p in range(0, problems, side_by_side):
            some = slice(p, min(p + side_by_side, problems))
            batch = torch.arange(some.start, some.stop, device=device) // layout.sharing
            for a in range(0, len(jobs), together):
                these = slice(a, a + together)
                masked = None if hidden is None else hidden[:, these].index_select(0, batch)
                yield _Part(some, jobs[these], blocks[these].flatten(), unseen[these], masked)


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


def _scores(part: _Part, qj: Tensor, kj: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Masked scores (problems * jobs, block_q, keys) of the gathered queries and keys, in units of log 2."""
    s = torch.bmm(qj * (scale * _LOG2_E), kj.transpose(-1, -2))
    by_job = s.view(-1, len(part.jobs), *s.shape[1:])
    if bias is not None:
        heads = torch.arange(part.problems.start, part.problems.stop, device=s.device) % bias.shape[0]
        by_job.add_(bias[heads][:, None], alpha=_LOG2_E)
    if part.unseen.shape[2]:
        by_job[..., : part.unseen.shape[2]].masked_fill_(part.unseen, float("-inf"))
    if part.hidden is not None:
        by_job.masked_fill_(part.hidden, float("-inf"))
    return s


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    how: tuple[_Layout, Sees, float, int, Singles | None]

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
        how: tuple[Plan, Sees, float, int, Singles | None],
    ) -> tuple[Tensor, Tensor]:
        plan, sees, scale, offset, singles = how
        layout = _Layout(plan, q.shape[2], k.shape[2], q.shape[1])
        to = compute_dtype(q)
        qt, kt, vt = layout.tile(q), layout.block_keys(k), layout.block_keys(v)
        # Each tile is in exactly one part, so nothing stays unwritten.
        ot = q.new_empty(*qt.shape[:3], v.shape[3], dtype=q.dtype if singles is None else to)
        lt = q.new_empty(*qt.shape[:3], 1, dtype=to)
        wide = None if bias is None else bias.to(to)
        for part in _parts(layout, sees, key_mask, offset, len(qt)):
            s = _scores(part, part.tiles(qt).to(to), part.gather(kt).to(to), wide, scale)
            top = s.amax(dim=-1, keepdim=True)
            top.masked_fill_(top == float("-inf"), 0.0)
            p = s.sub_(top).exp2_()
            total = p.sum(dim=-1, keepdim=True)
            out = torch.bmm(p, part.gather(vt).to(to)).div_(total.clamp_min(torch.finfo(to).tiny))
            part.put(ot, out.to(ot.dtype))
            part.put(lt, total.log2_().add_(top).div_(_LOG2_E))
        o, lse = layout.untile(ot), layout.untile(lt)[..., 0]
        if singles is not None:
            add_singles(q, k, v, o, lse, singles=singles, key_mask=key_mask, scale=scale, offset=offset)
            o = o.to(q.dtype)
        ctx.save_for_backward(q, k, v, bias, key_mask, o, lse)
        ctx.how = (layout, sees, scale, offset, singles)
        return o, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, do: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, key_mask, o, lse = ctx.saved_tensors
        layout, sees, scale, offset, singles = ctx.how
        to = compute_dtype(q)
        delta = (do.to(to) * o.to(to)).sum(dim=-1) - dlse.masked_fill(lse == float("-inf"), 0.0)
        lse = lse.masked_fill(lse == float("-inf"), 0.0)
        qt, kt, vt, gt = layout.tile(q), layout.block_keys(k), layout.block_keys(v), layout.tile(do)
        lt, dt = layout.tile(lse[..., None] * _LOG2_E), layout.tile(delta[..., None])
        dq = torch.zeros_like(qt, dtype=to)
        dk, dv = torch.zeros_like(kt, dtype=to), torch.zeros_like(vt, dtype=to)
        wide = None if bias is None else bias.to(to)
        dbias = None if wide is None else torch.zeros_like(wide)
        for part in _parts(layout, sees, key_mask, offset, len(qt)):
            qj, gj = part.tiles(qt).to(to), part.tiles(gt).to(to)
            kj, vj = part.gather(kt).to(to), part.gather(vt).to(to)
            p = _scores(part, qj, kj, wide, scale).sub_(part.tiles(lt)).exp2_()
            ds = torch.bmm(gj, vj.transpose(-1, -2)).sub_(part.tiles(dt)).mul_(p)
            part.put(dq, torch.bmm(ds, kj).mul_(scale))
            part.add(dk, torch.bmm(ds.transpose(-1, -2), qj).mul_(scale))
            part.add(dv, torch.bmm(p.transpose(-1, -2), gj))
            if dbias is not None:
                heads = torch.arange(part.problems.start, part.problems.stop, device=ds.device) % len(dbias)
                dbias.index_add_(0, heads, ds.view(-1, len(part.jobs), *ds.shape[1:]).sum(dim=1))
        sums = (layout.untile(dq), layout.unblock_keys(dk), layout.unblock_keys(dv))
        if singles is not None:
            add_gradients(
                (q, k, v), do, lse, delta, sums, singles=singles, key_mask=key_mask, scale=scale, offset=offset
            )
        return (
            *(x.to(y.dtype) for x, y in zip(sums, (q, k, v), strict=True)),
            None if dbias is None else dbias.to(bias.dtype),
            *(None,) * 2,
        )
