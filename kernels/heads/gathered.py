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

_ROWS = 128
"""Queries of a head that are computed at once where the call is causal."""
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
    out = q.new_zeros(*q.shape[:3], v.shape[3])
    counts = used.sum(dim=2).amax(dim=0)
    whole = counts == q.shape[2]
    # Heads that all tokens of some sequence use are not worth gathering.
    for heads, gather in ((whole.nonzero()[:, 0], False), (((counts > 0) & ~whole).nonzero()[:, 0], True)):
        if len(heads) == 0:
            continue
        sharing = q.shape[1] // k.shape[1]
        of_heads = (q[:, heads], k[:, heads // sharing], v[:, heads // sharing])
        if gather:
            done = _gathered(*of_heads, used[:, heads], causal=causal, key_mask=key_mask, scale=scale)
        else:
            done = sdpa_attention(*of_heads, causal=causal, key_mask=key_mask, scale=scale)
        out = out.index_copy(1, heads, done.to(out.dtype))
    to = compute_dtype(q)
    return (out.to(to) * gates.to(to).masked_fill(~used, 0.0)[..., None]).to(q.dtype)


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
    q: Tensor, k: Tensor, v: Tensor, used: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float
) -> Tensor:
    """The outputs of the queries in use, the rest 0; all of q, k and v have the same heads."""
    batch, heads, lq, _ = q.shape
    counts = used.sum(dim=2)
    most = int(counts.max())
    # Of each head its queries in use, in order, then others to fill up.
    at = used.to(torch.int8).argsort(dim=2, descending=True, stable=True)[:, :, :most]
    real = torch.arange(most, device=q.device) < counts[..., None]
    some = q.gather(2, at[..., None].expand(-1, -1, -1, q.shape[3]))
    place = torch.where(real, at + (k.shape[2] - lq), -1) if causal else None
    # Head by head, as some serve more tokens than others.
    rows = []
    for h, n in enumerate(counts.amax(dim=0).tolist()):
        one = slice(h, h + 1)
        part = (some[:, one, :n], k[:, one], v[:, one])
        if place is None:
            found = sdpa_attention(*part, causal=False, key_mask=key_mask, scale=scale)
        else:
            found = _causal(*part, place[:, one, :n], key_mask=key_mask, scale=scale)
        rows.append(torch.nn.functional.pad(found, (0, 0, 0, most - n)))
    done = torch.cat(rows, dim=1)
    done = done.masked_fill(~real[..., None], 0.0)
    return done.new_zeros(batch, heads, lq, v.shape[3]).scatter(2, at[..., None].expand_as(done), done)


def _causal(q: Tensor, k: Tensor, v: Tensor, place: Tensor, *, key_mask: Tensor | None, scale: float) -> Tensor:
    """Queries at ``place`` (B, H, n) on the axis of the keys, ascending, then -1 for none, over keys up to there."""
    if q.device.type == "cpu" and q.shape[3] == v.shape[3] and 0 not in q.shape:
        done: Tensor = _ByTiles.apply(q, k, v, place, key_mask, scale)  # type: ignore[no-untyped-call]
        return done
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


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    scale: float

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _ByTiles(torch.autograd.Function):
    """`_causal` by PyTorch's own kernel on a CPU, some queries and the keys up to the last of them at a time.

    Masks are made again on the way back, so that none of all pairs is ever held.
    """

    @staticmethod
    def forward(
        ctx: _Context, q: Tensor, k: Tensor, v: Tensor, place: Tensor, key_mask: Tensor | None, scale: float
    ) -> Tensor:
        out, lse = torch.zeros_like(q), q.new_zeros(q.shape[:3], dtype=compute_dtype(q))
        for rows, keys, mask, blind in _tiles(place, key_mask, q.dtype):
            part = (q[:, :, rows], k[:, :, keys], v[:, :, keys])
            found, lse[:, :, rows] = _FLASH(*part, attn_mask=mask, scale=scale)
            out[:, :, rows] = found.masked_fill(blind[..., None], 0.0)
        ctx.save_for_backward(q, k, v, place, key_mask, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    @differentiable_once
    @in_declared_types
    def backward(ctx: _Context, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, place, key_mask, out, lse = ctx.saved_tensors
        dq = torch.zeros_like(q)
        dk, dv = (torch.zeros_like(x, dtype=compute_dtype(x)) for x in (k, v))
        for rows, keys, mask, blind in _tiles(place, key_mask, q.dtype):
            weight = do[:, :, rows].masked_fill(blind[..., None], 0.0)
            part = (weight, q[:, :, rows], k[:, :, keys], v[:, :, keys], out[:, :, rows])
            given = _FLASH_BACK(*part, lse[:, :, rows], 0.0, False, attn_mask=mask, scale=ctx.scale)
            dq[:, :, rows] = given[0]
            dk[:, :, keys] += given[1]
            dv[:, :, keys] += given[2]
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None, None


def _tiles(place: Tensor, key_mask: Tensor | None, dtype: torch.dtype) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Rows of queries, the keys that some of them see, the mask to be added, and which rows see nothing, (B, H, rows).

    The mask is (B, H, rows, keys) and shows the first key to rows that see nothing.
    """
    for first in range(0, place.shape[2], _ROWS):
        at = place[:, :, first : first + _ROWS]
        stop = max(int(at.max()) + 1, 1)
        # Before the first of the places all keys are seen.
        clear = 0 if key_mask is not None else max(int(at.min()), 0)
        hidden = torch.arange(clear, stop) > at[..., None]
        if key_mask is not None:
            hidden = hidden | ~key_mask[:, None, None, :stop]
        blind = hidden.all(dim=-1) if clear == 0 else torch.zeros_like(at, dtype=torch.bool)
        hidden[..., 0] &= ~blind
        mask = torch.zeros(*at.shape, stop, dtype=dtype)
        mask[..., clear:].masked_fill_(hidden, float("-inf"))
        yield slice(first, first + at.shape[2]), slice(0, stop), mask, blind
