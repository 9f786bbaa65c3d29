"""The table of tile sizes: what each kernel takes at once, by architecture, type and head size.

Sizes and warps are such that the compiler spills few registers or none (`benchmarks/kernels_compiled.md`); they were
not chosen by timing. A GPU takes the rows of the newest architecture here that is not newer than itself, a head those
of the next larger size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch

__all__ = ["ARCHITECTURES", "BLOCKS", "FEATURES", "HEADS", "SCANS", "FeatureTile", "ScanTile", "Tile"]
__all__ += ["block_tile", "feature_tile", "scan_tile"]

ARCHITECTURES = (80, 90)
"""Compute capabilities: sm_80, whose products take operands from registers, and sm_90, from shared memory."""
HEADS = (64, 128, 256)


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries and keys of a tile of the block-sparse kernels, warps of a program and stages of its pipeline."""

    block_m: int
    block_n: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class ScanTile:
    """What a program of the linear scan holds."""

    chunk: int
    """Positions of a chunk, for heads of up to 128."""
    chunk_wide: int
    """The same for larger ones."""
    state: int
    """Numbers of a state that stay in registers, forward."""
    state_back: int
    warps: int
    """For small states forward; 8 otherwise."""


@dataclass(frozen=True, slots=True)
class FeatureTile:
    """What a program of `wersa`'s features holds."""

    rows: int
    numbers: int
    """Of the projection."""
    numbers_back: int
    piece: int
    """Columns of the input that make features at once."""
    holds: bool
    """Whether its part of the projection stays in shared memory."""


_SMALL = Tile(32, 32, warps=8, stages=2)
"""For float32, which has no matrix units that keep its digits, and for heads beyond 128."""
_ALIKE: dict[tuple[str, str, int], Tile] = {
    **{(way, kind, head): _SMALL for way in ("forward", "backward") for kind in ("half", "float32") for head in HEADS},
    ("forward", "half", 64): Tile(128, 64, warps=4, stages=3),
    ("forward", "half", 128): Tile(128, 64, warps=8, stages=3),
    ("backward", "half", 64): Tile(64, 64, warps=4, stages=2),
    ("backward", "half", 128): Tile(64, 64, warps=8, stages=2),
}
"""By pass, type and head size: no architecture has a tile of its own so far."""
BLOCKS: dict[tuple[int, str, str, int], Tile] = {
    (gpu, *which): tile for gpu in ARCHITECTURES for which, tile in _ALIKE.items()
}
"""By architecture, pass, type and head size."""
SCANS: dict[tuple[int, str], ScanTile] = {
    (80, "bfloat16"): ScanTile(chunk=32, chunk_wide=32, state=8192, state_back=8192, warps=8),
    (80, "other"): ScanTile(chunk=32, chunk_wide=16, state=8192, state_back=4096, warps=8),
    (90, "bfloat16"): ScanTile(chunk=64, chunk_wide=32, state=8192, state_back=8192, warps=4),
    (90, "other"): ScanTile(chunk=32, chunk_wide=16, state=8192, state_back=4096, warps=4),
}
"""By architecture and type; float16 is multiplied as float32."""
FEATURES: dict[tuple[int, str], FeatureTile] = {
    (80, "bfloat16"): FeatureTile(rows=32, numbers=4096, numbers_back=4096, piece=64, holds=False),
    (80, "other"): FeatureTile(rows=32, numbers=4096, numbers_back=4096, piece=32, holds=False),
    (90, "bfloat16"): FeatureTile(rows=64, numbers=8192, numbers_back=4096, piece=256, holds=True),
    (90, "other"): FeatureTile(rows=32, numbers=4096, numbers_back=4096, piece=32, holds=False),
}
"""The same for features."""

_Row = TypeVar("_Row")


def _row(capability: int) -> int:
    """The architecture of the table that serves a compute capability."""
    return max((known for known in ARCHITECTURES if known <= capability), default=ARCHITECTURES[0])


def _by_type(table: dict[tuple[int, str], _Row], capability: int, dtype: torch.dtype) -> _Row:
    return table[_row(capability), "bfloat16" if dtype == torch.bfloat16 else "other"]


def block_tile(capability: int, size: int, dtype: torch.dtype, *, backward: bool) -> Tile:
    """The largest tile of the block-sparse kernels for heads of ``size``."""
    head = next(x for x in HEADS if size <= x)
    kind = "float32" if dtype == torch.float32 else "half"
    return BLOCKS[_row(capability), "backward" if backward else "forward", kind, head]


def scan_tile(capability: int, dtype: torch.dtype) -> ScanTile:
    """What a program of the linear scan holds."""
    return _by_type(SCANS, capability, dtype)


def feature_tile(capability: int, dtype: torch.dtype) -> FeatureTile:
    """What a program of `wersa`'s features holds."""
    return _by_type(FEATURES, capability, dtype)
