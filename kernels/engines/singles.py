"""Single keys at fixed distances beside a block-sparse result: one more score per query and distance, not a block.

Queries and keys at a distance are two slices of the same sequence, so that nothing is gathered. Rows are taken in
chunks that stay in cache; keys that heads share are repeated there only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.checks import repeat_heads

__all__ = ["Singles", "add_gradients", "add_singles"]

_CHUNK_ELEMENTS = 1 << 17
"""Elements of a chunk of queries per thread: 512 KiB in float32."""


@dataclass(frozen=True, slots=True)
class Singles:
    """Distances i - j at which a query at i sees the one key j; negative ones are keys after the query."""

    distances: tuple[int, ...]
    first: int = 0
    """Keys before this position are not meant: they are seen anyway."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """Rows [a, b) of queries and the rows [j, j + b - a) of the keys at one distance."""

    column: int
    a: int
    b: int
    j: int


def _chunks(q: Tensor, lk: int, offset: int, singles: Singles) -> Iterator[tuple[int, int, list[_Slice]]]:
    """Chunks of rows with what each distance finds there."""
    lq = q.shape[2]
    most = _CHUNK_ELEMENTS * (torch.get_num_threads() if q.device.type == "cpu" else 256)
    size = max(64, most // max(q.shape[0] * q.shape[1] * q.shape[3], 1))
    for start in range(0, lq, size):
        stop = min(start + size, lq)
        found = []
        for column, apart in enumerate(singles.distances):
            # Key j = i + offset - apart must lie in [first, lk).
            a = max(start, singles.first - offset + apart)
            b = min(stop, lk - offset + apart)
            if a < b:
                found.append(_Slice(column, a, b, a + offset - apart))
        if found:
            yield start, stop, found


def _scores(
    q: Tensor, k: Tensor, key_mask: Tensor | None, scale: float, chunk: tuple[int, int, list[_Slice]], distances: int
) -> Tensor:
    """Scores (B, H, rows, distances) of a chunk, -inf where there is no key."""
    start, stop, found = chunk
    s = q.new_full((*q.shape[:2], stop - start, distances), float("-inf"))
    for at in found:
        n = at.b - at.a
        rows = q[:, :, at.a - start : at.b - start]
        dots = (rows * _rows(k, at.j, n, rows)).sum(dim=-1)
        if key_mask is not None:
            dots.masked_fill_(~key_mask[:, None, at.j : at.j + n], float("-inf"))
        s[:, :, at.a - start : at.b - start, at.column] = dots
    return s.mul_(scale)


def add_singles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    *,
    singles: Singles,
    key_mask: Tensor | None,
    scale: float,
    offset: int,
) -> None:
    """Let o (B, H, Lq, Dv) and lse (B, H, Lq), of other keys, take part of the single ones too, in place."""
    for chunk in _chunks(q, k.shape[2], offset, singles):
        start, stop, found = chunk
        s = _scores(q[:, :, start:stop].to(o.dtype), k, key_mask, scale, chunk, len(singles.distances))
        before, rows = lse[:, :, start:stop], o[:, :, start:stop]
        top = torch.maximum(before, s.amax(dim=-1))
        top.masked_fill_(top == float("-inf"), 0.0)
        p = s.sub_(top[..., None]).exp_()
        kept = torch.exp(before - top)
        total = kept + p.sum(dim=-1)
        share = total.clamp_min(torch.finfo(o.dtype).tiny).reciprocal_()
        p.mul_(share[..., None])
        rows.mul_((kept * share)[..., None])
        for at in found:
            here = slice(at.a - start, at.b - start)
            values = _rows(v, at.j, at.b - at.a, rows)
            rows[:, :, here].addcmul_(p[:, :, here, at.column, None], values)
        before.copy_(total.log_().add_(top))


def add_gradients(
    qkv: Sequence[Tensor],
    do: Tensor,
    lse: Tensor,
    delta: Tensor,
    sums: Sequence[Tensor],
    *,
    singles: Singles,
    key_mask: Tensor | None,
    scale: float,
    offset: int,
) -> None:
    """Add to ``sums``, the gradients of q, k and v, what comes by the single keys.

    ``lse`` (B, H, Lq) is that of all keys, 0 where none is seen; ``delta`` what is taken off each score's gradient.
    """
    q, k, v = qkv
    dq, dk, dv = sums
    to = dq.dtype
    for chunk in _chunks(q, k.shape[2], offset, singles):
        start, stop, found = chunk
        qs, gs = q[:, :, start:stop].to(to), do[:, :, start:stop].to(to)
        s = _scores(qs, k, key_mask, scale, chunk, len(singles.distances))
        p = s.sub_(lse[:, :, start:stop, None]).exp_()
        for at in found:
            rows, keys = slice(at.a - start, at.b - start), slice(at.j, at.j + at.b - at.a)
            g, weight = gs[:, :, rows], p[:, :, rows, at.column, None]
            _add(dv[:, :, keys], weight, g)
            dots = (g * _rows(v, at.j, at.b - at.a, g)).sum(dim=-1)
            ds = (weight * (dots - delta[:, :, at.a : at.b])[..., None]).mul_(scale)
            _add(dk[:, :, keys], ds, qs[:, :, rows])
            dq[:, :, at.a : at.b].addcmul_(ds, _rows(k, at.j, at.b - at.a, g))


def _rows(x: Tensor, start: int, count: int, like: Tensor) -> Tensor:
    """Rows of keys or values (B, Hk, Lk, D) for all heads of queries ``like``, in their type."""
    return repeat_heads(x[:, :, start : start + count].to(like.dtype), like.shape[1])


def _add(into: Tensor, weight: Tensor, x: Tensor) -> None:
    """Add x (B, H, rows, D) by its weights to rows of keys (B, Hk, rows, D), from all heads that share one."""
    if into.shape[1] == x.shape[1]:
        into.addcmul_(weight, x)
    else:
        into.add_((weight * x).view(x.shape[0], into.shape[1], -1, *x.shape[2:]).sum(dim=2))
