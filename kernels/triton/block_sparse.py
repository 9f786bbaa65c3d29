"""Engine 1 in Triton: exact attention over listed blocks of keys, or over listed keys, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from kernels.autocast import in_declared_types
from kernels.engines.plan import BlockPlan
from kernels.engines.rules import Call, Form, Rule, Sees
from kernels.once import differentiable_once
from kernels.triton.block_sparse_lists import BlockSchedule, KeyListing, keys_seen, listing, schedule, schedule_of
from kernels.triton.support import (
    LOG2E,
    capability,
    launch,
    launch_options,
    on_device,
    padded,
    precision,
    require,
    summed_heads,
    widened,
)
from kernels.triton.tiles import ARCHITECTURES, Tile, block_tile

_BUSY = 264
"""Programs that keep a large GPU busy: two for each of 132 multiprocessors."""
_STRETCH = 4
"""Blocks of keys that are worth a program of their own."""
_ROWS = 16
"""Queries that a tile has at least, and rows that are joined at once."""

__all__ = ["launch_for", "listed_attention", "planned_attention", "ruled_attention", "splits_for"]


def launch_for(
    seen: float, block: int | None, size: int, dtype: torch.dtype, *, backward: bool, arch: int = ARCHITECTURES[-1]
) -> Tile:
    """The tile for queries that see ``seen`` keys each, a rule made of blocks of ``block`` and heads of ``size``.

    Large tiles reuse what they load; small ones compute fewer scores that the rule hides. The largest is that of the
    table for a compute capability.
    """
    most = block_tile(arch, size, dtype, backward=backward)
    fits = 32
    while fits < 128 and 4 * fits < seen:
        fits *= 2
    if block in (32, 64, 128):
        # Blocks of the rule that are cut by tiles of another size would be partial for no reason.
        fits = block
    m, n = min(most.block_m, fits), min(most.block_n, fits)
    return replace(most, block_m=m, block_n=n, warps=most.warps if m == most.block_m else 4)


def splits_for(programs: int, blocks: float) -> int:
    """How many programs share a tile whose queries visit so many blocks, where there is a program for each tile.

    One where tiles alone keep a GPU busy; else as many as do so, with some blocks for each.
    """
    return max(1, min(-(-_BUSY // max(programs, 1)), int(blocks // _STRETCH)))


def ruled_attention(
    q: Tensor, k: Tensor, v: Tensor, rule: Rule, call: Call, *, scale: float, key_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention of q (B, H, Lq, D) over the keys that a rule shows.

    Args:
        q: queries, float32, bfloat16 or float16.
        k: keys (B, Hk, Lk, D); neighbouring heads of queries share one.
        v: values (B, Hk, Lk, Dv).
        rule: which keys each query sees.
        call: the facts of the call; `call.offset` is the position of query 0 on the axis of the keys.
        scale: factor on the dot products.
        key_mask: bool (B, Lk), True where a key may be seen.

    Returns:
        The output (B, H, Lq, Dv) in the type of q, 0 where nothing is seen, and the log-sum-exp (B, H, Lq) in float32,
        -inf there. Both carry gradients.

    Raises:
        KernelError: where Triton cannot run on these tensors.
    """
    require(q, k, v)
    if 0 in (*q.shape[:3], k.shape[2]):
        return _nothing(q, k, v)
    q, scale = _with_positive(q, scale)
    if call.device.type == "meta":
        # Lists are made of numbers, which tensors there do not have.
        call = replace(call, device=torch.device("cpu"))
    work = _Ruled(rule, call, scale, max(q.shape[3], v.shape[3]))
    o, lse = _Attention.apply(*map(widened, (q, k, v)), None, key_mask, work)
    return o.to(q.dtype), lse


def planned_attention(
    q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, sees: Sees, call: Call, *, scale: float
) -> tuple[Tensor, Tensor]:
    """`ruled_attention` over the blocks of a plan (without an order) in place of a rule's, with the same results."""
    require(q, k, v)
    if 0 in (*q.shape[:3], k.shape[2]):
        return _nothing(q, k, v)
    q, scale = _with_positive(q, scale)
    work = _Planned(Rule(sees, _unasked), call, scale, max(q.shape[3], v.shape[3]), plan)
    o, lse = _Attention.apply(*map(widened, (q, k, v)), None, None, work)
    return o.to(q.dtype), lse


def _with_positive(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """Queries and a positive scale with the same scores: the kernels compare products before they scale them."""
    if scale > 0.0:
        return q, float(scale)
    return (-q, -float(scale)) if scale < 0.0 else (q * 0.0, 1.0)


def _unasked(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("a plan has blocks and no ranges")


def listed_attention(
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
) -> tuple[Tensor, Tensor]:
    """`kernels.engines.block_sparse.block_sparse_attention` for plans of single keys, with the same arguments.

    ``bias`` (H or 1, block_q, n) is added in the order of the plan's lists and carries a gradient.
    """
    require(q, k, v)
    if 0 in (*q.shape[:3], k.shape[2]):
        return _nothing(q, k, v)
    size = max(q.shape[3], v.shape[3])
    how = replace(launch_for(plan.block_q * 4, None, size, q.dtype, backward=True, arch=capability(q)), warps=8)
    offset = k.shape[2] - q.shape[2] if offset is None else offset
    made = listing(
        plan, sees, lk=k.shape[2], offset=offset, block_m=min(how.block_m, padded(plan.block_q)), block_n=how.block_n
    )
    work = _Listed(made, float(scale), how)
    o, lse = _Attention.apply(*map(widened, (q, k, v)), bias, key_mask, work)
    return o.to(q.dtype), lse


def _nothing(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """What no key or no query gives, still with a gradient (of zero)."""
    nothing = q[..., :0].sum() + k[..., :0].sum() + v[..., :0].sum()
    return nothing.expand(*q.shape[:3], v.shape[3]).clone(), q.new_full(q.shape[:3], float("-inf"), dtype=torch.float32)


class _Work(Protocol):
    """What runs the kernels of one call."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, keys: Tensor | None, o: Tensor, lse: Tensor
    ) -> None: ...

    def backward(
        self, saved: tuple[Tensor, ...], do: Tensor, dlse: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]: ...


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    work: _Work

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _Attention(torch.autograd.Function):
    """The kernels with their recomputing backward pass."""

    @staticmethod
    def forward(
        ctx: _Context, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, key_mask: Tensor | None, work: _Work
    ) -> tuple[Tensor, Tensor]:
        o = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        keys = None if key_mask is None else key_mask.contiguous().view(torch.uint8)
        wide = None if bias is None else bias.detach().float().contiguous()
        with on_device(q):
            work.forward(q, k, v, wide, keys, o, lse)
        ctx.save_for_backward(q, k, v, bias, keys, o, lse)
        ctx.work = work
        ctx.set_materialize_grads(False)
        return o, lse

    @staticmethod
    @differentiable_once
    @in_declared_types
    def backward(ctx: _Context, do: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, _, _, bias, _, o, _ = ctx.saved_tensors
        do = torch.zeros_like(o) if do is None else do
        dlse = None if dlse is None else dlse.contiguous()
        with on_device(q):
            dq, dk, dv, dbias = ctx.work.backward(ctx.saved_tensors, do, dlse)
        return dq, dk, dv, None if dbias is None else dbias.to(bias.dtype), None, None


def _sizes(q: Tensor, v: Tensor, keys: Tensor | None) -> dict[str, object]:
    """The constants of every kernel that follow from the tensors."""
    d, dv = q.shape[3], v.shape[3]
    return {
        "D": d,
        "DV": dv,
        "BLOCK_D": padded(d),
        "BLOCK_DV": padded(dv),
        "HAS_KEYS": keys is not None,
        "PRECISION": precision(q.dtype),
    }


@dataclass
class _Ruled:
    """Launches over the schedules of a rule; the backward pass has smaller tiles and so lists of its own."""

    rule: Rule
    call: Call
    scale: float
    size: int

    @cached_property
    def seen(self) -> float:
        """Keys that a query sees."""
        return keys_seen(self.rule, self.call)

    def plan(self, q: Tensor, *, backward: bool) -> tuple[BlockSchedule, dict[str, object]]:
        """The schedule of one direction, and the constants and launch options that go with it."""
        how = launch_for(self.seen, self.rule.block, self.size, q.dtype, backward=backward, arch=capability(q))
        if not backward and padded(self.call.lq, _ROWS) < how.block_m:
            # Few queries, as in decoding, fill small tiles.
            how = replace(how, block_m=padded(self.call.lq, _ROWS), warps=4)
        made = self.schedule(how)
        form = self.rule.form
        shown = Form(0) if form is None else form
        return made, {
            "BLOCK_M": how.block_m,
            "BLOCK_N": how.block_n,
            "GROUPED": made.groups > 1,
            "USE_BITS": form is None,
            "CAUSAL": shown.causal,
            "UNIT": shown.unit,
            "POWERS": shown.powers,
            "RUNS": made.runs,
            **launch_options(how.warps, how.stages),
        }

    def schedule(self, how: Tile) -> BlockSchedule:
        """The blocks in tiles of the sizes of a launch."""
        return schedule(self.rule, self.call, block_m=how.block_m, block_n=how.block_n)

    def numbers(self, q: Tensor, k: Tensor, tiles: int) -> tuple[int | float, ...]:
        """Heads, how many share keys, lengths, tiles, offset, lift, near, first and scale, as kernels take them."""
        form = self.rule.form or Form(0)
        lift = -(-max(0, -self.call.offset) // form.unit) * form.unit
        call = self.call
        return (
            q.shape[1],
            q.shape[1] // k.shape[1],
            call.lq,
            call.lk,
            tiles,
            call.offset,
            lift,
            form.near,
            form.first,
            self.scale * LOG2E,
        )

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, keys: Tensor | None, o: Tensor, lse: Tensor
    ) -> None:
        from kernels.triton.block_sparse_forward import combine, forward, forward_split

        made, options = self.plan(q, backward=False)
        problems = q.shape[0] * q.shape[1]
        shown = q if keys is None else keys
        lists = (made.full.starts, made.full.index, made.part.starts, made.part.index, made.bits)
        strides, numbers = (*q.stride(), *k.stride(), *v.stride()), self.numbers(q, k, made.tiles)
        constants = {**_sizes(q, v, keys), **options}
        splits = splits_for(made.tiles * problems, made.visited)
        if splits == 1:
            launch(forward, made.tiles * problems, (q, k, v, shown, o, lse), lists, strides, numbers, constants)
            return
        parts, lses = (torch.empty(splits, *x.shape, dtype=torch.float32, device=x.device) for x in (o, lse))
        launch(
            forward_split,
            made.tiles * problems * splits,
            (q, k, v, shown, parts, lses),
            lists,
            strides,
            (splits, problems),
            numbers,
            constants,
        )
        rows = lse.numel()
        fixed = {"DV": v.shape[3], "BLOCK_M": _ROWS, "BLOCK_DV": padded(v.shape[3]), **launch_options(4, 2)}
        launch(combine, -(-rows // _ROWS), (parts, lses, o, lse, splits, rows), fixed)

    def backward(
        self, saved: tuple[Tensor, ...], do: Tensor, dlse: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        from kernels.triton.block_sparse_backward import key_grads, query_grads

        q, k, v, _, keys, o, lse = saved
        made, options = self.plan(q, backward=True)
        # Each head of queries gives gradients of its own; those of heads that share keys are added up at the end.
        dq, dk, dv = (torch.empty(*q.shape[:2], *x.shape[2:], dtype=x.dtype, device=x.device) for x in (q, k, v))
        delta = torch.empty_like(lse)
        strides = (*q.stride(), *k.stride(), *v.stride(), *do.stride())
        shown = q if keys is None else keys
        constants = {**_sizes(q, v, keys), **options}
        heads = q.shape[0] * q.shape[1]
        launch(
            query_grads,
            made.tiles * heads,
            (q, k, v, shown, o, do, lse, lse if dlse is None else dlse, delta, dq),
            (made.full.starts, made.full.index, made.part.starts, made.part.index, made.bits),
            strides,
            self.numbers(q, k, made.tiles),
            {**constants, "HAS_DLSE": dlse is not None},
        )
        turned, part = made.full_turned, made.part_turned
        launch(
            key_grads,
            made.blocks * heads,
            (q, k, v, shown, do, lse, delta, dk, dv),
            (turned.starts, turned.index, part.starts, part.index, made.entry, made.bits),
            strides,
            self.numbers(q, k, made.blocks),
            constants,
        )
        return dq, summed_heads(dk, k), summed_heads(dv, v), None


@dataclass
class _Planned(_Ruled):
    """Launches over the blocks of a plan, of which the rule is asked only elementwise."""

    blocks: BlockPlan

    @cached_property
    def seen(self) -> float:
        """Keys that a query sees."""
        return self.blocks.block_k * float(self.blocks.counts.float().mean())

    def schedule(self, how: Tile) -> BlockSchedule:
        """The blocks in tiles of the sizes of a launch."""
        return schedule_of(self.blocks, self.rule.sees, self.call, block_m=how.block_m, block_n=how.block_n)


@dataclass
class _Listed:
    """Launches over a listing."""

    made: KeyListing
    scale: float
    how: Tile

    def constants(self, q: Tensor, v: Tensor, keys: Tensor | None, bias: Tensor | None) -> dict[str, object]:
        """The constants and launch options of both directions."""
        return {
            **_sizes(q, v, keys),
            "BLOCK_M": self.made.block_m,
            "BLOCK_N": self.made.block_n,
            "HAS_BIAS": bias is not None,
            **launch_options(self.how.warps, self.how.stages),
        }

    def numbers(self, q: Tensor, k: Tensor, bias: Tensor | None) -> tuple[int | float, ...]:
        """The stride of the bias from head to head, and the numbers that follow it in both kernels."""
        made = self.made
        rows, cols = (0, 0) if bias is None else bias.shape[1:]
        step = 0 if bias is None or bias.shape[0] == 1 else rows * cols
        lengths = (q.shape[1], q.shape[1] // k.shape[1], q.shape[2], k.shape[2])
        return (step, *lengths, made.tiles, made.parts, made.cols.shape[1], rows, cols, self.scale * LOG2E)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, keys: Tensor | None, o: Tensor, lse: Tensor
    ) -> None:
        from kernels.triton.block_sparse_listed import forward

        made = self.made
        launch(
            forward,
            made.tiles * q.shape[0] * q.shape[1],
            (q, k, v, q if keys is None else keys, lse if bias is None else bias, o, lse),
            (made.rows, made.cols, made.bits),
            (*q.stride(), *k.stride(), *v.stride()),
            self.numbers(q, k, bias),
            self.constants(q, v, keys, bias),
        )

    def backward(
        self, saved: tuple[Tensor, ...], do: Tensor, dlse: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        from kernels.triton.block_sparse_listed import backward

        made = self.made
        q, k, v, bias, keys, o, lse = saved
        wide = None if bias is None else bias.detach().float().contiguous()
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        dk, dv = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        dbias = None if wide is None else torch.zeros_like(wide)
        launch(
            backward,
            made.tiles * q.shape[0] * q.shape[1],
            (q, k, v, q if keys is None else keys, lse if wide is None else wide, o, do, lse),
            (lse if dlse is None else dlse, dq, dk, dv, lse if dbias is None else dbias),
            (made.rows, made.cols, made.bits, *q.stride(), *k.stride(), *v.stride(), *do.stride()),
            self.numbers(q, k, wide),
            {**self.constants(q, v, keys, wide), "HAS_DLSE": dlse is not None},
        )
        return dq, dk.to(k.dtype), dv.to(v.dtype), dbias
