"""Cutting the tiles of a plan into parts, and what its queries may see in each, as bounds of the scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.engines.layout import Layout
from kernels.engines.parts import Part, Piece
from kernels.engines.rules import Sees

__all__ = ["View", "parts_of"]

_CHUNK_PAIRS = 1 << 20
"""Pairs of query and key for which the rule is asked at once."""
_PART_SCORES = 1 << 19
"""Scores held at once by each thread: 2 MiB in float32, about what a core keeps near."""
_PART_SCORES_GPU = 1 << 24


@dataclass(frozen=True, slots=True)
class View:
    """What the queries of a layout may see, as bounds of their scores: infinity where seen, its negative where not."""

    layout: Layout
    sees: Sees
    key_mask: Tensor | None
    offset: int
    """Position of the first query on the axis of the keys."""
    dtype: torch.dtype
    """Type of the scores."""

    def by_rule(self, jobs: Tensor, j: Tensor) -> Tensor:
        """What the rule shows to each query of the tiles ``jobs``, of the keys j (jobs, n); (jobs, block_q, n)."""
        plan = self.layout.plan
        i = (jobs % plan.tiles)[:, None] * plan.block_q + torch.arange(plan.block_q, device=j.device)
        if plan.order is not None:
            i = plan.order[i]
        i, j = i[:, :, None], j[:, None, :]
        # The rule is evaluated for every score: half as wide numbers are twice as fast.
        seen = self.sees((jobs // plan.tiles)[:, None, None], (i + self.offset).int(), j.int())
        seen = seen & ((j >= 0) & (j < self.layout.lk))
        if plan.order is not None:
            seen = seen & (i >= 0)
        return self._bounds(seen.expand(len(jobs), plan.block_q, j.shape[2]))

    def by_mask(self, j: Tensor) -> Tensor | None:
        """What the key mask shows of the keys j (jobs, n), (B, jobs, 1, n); None without one."""
        if self.key_mask is None:
            return None
        return self._bounds(self.key_mask[:, j.clamp(0, self.layout.lk - 1)])[:, :, None, :]

    def _bounds(self, seen: Tensor) -> Tensor:
        return seen.to(self.dtype).sub_(0.5).mul_(float("inf"))


def parts_of(view: View, *, problems: int, in_order: bool) -> Iterator[Part]:
    """All tiles of all problems; tiles with about equally long lists come together.

    With ``in_order`` the columns of the scores are the keys in the order of the lists.
    """
    plan = view.layout.plan
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
        chunk = _chunk(view, jobs, slots, moves)
        start += count
        for p in range(0, problems, side_by_side):
            some = slice(p, min(p + side_by_side, problems))
            for a in range(0, count, together):
                yield chunk.part(some, slice(a, min(a + together, count)), view.layout)


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

    def part(self, problems: slice, these: slice, layout: Layout) -> Part:
        """The part of some jobs of some problems."""
        batch = torch.arange(problems.start, problems.stop, device=self.jobs.device) // layout.sharing
        sharing = layout.queries_per_key if layout.plan.groups == 1 else 1
        pieces = [
            Piece(
                problems,
                sharing,
                piece.blocks[these],
                None if piece.run is None else piece.run + (these.start if piece.moves else 0),
                piece.moves,
                [(columns, x[these]) for columns, x in piece.ruled],
                None if piece.shown is None else piece.shown[:, these].index_select(0, batch),
            )
            for piece in self.pieces
        ]
        return Part(problems, self.jobs[these], None if self.tile is None else self.tile + these.start, pieces)


def _chunk(view: View, jobs: Tensor, slots: int, moves: bool) -> _Chunk:
    """The chunk of the jobs, with ``slots`` blocks each; ``moves`` where they are consecutive tiles of one head."""
    layout, plan = view.layout, view.layout.plan
    most = plan.index.shape[2]
    listed = plan.index.flatten(0, 1)[jobs, most - slots :]
    # The lists put blocks last that are seen whole; runs are in the order of memory.
    asked = slots - int(plan.whole.flatten()[jobs].min())
    along = _run_of(listed, range(slots), 1) if moves else []
    along = along if len(along) > 1 else []
    held_along = frozenset(along)
    others = [slot for slot in range(slots) if slot not in held_along]
    fixed = _run_of(listed, others, 0) if moves and others else []
    held = len(fixed) == len(others)
    first_of_head = (jobs // plan.tiles // layout.queries_per_key)[:, None] * layout.key_blocks
    within = torch.arange(plan.block_k, device=jobs.device)

    def piece(chosen: list[int], run: bool, moving: bool) -> Piece:
        some = listed[:, chosen]
        blocks = some.clamp_min(0) + first_of_head
        j = (some[:, :, None] * plan.block_k + within).flatten(1)
        ruled = []
        for a, b in _stretches([n for n, slot in enumerate(chosen) if slot < asked]):
            columns = slice(a * plan.block_k, b * plan.block_k)
            ruled.append((columns, view.by_rule(jobs, j[:, columns])))
        return Piece(slice(0), 1, blocks, int(blocks[0, 0]) if run else None, moving, ruled, view.by_mask(j))

    wanted = ((fixed if held else others, held, False), (along, True, True))
    return _Chunk(jobs, int(jobs[0]) if moves else None, [piece(*how) for how in wanted if how[0]])


def _run_of(listed: Tensor, slots: Sequence[int], step: int) -> list[int]:
    """Those of the slots that are the longest run of blocks which moves on by ``step`` per job, in its order."""
    first, way = listed[0], step * torch.arange(len(listed), device=listed.device)[:, None]
    moving = ((listed - way == first).all(dim=0) & (first >= 0)).tolist()
    # A block may be listed twice, as the one that stands for all that lies outside of a grid.
    allowed = frozenset(slots)
    slot_of = {block: slot for slot, block in enumerate(first.tolist()) if slot in allowed and moving[slot]}
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
