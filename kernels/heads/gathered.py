"""Dense attention of those queries only that use a head: the work falls with the tokens that a head serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from kernels.autocast import in_declared_types
from kernels.checks import compute_dtype, repeat_heads, visible
from kernels.compiled import Like, as_node
from kernels.dense.reference import masked_attention
from kernels.dense.sdpa import sdpa_attention
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.plan import block_for, plan_from_spans
from kernels.engines.rules import Call, Rule
from kernels.errors import KernelError
from kernels.once import differentiable_once

__all__ = ["gathered_attention", "reference_gathered"]

_ROWS = 96
"""Queries of a head whose keys are masked, where the call is causal."""
_APART = 0.1
"""Share of the keys of one head that others may not see where several are computed at once."""
_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACK = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _like(q: Tensor, k: Tensor, v: Tensor, gates: Tensor, used: Tensor, **_: object) -> Like:
    """What `gathered_attention` gives; `KernelError` as it."""
    _check(q, gates, used)
    return Like((*q.shape[:3], v.shape[3]), q.dtype, q.device)


@as_node(_like)
def gathered_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Tensor,
    used: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Attention times gates, computed for the queries that use a head; (B, H, Lq, Dv), 0 for the others.

    Args:
        q: queries (B, H, Lq, D).
        k: keys (B, Hk, Lk, D), of all tokens; Hk divides H.
        v: values (B, Hk, Lk, Dv).
        gates: (B, H, Lq), what each output is multiplied by.
        used: bool (B, H, Lq); its False ones get no gradient by their gate either.
        causal: bottom-right aligned.
        key_mask: bool (B, Lk).
        scale: factor on the dot products.

    Raises `KernelError` for gates that do not fit.
    """
    _check(q, gates, used)
    sharing, to = q.shape[1] // k.shape[1], compute_dtype(q)
    counts = used.sum(dim=2).amax(dim=0)
    # Heads that all tokens of some sequence use are not worth gathering.
    whole, some = ((x.nonzero()[:, 0]).tolist() for x in (counts == q.shape[2], (counts > 0) & (counts < q.shape[2])))
    out = q.new_zeros(*q.shape[:3], v.shape[3])
    if not whole and not some:
        # Still with a gradient, of zero.
        return out + (q[..., :0].sum() + k[..., :0].sum() + v[..., :0].sum())
    if whole:
        of_heads = (_heads(q, whole), *(_heads(x, [h // sharing for h in whole]) for x in (k, v)))
        done = sdpa_attention(*of_heads, causal=causal, key_mask=key_mask, scale=scale).to(to)
        out[:, whole] = _weighed(done, _heads(gates, whole), _heads(used, whole)).to(q.dtype)
    if some:
        at, done = _gathered(q, k, v, gates, used, some, causal=causal, key_mask=key_mask, scale=scale)
        batches = torch.arange(q.shape[0], device=q.device)[:, None, None]
        out[batches, torch.tensor(some, device=q.device)[:, None], at] = done.to(q.dtype)
    return out


def _heads(x: Tensor, heads: list[int]) -> Tensor:
    """Some heads of ``x`` (B, H, ...), a view where they follow each other."""
    first, count = heads[0], len(heads)
    return x[:, first : first + count] if heads == list(range(first, first + count)) else x[:, heads]


def _weighed(x: Tensor, gates: Tensor, used: Tensor) -> Tensor:
    """Rows ``x`` (B, H, n, Dv) times gates (B, H, n), 0 where not in use."""
    return x * gates.to(x.dtype).masked_fill(~used, 0.0)[..., None]


@as_node(_like)
def reference_gathered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Tensor,
    used: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """The definition: all of it, times the gates; as `gathered_attention`."""
    _check(q, gates, used)
    k, v = (repeat_heads(x, q.shape[1]) for x in (k, v))
    whole = masked_attention(q, k, v, visible(q, k, causal=causal, key_mask=key_mask), scale=scale)[0]
    return whole * gates.to(whole.dtype).masked_fill(~used, 0.0)[..., None]


def _check(q: Tensor, gates: Tensor, used: Tensor) -> None:
    want = tuple(q.shape[:3])
    if tuple(gates.shape) != want or tuple(used.shape) != want or used.dtype != torch.bool:
        raise KernelError(
            f"gates {tuple(gates.shape)} and used {used.dtype} {tuple(used.shape)}, expected both {want}, used bool"
        )


def _gathered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Tensor,
    used: Tensor,
    heads: list[int],
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Of each of ``heads`` its queries in use, ascending, then others to fill up, and their outputs times their gates.

    Both are (B, heads, n, ...), the outputs of what fills up 0.
    """
    (batch, _, lq, size), lk = q.shape, k.shape[2]
    of_keys = [h // (q.shape[1] // k.shape[1]) for h in heads]
    rows, gates, used = (_heads(x, heads) for x in (q, gates, used))
    counts = used.sum(dim=2)
    most = int(counts.max())
    # Of each head its queries in use, in order, then others to fill up, as zeros.
    at = used.to(torch.int8).argsort(dim=2, descending=True, stable=True)[:, :, :most]
    real = torch.arange(most, device=q.device) < counts[..., None]
    rows = rows.gather(2, at[..., None].expand(-1, -1, -1, size))
    rows = rows if bool(real.all()) else rows.masked_fill(~real[..., None], 0.0)
    place = torch.where(real, at + (lk - lq), -1) if causal else torch.full_like(at, lk - 1)
    by_pieces = q.device.type == "cpu" and size == v.shape[3] and lk > 0
    counts = counts.amax(dim=0)
    groups = _groups(counts, place, batch if by_pieces else 0)
    numbers = counts.tolist()
    parts = [(group, [of_keys[h] for h in group], max(numbers[h] for h in group)) for group in groups]
    if by_pieces:
        done: Tensor = _ByPieces.apply(rows, k, v, place, key_mask, scale, parts)  # type: ignore[no-untyped-call]
    else:
        each: dict[int, Tensor] = {}
        for group, theirs, n in parts:
            part = (rows[:, group, :n], k[:, theirs], v[:, theirs])
            if causal:
                one = _causal(*part, place[:, group, :n], key_mask=key_mask, scale=scale)
            else:
                one = sdpa_attention(*part, causal=False, key_mask=key_mask, scale=scale)
            each[group[0]] = torch.nn.functional.pad(one, (0, 0, 0, most - n))
        done = torch.cat([each[h] for h in range(len(heads))], dim=1)
    return at, _weighed(done.to(compute_dtype(q)), gates.gather(2, at), real)


def _groups(counts: Tensor, place: Tensor, batch: int) -> list[list[int]]:
    """Heads to be computed at once: those of like ``counts`` (H,), as many as give each thread of a CPU a problem.

    Heads are apart otherwise, as some serve more tokens than others, and where their queries stand at places (B, H, n)
    so different that much of what one sees is hidden to another. ``batch`` is 0 off the CPU.
    """
    size = -(-torch.get_num_threads() // batch) if batch else 1
    found: list[list[int]] = []
    order = counts.argsort(descending=True, stable=True).tolist()
    for group in (order[first : first + size] for first in range(0, len(order), size)):
        if len(group) > 1:
            seen = place[:, group, : int(counts[group].max())].cummax(dim=2).values + 1
            least, most = seen.amin(dim=(0, 1)), seen.amax(dim=(0, 1))
            if int((most - least).sum()) > _APART * int(most.sum()):
                found += [[h] for h in group]
                continue
        found.append(group)
    return found


def _causal(q: Tensor, k: Tensor, v: Tensor, place: Tensor, *, key_mask: Tensor | None, scale: float) -> Tensor:
    """Queries at ``place`` (B, H, n) on the axis of the keys, ascending, then -1 for none, over keys up to there."""
    if key_mask is None:
        # Sequences are heads of one call: each has its own places anyway.
        flat = (x.flatten(0, 1)[None] for x in (q, k, v))
        return _placed(*flat, place=place.flatten(0, 1), key_mask=None, scale=scale).view(*q.shape[:3], v.shape[3])
    ones = [slice(b, b + 1) for b in range(q.shape[0])]
    parts = [_placed(q[b], k[b], v[b], place=place[b.start], key_mask=key_mask[b], scale=scale) for b in ones]
    return torch.cat(parts)


def _placed(q: Tensor, k: Tensor, v: Tensor, *, place: Tensor, key_mask: Tensor | None, scale: float) -> Tensor:
    """`_causal` of one sequence by engine 1, with ``place`` (H, n)."""
    last = max(place.shape[1] - 1, 0)

    def where(h: Tensor, i: Tensor) -> Tensor:
        return place[h, i.clamp(0, last)]

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return j <= where(h, i)

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        hi = where(h, i) + 1
        return torch.zeros_like(hi)[None], hi[None]

    call = Call(q.shape[1], q.shape[2], k.shape[2], True, q.device, 0)
    rule = Rule(sees, spans, per_head=True)
    block = block_for(rule, call)
    plan = plan_from_spans(rule, call, block_q=block, block_k=block)
    return block_sparse_attention(q, k, v, plan=plan, sees=sees, scale=scale, key_mask=key_mask, offset=0)[0]


_Part = tuple[list[int], list[int], int]
"""Heads of queries, the heads of their keys, and how many queries they have at most."""


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    how: tuple[float, list[_Part]]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _ByPieces(torch.autograd.Function):
    """Queries (B, H, n, D) at places (B, H, n) over the keys up to there, by PyTorch's own kernel on a CPU.

    The queries of each part are cut into rectangles with keys (`_pieces`), most of which are seen whole and need no
    mask. Masks of the others are made again on the way back, so that none of all pairs is ever held.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        place: Tensor,
        key_mask: Tensor | None,
        scale: float,
        parts: list[_Part],
    ) -> Tensor:
        # What fills up sees what the last of its head sees; it is dropped later.
        place = place.cummax(dim=2).values.int()
        to = compute_dtype(q)
        out, lse = torch.zeros_like(q, memory_format=torch.contiguous_format), q.new_zeros(q.shape[:3], dtype=to)
        for heads, of_keys, n in parts:
            queries, at = _heads(q, heads)[:, :, :n], _heads(place, heads)[:, :, :n]
            their_keys, values = _heads(k, of_keys), _heads(v, of_keys)
            done, sums = queries.new_zeros(queries.shape, dtype=to), at.new_full(at.shape, float("-inf"), dtype=to)
            for rows, keys, cut in _pieces(at):
                mask, blind = _hidden(at[:, :, rows], keys, key_mask, q.dtype, cut=cut)
                piece = (queries[:, :, rows], their_keys[:, :, keys], values[:, :, keys])
                found, new = _FLASH(*piece, attn_mask=mask, scale=scale)
                _join(done[:, :, rows], sums[:, :, rows], found.to(to), _seeing(new, blind))
            out[:, heads, :n] = done.to(q.dtype)
            lse[:, heads, :n] = sums
        ctx.save_for_backward(q, k, v, place, key_mask, out, lse)
        ctx.how = (scale, parts)
        return out

    @staticmethod
    @differentiable_once
    @in_declared_types
    def backward(ctx: _Context, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, place, key_mask, out, lse = ctx.saved_tensors
        scale, parts = ctx.how
        dq, dk, dv = (torch.zeros_like(x, dtype=compute_dtype(x)) for x in (q, k, v))
        for heads, of_keys, n in parts:
            queries, at, weight, done, sums = (_heads(x, heads)[:, :, :n] for x in (q, place, do, out, lse))
            their_keys, values = _heads(k, of_keys), _heads(v, of_keys)
            weight = weight.masked_fill((sums == float("-inf"))[..., None], 0.0)
            change = queries.new_zeros(queries.shape, dtype=dq.dtype)
            into = torch.tensor(of_keys, device=k.device)
            for rows, keys, cut in _pieces(at):
                mask, blind = _hidden(at[:, :, rows], keys, key_mask, q.dtype, cut=cut)
                # With the sums over all keys each piece gives its share of the gradients; rows without weight none.
                total = -_seeing(-sums[:, :, rows], blind)
                piece = (queries[:, :, rows], their_keys[:, :, keys], values[:, :, keys], done[:, :, rows])
                given = _FLASH_BACK(weight[:, :, rows], *piece, total, 0.0, False, attn_mask=mask, scale=scale)
                change[:, :, rows] += given[0]
                for x, more in ((dk, given[1]), (dv, given[2])):
                    x[:, :, keys].index_add_(1, into, more.to(x.dtype))
            dq[:, heads, :n] = change
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None, None


def _pieces(place: Tensor) -> Iterator[tuple[slice, slice, bool]]:
    """Rectangles of queries and keys that hold each pair seen once, and whether some of their pairs are not seen.

    Queries at ``place`` (B, H, n), ascending, all see the keys up to the first of them, which is one rectangle; of the
    other keys each half of the queries sees its own, and so on down to a few rows, whose rectangle needs a mask.
    """
    first, last = place.amin(dim=(0, 1)).tolist(), place.amax(dim=(0, 1)).tolist()
    left = [(0, len(first), 0)]
    while left:
        start, stop, seen = left.pop()
        clear, behind = first[start] + 1, last[stop - 1] + 1
        few = stop - start <= _ROWS
        if behind > clear and few:
            if behind > seen:
                yield slice(start, stop), slice(seen, behind), True
            continue
        if clear > seen:
            yield slice(start, stop), slice(seen, clear), False
        if behind > max(clear, seen):
            # Whole numbers of the smallest parts, the larger half first.
            middle = start + -(-(stop - start) // (2 * _ROWS)) * _ROWS
            left += [(part, end, max(clear, seen)) for part, end in ((start, middle), (middle, stop))]


def _hidden(
    place: Tensor, keys: slice, key_mask: Tensor | None, dtype: torch.dtype, *, cut: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The mask to be added to the scores of rows at ``place``, broadcastable to (B, H, rows, keys), and blind rows.

    None of both where nothing is hidden. The mask shows the first key to rows that see nothing, which are blind.
    """
    if not cut and key_mask is None:
        return None, None
    number = torch.arange(keys.start, keys.stop, dtype=place.dtype)
    hidden = number > place[..., None] if cut else torch.zeros(1, 1, 1, len(number), dtype=torch.bool)
    blind = place < keys.start
    if key_mask is not None:
        hidden = hidden | ~key_mask[:, None, None, keys]
        blind = hidden.all(dim=-1)
    mask = torch.where(hidden, torch.tensor(float("-inf"), dtype=dtype), torch.tensor(0.0, dtype=dtype))
    mask[..., 0].masked_fill_(blind, 0.0)
    return mask, blind


def _seeing(lse: Tensor, blind: Tensor | None) -> Tensor:
    """Log-sum-exps (B, H, rows), -inf for rows that are blind."""
    return lse if blind is None else lse.masked_fill(blind, float("-inf"))


def _join(out: Tensor, lse: Tensor, found: Tensor, new: Tensor) -> None:
    """Attention over further keys, with its log-sum-exp, joins that in ``out`` and ``lse``."""
    top = torch.maximum(lse, new)
    top = top.masked_fill(top == float("-inf"), 0.0)
    weight = torch.exp(new - top)
    total = torch.exp(lse - top) + weight
    out.lerp_(found, (weight / total.clamp_min(torch.finfo(total.dtype).tiny))[..., None])
    lse.copy_(top + total.log())
