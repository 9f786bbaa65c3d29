"""The work of engine 1 in parts that stay in a core's cache: which tiles together, and the rows of their keys.

Lists of most mechanisms move along with the queries. Where the blocks of consecutive tiles do, the keys of all of them
are one overlapping view of memory and are not copied; only the others are gathered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Part", "Piece", "Scratch"]


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
class Piece:
    """Some of the keys of a part.

    Blocks are gathered, or they are a run of consecutive ones, which either moves on by one block from tile to tile or
    is the same for all tiles.
    """

    problems: slice
    sharing: int
    """The number of problems that share their keys."""
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
        jobs, slots = self.blocks.shape
        if self.run is None:
            numbers = self._numbers(x)
            into = room.take(len(numbers), x.shape[2] * x.shape[3])
            torch.index_select(_matrix(x), 0, numbers, out=into)
            return into.view(-1, slots * x.shape[2], x.shape[3]).to(to)
        near = x[self._first, self.run : self.run + slots + (jobs - 1 if self.moves else 0)].to(to)
        if not self.moves:
            return near.flatten(0, 1)
        step = near.stride()
        return near.as_strided((jobs, slots * x.shape[2], x.shape[3]), (step[0], step[1], 1), near.storage_offset())

    def add_gradients(self, into: Tensor, weights: Tensor, x: Tensor, scale: float = 1.0) -> None:
        """Add to the blocks (P, N, block, D), from which rows came, x (problems * jobs, block_q, D) by its weights."""
        jobs, slots = self.blocks.shape
        if self.run is None:
            numbers = self._numbers(into)
            _matrix(into).index_add_(0, numbers, torch.bmm(weights.mT, x).view(len(numbers), -1), alpha=scale)
        elif self.moves:
            by_slot = torch.bmm(weights.mT, x).view(jobs, slots, *into.shape[2:])
            for slot in range(slots):
                first = self.run + slot
                into[self._first, first : first + jobs].add_(by_slot[:, slot], alpha=scale)
        else:
            rows = into[self._first, self.run : self.run + slots].view(-1, x.shape[2])
            torch.addmm(rows, weights.flatten(0, 1).T, x.reshape(-1, x.shape[2]), alpha=scale, out=rows)

    @property
    def _first(self) -> int:
        """The first problem's place among the keys."""
        return int(self.problems.start) // self.sharing

    def _numbers(self, x: Tensor) -> Tensor:
        """Where the blocks of each problem are among all those of blocked keys x, (problems jobs slots,)."""
        problems = torch.arange(self.problems.start, self.problems.stop, device=x.device)
        return _numbers(problems // self.sharing, x.shape[1], self.blocks.flatten())


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
        problems = torch.arange(some.shape[0], device=x.device)
        return _matrix(some).index_select(0, _numbers(problems, x.shape[1], self.jobs)).view(-1, *x.shape[2:])

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
    return x.view(x.shape[0] * x.shape[1], x.shape[2] * x.shape[3])


def _numbers(problems: Tensor, each: int, blocks: Tensor) -> Tensor:
    """Where the blocks (n,) of some problems (P,), which have ``each`` of them, are among those of all; (P n,)."""
    return (problems[:, None] * each + blocks).flatten()
