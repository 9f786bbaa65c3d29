"""Which blocks of keys each tile of queries has to visit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.engines.rules import Call, Rule

__all__ = ["Plan", "block_for", "plan_from_spans"]

_LARGEST_BLOCK = 128
_SMALLEST_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Plan:
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


def plan_from_spans(rule: Rule, call: Call, *, block_q: int, block_k: int) -> Plan:
    """The plan of a rule for consecutive queries, in time and memory of tiles x blocks and not of Lq x Lk."""
    groups = call.heads if rule.per_head else 1
    tiles, blocks = -(-call.lq // block_q), -(-call.lk // block_k)
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
    active = _touched(lo.amin(dim=-1) // block_k, (hi.amax(dim=-1) - 1).div(block_k, rounding_mode="floor") + 1, blocks)
    whole = _touched((lo.amax(dim=-1) - 1).div(block_k, rounding_mode="floor") + 1, hi.amin(dim=-1) // block_k, blocks)
    return _listed(active, whole & active, block_q, block_k)


def _touched(first: Tensor, behind: Tensor, blocks: int) -> Tensor:
    """(G, tiles, blocks): whether any of the ranges [first, behind), each (S, G, tiles), holds a block."""
    some = (behind > first).to(torch.int32)
    # +1 where a range starts, -1 behind its end: the running sum counts the ranges over each block.
    edges = torch.zeros(*first.shape[1:], blocks + 1, dtype=torch.int32, device=first.device)
    edges.scatter_add_(2, torch.where(some.bool(), first, 0).permute(1, 2, 0), some.permute(1, 2, 0))
    edges.scatter_add_(2, torch.where(some.bool(), behind, 0).permute(1, 2, 0), -some.permute(1, 2, 0))
    return edges.cumsum(dim=2, dtype=torch.int32)[..., :blocks] > 0


def block_for(rule: Rule, call: Call) -> int:
    """A block size that suits a rule: its own, or a quarter of the keys that a query sees (a power of two in 16..128).

    Larger blocks are faster per score but compute more scores that the rule hides at their edges.
    """
    if rule.block is not None and _SMALLEST_BLOCK <= rule.block <= _LARGEST_BLOCK:
        return rule.block
    if call.lq == 0:
        return _SMALLEST_BLOCK
    h = torch.zeros(1, 1, dtype=torch.int64, device=call.device)
    rows = torch.linspace(0, call.lq - 1, min(call.lq, 64), device=call.device).long()[None]
    lo, hi = rule.spans(h, rows + call.offset)
    seen = (hi.clamp(0, call.lk) - lo.clamp(0, call.lk)).clamp_min(0).expand(-1, 1, rows.shape[1]).sum(0).float().mean()
    size = _SMALLEST_BLOCK
    while size < _LARGEST_BLOCK and 4 * size < float(seen):
        size *= 2
    return size


def _listed(active: Tensor, whole: Tensor, block_q: int, block_k: int) -> Plan:
    """The plan that visits the blocks set in ``active`` (G, tiles, blocks), those seen ``whole`` last."""
    counts, full = active.sum(dim=-1), whole.sum(dim=-1)
    most = max(int(counts.max()) if counts.numel() else 0, 1)
    index = torch.full((*counts.shape, most), -1, dtype=torch.int64, device=active.device)
    for chosen, first in ((active & ~whole, most - counts), (whole, most - full)):
        g, t, b = chosen.nonzero(as_tuple=True)
        rank = chosen.cumsum(dim=-1, dtype=torch.int32)[g, t, b].long() - 1
        index[g, t, first[g, t] + rank] = b
    return Plan(block_q, block_k, index, counts, full)
