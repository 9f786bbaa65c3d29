"""BlockRank: candidates do not see each other, their order does not matter, and their relevance is a distribution."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels import KernelError, attention
from kernels.engines.plan import plan_from_spans
from kernels.engines.rules import Call, boolean
from kernels.sparse.block_prefix_query import block_positions, block_prefix_query, relevance, relevance_loss
from tests.kernels.cases import random_qkv, relative

BLOCK = 6


def run(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None = None) -> Tensor:
    return attention(q, k, v, method="block_prefix_query", block=BLOCK, causal=causal, key_mask=key_mask)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("lq", "lk"), [(30, 30), (27, 27), (11, 27), (6, 6), (8, 8)])
def test_who_sees_whom(causal: bool, lq: int, lk: int) -> None:
    call = Call(heads=1, lq=lq, lk=lk, causal=causal, device=torch.device("cpu"), offset=lk - lq)
    got = boolean(block_prefix_query(call, block=BLOCK), call)[0]
    last = (lk - 1) // BLOCK
    for row in range(lq):
        i = row + lk - lq
        for j in range(lk):
            mine, its = i // BLOCK, j // BLOCK
            want = (mine in (its, last) or its == 0) and (not causal or j <= i)
            assert bool(got[row, j]) == want


@pytest.mark.parametrize("causal", [False, True])
def test_the_order_of_candidates_does_not_matter(causal: bool) -> None:
    (q, k, v), g = random_qkv(5 * BLOCK, 5 * BLOCK, seed=1)
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(3, generator=g), torch.tensor([4])])
    mixed = [x.unflatten(2, (5, BLOCK))[:, :, order].flatten(2, 3) for x in (q, k, v)]
    before = run(q, k, v, causal=causal).unflatten(2, (5, BLOCK))[:, :, order]
    assert relative(run(*mixed, causal=causal).unflatten(2, (5, BLOCK)), before) < 1e-12
    plain, moved = (relevance(a, b, block=BLOCK) for a, b in ((q, k), mixed[:2]))
    assert relative(moved, plain[:, order[1:-1] - 1]) < 1e-12


@pytest.mark.parametrize("causal", [False, True])
def test_a_candidate_knows_nothing_of_another(causal: bool) -> None:
    tensors, _ = random_qkv(5 * BLOCK, 5 * BLOCK, seed=2)
    before = run(*tensors, causal=causal)
    for x in tensors:
        x[:, :, 2 * BLOCK : 3 * BLOCK] += 1.0
    after = run(*tensors, causal=causal)
    for block in range(5):
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        assert torch.equal(before[:, :, rows], after[:, :, rows]) == (block not in (2, 4))


def test_padding_on_the_left_of_a_block_changes_nothing() -> None:
    # Three blocks of 4 real tokens, once padded to 6 and once to 9.
    (q, k, v), _ = random_qkv(12, 12, seed=3)
    found = []
    for size in (6, 9):
        real = (torch.arange(3 * size) % size) >= size - 4
        wide = [x.new_full((2, 2, 3 * size, 16), 7.0).index_copy(2, real.nonzero()[:, 0], x) for x in (q, k, v)]
        mask = real[None].expand(2, -1)
        out = attention(*wide, method="block_prefix_query", block=size, causal=True, key_mask=mask)
        found.append((out[:, :, real], relevance(wide[0], wide[1], block=size, key_mask=mask)))
    assert relative(found[0][0], found[1][0]) < 1e-12
    assert relative(found[0][1], found[1][1]) < 1e-12


def test_relevance_is_the_share_of_each_candidate_by_its_formula() -> None:
    (q, k, _), g = random_qkv(27, 27, seed=4, heads=(4, 2, 2))
    mask = torch.rand(2, 27, generator=g) < 0.7
    got = relevance(q, k, block=BLOCK, signal=2, key_mask=mask)
    assert got.shape == (2, 3)
    torch.testing.assert_close(got.sum(dim=1), torch.ones(2, dtype=got.dtype))
    for b in range(2):
        want = [0.0, 0.0, 0.0]
        for h in range(4):
            for row in (25, 26):
                e = {
                    j: math.exp(float(q[b, h, row] @ k[b, h // 2, j]) / 4.0)
                    for j in range(BLOCK, 4 * BLOCK)
                    if mask[b, j]
                }
                for j, x in e.items():
                    want[j // BLOCK - 1] += x / sum(e.values()) / 8
        assert got[b].tolist() == pytest.approx(want)


def test_relevance_has_gradients_and_hidden_candidates_have_none() -> None:
    (q, k, _), _ = random_qkv(30, 30, seed=5)
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[:, 12:18] = False
    mask[1, BLOCK:24] = False
    k[:, :, 12:18] = float("nan")
    leaves = [q.requires_grad_(), k.requires_grad_()]
    got = relevance(*leaves, block=BLOCK, key_mask=mask)
    assert got[0, 1] == 0
    assert bool((got[1] == 0).all())
    positives = torch.tensor([[True, False, False], [True, False, False]])
    for x in torch.autograd.grad(relevance_loss(got, positives), leaves):
        assert bool(torch.isfinite(x).all())
        assert bool((x[0] != 0).any())


def test_the_loss_is_zero_where_all_are_positive_and_log_n_where_nothing_is_known() -> None:
    some = torch.softmax(torch.randn(3, 7, generator=torch.Generator().manual_seed(6)), dim=1)
    assert float(relevance_loss(some, torch.ones(3, 7, dtype=torch.bool))) == pytest.approx(0.0, abs=1e-6)
    one = torch.zeros(3, 7, dtype=torch.bool)
    one[:, 2] = True
    assert float(relevance_loss(torch.full((3, 7), 1 / 7), one)) == pytest.approx(math.log(7), rel=1e-6)
    want = -math.log(
        sum(math.exp(float(some[0, c]) / 0.1) for c in (1, 4)) / sum(math.exp(float(x) / 0.1) for x in some[0])
    )
    two = torch.tensor([[c in (1, 4) for c in range(7)]])
    assert float(relevance_loss(some[:1], two, temperature=0.1)) == pytest.approx(want, rel=1e-5)


def test_training_on_the_loss_raises_the_relevance_of_the_positive() -> None:
    (q, k, _), _ = random_qkv(30, 30, seed=7, batch=1)
    positives = torch.tensor([[False, True, False]])
    q.requires_grad_()
    before = relevance(q, k, block=BLOCK)
    (step,) = torch.autograd.grad(relevance_loss(before, positives), [q])
    after = relevance(q - 0.05 * step / step.norm(), k, block=BLOCK)
    assert float(after[0, 1].detach()) > float(before[0, 1].detach())


def test_candidates_share_their_positions_and_the_query_stands_apart() -> None:
    assert block_positions(11, block=3, apart=100).tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 100, 101]
    assert block_positions(2, block=3).tolist() == [0, 1]


def test_work_grows_with_the_number_of_candidates() -> None:
    def visited(candidates: int) -> int:
        n = (candidates + 2) * 64
        call = Call(heads=1, lq=n, lk=n, causal=True, device=torch.device("cpu"), offset=0)
        rule = block_prefix_query(call, block=64)
        return int(plan_from_spans(rule, call, block_q=64, block_k=64).counts.sum())

    # The first block visits itself, a candidate two blocks, the query all of them.
    assert [visited(n) for n in (1, 10, 100)] == [1 + 2 * n + n + 2 for n in (1, 10, 100)]


def test_what_does_not_fit_is_refused() -> None:
    (q, k, _), _ = random_qkv(12, 12, seed=8)
    with pytest.raises(KernelError, match="12 keys in blocks of 6 hold no candidate; expected more than 12 keys"):
        relevance(q, k, block=6)
    share = torch.full((1, 3), 1 / 3)
    with pytest.raises(KernelError, match="no positive candidate"):
        relevance_loss(share, torch.zeros(1, 3, dtype=torch.bool))
    with pytest.raises(KernelError, match=r"expected torch.bool of shape \(1, 3\)"):
        relevance_loss(share, torch.zeros(1, 2, dtype=torch.bool))
    with pytest.raises(KernelError, match=r"temperature is 0\.0, expected a positive number"):
        relevance_loss(share, torch.ones(1, 3, dtype=torch.bool), temperature=0.0)
