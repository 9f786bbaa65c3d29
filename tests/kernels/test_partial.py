"""Partial attention, merging and received attention; and the block-sparse engine's own promises."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import KernelError, attention, colstat, merge, partial_attention
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.partial import reference_colstat
from kernels.engines.plan import plan_from_spans
from kernels.engines.ruled import call_of, ruled_fast
from kernels.engines.rules import boolean
from kernels.windows.power import power
from kernels.windows.sliding_window import sliding_window
from tests.kernels.cases import poisoned_memory, random_qkv, relative


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    lq=st.integers(1, 40),
    lk=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 60), max_size=3),
    causal=st.booleans(),
    masked=st.booleans(),
)
def test_parts_of_the_keys_merge_to_the_whole(
    seed: int, lq: int, lk: int, cuts: list[int], causal: bool, masked: bool
) -> None:
    (q, k, v), g = random_qkv(lq, lk, seed=seed, heads=(4, 2, 1), dv=5)
    key_mask = torch.rand(2, lk, generator=g) < 0.5 if masked else None
    edges = sorted({0, lk, *(c for c in cuts if c < lk)})
    parts = [
        partial_attention(
            q,
            k[:, :, a:b],
            v[:, :, a:b],
            causal=causal,
            key_mask=None if key_mask is None else key_mask[:, a:b],
            offset=lk - lq - a,
        )
        for a, b in itertools.pairwise(edges)
    ]
    o, lse = merge(*parts)
    whole, whole_lse = partial_attention(q, k, v, causal=causal, key_mask=key_mask)
    assert float((o - whole).abs().max()) < 1e-12
    assert torch.equal(lse == float("-inf"), whole_lse == float("-inf"))
    assert float((lse - whole_lse).nan_to_num(0.0).abs().max()) < 1e-12
    assert float((whole - attention(q, k, v, causal=causal, key_mask=key_mask)).abs().max()) < 1e-12
    backwards, _ = merge(*parts[::-1])
    assert float((backwards - o).abs().max()) < 1e-12


def test_merging_carries_gradients_and_survives_what_nobody_sees() -> None:
    (q, k, v), _ = random_qkv(7, 9, seed=1, batch=1, d=3, dv=2)
    mask = torch.tensor([[True, True, False, False, False, True, True, True, False]])

    def joined(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cuts = [(0, 2), (2, 5), (5, 9)]
        return merge(*(partial_attention(q, k[:, :, a:b], v[:, :, a:b], key_mask=mask[:, a:b]) for a, b in cuts))

    leaves = [x.requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(joined, leaves, fast_mode=True)
    blind = torch.zeros_like(mask)
    o, lse = merge(*(partial_attention(*leaves, key_mask=blind) for _ in range(2)))
    assert bool((o == 0).all())
    assert bool((lse == float("-inf")).all())
    for grad in torch.autograd.grad(o.sum(), leaves):
        assert bool((grad == 0).all())


def test_the_log_sum_exp_is_that_of_the_scores_over_the_temperature() -> None:
    (q, k, v), _ = random_qkv(6, 11, seed=2)
    o, lse = partial_attention(q, k, v, scale=0.3, temperature=0.7)
    scores = 0.3 / 0.7 * q @ k.transpose(-1, -2)
    torch.testing.assert_close(lse, torch.logsumexp(scores, dim=-1))
    torch.testing.assert_close(o, torch.softmax(scores, dim=-1) @ v)
    with pytest.raises(KernelError, match="temperature is 0"):
        partial_attention(q, k, v, temperature=0.0)
    with pytest.raises(KernelError, match="at least one part"):
        merge()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 999), lq=st.integers(1, 30), lk=st.integers(1, 30), causal=st.booleans(), masked=st.booleans()
)
def test_received_attention_is_the_column_mean_of_the_weights(
    seed: int, lq: int, lk: int, causal: bool, masked: bool
) -> None:
    (q, k, v), g = random_qkv(lq, lk, seed=seed)
    key_mask = torch.rand(2, lk, generator=g) < 0.6 if masked else None
    _, lse = partial_attention(q, k, v, causal=causal, key_mask=key_mask)
    got = colstat(q, k, lse, causal=causal, key_mask=key_mask)
    want = reference_colstat(q, k, causal=causal, key_mask=key_mask)
    assert float((got - want).abs().max()) < 1e-12
    if not causal and not masked:
        torch.testing.assert_close(got.sum(dim=-1), torch.ones(2, 2, dtype=torch.float64))


def test_received_attention_wants_the_right_log_sum_exp() -> None:
    (q, k, _), _ = random_qkv(4, 4, seed=0)
    with pytest.raises(KernelError, match="lse has shape"):
        colstat(q, k, torch.zeros(2, 2, 5))


@pytest.mark.parametrize(("block_q", "block_k"), [(1, 1), (4, 16), (16, 4), (7, 5), (64, 64)])
def test_block_sizes_do_not_matter(block_q: int, block_k: int) -> None:
    (q, k, v), _ = random_qkv(30, 41, seed=3)
    call = call_of(q, k, causal=True)
    rule = sliding_window(call, window=9, sinks=2)
    plan = plan_from_spans(rule, call, block_q=block_q, block_k=block_k)
    with poisoned_memory():
        got = block_sparse_attention(q, k, v, plan=plan, sees=rule.sees, scale=0.25)[0]
    want = attention(q, k, v, method="sliding_window", window=9, sinks=2, causal=True, backend="reference")
    assert relative(got, want) < 1e-12


@pytest.mark.parametrize("causal", [False, True])
def test_single_keys_over_several_chunks_equal_the_definition(causal: bool) -> None:
    # 4096 rows of 64 numbers for two heads are more than one chunk; the last one is not full.
    length = 4200
    (q, k, v), g = random_qkv(length, length, seed=6, batch=1, d=64, dv=32)
    mask = torch.rand(1, length, generator=g) < 0.8
    found = []
    for rule in ("token", "listed"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        call = call_of(q, k, causal=causal)
        made = power(call, window=8, block=1, sinks=3)
        if rule == "token":
            assert made.split is not None
            out = ruled_fast(*leaves, made, causal=causal, key_mask=mask, scale=0.125)
        else:
            plan = plan_from_spans(made, call, block_q=64, block_k=64)
            out = block_sparse_attention(*leaves, plan=plan, sees=made.sees, scale=0.125, key_mask=mask)[0]
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
    for a, b in zip(*found, strict=True):
        assert relative(a, b) < 1e-12


def test_empty_sequences_give_empty_or_zero_outputs_with_gradients() -> None:
    for lq, lk in ((0, 5), (5, 0), (0, 0)):
        (q, k, v), _ = random_qkv(lq, lk, seed=4)
        leaves = [x.requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, method="sliding_window", causal=True)
        assert out.shape == (2, 2, lq, 16)
        assert bool((out == 0).all())
        assert all(bool((x == 0).all()) for x in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize("length", [1, 16, 100, 257])
def test_plans_list_each_block_that_is_seen_once_and_know_which_are_seen_whole(length: int) -> None:
    (q, k, _), _ = random_qkv(length, length, seed=5)
    for causal in (False, True):
        call = call_of(q, k, causal=causal)
        for rule in (sliding_window(call, window=30, sinks=20), power(call, window=16, block=8, sinks=8)):
            plan = plan_from_spans(rule, call, block_q=16, block_k=8)
            rows, columns = plan.tiles * 16, -(-length // 8) * 8
            mask = torch.zeros(rows, columns, dtype=torch.bool)
            mask[:length, :length] = boolean(rule, call)[0]
            blocks = mask.view(plan.tiles, 16, -1, 8)
            some, every = blocks.any(dim=3).any(dim=1), blocks.all(dim=3).all(dim=1)
            for t in range(plan.tiles):
                count, whole = int(plan.counts[0, t]), int(plan.whole[0, t])
                listed = plan.index[0, t, plan.index.shape[2] - count :].tolist()
                assert sorted(listed) == some[t].nonzero()[:, 0].tolist()
                assert set(listed[count - whole :]) <= set(every[t].nonzero()[:, 0].tolist())
