"""Plans for tokens on a 1-D, 2-D or 3-D grid: tiles of queries are boxes, their keys are listed one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.engines.plan import BlockPlan
from kernels.errors import KernelError

__all__ = ["Axis", "coordinates", "grid_of", "plan_from_axes"]


@dataclass(frozen=True, slots=True)
class Axis:
    """Tiles along one axis: the query coordinates (tiles, t) and the key coordinates (tiles, m); -1 is none."""

    queries: Tensor
    keys: Tensor


def grid_of(grid: object, length: int) -> tuple[int, ...]:
    """The lengths of the axes, one axis if ``grid`` is None; `KernelError` unless they multiply to ``length``."""
    if grid is None:
        return (length,)
    if not isinstance(grid, Sequence) or not 1 <= len(grid) <= 3 or not all(isinstance(n, int) for n in grid):
        raise KernelError(f"grid is {grid!r}, expected one to three whole numbers")
    sizes = tuple(int(n) for n in grid)
    if math.prod(sizes) != length or min(sizes) < 1:
        raise KernelError(f"grid {sizes} holds {math.prod(sizes)} tokens but there are {length}")
    return sizes


def coordinates(position: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """One coordinate tensor per axis of flattened positions; the last axis runs fastest."""
    found: list[Tensor] = []
    for n in reversed(sizes):
        found.append(position % n)
        position = position.div(n, rounding_mode="floor")
    return found[::-1]


def plan_from_axes(axes: Sequence[Axis], sizes: Sequence[int], key_sizes: Sequence[int] | None = None) -> BlockPlan:
    """The plan whose tiles and key lists are the products of those of the axes; keys are gathered one by one.

    Keys may lie on a grid of their own, ``key_sizes``.
    """
    queries, keys = axes[0].queries, axes[0].keys
    for axis, n, m in zip(axes[1:], sizes[1:], (key_sizes or sizes)[1:], strict=True):
        queries, keys = _product(queries, axis.queries, n), _product(keys, axis.keys, m)
    tiles, listed = keys.shape
    return BlockPlan(
        block_q=queries.shape[1],
        block_k=1,
        index=keys[None],
        counts=torch.full((1, tiles), listed, device=keys.device),
        whole=torch.zeros(1, tiles, dtype=torch.int64, device=keys.device),
        order=queries.flatten(),
    )


def _product(outer: Tensor, inner: Tensor, n: int) -> Tensor:
    """Flattened positions of all pairs of tiles and of their members, (T1 T2, m1 m2); -1 where either is none."""
    a, b = outer[:, None, :, None], inner[None, :, None, :]
    both = torch.where((a >= 0) & (b >= 0), a * n + b, -1)
    return both.flatten(2).flatten(0, 1)
