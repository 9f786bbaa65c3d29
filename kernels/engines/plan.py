"""Which blocks of keys each tile of queries has to visit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.engines.rules import Call, Rule

__all__ = ["BlockPlan", "block_for", "plan_from_lists", "plan_from_spans"]

_LARGEST_BLOCK = 128
_SMALLEST_BLOCK = 16


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """Tiles of queries with the list of key blocks that each visits; G is 1, or the number of heads if they differ.

    `index` (G, tiles, n) holds block numbers, of which the last `counts` (G, tiles) of a tile are used and those that
    are -1 are skipped. The last `whole` (G, tiles) of them are seen in full by every query of the tile, so that the
    rule need not be asked. Tile t holds the queries `order[t * block_q : ...]` (-1 for none), or without an order the
    rows t * block_q, t * block_q + 1, ...
    """

    block_q: int
    block_k: int
    index: Tensor
    counts: Tensor
    whole: Tensor
    order: Tensor | None = None

    @property
    def groups(self) -> int:
        """1 if all heads share the lists, else the number of heads."""
        return self.index.shape[0]

    @property
    def tiles(self) -> int:
        """Tiles of queries per head."""
        return self.index.shape[1]


def plan_from_lists(index: Tensor, whole: Tensor, *, blocks: int, block_q: int, block_k: int) -> BlockPlan:
    """The plan of lists ``index`` (G, tiles, n) of block numbers below ``blocks`` in any order, -1 for none.

    ``whole``, bool of the same shape, is True for blocks that every query of the tile sees in full.
    """
    # Unused places first, then blocks that are asked, then whole ones, each in the order of memory.
    order = torch.where(index < 0, -1, index + blocks * whole).sort(dim=-1).values
    counts, held = (order >= 0).sum(dim=-1), (order >= blocks).sum(dim=-1)
    most = max(int(counts.max()) if counts.numel() else 0, 1)
    order = torch.nn.functional.pad(order, (max(most - order.shape[-1], 0), 0), value=-1)[..., -most:]
    return BlockPlan(block_q, block_k, torch.where(order >= blocks, order - blocks, order), counts, held)


def plan_from_spans(rule: Rule, call: Call, *, block_q: int, block_k: int) -> BlockPlan:
    """The plan of a rule for consecutive queries, in time and memory of the blocks that are visited."""
    groups = call.heads if rule.per_head else 1
    tiles = -(-call.lq // block_q)
    h = torch.arange(groups, device=call.device)[:, None]
    i = torch.arange(call.lq, device=call.device)[None, :] + call.offset
    lo, hi = (x.expand(-1, groups, call.lq).clamp(0, call.lk) for x in rule.spans(h, i))
    empty = hi <= lo
    lo, hi = lo.masked_fill(empty, call.lk), hi.masked_fill(empty, 0)
    pad = tiles * block_q - call.lq
    tiled = (lo.shape[0], groups, tiles, block_q)
    lo = torch.nn.functional.pad(lo, (0, pad), value=call.lk).reshape(tiled)
    hi = torch.nn.functional.pad(hi, (0, pad), value=0).reshape(tiled)
    # A block is visited if a range of any query touches it, and seen whole if a range of every query holds it.
    active = _union(lo.amin(dim=-1) // block_k, (hi.amax(dim=-1) - 1).div(block_k, rounding_mode="floor") + 1)
    whole = _union((lo.amax(dim=-1) - 1).div(block_k, rounding_mode="floor") + 1, hi.amin(dim=-1) // block_k)
    return _listed(active, whole, groups, tiles, -(-call.lk // block_k), block_q, block_k)


def _union(first: Tensor, behind: Tensor) -> tuple[Tensor, Tensor]:
    """Where the ranges [first, behind), each (S, G, tiles), start and how long they are, in order and without overlap.

    Both are (G * tiles, S).
    """
    first, order = first.flatten(1).sort(dim=0)
    behind = behind.flatten(1).gather(0, order)
    covered = torch.cat([torch.zeros_like(behind[:1]), behind.cummax(dim=0).values[:-1]])
    first = torch.maximum(first, covered)
    return first.T.contiguous(), (behind - first).clamp_min(0).T.contiguous()


def block_for(rule: Rule, call: Call) -> int:
    """A block size that suits a rule: its own, or a quarter of its longest range (a power of two in 16..128).

    Larger blocks are faster per score but compute more scores that the rule hides, at the edges of each range.
    """
    if rule.block is not None and _SMALLEST_BLOCK <= rule.block <= _LARGEST_BLOCK:
        return rule.block
    if call.lq == 0:
        return _SMALLEST_BLOCK
    h = torch.zeros(1, 1, dtype=torch.int64, device=call.device)
    rows = torch.linspace(0, call.lq - 1, min(call.lq, 64), device=call.device).long()[None]
    lo, hi = rule.spans(h, rows + call.offset)
    held = (hi.clamp(0, call.lk) - lo.clamp(0, call.lk)).clamp_min(0).expand(-1, 1, rows.shape[1])
    seen = held.amax(dim=0).float().mean()
    size = _SMALLEST_BLOCK
    while size < _LARGEST_BLOCK and 4 * size < float(seen):
        size *= 2
    return size


def _listed(
    active: tuple[Tensor, Tensor],
    whole: tuple[Tensor, Tensor],
    groups: int,
    tiles: int,
    blocks: int,
    block_q: int,
    block_k: int,
) -> BlockPlan:
    """The plan that visits the blocks of the ranges ``active`` of each tile, those in ``whole`` last."""
    # Tile and block as one number: both lists are sorted, and that of the whole blocks is part of the other.
    visited, held = _numbered(*active, blocks), _numbered(*whole, blocks)
    last = torch.zeros_like(visited)
    last[torch.searchsorted(visited, held)] = 1
    tile = visited.div(max(blocks, 1), rounding_mode="floor")
    counts = torch.bincount(tile, minlength=groups * tiles)
    full = torch.bincount(tile, weights=last, minlength=groups * tiles).long()
    most = max(int(counts.max()) if counts.numel() else 0, 1)
    order = torch.argsort(2 * tile + last, stable=True)
    tile, block = tile[order], (visited - tile * blocks)[order]
    rank = torch.arange(len(tile), device=tile.device) - (counts.cumsum(0) - counts)[tile]
    index = torch.full((groups * tiles, most), -1, dtype=torch.int64, device=tile.device)
    index[tile, most - counts[tile] + rank] = block
    shape = (groups, tiles)
    return BlockPlan(block_q, block_k, index.reshape(*shape, most), counts.reshape(shape), full.reshape(shape))


def _numbered(first: Tensor, length: Tensor, blocks: int) -> Tensor:
    """The numbers tile * blocks + block of all blocks in ranges of (tiles, S), ascending."""
    tile = torch.arange(first.shape[0], device=first.device)[:, None]
    start, length = (tile * blocks + first).flatten(), length.flatten()
    step = torch.arange(int(length.sum()), device=first.device)
    return step + (start - (length.cumsum(0) - length)).repeat_interleave(length)
