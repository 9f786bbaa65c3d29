"""The cascade across levels: the fast version against its definition, and the laws of the hierarchy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelError, attention, hierarchical_attention
from kernels.hierarchical.reference import reference_hierarchical

LEVELS = st.lists(st.sampled_from([1, 2, 3, -1]), min_size=1, max_size=7)


def random_qkv(n: int, seed: int) -> tuple[tuple[Tensor, Tensor, Tensor], torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, 2, n, 4, generator=g, dtype=torch.float64)
    return (q, k, v), g


@settings(max_examples=40, deadline=None)
@given(levels=LEVELS, zero_mask=st.booleans(), absent=st.booleans(), seed=st.integers(0, 1000))
def test_fast_equals_the_definition_in_both_mask_modes(
    levels: list[int], zero_mask: bool, absent: bool, seed: int
) -> None:
    (q, k, v), g = random_qkv(len(levels), seed)
    mask = torch.rand(2, len(levels), generator=g) < 0.6 if absent else None
    got = hierarchical_attention(q, k, v, levels, token_mask=mask, zero_mask=zero_mask)
    want = reference_hierarchical(q, k, v, levels, token_mask=mask, zero_mask=zero_mask)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("zero_mask", [False, True])
def test_gradients_equal_the_definition(zero_mask: bool) -> None:
    (q, k, v), _ = random_qkv(6, 3)
    levels = [1, 2, 2, 3, -1, 3]
    mask = torch.tensor([[True] * 6, [True, False, True, True, True, False]])
    grads = []
    for f in (hierarchical_attention, reference_hierarchical):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = f(*leaves, levels, token_mask=mask, zero_mask=zero_mask)
        grads.append(torch.autograd.grad((out**2).sum(), leaves))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_one_level_is_plain_attention() -> None:
    (q, k, v), _ = random_qkv(5, 4)
    torch.testing.assert_close(hierarchical_attention(q, k, v, [1] * 5), attention(q, k, v))
    torch.testing.assert_close(hierarchical_attention(q, k, v, [1] * 5, zero_mask=True), attention(q, k, v))


def test_swapping_indicators_of_one_level_swaps_their_outputs() -> None:
    (q, k, v), _ = random_qkv(6, 5)
    levels = [1, 2, 2, 3, 3, 1]
    order = [5, 2, 1, 4, 3, 0]
    out = hierarchical_attention(q, k, v, levels)
    swapped = hierarchical_attention(q[:, :, order], k[:, :, order], v[:, :, order], [levels[i] for i in order])
    torch.testing.assert_close(swapped, out[:, :, order])


@pytest.mark.parametrize("level", [2, 3])
def test_a_deeper_level_never_reaches_the_ones_above_it(level: int) -> None:
    (q, k, v), _ = random_qkv(6, 6)
    levels = torch.tensor([1, 1, 2, 2, 3, 3])
    before = hierarchical_attention(q, k, v, levels.tolist())
    for x in (q, k, v):
        x[:, :, levels == level] += 5.0
    after = hierarchical_attention(q, k, v, levels.tolist())
    assert torch.equal(before[:, :, levels < level], after[:, :, levels < level])
    assert not torch.allclose(before[:, :, levels == level], after[:, :, levels == level])


def test_information_flows_from_level_one_to_level_three() -> None:
    (q, k, v), _ = random_qkv(3, 7)
    before = hierarchical_attention(q, k, v, [1, 2, 3])
    v[:, :, 0] += 1.0
    after = hierarchical_attention(q, k, v, [1, 2, 3])
    assert (before - after).abs().amax(dim=(0, 1, 3)).min() > 1e-4


def test_a_zero_mask_shrinks_level_one_by_one_unit_of_weight_per_outsider() -> None:
    (q, k, v), _ = random_qkv(5, 8)
    levels = [1, 1, 2, 3, 3]
    out = hierarchical_attention(q, k, v, levels, zero_mask=True, scale=0.5)
    e = torch.exp(0.5 * q[:, :, :2] @ k[:, :, :2].transpose(-1, -2))
    want = (e @ v[:, :, :2]) / (e.sum(-1, keepdim=True) + len(levels) - 2)
    torch.testing.assert_close(out[:, :, :2], want, rtol=1e-12, atol=1e-12)


def test_absent_indicators_are_zero_and_unseen() -> None:
    (q, k, v), _ = random_qkv(4, 9)
    mask = torch.tensor([[True, False, True, True], [False, False, False, False]])
    out = hierarchical_attention(q, k, v, [1, 1, 2, 3], token_mask=mask)
    assert bool((out[0, :, 1] == 0).all())
    assert bool((out[1] == 0).all())
    alone = hierarchical_attention(q[:1, :, [0, 2, 3]], k[:1, :, [0, 2, 3]], v[:1, :, [0, 2, 3]], [1, 2, 3])
    torch.testing.assert_close(out[:1, :, [0, 2, 3]], alone)


@pytest.mark.parametrize(
    ("levels", "mask", "message"),
    [
        ([1, 2], None, "2 levels for 3 tokens"),
        ([1, 0, 2], None, "level 0 is neither"),
        ([1, 1, 2], torch.ones(2, 2, dtype=torch.bool), "token_mask"),
        ([1, 1, 2], torch.ones(2, 3), "token_mask"),
    ],
)
def test_levels_and_masks_that_do_not_fit_are_refused(levels: list[int], mask: Tensor | None, message: str) -> None:
    (q, k, v), _ = random_qkv(3, 10)
    with pytest.raises(KernelError, match=message):
        hierarchical_attention(q, k, v, levels, token_mask=mask)


def test_unequal_shapes_are_refused() -> None:
    (q, k, v), _ = random_qkv(3, 11)
    with pytest.raises(KernelError, match="expected three equal"):
        hierarchical_attention(q, k[:, :, :2], v, [1, 2, 3])


def test_what_absent_tokens_hold_reaches_nothing_and_autocast_changes_nothing() -> None:
    (q, k, v), _ = random_qkv(6, 6)
    levels = [1, 2, 2, 3, -1, 3]
    mask = torch.tensor([[True] * 6, [True, False, True, True, True, False]])
    found = []
    for value, autocast in ((0.0, False), (float("nan"), False), (0.0, True)):
        leaves = [x.float().masked_fill(~mask[:, None, :, None], value).requires_grad_() for x in (q, k, v)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = hierarchical_attention(*leaves, levels, token_mask=mask)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
    assert all(map(torch.equal, found[0], found[1]))
    assert all(map(torch.equal, found[0], found[2]))
