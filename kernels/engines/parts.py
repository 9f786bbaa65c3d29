"""The work of engine 1 in parts that stay in a core's cache: which tiles together, which keys, what the rule hides.

Lists of most mechanisms move along with the queries. Where the blocks of consecutive tiles do, the keys of all of them
are one overlapping view of memory and are not copied; only the others are gathered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.engines.plan import Plan

__all__ = ["Layout", "Part", "Piece", "Scratch", "Sees", "parts_of"]

_CHUNK_PAIRS = 1 << 20
"""Pairs of query and key for which the rule is asked at once."""
_PART_SCORES = 1 << 19
"""Scores held at once by each thread: 2 MiB in float32, about what a core keeps near."""
_PART_SCORES_GPU = 1 << 24

Sees = Callable[[Tensor, Tensor, Tensor], Tensor]


class Scratch:
    """Memory that one part after the other uses again, as fresh pages of the system cost more than to fill them."""

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self._held = like.new_empty(0, dtype=dtype)

    def take(self, *shape: int) -> Tensor:
        """Room of a shape, with whatever stood there before."""
        size = math.prod(shape)
        if self._held.numel() < size:
            self._held = self._held.new_empty(size)
        return self._held[:size].view(shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """How (B, H, L, D) becomes (B R, G * blocks, block, D) and back; R heads share each of the G lists.

    Each of the B R is a problem of its own with the same lists.
    """

    plan: Plan
    lq: int
    lk: int
    heads: int

    def _blocked(self, x: Tensor, blocks: int, block: int) -> Tensor:
        pad = blocks * block - x.shape[2]
        if pad:
            x = torch.nn.functional.pad(x, (0, 0, 0, pad))
        # Contiguous, as parts take whole blocks of it by their number.
        return x.reshape(x.shape[0] * self.sharing, self.plan.groups * blocks, block, x.shape[3]).contiguous()

    @property
    def sharing(self) -> int:
        """R, the number of heads that share a list."""
        return self.heads // self.plan.groups

    @property
    def key_blocks(self) -> int:
        """Number of blocks of keys of a head."""
        return -(-self.lk // self.plan.block_k)

    def tile(self, x: Tensor) -> Tensor:
        """Rows of queries, (B, H, Lq, D), in tiles."""
        if self.plan.order is not None:
            x = x.index_select(2, self.plan.order.clamp_min(0))
        return self._blocked(x, self.plan.tiles, self.plan.block_q)

    def untile(self, x: Tensor) -> Tensor:
        """Tiles back to rows, (B, H, Lq, D)."""
        x = x.reshape(x.shape[0] // self.sharing, self.heads, -1, x.shape[3])
        order = self.plan.order
        if order is None:
            return x[:, :, : self.lq]
        real = (order >= 0).nonzero()[:, 0]
        return x.new_empty(x.shape[0], self.heads, self.lq, x.shape[3]).index_copy_(
            2, order[real], x.index_select(2, real)
        )

    def block_keys(self, x: Tensor) -> Tensor:
        """Rows of keys or values, (B, H, Lk, D), in blocks."""
        return self._blocked(x, self.key_blocks, self.plan.block_k)

    def unblock_keys(self, x: Tensor) -> Tensor:
        """Blocks back to rows, (B, H, Lk, D)."""
        return x.reshape(x.shape[0] // self.sharing, self.heads, -1, x.shape[3])[:, :, : self.lk]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of the keys of a part.

    Blocks are gathered, or they are a run of consecutive ones, which either moves on by one block from tile to tile or
    is the same for all tiles.
    """

    problems: slice
    blocks: Tensor
    """Numbers of the blocks, (jobs, slots)."""
    run: int | None
    """The first block of the first tile, if they are a run."""
    moves: bool
    ruled: Sequence[tuple[slice, Tensor]]
    """Bounds of the scores of some columns by the rule, (jobs, block_q, columns); the others are seen whole."""
    shown: Tensor | None
    """Bounds by the key mask, (problems, jobs, 1, columns); as all bounds inf where seen and -inf where not."""

    def rows(self, x: Tensor, to: torch.dtype, room: Scratch) -> Tensor:
        """The rows of blocked keys or values x (P, N, block, D).

        (problems * jobs, columns, D), or (columns, D) where they are the same for all.
        """
        some, (jobs, slots) = x[self.problems], self.blocks.shape
        if self.run is None:
            numbers = _numbers(some, self.blocks.flatten())
            into = room.take(len(numbers), x.shape[2] * x.shape[3])
            torch.index_select(_matrix(some), 0, numbers, out=into)
            return into.view(-1, slots * x.shape[2], x.shape[3]).to(to)
        near = some[0, self.run : self.run + slots + (jobs - 1 if self.moves else 0)].to(to)
        if not self.moves:
            return near.flatten(0, 1)
        step = near.stride()
        return near.as_strided((jobs, slots * x.shape[2], x.shape[3]), (step[0], step[1], 1), near.storage_offset())

    def add_gradients(self, into: Tensor, weights: Tensor, x: Tensor, scale: float = 1.0) -> None:
        """Add to the blocks (P, N, block, D), from which rows came, x (problems * jobs, block_q, D) by its weights."""
        some, (jobs, slots) = into[self.problems], self.blocks.shape
        if self.run is None:
            numbers = _numbers(some, self.blocks.flatten())
            _matrix(some).index_add_(0, numbers, torch.bmm(weights.mT, x).view(len(numbers), -1), alpha=scale)
        elif self.moves:
            by_slot = torch.bmm(weights.mT, x).view(jobs, slots, *into.shape[2:])
            for slot in range(slots):
                first = self.run + slot
                some[0, first : first + jobs].add_(by_slot[:, slot], alpha=scale)
        else:
            rows = some[0, self.run : self.run + slots].view(-1, x.shape[2])
            torch.addmm(rows, weights.flatten(0, 1).T, x.reshape(-1, x.shape[2]), alpha=scale, out=rows)


@dataclass(frozen=True, slots=True)
class Part:
    """Tiles of some problems that are computed together, and their keys."""

    problems: slice
    jobs: Tensor
    tile: int | None
    """The first tile, if they are consecutive ones of one problem."""
    pieces: Sequence[Piece]

    def tiles(self, x: Tensor) -> Tensor:
        """Tiles of x (P, N, block_q, D) to (problems * jobs, block_q, D), a view of them if they are consecutive."""
        some = x[self.problems]
        if self.tile is not None:
            return some[0, self.tile : self.tile + len(self.jobs)]
        return _matrix(some).index_select(0, _numbers(some, self.jobs)).view(-1, *x.shape[2:])

    def put(self, into: Tensor, x: Tensor) -> None:
        """Write (problems * jobs, block_q, D) to their tiles."""
        if self.tile is not None:
            self.tiles(into).copy_(x)
        else:
            into[self.problems].index_copy_(1, self.jobs, x.view(-1, len(self.jobs), *x.shape[1:]))


def _matrix(x: Tensor) -> Tensor:
    """Blocks x (P, N, block, D) as rows of a matrix (P N, block D).

    Rows are copied by all threads, which PyTorch does not do along a later axis.
    """
    return x.view(-1, x.shape[2] * x.shape[3])


def _numbers(x: Tensor, blocks: Tensor) -> Tensor:
    """Where the blocks (n,) of each problem of x (P, N, block, D) are among all P N blocks; (P n,)."""
    of_problem = torch.arange(x.shape[0], device=blocks.device)[:, None] * x.shape[1]
    return (of_problem + blocks).flatten()


def parts_of(
    layout: Layout,
    sees: Sees,
    key_mask: Tensor | None,
    offset: int,
    *,
    problems: int,
    dtype: torch.dtype,
    in_order: bool,
) -> Iterator[Part]:
    """All tiles of all problems; tiles with about equally long lists come together.

    Bounds are in the type of the scores, ``dtype``. With ``in_order`` the columns of the scores are the keys in the
    order of the lists.
    """
    plan = layout.plan
    index, counts, whole = plan.index.flatten(0, 1), plan.counts.flatten(), plan.whole.flatten()
    device, most, threads = index.device, index.shape[1], torch.get_num_threads()
    budget = _PART_SCORES_GPU if device.type == "cuda" else _PART_SCORES * threads
    order = torch.argsort(counts * (most + 1) - whole, descending=True, stable=True)
    sorted_jobs, sorted_counts = order.tolist(), counts[order].tolist()
    start = 0
    while start < len(sorted_jobs):
        slots = max(sorted_counts[start], 1)
        scores = plan.block_q * plan.block_k * slots
        together = max(1, budget // scores)
        # As many for every thread.
        together -= together % threads if together > threads else 0
        side_by_side = max(1, budget // (scores * min(together, len(sorted_jobs) - start)))
        count = min(together * max(1, _CHUNK_PAIRS // budget), len(sorted_jobs) - start)
        moves = False
        if not in_order and side_by_side == 1:
            consecutive = _consecutive(sorted_jobs[start : start + count], plan.tiles)
            if 2 * consecutive >= count:
                count, moves = consecutive, True
        jobs = order[start : start + count].sort().values
        chunk = _chunk(layout, sees, key_mask, offset, dtype, jobs, slots, moves)
        start += count
        for p in range(0, problems, side_by_side):
            some = slice(p, min(p + side_by_side, problems))
            for a in range(0, count, together):
                yield chunk.part(some, slice(a, min(a + together, count)), layout.sharing)


def _consecutive(jobs: Sequence[int], tiles: int) -> int:
    """How many of the first jobs are consecutive tiles of one head."""
    n = 1
    while n < len(jobs) and jobs[n] == jobs[0] + n and jobs[n] % tiles:
        n += 1
    return n


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tiles for which the rule was asked at once; parts are cut out of it."""

    jobs: Tensor
    tile: int | None
    pieces: Sequence[Piece]
    """Those of all problems: `shown` is (B, jobs, 1, columns)."""

    def part(self, problems: slice, these: slice, sharing: int) -> Part:
        """The part of some jobs of some problems."""
        batch = torch.arange(problems.start, problems.stop, device=self.jobs.device) // sharing
        pieces = [
            Piece(
                problems,
                piece.blocks[these],
                None if piece.run is None else piece.run + (these.start if piece.moves else 0),
                piece.moves,
                [(columns, x[these]) for columns, x in piece.ruled],
                None if piece.shown is None else piece.shown[:, these].index_select(0, batch),
            )
            for piece in self.pieces
        ]
        return Part(problems, self.jobs[these], None if self.tile is None else self.tile + these.start, pieces)


def _chunk(
    layout: Layout,
    sees: Sees,
    key_mask: Tensor | None,
    offset: int,
    dtype: torch.dtype,
    jobs: Tensor,
    slots: int,
    moves: bool,
) -> _Chunk:
    """The chunk of the jobs, with ``slots`` blocks each; ``moves`` where they are consecutive tiles of one head."""
    plan, most = layout.plan, layout.plan.index.shape[2]
    listed = plan.index.flatten(0, 1)[jobs, most - slots :]
    # The lists put blocks last that are seen whole; runs are in the order of memory.
    asked = slots - int(plan.whole.flatten()[jobs].min())
    along = _run_of(listed, range(slots), 1) if moves else []
    along = along if len(along) > 1 else []
    others = [slot for slot in range(slots) if slot not in along]
    fixed = _run_of(listed, others, 0) if moves and others else []
    held = len(fixed) == len(others)
    first_of_head = (jobs // plan.tiles)[:, None] * layout.key_blocks
    within = torch.arange(plan.block_k, device=jobs.device)

    def piece(chosen: list[int], run: bool, moving: bool) -> Piece:
        some = listed[:, chosen]
        blocks = some.clamp_min(0) + first_of_head
        j = (some[:, :, None] * plan.block_k + within).flatten(1)
        ruled = []
        for a, b in _stretches([n for n, slot in enumerate(chosen) if slot < asked]):
            columns = slice(a * plan.block_k, b * plan.block_k)
            ruled.append((columns, _bounds(_seen(layout, sees, jobs, j[:, columns], offset), dtype)))
        shown = None if key_mask is None else _bounds(key_mask[:, j.clamp(0, layout.lk - 1)], dtype)[:, :, None, :]
        return Piece(slice(0), blocks, int(blocks[0, 0]) if run else None, moving, ruled, shown)

    wanted = ((fixed if held else others, held, False), (along, True, True))
    return _Chunk(jobs, int(jobs[0]) if moves else None, [piece(*how) for how in wanted if how[0]])


def _run_of(listed: Tensor, slots: Sequence[int], step: int) -> list[int]:
    """Those of the slots that are the longest run of blocks which moves on by ``step`` per job, in its order."""
    first, way = listed[0], step * torch.arange(len(listed), device=listed.device)[:, None]
    moving = ((listed - way == first).all(dim=0) & (first >= 0)).tolist()
    # A block may be listed twice, as the one that stands for all that lies outside of a grid.
    slot_of = {block: slot for slot, block in enumerate(first.tolist()) if slot in slots and moving[slot]}
    a, b = max(_stretches(sorted(slot_of)), key=lambda s: s[1] - s[0], default=(0, 0))
    return [slot_of[block] for block in range(a, b)]


def _stretches(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges [a, b)."""
    found: list[tuple[int, int]] = []
    for n in numbers:
        if found and found[-1][1] == n:
            found[-1] = (found[-1][0], n + 1)
        else:
            found.append((n, n + 1))
    return found


def _bounds(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Infinity where seen, its negative where not."""
    return seen.to(dtype).sub_(0.5).mul_(float("inf"))


def _seen(layout: Layout, sees: Sees, jobs: Tensor, j: Tensor, offset: int) -> Tensor:
    """What the rule shows to each query of the tiles ``jobs``, of the keys j (jobs, n); (jobs, block_q, n)."""
    plan = layout.plan
    i = (jobs % plan.tiles)[:, None] * plan.block_q + torch.arange(plan.block_q, device=j.device)
    if plan.order is not None:
        i = plan.order[i]
    i, j = i[:, :, None], j[:, None, :]
    # The rule is evaluated for every score: half as wide numbers are twice as fast.
    seen = sees((jobs // plan.tiles)[:, None, None], (i + offset).int(), j.int()) & ((j >= 0) & (j < layout.lk))
    if plan.order is not None:
        seen = seen & (i >= 0)
    return seen.expand(len(jobs), plan.block_q, j.shape[2])
