"""How a call of the linear scan is cut into segments of positions and programs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.triton.support import capability, interpreting, padded
from kernels.triton.tiles import ARCHITECTURES, scan_tile

__all__ = ["Cut", "ScanLaunch", "cut", "scan_launch"]

_PROGRAMS = 1536
"""Programs that keep a large GPU busy; with more of them, states are written and read for nothing."""


@dataclass(frozen=True, slots=True)
class ScanLaunch:
    """Positions of a chunk, columns of a program, and how a kernel is launched with them.

    A program has ``block_dv`` columns of values and all of keys, or, where it makes gradients of queries or keys,
    ``block_d`` columns of these and all of values.
    """

    chunk: int
    block_dv: int
    block_d: int
    warps: int
    stages: int = 2


def scan_launch(d: int, dv: int, dtype: torch.dtype, *, backward: bool, arch: int = ARCHITECTURES[-1]) -> ScanLaunch:
    """Tile sizes for keys of size ``d`` and values of size ``dv``, by the table for a compute capability.

    The state of a program, padded(d) x block_dv in float32, stays in registers; bfloat16 operands are half as large as
    those of float16 and float32, which products take as float32. Where products read operands from registers, not from
    shared memory, chunks are shorter.
    """
    tile, wide, columns = scan_tile(arch, dtype), padded(d), padded(dv)
    most = tile.state_back if backward else tile.state
    chunk = tile.chunk if max(wide, columns) <= 128 else tile.chunk_wide
    block_dv, block_d = max(16, min(columns, most // wide)), max(16, min(wide, most // columns))
    return ScanLaunch(chunk, block_dv, block_d, 8 if wide * block_dv > 4096 or backward else tile.warps)


@dataclass(frozen=True, slots=True)
class Cut:
    """How a call is cut: positions per segment, segments of queries and of keys, parts of the columns of values."""

    launch: ScanLaunch
    segment: int
    before: int
    """Positions before the first query."""
    first: int
    """The first segment that holds queries."""
    segments_q: int
    segments_k: int
    parts: int
    width: int
    """Numbers of a state."""


def cut(q: Tensor, k: Tensor, v: Tensor, causal: bool, *, backward: bool = False, segment: int | None = None) -> Cut:
    """How to cut a call; the pass back keeps the segments of the pass forward."""
    (batch, heads, lq, d), lk, dv = q.shape, k.shape[2], v.shape[3]
    launch = scan_launch(d, dv, q.dtype, backward=backward, arch=capability(q))
    before = lk - lq if causal else 0
    if segment is None:
        # Long segments move fewer states, short ones give more programs.
        segment = 256
        while segment < 4096 and batch * heads * max(lq, lk) > 2 * segment * _PROGRAMS:
            segment *= 2
        if interpreting():
            segment = 64
    segments_k = -(-lk // segment)
    segments_q = segments_k if causal else -(-lq // segment)
    parts = -(-dv // launch.block_dv)
    return Cut(launch, segment, before, before // segment, segments_q, segments_k, parts, d * dv + d + dv)
