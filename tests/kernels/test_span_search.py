"""Windows per head by a budget (MoA): the influence of keys, what windows hide of it, and the choice among them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelError, attention
from kernels.engines.rules import Call, boolean
from kernels.windows.elastic_window import elastic_window
from kernels.windows.span_search import (
    Span,
    choose_spans,
    influence,
    span_density,
    span_grid,
    span_losses,
)
from tests.kernels.cases import random_qkv, relative


def weights_of(q: Tensor, k: Tensor, causal: bool, key_mask: Tensor | None = None) -> Tensor:
    """Attention weights (B, H, Lq, Lk); rows that see nothing are 0."""
    lq, lk = q.shape[2], k.shape[2]
    seen = torch.ones(lq, lk, dtype=torch.bool)
    if causal:
        seen = torch.arange(lk) <= torch.arange(lq)[:, None] + lk - lq
    seen = seen if key_mask is None else seen & key_mask[:, None, None]
    scores = (q @ k.mT / q.shape[3] ** 0.5).masked_fill(~seen, float("-inf"))
    return torch.softmax(scores, dim=-1).nan_to_num()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lq", [7, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_influence_is_what_taking_a_weight_away_does_to_the_loss(causal: bool, lq: int, masked: bool) -> None:
    (q, k, v), g = random_qkv(lq, 7, seed=5, batch=1, d=5, dv=3)
    # With all but two keys hidden some rows see a single one: nothing is left of them without it.
    key_mask = torch.tensor([[False, True, False, False, False, True, False]]) if masked else None
    direction = torch.randn(1, 2, lq, 3, generator=g, dtype=torch.float64)
    a = weights_of(q, k, causal, key_mask)
    before = (a @ v * direction).sum(dim=(2, 3))
    want = torch.zeros(2, lq, 7, dtype=torch.float64)
    for i, j in itertools.product(range(lq), range(7)):
        without = a.clone()
        without[:, :, i, j] = 0.0
        total = without[:, :, i].sum(dim=-1, keepdim=True)
        without[:, :, i] = torch.where(total > 0, without[:, :, i] / total, 0.0)
        want[:, i, j] = ((without @ v * direction).sum(dim=(2, 3)) - before)[0].abs()
    got = influence(q, k, v, direction, causal=causal, key_mask=key_mask, block=1)
    assert relative(got, want) < 1e-10


def test_influence_of_blocks_is_the_sum_of_their_entries_and_the_mean_of_sequences() -> None:
    (q, k, v), _ = random_qkv(300, 301, seed=6)
    grad = torch.randn_like(q)
    single = influence(q, k, v, grad, block=1)
    # Query 0 stands at key 1, so that the first block holds 63 queries.
    rows = torch.arange(300).add(1) // 64
    want = torch.zeros(2, 5, 5, dtype=torch.float64)
    for i, j in itertools.product(range(5), range(5)):
        want[:, i, j] = single[:, rows == i][:, :, 64 * j : 64 * (j + 1)].sum(dim=(1, 2))
    assert relative(influence(q, k, v, grad, block=64), want) < 1e-10
    each = [influence(*(x[n : n + 1] for x in (q, k, v, grad)), block=64) for n in range(2)]
    assert relative(sum(each) / 2, want) < 1e-10


def test_heads_that_share_keys_have_the_largest_influence_among_them() -> None:
    (q, k, v), _ = random_qkv(40, 40, seed=7, heads=(4, 2, 2))
    grad = torch.randn(2, 4, 40, 16, dtype=torch.float64)
    every = influence(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), grad, block=8)
    assert torch.equal(influence(q, k, v, grad, block=8), every.view(2, 2, 5, 5).amax(dim=1))


def test_sharp_attention_has_a_finite_influence() -> None:
    (q, k, v), _ = random_qkv(20, 20, seed=8)
    for dtype in (torch.float32, torch.float64):
        found = influence(*(x.to(dtype) for x in (1e3 * q, 1e3 * k, v, v)), block=4)
        assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [64, 100, 333])
def test_a_span_loses_what_its_window_hides(causal: bool, length: int) -> None:
    blocks = -(-length // 16)
    found = torch.rand(3, blocks, blocks, dtype=torch.float64)
    spans = span_grid([length], alphas=range(-64, 65, 16), betas=(0.0, 0.25, 0.5, 1.0))
    call = Call(heads=3, lq=length, lk=length, causal=causal, device=torch.device("cpu"), offset=0)
    for n, span in enumerate(spans):
        seen = boolean(elastic_window(call, alpha=span.alpha, beta=span.beta, block=16), call)[0]
        by_block = torch.nn.functional.pad(seen, (0, -length % 16, 0, -length % 16)).unflatten(0, (-1, 16))
        hidden = ~by_block.unflatten(2, (-1, 16)).any(dim=3).any(dim=1)
        if causal:
            hidden &= torch.ones_like(hidden).tril()
        want = (found * hidden).sum(dim=(1, 2))
        got = span_losses(found, spans, length=length, causal=causal, block=16)[:, n]
        torch.testing.assert_close(got, want)
        most = int(by_block.unflatten(2, (-1, 16)).any(dim=3).any(dim=1).sum(dim=1)[1:].max())
        if causal:
            assert span_density(span, length, block=16) == most / blocks


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(0, 1000))
def test_a_wider_span_never_loses_more(length: int, seed: int) -> None:
    blocks = -(-length // 16)
    found = torch.rand(2, blocks, blocks, generator=torch.Generator().manual_seed(seed))
    spans = [Span(float(alpha), 0.0) for alpha in range(1, length + 32, 16)]
    losses = span_losses(found, spans, length=length, block=16)
    assert bool((losses.diff(dim=1) <= 1e-4).all())
    assert losses[:, -1].tolist() == [0.0, 0.0]


def test_the_grid_keeps_spans_that_see_something_and_not_more_than_all() -> None:
    spans = span_grid([2048, 8192])
    assert all(0 < s.alpha + s.beta * n <= n for s in spans for n in (2048, 8192))
    assert Span(0.0, 1.0) in spans
    assert Span(-1024.0, 1.0) in spans
    assert Span(1024.0, 0.0) in spans
    assert Span(-2048.0, 1.0) not in spans
    assert Span(1024.0, 1.0) not in spans


SPANS = tuple(Span(0.0, b) for b in (0.125, 0.25, 0.5, 0.75, 1.0))
LENGTHS = (2048, 4096)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("distinct", [1, 2, 4])
def test_the_choice_is_that_of_trying_every_plan(seed: int, distinct: int) -> None:
    g = np.random.default_rng(seed)
    # Wider spans lose less, at each length in another way.
    raw = {n: np.sort(g.gamma(0.5, size=(2, 2, 5)), axis=2)[..., ::-1].copy() for n in LENGTHS}
    losses = {n: torch.from_numpy(x) for n, x in raw.items()}
    plans = choose_spans(losses, SPANS, density=0.55, least=0.9, also_at=(8192,), distinct=distinct, points=5)
    within = {}
    for choice in itertools.product(range(5), repeat=4):
        few = all(len(set(choice[n : n + 2])) <= distinct for n in (0, 2))
        dense = [np.mean([span_density(SPANS[r], n) for r in choice]) for n in (*LENGTHS, 8192)]
        if few and all(0.9 * 0.55 - 1e-9 <= d <= 0.55 + 1e-9 for d in dense):
            within[choice] = tuple(sum(raw[n][h // 2, h % 2, r] for h, r in enumerate(choice)) for n in LENGTHS)
    assert plans
    for plan in plans:
        choice = tuple(SPANS.index(s) for row in plan.spans for s in row)
        own = within[choice]  # it keeps every budget
        assert plan.losses == pytest.approx(dict(zip(LENGTHS, own, strict=True)))
        better = [o for o in within.values() if all(x < y - 1e-9 for x, y in zip(o, own, strict=True))]
        assert not better
    for n, length in enumerate(LENGTHS):
        assert min(p.losses[length] for p in plans) == pytest.approx(min(own[n] for own in within.values()))
    own = [tuple(p.losses.values()) for p in plans]
    assert not any(a != b and all(x <= y for x, y in zip(a, b, strict=True)) for a in own for b in own)


def test_a_head_that_looks_far_gets_the_wide_window() -> None:
    """End to end on attention whose heads are known: the plan beats one window for all at the same density."""
    length, block = 512, 16
    g = torch.Generator().manual_seed(9)
    q, v = (torch.randn(2, 2, length, 16, generator=g) for _ in range(2))
    k = q.clone()
    k[:, 1] = q[:, 1].roll(-300, dims=1)  # the second head looks for what stands 300 keys before
    q, v = 3.0 * q, v.requires_grad_()
    o = attention(q, k, v, causal=True).detach().requires_grad_()
    target = torch.randn(o.shape, generator=g)
    (grad,) = torch.autograd.grad((o - target).square().sum(), o)
    spans = span_grid([length], alphas=range(0, 513, 64), betas=(0.0,))
    found = span_losses(influence(q, k, v.detach(), grad, block=block), spans, length=length, block=block)
    plan = choose_spans({length: found[None]}, spans, density=0.5, block=block)[0]
    narrow, wide = (s.alpha for s in plan.spans[0])
    assert narrow <= 128
    assert wide >= 320
    dense = attention(q, k, v, causal=True)

    def apart(**options: object) -> float:
        return relative(attention(q, k, v, causal=True, method="elastic_window", block=block, **options), dense)

    uniform = max(s.alpha for s in spans if span_density(s, length, block=block) <= 0.5)
    assert apart(**plan.options(0)) < 0.5 * apart(alpha=uniform, beta=0.0)


def test_mistakes_are_named() -> None:
    (q, k, v), _ = random_qkv(8, 6, seed=10)
    with pytest.raises(KernelError, match="8 queries see 6 keys"):
        influence(q, k, v, torch.zeros_like(q))
    with pytest.raises(KernelError, match="grad has shape"):
        influence(q[:, :, :6], k, v, torch.zeros_like(q))
    with pytest.raises(KernelError, match="influence has 3 blocks of keys, expected 2"):
        span_losses(torch.zeros(1, 3, 3), SPANS, length=128)
    with pytest.raises(KernelError, match=r"influence has shape \(2, 2\), expected \(heads"):
        span_losses(torch.zeros(2, 2), SPANS, length=128)
    with pytest.raises(KernelError, match="the losses at 2048 are a list, expected a tensor"):
        choose_spans({2048: [0.0]}, SPANS)  # type: ignore[dict-item]
    with pytest.raises(KernelError, match="expected numbers"):
        span_grid([64], alphas=["wide"])  # type: ignore[list-item]
    with pytest.raises(KernelError, match="lengths are"):
        span_grid([])
    with pytest.raises(KernelError, match=r"expected \(layers, heads, 5\)"):
        choose_spans({2048: torch.zeros(1, 2, 4)}, SPANS)
    with pytest.raises(KernelError, match="not all finite"):
        choose_spans({2048: torch.full((1, 2, 5), float("nan"))}, SPANS)
    with pytest.raises(KernelError, match="at least one length"):
        choose_spans({}, SPANS)
    with pytest.raises(KernelError, match="density is 0"):
        choose_spans({2048: torch.zeros(1, 2, 5)}, SPANS, density=0.0)
    with pytest.raises(KernelError, match=r"no plan has a mean density between 0\.045 and 0\.05"):
        choose_spans({2048: torch.zeros(1, 2, 5)}, SPANS, density=0.05)
