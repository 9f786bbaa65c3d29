"""The table of tile sizes has a row for all that is launched, and the launchers read it."""

from __future__ import annotations

import itertools

import pytest
import torch

from kernels.triton import tiles
from kernels.triton.block_sparse import launch_for
from kernels.triton.linear_scan_cut import scan_launch
from kernels.triton.tiles import (
    ARCHITECTURES,
    BLOCKS,
    FEATURES,
    HEADS,
    SCANS,
    Tile,
    block_tile,
    feature_tile,
    scan_tile,
)

TYPES = (torch.float32, torch.bfloat16, torch.float16)


def test_there_is_a_row_for_every_architecture_pass_type_and_head() -> None:
    passes = ("forward", "backward")
    assert set(BLOCKS) == set(itertools.product(ARCHITECTURES, passes, ("half", "float32"), HEADS))
    assert set(SCANS) == set(FEATURES) == set(itertools.product(ARCHITECTURES, ("bfloat16", "other")))
    for tile in BLOCKS.values():
        # What `tl.dot` and packed masks take.
        assert {tile.block_m, tile.block_n} <= {32, 64, 128}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_gpus_take_the_newest_row_that_is_not_newer_and_heads_the_next_larger(dtype: torch.dtype) -> None:
    for backward in (False, True):
        for size in (1, 64, 65, 128, 200, 256):
            tile = block_tile(90, size, dtype, backward=backward)
            assert tile == block_tile(120, size, dtype, backward=backward)
            head = next(x for x in HEADS if size <= x)
            assert tile == block_tile(90, head, dtype, backward=backward)
    for lookup in (scan_tile, feature_tile):
        assert lookup(75, dtype) == lookup(80, dtype) == lookup(89, dtype)
        assert lookup(90, dtype) == lookup(100, dtype)


def test_launchers_follow_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKS, (80, "forward", "half", 128), Tile(64, 32, warps=2, stages=5))
    assert launch_for(4096, None, 100, torch.float16, backward=False, arch=86) == Tile(64, 32, warps=2, stages=5)
    # A tile that is cut to what the rule shows has less to hold.
    assert launch_for(50, None, 100, torch.float16, backward=False, arch=86) == Tile(32, 32, warps=4, stages=5)
    monkeypatch.setitem(SCANS, (80, "other"), tiles.ScanTile(64, 64, state=2048, state_back=1024, warps=2))
    found = scan_launch(64, 64, torch.float32, backward=False, arch=80)
    assert (found.chunk, found.block_dv, found.warps) == (64, 32, 2)
    assert scan_launch(64, 64, torch.float32, backward=True, arch=80).block_dv == 16
