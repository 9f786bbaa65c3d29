"""FlexPrefill: how many blocks hold the coverage, which heads choose pairs, and what is always read."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from kernels import KernelError, attention
from kernels.sparse.flexprefill import active_blocks
from tests.kernels.cases import random_qkv, relative

BLOCK = 8
SCALE = 0.25


def chosen(q: Tensor, k: Tensor, **options: object) -> Tensor:
    found: Tensor = active_blocks(q, k, scale=SCALE, **{"block": BLOCK, "min_budget": 0, **options})  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("options", [{"coverage": 1.0}, {"min_budget": 200}])
def test_full_coverage_and_a_large_budget_are_dense(options: dict[str, object]) -> None:
    (q, k, v), _ = random_qkv(100, 100, seed=1)
    dense = attention(q, k, v, causal=True)
    assert relative(attention(q, k, v, method="flexprefill", causal=True, block=BLOCK, **options), dense) < 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [0.0, 0.84])
def test_more_coverage_reads_more_and_errs_less(threshold: float) -> None:
    (q, k, v), _ = random_qkv(203, 203, seed=2, heads=(4, 4, 4))
    dense = attention(q, k, v, causal=True)
    errors, read = [], []
    for coverage in (0.2, 0.5, 0.8, 0.95, 1.0):
        how = {"coverage": coverage, "threshold": threshold, "block": BLOCK, "min_budget": 0}
        errors.append(relative(attention(q, k, v, method="flexprefill", causal=True, **how), dense))  # type: ignore[arg-type]
        read.append(chosen(q, k, coverage=coverage, threshold=threshold))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12
    assert all(bool((b | ~a).all()) for a, b in itertools.pairwise(read))


def test_own_blocks_and_the_first_one_are_always_read_and_nothing_behind() -> None:
    (q, k, _), _ = random_qkv(83, 83, seed=3)
    for threshold in (0.0, 1.0):
        active = chosen(q, k, coverage=0.1, threshold=threshold)
        tiles = torch.arange(active.shape[2])
        assert bool(active[:, :, tiles, tiles].all())
        assert bool(active[:, :, :, 0].all())
        assert not bool(active.triu(1).any())


def test_verticals_hold_the_coverage_of_what_the_last_queries_see() -> None:
    (q, k, v), _ = random_qkv(160, 160, seed=4)
    weights = attention(q[:, :, -BLOCK:], k, torch.eye(160, dtype=v.dtype).expand(2, 2, -1, -1), causal=True)
    by_block = weights.mean(dim=2).unflatten(-1, (20, BLOCK)).sum(dim=-1)
    for coverage in (0.3, 0.6, 0.9):
        # With one distance at most, all further blocks of the last row are verticals.
        active = chosen(q, k, coverage=coverage, threshold=0.0)
        assert bool(((by_block * active[:, :, -1]).sum(dim=-1) >= coverage).all())


def test_heads_choose_pairs_where_averages_foretell_what_the_last_queries_see() -> None:
    # Keys and queries that are the same throughout a block: averages foretell everything.
    g = torch.Generator().manual_seed(5)
    blocks = [torch.randn(1, 1, 20, 16, generator=g, dtype=torch.float64) * 2 for _ in range(2)]
    q, k = (x.repeat_interleave(BLOCK, dim=2) for x in blocks)
    k[:, :, -BLOCK:] -= 100 * q[:, :, -BLOCK:]  # the last block sees itself to no part, as its average does
    never, by_default, always = (chosen(q, k, coverage=0.6, threshold=t) for t in (0.0, 0.1, math.inf))
    assert torch.equal(by_default, always)
    assert not torch.equal(by_default, never)
    # The pairs beside first column and own blocks hold the coverage, and without the least of them do not.
    shares = (SCALE * blocks[0] @ k[:, :, ::BLOCK].mT).masked_fill(
        torch.ones(20, 20, dtype=torch.bool).triu(1), -math.inf
    )
    ranked = shares.softmax(dim=-1).flatten().sort(descending=True).values
    count = int((ranked.cumsum(0) < 0.6 * 20).sum()) + 1
    pairs = shares.softmax(dim=-1).flatten() >= ranked[count - 1]
    assert int(pairs.sum()) == count
    assert bool(always.flatten()[pairs].all())


def test_a_window_and_a_sink_are_found_as_a_vertical_and_a_slash() -> None:
    n, g = 2048, torch.Generator().manual_seed(6)
    at = torch.arange(n)
    turn = torch.stack([torch.cos(at * 0.004), torch.sin(at * 0.004), torch.zeros(n)], dim=1)
    q, k = 8 * turn, 8 * turn
    q[:, 2], k[0, 2] = 8.0, 8.5
    q, k = (x[None, None].double() for x in (q, k))
    v = torch.randn(1, 1, n, 4, generator=g, dtype=torch.float64)
    how = {"coverage": 0.995, "threshold": 0.1, "block": 32, "min_budget": 0}
    active = active_blocks(q, k, scale=1.0, **how)  # type: ignore[arg-type]
    tiles = torch.arange(n // 32)
    assert bool(active[0, 0, :, 0].all())
    assert bool(active[0, 0, tiles, tiles].all())
    assert float(active.double().mean()) < 0.2
    got = attention(q, k, v, method="flexprefill", scale=1.0, causal=True, **how)  # type: ignore[arg-type]
    assert relative(got, attention(q, k, v, scale=1.0, causal=True)) < 1e-2


def test_budgets_bound_what_is_read() -> None:
    (q, k, _), _ = random_qkv(320, 320, seed=7)
    few = chosen(q, k, coverage=0.99, threshold=0.0, max_budget=2 * BLOCK)
    # Two verticals and the first block, two distances of two blocks each and the own one.
    assert int(few.sum(dim=-1).max()) <= 3 + 6
    many = chosen(q, k, coverage=0.01, threshold=0.0, min_budget=10 * BLOCK)
    assert int(many[:, :, -1].sum(dim=-1).min()) >= 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coverage": 1.2}, "coverage is 1.2, expected a number from 0 to 1"),
        ({"threshold": -1.0}, "threshold is -1.0, expected a number from 0 to inf"),
        ({"block": 0}, "block is 0, expected a whole number of at least 1"),
        ({"max_budget": 0}, "max_budget is 0, expected a whole number of at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    (q, k, v), _ = random_qkv(8, 8, seed=8)
    with pytest.raises(KernelError, match=message):
        attention(q, k, v, method="flexprefill", causal=True, **options)  # type: ignore[arg-type]
