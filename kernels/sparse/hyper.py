"""HyperAttention: keys in the query's own hash bucket exactly, all others by a sample that stands for them.

Queries and keys are sorted by the signs of random projections, so that those that point the same way lie together.
Each block of sorted queries sees its block of sorted keys, which holds most of the large scores, and a sample of all
keys; of that, keys outside of the block count as often as there are keys for each of them. Numerator and denominator
are then right in the mean. A causal call is cut into halves: queries of the second half see the first half so, and
within a half it is cut again until the pieces are short enough to be exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.checks import compute_dtype, positive
from kernels.engines.partial import merge, over_all_keys
from kernels.registry import Backend, Mechanism, Taxonomy
from kernels.sparse.chosen import Choice, chosen_attention, is_empty, nothing

__all__ = ["MECHANISM", "bucket_order", "hyper_attention", "hyper_partial", "reference_hyper"]

Part = tuple[Tensor, Tensor]
"""Output and log-sum-exp."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """The options, checked."""

    block: int
    samples: int
    bits: int
    exact: int
    seed: int
    backend: Backend = "torch"


class _Draws:
    """What is random in a call, the same for every sequence of a batch and on every device."""

    def __init__(self, seed: int, size: int, bits: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.projection = torch.randn(size, bits, generator=self._generator, dtype=torch.float64)

    def places(self, heads: int, samples: int) -> Tensor:
        """Numbers from 0 to 1, (heads, samples)."""
        return torch.rand(heads, samples, generator=self._generator, dtype=torch.float64)


def hyper_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    block: int = 256,
    samples: int = 256,
    bits: int = 7,
    exact: int = 4096,
    seed: int = 0,
    backend: Backend = "torch",
) -> Tensor:
    """An estimate of softmax attention of q (B, H, Lq, D) over k (B, H, Lk, D), v (B, H, Lk, Dv); (B, H, Lq, Dv).

    Args:
        q: queries.
        k: keys.
        v: values.
        causal: query i sees key j only if j <= i + (Lk - Lq). Where it lies among the buckets depends on later queries.
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: factor on the dot products.
        block: keys of a block, which its queries see exactly.
        samples: keys that stand for all others, drawn with replacement for each head; none if 0.
        bits: random projections whose signs are the bucket.
        exact: fewer keys than that are seen exactly, and so are causal pieces up to that length.
        seed: of projections and samples; the same seed gives the same result.
        backend: of engine 1, "torch" or "triton".
    """
    if is_empty(q, k):
        return nothing(q, k, v)
    how = {"block": block, "samples": samples, "bits": bits, "exact": exact, "seed": seed, "backend": backend}
    to = compute_dtype(q)
    o, _ = hyper_partial(q.to(to), k.to(to), v.to(to), causal=causal, key_mask=key_mask, scale=scale, **how)  # type: ignore[arg-type]
    return o.to(q.dtype)


def hyper_partial(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    block: int = 256,
    samples: int = 256,
    bits: int = 7,
    exact: int = 4096,
    seed: int = 0,
    backend: Backend = "torch",
) -> Part:
    """The same with the estimate of the log-sum-exp (B, H, Lq); both carry gradients."""
    s = _settings(block, samples, bits, exact, seed, backend)
    lq, lk = q.shape[2], k.shape[2]
    draws = _Draws(s.seed, q.shape[3], s.bits)
    if not causal:
        return _all(q, k, v, key_mask, scale, s, draws)
    offset = lk - lq
    if offset < 0:
        blind = q[:, :, : min(-offset, lq)]
        o = blind[..., :1] * 0.0 * v[:, :, :1]
        parts = [
            (o, blind.new_full(blind.shape[:3], -math.inf)),
            _causal(q[:, :, -offset:], k, v, key_mask, scale, s, draws),
        ]
        return torch.cat([o for o, _ in parts], dim=2), torch.cat([lse for _, lse in parts], dim=2)
    later = _causal(q, k[:, :, offset:], v[:, :, offset:], _cut(key_mask, offset, lk), scale, s, draws)
    if offset == 0:
        return later
    return merge(_all(q, k[:, :, :offset], v[:, :, :offset], _cut(key_mask, 0, offset), scale, s, draws), later)


def bucket_order(x: Tensor, projection: Tensor) -> Tensor:
    """The bucket of each row of x (..., D) by the signs of its projections (D, bits); neighbours differ in one sign.

    Signs are read as a Gray code, so that buckets whose numbers follow each other are those that are next to alike.
    """
    signs = (x @ projection.to(x)) > 0
    bits = projection.shape[1]
    code = (signs.long() << torch.arange(bits, device=x.device)).sum(dim=-1)
    shift = code >> 1
    while bool((shift > 0).any()):
        code = code ^ shift
        shift = shift >> 1
    return code


def _settings(
    block: object, samples: object, bits: object, exact: object, seed: object, backend: Backend = "torch"
) -> _Settings:
    return _Settings(
        positive("block", block),
        positive("samples", samples, least=0),
        positive("bits", bits),
        positive("exact", exact),
        positive("seed", seed, least=0),
        backend,
    )


def _cut(key_mask: Tensor | None, a: int, b: int) -> Tensor | None:
    return None if key_mask is None else key_mask[:, a:b]


def _causal(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, s: _Settings, draws: _Draws
) -> Part:
    """A causal call of as many queries as keys."""
    n = q.shape[2]
    if n <= s.exact:
        return over_all_keys(q, k, v, causal=True, key_mask=key_mask, scale=scale, backend=s.backend)
    half = n // 2
    early = [x[:, :, :half] for x in (q, k, v)]
    late = [x[:, :, half:] for x in (q, k, v)]
    shown = _cut(key_mask, 0, half), _cut(key_mask, half, n)
    first = _causal(early[0], early[1], early[2], shown[0], scale, s, draws)
    second = _causal(late[0], late[1], late[2], shown[1], scale, s, draws)
    across = _all(late[0], early[1], early[2], shown[0], scale, s, draws)
    both = merge(across, second)
    return torch.cat([first[0], both[0]], dim=2), torch.cat([first[1], both[1]], dim=2)


def _all(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, s: _Settings, draws: _Draws) -> Part:
    """Every query may see every key that is shown."""
    (batch, heads, lq, _), lk = q.shape, k.shape[2]
    blocks = -(-lk // s.block)
    if lk < s.exact or blocks == 1:
        return over_all_keys(q, k, v, causal=False, key_mask=key_mask, scale=scale, backend=s.backend)
    places = draws.places(heads, s.samples).to(q.device)
    with torch.no_grad():
        by_query = bucket_order(q, draws.projection).argsort(dim=-1, stable=True)
        bucket = bucket_order(k, draws.projection)
        if key_mask is not None:
            # Hidden keys come last.
            bucket = bucket.masked_fill(~key_mask[:, None], 1 << s.bits)
        by_key = bucket.argsort(dim=-1, stable=True)
        count = torch.full((batch,), lk, device=q.device) if key_mask is None else key_mask.sum(dim=1)
        # As many tiles of queries as blocks of keys; where keys are hidden, several tiles see one block.
        tile = -(-lq // blocks)
        tiles = -(-lq // tile)
        shown_blocks = (-(-count // s.block)).clamp_min(1)
        of_tile = torch.arange(tiles, device=q.device) * shown_blocks[:, None]
        of_tile = of_tile.div(tiles, rounding_mode="floor")
        inverse = by_query.argsort(dim=-1)
    qs, ks, vs = (_rows(x, order) for x, order in ((q, by_query), (k, by_key), (v, by_key)))
    shown = None if key_mask is None else torch.arange(lk, device=q.device) < count[:, None]
    choice = Choice(tile, s.block, of_tile[:, None, :, None].expand(-1, heads, -1, -1))
    near = chosen_attention(qs, ks, vs, choice, causal=False, key_mask=shown, scale=scale, offset=0, backend=s.backend)
    if s.samples:
        near = merge(near, _sampled(qs, ks, vs, places, count, of_tile, tile, scale, s))
    return _rows(near[0], inverse), near[1].gather(2, inverse)


def _sampled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    places: Tensor,
    count: Tensor,
    of_tile: Tensor,
    tile: int,
    scale: float,
    s: _Settings,
) -> Part:
    """Sorted queries over the sample of sorted keys that lies outside of their block."""
    batch, heads = q.shape[:2]
    # (B, H, samples), among the keys that are shown.
    at = (places * count[:, None, None]).long().clamp_max(k.shape[2] - 1)
    some = count[:, None].expand(-1, s.samples) > 0
    block_of = at.div(s.block, rounding_mode="floor").flatten(0, 1)
    seen_by = of_tile.repeat_interleave(heads, dim=0)
    side = min(s.samples, 128)
    listed = torch.arange(-(-s.samples // side), device=q.device)

    def outside(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        own = seen_by[h.long(), i.div(tile, rounding_mode="floor").clamp_max(seen_by.shape[1] - 1).long()]
        return block_of[h.long(), j.clamp(0, s.samples - 1).long()] != own

    o, lse = chosen_attention(
        q,
        _rows(k, at),
        _rows(v, at),
        Choice(tile, side, listed.expand(batch, heads, of_tile.shape[1], -1)),
        causal=False,
        key_mask=some,
        scale=scale,
        offset=0,
        further=outside,
        backend=s.backend,
    )
    weight = (count.clamp_min(1).to(lse.dtype) / s.samples).log()
    return o, lse + weight[:, None, None]


def _rows(x: Tensor, order: Tensor) -> Tensor:
    """Rows of x (B, H, L, D) by their numbers (B, H, n)."""
    return x.gather(2, order[..., None].expand(-1, -1, -1, x.shape[3]))


def reference_hyper(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    block: int = 256,
    samples: int = 256,
    bits: int = 7,
    exact: int = 4096,
    seed: int = 0,
) -> Tensor:
    """The definition: how often each key counts for each query, by loops, and a weighted softmax; else as above."""
    if is_empty(q, k):
        return nothing(q, k, v)
    s = _settings(block, samples, bits, exact, seed)
    (batch, heads, lq, size), lk, to, dtype = q.shape, k.shape[2], compute_dtype(q), q.dtype
    q, k, v = q.to(to), k.to(to), v.to(to)
    times = torch.zeros(batch, heads, lq, lk, dtype=to, device=q.device)
    shown = torch.ones(batch, lk, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    tensors = (q.detach(), k.detach(), shown)
    draws = _Draws(s.seed, size, s.bits)
    if not causal:
        _count(times, tensors, (0, lq), (0, lk), s, draws)
    else:
        offset = lk - lq
        _count_causal(times, tensors, max(-offset, 0), max(offset, 0), min(lq, lk), s, draws)
        if offset > 0:
            _count(times, tensors, (0, lq), (0, offset), s, draws)
    times = times * shown[:, None, None]
    scores = (scale * torch.einsum("bhid,bhjd->bhij", q, k)).masked_fill(times == 0, -math.inf)
    top = scores.detach().amax(dim=-1, keepdim=True)
    weights = times * torch.exp(scores - top.masked_fill(top == -math.inf, 0.0))
    total = weights.sum(dim=-1, keepdim=True)
    shares = weights / total.masked_fill(total == 0, 1.0)
    return torch.einsum("bhij,bhjd->bhid", shares, v).to(dtype)


def _count_causal(
    times: Tensor, tensors: tuple[Tensor, ...], row: int, col: int, n: int, s: _Settings, draws: _Draws
) -> None:
    """Fill in how often keys count in a causal piece of n queries from ``row`` and n keys from ``col``."""
    if n <= s.exact:
        times[:, :, row : row + n, col : col + n] = torch.ones(n, n).tril()
        return
    half = n // 2
    _count_causal(times, tensors, row, col, half, s, draws)
    _count_causal(times, tensors, row + half, col + half, n - half, s, draws)
    _count(times, tensors, (row + half, row + n), (col, col + half), s, draws)


def _count(
    times: Tensor,
    tensors: tuple[Tensor, ...],
    rows: tuple[int, int],
    cols: tuple[int, int],
    s: _Settings,
    draws: _Draws,
) -> None:
    """Fill in how often keys [cols) count for queries [rows) that may see all of them."""
    q, k, shown = tensors
    batch, heads = q.shape[:2]
    lq, lk = rows[1] - rows[0], cols[1] - cols[0]
    blocks = -(-lk // s.block)
    if lk < s.exact or blocks == 1:
        times[:, :, rows[0] : rows[1], cols[0] : cols[1]] = 1.0
        return
    rank = {number ^ (number >> 1): number for number in range(1 << s.bits)}
    places = draws.places(heads, s.samples).tolist()

    def order(x: Tensor, of: list[int]) -> list[int]:
        signs = ((x @ draws.projection.to(x)) > 0).tolist()
        return sorted(of, key=lambda n: rank[sum(sign << bit for bit, sign in enumerate(signs[n]))])

    tile = -(-lq // blocks)
    tiles = -(-lq // tile)
    for b in range(batch):
        seen = [j for j in range(cols[0], cols[1]) if shown[b, j]]
        held = max(-(-len(seen) // s.block), 1)
        for h in range(heads):
            keys, queries = order(k[b, h], seen), order(q[b, h], list(range(rows[0], rows[1])))
            drawn = [int(u * len(seen)) for u in places[h]] if seen else []
            for place, i in enumerate(queries):
                own = place // tile * held // tiles
                row = [0.0] * lk
                for j in keys[own * s.block : (own + 1) * s.block]:
                    row[j - cols[0]] += 1.0
                for at in drawn:
                    if at // s.block != own:
                        row[keys[at] - cols[0]] += len(seen) / s.samples
                times[b, h, i, cols[0] : cols[1]] = torch.tensor(row, dtype=times.dtype)


MECHANISM = Mechanism(
    name="hyper",
    summary="keys of the query's hash bucket exactly, all others by a sample that stands for them",
    paper="HyperAttention, arXiv 2310.05869 (as its code has it, without its faults)",
    cost="O(L (block + samples) D) time, causal O(L log(L / exact) (block + samples) D + L exact D); O(L D) memory",
    use="an estimate of attention over all of a long history at a fixed cost per step, right in the mean",
    function="an estimate of the softmax over the visible keys",
    exact=False,
    reference=reference_hyper,
    torch=hyper_attention,
    triton=partial(hyper_attention, backend="triton"),
    looks_ahead="sequence",
    taxonomy=Taxonomy(
        unit="block and token", importance="content-aware, by hashing; a random sample", budget="uniform", kv="keep all"
    ),
)
