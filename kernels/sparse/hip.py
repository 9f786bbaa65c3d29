"""HiP: for each tile of queries a tree search finds the keys of about the highest scores, beside a window and sinks.

The keys are cut into as many intervals as units of keys may be chosen. Each interval is halved, a unit in the middle of
each half is scored, the best halves go on, until the intervals are single units. Neighbouring keys are taken to score
alike, so that a few scores stand for many.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.checks import compute_dtype, positive
from kernels.dense.reference import masked_attention
from kernels.errors import KernelError
from kernels.registry import Backend, Mechanism, Taxonomy
from kernels.sparse.chosen import Choice, chosen_attention, is_empty, nothing

__all__ = ["MECHANISM", "chosen_units", "hip_attention", "reference_hip"]

_NUMBERS_AT_ONCE = 1 << 20
"""Numbers of the gathered keys for each thread."""
_HIDDEN = -1e30
"""Scores of hidden keys, which are the lower the later the key, so that ties are broken alike everywhere."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """The options, checked; window and sinks in keys, ``nodes`` the number of units that are chosen."""

    nodes: int
    tile: int
    unit: int
    window: int
    sinks: int
    stride: int
    middle: bool


def hip_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    keys: int = 512,
    window: int = 128,
    sinks: int = 16,
    block: int = 64,
    unit: int = 2,
    stride: int = 8,
    representative: str = "middle",
    backend: Backend = "torch",
) -> Tensor:
    """Causal softmax attention of q (B, H, Lq, D) over the keys k (B, H, Lk, D), v (B, H, Lk, Dv) found by the search.

    Args:
        q: queries.
        k: keys.
        v: values.
        causal: must be true; query i stands at key i + (Lk - Lq).
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: factor on the dot products.
        keys: keys that the search finds for each tile of queries.
        window: keys before the end of the tile that are seen anyway, at least ``block``.
        sinks: first keys that are seen anyway; rounded up to units.
        block: queries of a tile, which share the search.
        unit: keys that are found together.
        stride: every so manieth query of a tile is asked, from the last one back.
        representative: the unit of an interval that is scored, "middle" (the paper) or "first" (its code).
        backend: of engine 1, "torch" or "triton".
    """
    s = _settings(keys, window, sinks, block, unit, stride, representative)
    if is_empty(q, k):
        return nothing(q, k, v)
    with torch.no_grad():
        index = _units(q, k, key_mask, scale, s)
    choice = Choice(s.tile, s.unit, index)
    return chosen_attention(q, k, v, choice, causal=True, key_mask=key_mask, scale=scale, backend=backend)[0]


def chosen_units(
    q: Tensor,
    k: Tensor,
    *,
    key_mask: Tensor | None = None,
    scale: float = 1.0,
    keys: int = 512,
    window: int = 128,
    sinks: int = 16,
    block: int = 64,
    unit: int = 2,
    stride: int = 8,
    representative: str = "middle",
) -> Tensor:
    """Numbers of the units that each tile of queries reads, (B, H, tiles, n), -1 for none; arguments as above."""
    s = _settings(keys, window, sinks, block, unit, stride, representative)
    return _units(q.detach(), k.detach(), key_mask, scale, s)


def _settings(
    keys: object, window: object, sinks: object, block: object, unit: object, stride: object, representative: str
) -> _Settings:
    side, of = positive("block", block), positive("unit", unit)
    if representative not in ("middle", "first"):
        raise KernelError(f"representative is {representative!r}, expected 'middle' or 'first'")
    return _Settings(
        nodes=positive("keys", keys, least=of) // of,
        tile=side,
        unit=of,
        window=positive("window", window, least=side),
        sinks=-(-positive("sinks", sinks, least=0) // of) * of,
        stride=positive("stride", stride),
        middle=representative == "middle",
    )


def _bounds(lq: int, lk: int, s: _Settings, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each tile: where its window starts and where it ends, and the units before it that are searched; in units."""
    tiles = -(-lq // s.tile)
    end = (torch.arange(1, tiles + 1, device=device) * s.tile).clamp_max(lq) + (lk - lq)
    near = (end - s.window).clamp_min(0).div(s.unit, rounding_mode="floor")
    behind = (-(-end // s.unit)).clamp_min(0)
    return near, behind, (near - s.sinks // s.unit).clamp_min(0)


def _units(q: Tensor, k: Tensor, key_mask: Tensor | None, scale: float, s: _Settings) -> Tensor:
    (batch, heads, lq, _), lk = q.shape, k.shape[2]
    near, behind, searched = _bounds(lq, lk, s, q.device)
    tiles, first = len(near), s.sinks // s.unit
    sinks = torch.arange(first, device=q.device)
    fixed = torch.where(sinks < near[:, None], sinks, -1)
    reach = torch.arange(-(-(s.window + s.unit) // s.unit) + 1, device=q.device)
    window = torch.where(near[:, None] + reach < behind[:, None], near[:, None] + reach, -1)
    fixed = torch.cat([fixed, window], dim=1).expand(batch, heads, -1, -1)
    found = torch.full((batch, heads, tiles, s.nodes), -1, dtype=torch.int64, device=q.device)
    # Tiles with few units take all of them; the others search, about as many at once as stay in cache.
    every = torch.arange(s.nodes, device=q.device)
    few = searched <= s.nodes
    found[:, :, few] = torch.where(every < searched[few, None], every + first, -1)
    start = int(few.sum())
    if start == tiles:
        return torch.cat([fixed, found], dim=3)
    to = compute_dtype(q)
    each = batch * heads * 2 * s.nodes * s.unit * q.shape[3]
    budget = _NUMBERS_AT_ONCE * (torch.get_num_threads() if q.device.type == "cpu" else 256)
    together = max(1, budget // each)
    blocks = -(-lk // s.unit)
    pad = (0, 0, 0, blocks * s.unit - lk)
    wide = torch.nn.functional.pad(k.to(to), pad).reshape(batch * heads * blocks, s.unit * k.shape[3])
    shown = None
    if key_mask is not None:
        shown = torch.nn.functional.pad(key_mask, (0, pad[3])).view(batch, blocks, s.unit)
    rows = torch.arange(s.tile - 1, -1, -s.stride, device=q.device)
    for at in range(start, tiles, together):
        some = torch.arange(at, min(at + together, tiles), device=q.device)
        # From the last query of the tile back; a short tile repeats it.
        last = ((some + 1) * s.tile).clamp_max(lq)[:, None] - 1
        asked = last - (s.tile - 1 - rows)
        asked = torch.where(asked < some[:, None] * s.tile, last, asked)
        queries = q[:, :, asked].to(to) * scale
        found[:, :, some] = first + _search(queries, wide, shown, searched[some], first, s)
    return torch.cat([fixed, found], dim=3)


def _search(q: Tensor, k: Tensor, shown: Tensor | None, units: Tensor, first: int, s: _Settings) -> Tensor:
    """The units found for q (B, H, tiles, rows, D) among the first ``units`` (tiles,) behind the sinks, ascending."""
    batch, heads, tiles = q.shape[:3]
    node = torch.arange(s.nodes + 1, device=q.device)
    edges = (node * units[:, None]).div(s.nodes, rounding_mode="floor").expand(batch, heads, -1, -1)
    left, right = edges[..., :-1], edges[..., 1:]
    of_head = (torch.arange(batch * heads, device=q.device) * (len(k) // (batch * heads))).view(batch, heads, 1, 1)
    item = torch.arange(batch, device=q.device)[:, None, None, None]
    descending = torch.arange(2 * s.nodes, device=q.device) / 4096.0
    while bool((right - left > 1).any()):
        middle = (left + right).div(2, rounding_mode="floor")
        single = right - left == 1
        left = torch.cat([left, torch.where(single, right, middle)], dim=-1)
        right = torch.cat([torch.where(single, right, middle), right], dim=-1)
        # In the order of memory, as ties go to what comes first.
        left, order = left.sort(dim=-1, stable=True)
        right = right.gather(-1, order)
        shown_unit = (left + right - 1).div(2, rounding_mode="floor") if s.middle else left
        shown_unit = shown_unit.clamp_max(units[:, None] - 1) + first
        keys = k.index_select(0, (of_head + shown_unit).flatten())
        keys = keys.view(batch * heads * tiles, 2 * s.nodes * s.unit, -1)
        scores = _highest(torch.bmm(q.flatten(0, 2), keys.mT)).view(batch, heads, tiles, 2 * s.nodes, s.unit)
        if shown is not None:
            scores = scores.masked_fill(~shown[item, shown_unit], float("-inf"))
        best = scores.amax(dim=-1)
        best = torch.where(best == float("-inf"), _HIDDEN * (1.0 + descending), best)
        # Halves of single units are empty.
        best = torch.where(right > left, best, float("-inf"))
        kept = best.topk(s.nodes, dim=-1).indices.sort(dim=-1).values
        left, right = left.gather(-1, kept), right.gather(-1, kept)
    return left


def _highest(x: Tensor) -> Tensor:
    """The maximum over the rows of x (n, rows, columns), by halves, which is several times as fast as `amax`."""
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        kept = torch.maximum(x[:, :half], x[:, half : 2 * half])
        x = kept if x.shape[1] == 2 * half else torch.cat([kept, x[:, 2 * half :]], dim=1)
    return x[:, 0]


def reference_hip(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    keys: int = 512,
    window: int = 128,
    sinks: int = 16,
    block: int = 64,
    unit: int = 2,
    stride: int = 8,
    representative: str = "middle",
) -> Tensor:
    """The definition: each tile's search by loops, then a mask written out; arguments as for `hip_attention`."""
    s = _settings(keys, window, sinks, block, unit, stride, representative)
    if is_empty(q, k):
        return nothing(q, k, v)
    (batch, heads, lq, _), lk = q.shape, k.shape[2]
    mask = torch.zeros(batch, heads, lq, lk, dtype=torch.bool, device=q.device)
    to = compute_dtype(q)
    for b in range(batch):
        for h in range(heads):
            scores = scale * (q[b, h].detach().to(to) @ k[b, h].detach().to(to).mT)
            if key_mask is not None:
                scores = scores.masked_fill(~key_mask[b], float("-inf"))
            for start in range(0, lq, s.tile):
                stop = min(start + s.tile, lq)
                rows = slice(start, stop)
                asked = scores[rows][torch.arange(stop - start - 1, -1, -s.stride)].amax(dim=0).tolist()
                end = stop + lk - lq
                near = max(end - s.window, 0) // s.unit
                mask[b, h, rows, : s.sinks] = True
                mask[b, h, rows, near * s.unit :] = True
                for at in _search_by_hand(asked, s.sinks // s.unit, near, s):
                    mask[b, h, rows, at * s.unit : (at + 1) * s.unit] = True
    i = torch.arange(lq, device=q.device)[:, None] + (lk - lq)
    mask &= torch.arange(lk, device=q.device)[None] <= i
    if key_mask is not None:
        mask &= key_mask[:, None, None]
    return masked_attention(q, k, v, mask, scale=scale)[0]


def _search_by_hand(scores: list[float], first: int, behind: int, s: _Settings) -> list[int]:
    """The units in [first, behind) that one tile finds, from the highest score of each key."""
    units = max(behind - first, 0)
    if units <= s.nodes:
        return list(range(first, first + units))
    nodes = [(n * units // s.nodes, (n + 1) * units // s.nodes) for n in range(s.nodes)]
    while any(right - left > 1 for left, right in nodes):
        halves = []
        for left, right in nodes:
            middle = (left + right) // 2
            halves += [(left, right)] if right - left == 1 else [(left, middle), (middle, right)]

        def score(node: tuple[int, int]) -> float:
            at = first + ((sum(node) - 1) // 2 if s.middle else node[0])
            return max(scores[at * s.unit : (at + 1) * s.unit])

        nodes = sorted(sorted(halves, key=lambda node: (-score(node), node))[: s.nodes])
    return [first + left for left, _ in nodes]


MECHANISM = Mechanism(
    name="hip",
    summary="keys found by a tree search for each tile of queries, a window and the first keys",
    paper="HiP, Hierarchically Pruned Attention, arXiv 2406.09827",
    cost="O(L keys log(L / keys) D) time, O(L D + (L / block) keys) memory",
    use="finds the few past moments that are like the present one in a history of months, without reading all of it",
    function="softmax over the chosen keys",
    exact=False,
    reference=reference_hip,
    torch=hip_attention,
    triton=partial(hip_attention, backend="triton"),
    causal="only",
    looks_ahead="block",
    taxonomy=Taxonomy(unit="block", importance="content-aware, by tree search", budget="uniform", kv="keep all"),
)
