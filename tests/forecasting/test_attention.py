"""Attention blocks: what may flow where, absence, and level numbers."""

from __future__ import annotations

import pytest
import torch

from forecasting.attention import CascadeBlock, TimeBlock, level_ranks


def test_levels_are_renumbered_without_gaps() -> None:
    assert level_ranks([3, 1, 3, -1]) == (2, 1, 2, -1)
    assert level_ranks([2]) == (1,)


def test_the_last_token_alone_is_what_the_whole_layer_gives_it() -> None:
    torch.manual_seed(0)
    block = TimeBlock(8, 2, 0.0).eval()
    x = torch.randn(3, 6, 8)
    mask = torch.rand(3, 6) < 0.7
    torch.testing.assert_close(block(x, mask, only_last=True), block(x, mask)[:, -1:])


def test_masked_patches_do_not_matter() -> None:
    torch.manual_seed(1)
    block = TimeBlock(8, 2, 0.0).eval()
    x = torch.randn(1, 5, 8)
    mask = torch.tensor([[True, False, True, True, True]])
    changed = x.clone()
    changed[0, 1] += 9.0
    torch.testing.assert_close(block(changed, mask, only_last=True), block(x, mask, only_last=True))


@pytest.mark.parametrize("zero_mask", [False, True])
def test_the_cascade_flows_downwards_only(zero_mask: bool) -> None:
    torch.manual_seed(2)
    block = CascadeBlock(8, 2, 0.0, zero_mask=zero_mask).eval().requires_grad_(False)
    x = torch.randn(2, 4, 8)
    present = torch.ones(2, 4, dtype=torch.bool)
    levels = [1, 2, 3, 3]
    before = block(x, levels, present)
    deep = x.clone()
    deep[:, 3] += torch.randn(8)
    torch.testing.assert_close(block(deep, levels, present)[:, :2], before[:, :2], rtol=0, atol=0)
    top = x.clone()
    top[:, 0] += torch.randn(8)
    assert float((block(top, levels, present) - before).abs().amax((0, 2)).min()) > 1e-5


def test_absent_indicators_give_zero_and_leave_the_others_as_if_they_were_not_there() -> None:
    torch.manual_seed(3)
    block = CascadeBlock(8, 2, 0.0, zero_mask=False).eval()
    x = torch.randn(1, 3, 8)
    out = block(x, [1, 1, 2], torch.tensor([[True, False, True]]))
    assert bool((out[0, 1] == 0).all())
    alone = block(x[:, [0, 2]], [1, 2], torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(out[:, [0, 2]], alone)
