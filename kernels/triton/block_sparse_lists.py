"""How a mask reaches the Triton kernels: lists of key blocks for tiles of queries, and masks for the partial ones.

A `BlockSchedule` is made by PyTorch from a rule, in time and memory of tiles x blocks. Blocks that every query of a
tile sees need no mask. For the partial ones the kernels either compute the rule's `Form` from positions, or read one
bit per (query, key) of the block: block_m * block_n / 8 bytes per partial block, shared by the batch, and by the heads
unless the rule differs between them. A `KeyListing` is the same for grids, whose keys are listed one by one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from kernels.engines.plan import BlockPlan, plan_from_lists, plan_from_spans
from kernels.engines.rules import Call, Form, Rule, Sees
from kernels.errors import KernelError

__all__ = ["BlockSchedule", "KeyListing", "Lists", "keys_seen", "listing", "schedule", "schedule_of"]

_ASKED_AT_ONCE = 1 << 22
"""Elements of a mask that are computed at once."""
_KEPT, _KEPT_WITH_BITS = 64, 16
_SCHEDULES: OrderedDict[tuple[Form, Call, int, int], BlockSchedule] = OrderedDict()
_WITH_BITS: OrderedDict[tuple[Hashable, Call, int, int], BlockSchedule] = OrderedDict()
_SEEN: OrderedDict[tuple[Hashable, Call], float] = OrderedDict()

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Lists:
    """One list per row (head group and tile, or head group and block): `index[starts[row] : starts[row + 1]]`."""

    starts: Tensor
    index: Tensor


@dataclass(frozen=True, slots=True)
class BlockSchedule:
    """Which blocks of ``block_n`` keys each tile of ``block_m`` queries visits, all int32.

    `full` and `part` list key blocks by tile, `full_turned` and `part_turned` tiles by key block; `entry` says for
    each item of `part_turned` which item of `part` it is, and so where its bits are. `bits` is
    (items of `part`, block_m, block_n / 32), or empty where a form says it all.
    """

    block_m: int
    block_n: int
    groups: int
    tiles: int
    blocks: int
    full: Lists
    part: Lists
    full_turned: Lists
    part_turned: Lists
    entry: Tensor
    bits: Tensor
    runs: bool = False
    """Whether the items of each list of `full` and `full_turned` follow each other, so that the first says them all."""

    @property
    def visited(self) -> float:
        """Blocks that a tile visits, in the mean."""
        return (self.full.index.shape[0] + self.part.index.shape[0]) / (self.groups * self.tiles)


def schedule(rule: Rule, call: Call, *, block_m: int, block_n: int) -> BlockSchedule:
    """The schedule of a rule; those of rules with a form or a key are kept, as they recur from call to call.

    Those with bits may be large, so that fewer of them are.
    """

    def make() -> BlockSchedule:
        return _schedule(rule, call, block_m, block_n)

    if rule.form is not None:
        return _kept(_SCHEDULES, (rule.form, call, block_m, block_n), make)
    if rule.key is not None:
        return _kept(_WITH_BITS, (rule.key, call, block_m, block_n), make, _KEPT_WITH_BITS)
    return make()


def _kept(store: OrderedDict[Any, Made], key: object, make: Callable[[], Made], most: int = _KEPT) -> Made:
    """What ``store`` has for the key, made if it has nothing; the least recently used goes when there are too many."""
    found = store.pop(key, None)
    if found is None:
        found = make()
    store[key] = found
    while len(store) > most:
        store.popitem(last=False)
    return found


def _schedule(rule: Rule, call: Call, block_m: int, block_n: int) -> BlockSchedule:
    plan = plan_from_spans(rule, call, block_q=block_m, block_k=block_n)
    return _scheduled(plan, None if rule.form is not None else rule.sees, call)


def schedule_of(plan: BlockPlan, sees: Sees, call: Call, *, block_m: int, block_n: int) -> BlockSchedule:
    """The schedule of a plan without an order, cut anew into tiles and blocks of the sizes given.

    A plan of smaller blocks than these costs memory of all pairs of its own tiles and blocks, one byte each.
    """
    if (plan.block_q, plan.block_k) == (block_m, block_n):
        return _scheduled(plan, sees, call)
    listed = plan.index >= 0
    place = torch.arange(plan.index.shape[2], device=call.device)
    g, t, slot = (listed & (place >= plan.index.shape[2] - plan.counts[..., None])).nonzero(as_tuple=True)
    block = plan.index[g, t, slot]
    held = slot >= plan.index.shape[2] - plan.whole[g, t]
    tiles, blocks = -(-call.lq // block_m), -(-call.lk // block_n)
    # How many pairs of each new tile and block are listed, and how many of them need not be asked.
    pairs = torch.zeros(2, plan.groups, tiles, blocks, dtype=torch.int64, device=call.device)
    for tile, rows in _pieces(t, plan.block_q, block_m, call.lq):
        for at, keys in _pieces(block, plan.block_k, block_n, call.lk):
            both = rows * keys
            where = (g, tile.clamp_max(tiles - 1), at.clamp_max(blocks - 1))
            pairs[0].index_put_(where, both, accumulate=True)
            pairs[1].index_put_(where, both * held, accumulate=True)
    rows = (call.lq - block_m * torch.arange(tiles, device=call.device)).clamp_max(block_m)
    whole = pairs[1] == rows[:, None] * block_n
    index = torch.where(pairs[0] > 0, torch.arange(blocks, device=call.device), -1)
    chosen = torch.zeros(plan.groups, plan.tiles, -(-call.lk // plan.block_k), dtype=torch.bool, device=call.device)
    chosen[g, t, block] = True

    def asked(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        tile = (i - call.offset).div(plan.block_q, rounding_mode="floor").clamp(0, plan.tiles - 1)
        at = j.div(plan.block_k, rounding_mode="floor").clamp_max(chosen.shape[2] - 1)
        return chosen[h.long(), tile.long(), at.long()] & sees(h, i, j)

    made = plan_from_lists(index, whole & (index >= 0), blocks=blocks, block_q=block_m, block_k=block_n)
    return _scheduled(made, asked, call)


def _pieces(number: Tensor, size: int, into: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """The pieces of ``into`` that those of ``size`` touch, and how many positions below ``length`` of each."""
    first, behind = number * size, ((number + 1) * size).clamp_max(length)
    found = []
    for step in range((size + 2 * into - 2) // into):
        piece = first.div(into, rounding_mode="floor") + step
        inside = torch.minimum(behind, (piece + 1) * into) - torch.maximum(first, piece * into)
        found.append((piece, inside.clamp_min(0)))
    return found


def _scheduled(plan: BlockPlan, sees: Sees | None, call: Call) -> BlockSchedule:
    """The schedule of a plan; without ``sees`` the kernels know what partial blocks show."""
    block_m, block_n = plan.block_q, plan.block_k
    most = plan.index.shape[2]
    place = torch.arange(most, device=call.device)
    used = (place >= most - plan.counts[..., None]) & (plan.index >= 0)
    whole = place >= most - plan.whole[..., None]
    blocks = -(-call.lk // block_n)
    full, full_turned, _ = _listed(plan, used & whole, blocks)
    part, part_turned, entry = _listed(plan, used & ~whole, blocks)
    bits = torch.zeros(1, dtype=torch.int32, device=call.device)
    if sees is not None:
        g, t, slot = (used & ~whole).nonzero(as_tuple=True)
        bits = _packed(sees, call, g, t, plan.index[g, t, slot], block_m, block_n)
    # Asked once for what is kept; a schedule of one call is not worth the waiting for the answer.
    runs = sees is None and _follow(full) and _follow(full_turned)
    return BlockSchedule(
        block_m, block_n, plan.groups, plan.tiles, blocks, full, part, full_turned, part_turned, entry, bits, runs
    )


def _follow(lists: Lists) -> bool:
    """Whether each list counts up by one."""
    starts = lists.starts.long()
    first = torch.zeros(int(starts[-1]) + 1, dtype=torch.bool, device=starts.device)
    first[starts] = True
    index = lists.index[: len(first) - 1]
    return bool(((index[1:] - index[:-1] == 1) | first[1 : len(index)]).all())


def _listed(plan: BlockPlan, chosen: Tensor, blocks: int) -> tuple[Lists, Lists, Tensor]:
    """The chosen places of a plan as lists by tile, as lists by key block, and the order that turns one to other."""
    g, t, slot = chosen.nonzero(as_tuple=True)
    block = plan.index[g, t, slot]
    turned = g * blocks + block
    order = torch.argsort(turned, stable=True)
    by_tile = Lists(_starts(g * plan.tiles + t, plan.groups * plan.tiles), _int(block))
    by_block = Lists(_starts(turned, plan.groups * blocks), _int(t[order]))
    return by_tile, by_block, _int(order)


def _starts(row: Tensor, rows: int) -> Tensor:
    """Where the list of each row starts, and behind them the end of all."""
    ends = torch.bincount(row, minlength=rows).cumsum(0)
    return torch.nn.functional.pad(ends, (1, 0)).int()


def _int(x: Tensor) -> Tensor:
    """``x`` in int32, with one element at least so that there is an address."""
    return x.int() if x.numel() else torch.zeros(1, dtype=torch.int32, device=x.device)


def _packed(sees: Sees, call: Call, head: Tensor, tile: Tensor, block: Tensor, block_m: int, block_n: int) -> Tensor:
    """The rule on each of the partial blocks, 32 keys to a word; (blocks, block_m, block_n / 32), one word at least."""
    words = torch.zeros(max(len(tile), 1), block_m, block_n // 32, dtype=torch.int32, device=call.device)
    r, c = (torch.arange(n, device=call.device) for n in (block_m, block_n))
    take = max(1, _ASKED_AT_ONCE // (block_m * block_n))
    for at in range(0, len(tile), take):
        some = slice(at, at + take)
        i = (tile[some, None] * block_m + r + call.offset)[:, :, None]
        j = (block[some, None] * block_n + c)[:, None, :]
        seen = sees(head[some, None, None], i.int(), j.int()) & (j < call.lk)
        words[some] = _pack(seen.expand(-1, block_m, block_n))
    return words


def _pack(seen: Tensor) -> Tensor:
    """(..., n) bool to (..., n / 32) int32, key c in bit c % 32 of word c // 32."""
    shift = torch.arange(32, dtype=torch.int32, device=seen.device)
    words: Tensor = (seen.unflatten(-1, (-1, 32)).int() << shift).sum(-1, dtype=torch.int32)
    return words


@dataclass(frozen=True, slots=True)
class KeyListing:
    """Tiles of gathered queries with gathered keys, int32, -1 for none.

    `rows` (tiles, block_m) are queries and `cols` (tiles / parts, chunks, block_n) keys, a list for each ``parts``
    tiles; `bits` (tiles, chunks, block_m, block_n / 32) says which query sees which of them.
    """

    block_m: int
    block_n: int
    parts: int
    rows: Tensor
    cols: Tensor
    bits: Tensor

    @property
    def tiles(self) -> int:
        """Tiles of queries."""
        return self.rows.shape[0]

    @property
    def chunks(self) -> int:
        """Chunks of keys of every list."""
        return self.cols.shape[1]


def listing(plan: BlockPlan, sees: Sees, *, lk: int, offset: int, block_m: int, block_n: int) -> KeyListing:
    """The listing of a plan whose blocks are single keys; queries stand at their row plus ``offset``."""
    if plan.block_k != 1 or plan.groups != 1 or plan.order is None:
        raise KernelError("a listing needs a plan of single keys with an order, shared by all heads")
    device = plan.index.device
    parts = -(-plan.block_q // block_m)
    rows = plan.order.view(plan.tiles, plan.block_q)
    rows = torch.nn.functional.pad(rows, (0, parts * block_m - plan.block_q), value=-1).view(-1, block_m)
    n = plan.index.shape[2]
    place = torch.arange(n, device=device)
    cols = plan.index[0].masked_fill(place < n - plan.counts[0][:, None], -1)
    cols = torch.nn.functional.pad(cols, (0, -n % block_n), value=-1)
    words = torch.empty(rows.shape[0], block_m, cols.shape[1] // 32, dtype=torch.int32, device=device)
    zero = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
    take = max(1, _ASKED_AT_ONCE // (block_m * cols.shape[1]))
    for at in range(0, len(rows), take):
        i = rows[at : at + take, :, None]
        j = cols[torch.arange(at, at + len(i), device=device) // parts][:, None, :]
        seen = sees(zero, (i + offset).int(), j.int()) & (i >= 0) & (j >= 0) & (j < lk)
        words[at : at + take] = _pack(seen.expand(-1, block_m, cols.shape[1]))
    # Words of a chunk lie together, as those of a partial block of a schedule do.
    words = words.unflatten(-1, (-1, block_n // 32)).transpose(1, 2).contiguous()
    return KeyListing(block_m, block_n, parts, rows.int(), cols.int().unflatten(1, (-1, block_n)).contiguous(), words)


def keys_seen(rule: Rule, call: Call) -> float:
    """Keys that a query sees, the mean over a sample of queries; overlaps of ranges count twice."""
    key = rule.key if rule.form is None else rule.form
    if key is not None:
        return _kept(_SEEN, (key, call), lambda: _keys_seen(rule, call))
    return _keys_seen(rule, call)


def _keys_seen(rule: Rule, call: Call) -> float:
    h = torch.zeros(1, 1, dtype=torch.int64, device=call.device)
    rows = torch.linspace(0, call.lq - 1, min(call.lq, 64), device=call.device).long()[None]
    lo, hi = rule.spans(h, rows + call.offset)
    seen = (hi.clamp(0, call.lk) - lo.clamp(0, call.lk)).clamp_min(0).expand(-1, 1, rows.shape[1])
    return float(seen.sum(0).float().mean())
