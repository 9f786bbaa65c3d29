"""DHSA: the sequence is cut into chunks where the keys change, and each tile of queries reads those that score best.

A chunk is scored by the sum of its keys over the root of their number, so that noise weighs the same in short and in
long ones. All heads share chunks and choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.checks import compute_dtype, positive
from kernels.dense.reference import masked_attention
from kernels.errors import KernelError
from kernels.registry import Backend, Mechanism, Taxonomy
from kernels.sparse.chosen import Choice, chosen_attention, is_empty, nothing

__all__ = ["MECHANISM", "chosen_keys", "dhsa_attention", "key_boundaries", "reference_dhsa"]

_APART = 8
"""Keys that lie at least between two boundaries that the keys themselves tell."""
_SIDE = 4
"""Keys on each side that tell whether a boundary lies between."""
_RANKS_AT_ONCE = 1 << 19
"""Pairs of a tile and a key that are ranked at once."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """The options, checked."""

    budget: int
    local: int
    first: int
    tile: int
    chunk: int | None


def dhsa_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    budget: int = 1024,
    local: int = 128,
    first: int = 128,
    block: int = 128,
    chunk: int | None = None,
    boundaries: Tensor | None = None,
    backend: Backend = "torch",
) -> Tensor:
    """Causal softmax attention of q (B, H, Lq, D) over the keys k (B, H, Lk, D), v (B, H, Lk, Dv) of the best chunks.

    Args:
        q: queries.
        k: keys.
        v: values.
        causal: must be true; query i stands at key i + (Lk - Lq).
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: factor on the dot products.
        budget: keys that a tile of queries reads, ``local`` and ``first`` among them; fewer only where fewer are there.
        local: of them, the last ones up to the end of the tile.
        first: of them, the first ones of the sequence.
        block: queries of a tile, which share a choice; no query is left without a key if ``local`` is no less.
        chunk: length of all chunks; None cuts where the keys change (`key_boundaries`).
        boundaries: where chunks start, whole numbers (B or 1, n) ascending from 0, in place of ``chunk``.
        backend: of engine 1, "torch" or "triton".
    """
    s = _settings(budget, local, first, block, chunk)
    if is_empty(q, k):
        return nothing(q, k, v)
    with torch.no_grad():
        index = _keys(q, k, key_mask, _chunks(k, boundaries, s), s)
        choice = Choice(s.tile, 1, index[:, None].expand(-1, q.shape[1], -1, -1))
    return chosen_attention(q, k, v, choice, causal=True, key_mask=key_mask, scale=scale, backend=backend)[0]


def chosen_keys(
    q: Tensor,
    k: Tensor,
    *,
    key_mask: Tensor | None = None,
    budget: int = 1024,
    local: int = 128,
    first: int = 128,
    block: int = 128,
    chunk: int | None = None,
    boundaries: Tensor | None = None,
) -> Tensor:
    """The keys that each tile of queries reads, (B, tiles, n), -1 for none; arguments as for `dhsa_attention`."""
    s = _settings(budget, local, first, block, chunk)
    return _keys(q.detach(), k.detach(), key_mask, _chunks(k.detach(), boundaries, s), s)


def key_boundaries(k: Tensor) -> Tensor:
    """Whether a chunk starts at each key of k (B, H, L, D), bool (B, L): at the first, and where the keys change.

    Ours, in place of the paper's trained predictor: the change after a key is 1 less the cosine between the mean of the
    4 keys up to it and that of the 4 behind it, heads side by side. It is a boundary if it is larger than the mean
    change and the largest among its neighbours, no two of them within 8 keys. A key has a say in boundaries near it
    and, through the mean change, a small one in all others.
    """
    batch, _, length, _ = k.shape
    starts = torch.zeros(batch, length, dtype=torch.bool, device=k.device)
    starts[:, :1] = True
    if length < 2 * _SIDE + 1:
        return starts
    x = k.to(compute_dtype(k)).transpose(1, 2).flatten(2)
    sums = torch.stack([x[:, n : length - _SIDE + 1 + n] for n in range(_SIDE)]).sum(dim=0)
    change = 1.0 - torch.nn.functional.cosine_similarity(sums[:, :-_SIDE], sums[:, _SIDE:], dim=2)
    free = change > change.mean(dim=1, keepdim=True)
    # As whole numbers without ties, the larger the change the larger; of equal ones the first.
    order = change.argsort(dim=1, descending=True, stable=True)
    falling = torch.arange(change.shape[1], 0, -1, device=k.device)
    size = torch.empty_like(order).scatter_(1, order, falling.expand_as(order))
    chosen = torch.zeros_like(free)
    # The largest that is left goes first and takes its neighbours out; so do all at once that are the largest nearby.
    while bool(free.any()):
        open_ones = (size * free).double()
        best = free & (open_ones == _highest_nearby(open_ones))
        chosen |= best
        free &= _highest_nearby(best.double()) == 0
    starts[:, _SIDE : length - _SIDE + 1] |= chosen
    return starts


def _highest_nearby(x: Tensor) -> Tensor:
    """The maximum within the distance that boundaries keep, of each place of x (B, L)."""
    return torch.nn.functional.max_pool1d(x[:, None], 2 * _APART + 1, 1, _APART)[:, 0]


def _settings(budget: object, local: object, first: object, block: object, chunk: object) -> _Settings:
    some = positive("budget", budget)
    near, begin = positive("local", local, least=1), positive("first", first, least=0)
    if near + begin > some:
        raise KernelError(f"local {near} and first {begin} keys do not fit into a budget of {some}")
    return _Settings(some, near, begin, positive("block", block), None if chunk is None else positive("chunk", chunk))


def _chunks(k: Tensor, boundaries: Tensor | None, s: _Settings) -> Tensor:
    """The number of the chunk that each key is in, (B or 1, Lk), from 0 without gaps."""
    lk = k.shape[2]
    if boundaries is not None:
        if boundaries.ndim != 2 or boundaries.shape[0] not in (1, k.shape[0]) or boundaries.is_floating_point():
            raise KernelError(
                f"boundaries are {boundaries.dtype} of shape {tuple(boundaries.shape)}, expected whole numbers of "
                f"shape ({k.shape[0]} or 1, n)"
            )
        if bool((boundaries[:, :1] != 0).any()) or bool((boundaries.diff(dim=1) <= 0).any()):
            raise KernelError("boundaries must begin with 0 and ascend")
        at = torch.arange(lk, device=k.device).expand(boundaries.shape[0], -1).contiguous()
        return torch.searchsorted(boundaries.to(k.device, torch.int64).contiguous(), at, right=True) - 1
    if s.chunk is not None:
        return torch.arange(lk, device=k.device).div(s.chunk, rounding_mode="floor")[None]
    return key_boundaries(k.detach()).cumsum(dim=1) - 1


def _keys(q: Tensor, k: Tensor, key_mask: Tensor | None, chunk_of: Tensor, s: _Settings) -> Tensor:
    (batch, _, lq, _), lk, to = q.shape, k.shape[2], compute_dtype(q)
    device = q.device
    offset, tiles = lk - lq, -(-lq // s.tile)
    chunk_of = chunk_of.expand(batch, lk)
    shown = torch.ones(batch, lk, dtype=torch.bool, device=device) if key_mask is None else key_mask
    keys, queries = k.to(to).mean(dim=1), q.to(to).mean(dim=1)
    chunks = int(chunk_of.max()) + 1
    # Sums over the root of the number, of keys that are shown.
    sums = queries.new_zeros(batch, chunks, k.shape[3])
    sums.scatter_add_(1, chunk_of[..., None].expand_as(keys), keys * shown[..., None])
    counts = queries.new_zeros(batch, chunks).scatter_add_(1, chunk_of, shown.to(to))
    by_chunk = sums / counts.clamp_min(1.0).sqrt()[..., None]
    rows = torch.nn.functional.pad(queries, (0, 0, 0, tiles * s.tile - lq)).view(batch, tiles, s.tile, -1)
    valid = (lq - torch.arange(tiles, device=device) * s.tile).clamp_max(s.tile)
    by_tile = rows.sum(dim=2) / valid.to(to).sqrt()[:, None]
    n = min(s.budget, lk)
    found = torch.full((batch, tiles, n), -1, dtype=torch.int64, device=device)
    j = torch.arange(lk, device=device)
    # From the left and from the right: the place of each key among those that are shown.
    place = shown.cumsum(dim=1) - 1
    together = max(1, _RANKS_AT_ONCE // max(batch * lk, 1))
    for at in range(0, tiles, together):
        some = torch.arange(at, min(at + together, tiles), device=device)
        end = ((some + 1) * s.tile).clamp_max(lq) + offset
        allowed = shown[:, None] & (j < end[:, None])
        there = allowed.sum(dim=-1, keepdim=True)
        fixed = allowed & ((place[:, None] < s.first) | (place[:, None] >= there - s.local))
        # Best chunk first, within a chunk the latest key first; the later of two equal chunks first.
        scores = by_tile[:, some] @ by_chunk.mT
        ranked = scores.flip(-1).argsort(dim=-1, descending=True, stable=True)
        rank = torch.empty_like(ranked).scatter_(
            -1, chunks - 1 - ranked, torch.arange(chunks, device=device).expand_as(ranked)
        )
        order = rank.gather(-1, chunk_of[:, None].expand(-1, len(some), -1)) * lk + (lk - 1 - j)
        order = order.masked_fill(fixed, -1).masked_fill(~allowed, chunks * lk)
        best, index = order.topk(n, dim=-1, largest=False)
        found[:, some] = torch.where(best < chunks * lk, index, -1)
    return found


def reference_dhsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    budget: int = 1024,
    local: int = 128,
    first: int = 128,
    block: int = 128,
    chunk: int | None = None,
    boundaries: Tensor | None = None,
) -> Tensor:
    """The definition: chunks, scores and each tile's keys by loops, then a mask written out; arguments as above."""
    s = _settings(budget, local, first, block, chunk)
    if is_empty(q, k):
        return nothing(q, k, v)
    (batch, _, lq, _), lk, to = q.shape, k.shape[2], compute_dtype(q)
    mask = torch.zeros(batch, 1, lq, lk, dtype=torch.bool, device=q.device)
    given = _chunks(k, boundaries, s).expand(batch, lk) if boundaries is not None or s.chunk is not None else None
    for b in range(batch):
        shown = [True] * lk if key_mask is None else key_mask[b].tolist()
        starts = _boundaries_by_hand(k[b].detach().to(to)) if given is None else _starts(given[b].tolist())
        keys, queries = k[b].detach().to(to).mean(dim=0), q[b].detach().to(to).mean(dim=0)
        pieces = [[j for j in range(x, y) if shown[j]] for x, y in zip(starts, [*starts[1:], lk], strict=True)]
        pooled = torch.stack([keys[piece].sum(dim=0) / math.sqrt(max(len(piece), 1)) for piece in pieces])
        for start in range(0, lq, s.tile):
            stop = min(start + s.tile, lq)
            end = stop + lk - lq
            scores = (pooled @ (queries[start:stop].sum(dim=0) / math.sqrt(stop - start))).tolist()
            allowed = [j for j in range(max(end, 0)) if shown[j]]
            kept = dict.fromkeys([*allowed[: s.first], *allowed[-s.local :]])
            for n in sorted(range(len(pieces)), key=lambda n: (-scores[n], -n)):
                for j in reversed(pieces[n]):
                    if j < end and len(kept) < s.budget:
                        kept[j] = None
            mask[b, 0, start:stop, list(kept)] = True
    i = torch.arange(lq, device=q.device)[:, None] + (lk - lq)
    mask = mask & (torch.arange(lk, device=q.device)[None] <= i)
    return masked_attention(q, k, v, mask, scale=scale)[0]


def _starts(chunk_of: list[int]) -> list[int]:
    return [j for j, n in enumerate(chunk_of) if j == 0 or n != chunk_of[j - 1]]


def _boundaries_by_hand(k: Tensor) -> list[int]:
    """`key_boundaries` of one sequence (H, L, D), greedily from the largest change down."""
    x = k.transpose(0, 1).flatten(1)
    changes = {}
    for at in range(_SIDE, len(x) - _SIDE + 1):
        left, right = x[at - _SIDE : at].sum(dim=0), x[at : at + _SIDE].sum(dim=0)
        changes[at] = 1.0 - float(torch.nn.functional.cosine_similarity(left, right, dim=0))
    if len(x) < 2 * _SIDE + 1:
        return [0]
    mean, found = sum(changes.values()) / len(changes), [0]
    for at in sorted(changes, key=lambda at: -changes[at]):
        if changes[at] > mean and all(abs(at - other) > _APART for other in found[1:]):
            found.append(at)
    return sorted(found)


MECHANISM = Mechanism(
    name="dhsa",
    summary="keys of the chunks that score best for each tile of queries, the last ones and the first ones",
    paper="DHSA, Dynamic Hierarchical Sparse Attention, arXiv 2510.24606 (the rule for boundaries is ours)",
    cost="O(L budget D + (L / block) (chunks D + L)) time, O(L D + (L / block) budget) memory",
    use="cuts a history where its regime changes, and reads the regimes that are like the present one",
    function="softmax over the chosen keys",
    exact=False,
    reference=reference_dhsa,
    torch=dhsa_attention,
    triton=partial(dhsa_attention, backend="triton"),
    causal="only",
    looks_ahead="sequence",
    taxonomy=Taxonomy(unit="token", importance="content-aware, by chunks", budget="uniform", kv="keep all"),
)
