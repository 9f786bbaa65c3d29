"""Sinks, contrast, blending with the identity, style, and the choice of heads: what the papers' formulas promise."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelError, attention
from kernels.heads.selection import helpful_heads, hunt_heads
from kernels.readouts.contrast import attention_rows, contrast, entropy, kept_share
from kernels.readouts.identity import guided, soft_identity
from kernels.readouts.sinks import find_sinks
from kernels.readouts.style import adain, style_temperature
from tests.kernels.cases import random_qkv, relative


def weights_of(q: Tensor, k: Tensor, *, causal: bool, scale: float = 0.25) -> Tensor:
    scores = scale * q @ k.mT
    if causal:
        scores = scores.masked_fill(
            torch.ones_like(scores, dtype=torch.bool).triu(1 + k.shape[2] - q.shape[2]), -math.inf
        )
    return torch.softmax(scores, dim=-1)


# ---- sinks ----------------------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.tuples(st.integers(1, 30), st.integers(1, 40)),
    beta=st.sampled_from([0.0, 0.4, 1.0]),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    causal=st.booleans(),
)
def test_calibration_is_that_of_the_map(
    seed: int, lengths: tuple[int, int], beta: float, share: float, causal: bool
) -> None:
    lq, lk = min(lengths), lengths[1]
    (q, k, v), g = random_qkv(lq, lk, seed=seed)
    sinks = torch.rand(2, 2, lk, generator=g) < share
    weights = weights_of(q, k, causal=causal)
    moved = weights.clone()
    for b, h, i in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(lq)).tolist():
        row, sink = weights[b, h, i], sinks[b, h]
        rest = float(row[~sink].sum())
        if rest > 0:
            freed = (1 - beta) * float(row[sink].sum())
            moved[b, h, i] = torch.where(sink, beta * row, row * (1 + freed / rest))
    torch.testing.assert_close(moved.sum(dim=-1), torch.ones(2, 2, lq, dtype=torch.float64))
    found = []
    for backend in ("torch", "reference"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attention(
            *leaves, method="calibrate_sinks", causal=causal, sinks=sinks, beta=beta, scale=0.25, backend=backend
        )
        assert float((out.detach() - moved @ v).abs().max()) < 1e-10
        found.append(torch.autograd.grad(out.square().sum(), leaves))
    assert all(float((a - b).abs().max()) < 1e-9 for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_that_looks_at_all_keys_alike_has_no_sinks(causal: bool) -> None:
    (q, k, _), _ = random_qkv(60, 60, seed=1)
    sinks, received = find_sinks(0 * q, k, causal=causal, alpha=1.01, least=1)
    assert not bool(sinks.any())
    if causal:
        # What column j receives then: the mean of 1 / (i + 1) over the rows i >= j.
        want = [sum(1 / (i + 1) for i in range(j, 60)) / (60 - j) for j in range(60)]
        torch.testing.assert_close(received[0, 0], torch.tensor(want, dtype=torch.float64))
    mask = torch.rand(2, 60) < 0.6
    assert not bool(find_sinks(0 * q, k, causal=causal, key_mask=mask, alpha=1.01, least=1)[0].any())


@pytest.mark.parametrize("causal", [False, True])
def test_a_planted_sink_is_found_and_the_first_key_spared(causal: bool) -> None:
    (q, k, v), _ = random_qkv(80, 80, seed=2)
    q[:, 1, :, 0] = 4.0
    k[:, 1, [0, 30], 0] = 8.0
    sinks, received = find_sinks(q, k, causal=causal)
    assert sinks[:, 1].nonzero()[:, 1].unique().tolist() == [30]
    assert bool((received[:, 1, 0] > received[:, 1, 5]).all())
    # Few rows see the last keys: what they receive says little.
    k[:, 1, 75, 0] = 20.0
    assert bool(find_sinks(q, k, causal=causal)[0][:, 1, 75].any()) is not causal
    if not causal:
        calm = attention(q, k, v, method="calibrate_sinks", heads=[False, True])
        assert relative(calm[:, 0], attention(q, k, v)[:, 0]) < 1e-12
        assert relative(calm[:, 1], attention(q, k, v)[:, 1]) > 1e-2


def test_calibration_refuses_what_would_see_ahead() -> None:
    (q, k, v), _ = random_qkv(4, 4, seed=3)
    with pytest.raises(KernelError, match="give sinks= in a causal call"):
        attention(q, k, v, method="calibrate_sinks", causal=True)
    for options, message in (
        ({"beta": 1.5}, "beta is 1.5"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"heads": [True]}, "heads has 1 entries for 2 heads"),
        ({"sinks": torch.ones(3, dtype=torch.bool)}, "sinks is torch.bool"),
    ):
        with pytest.raises(KernelError, match=message):
            attention(q, k, v, method="calibrate_sinks", **options)


# ---- the identity ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("causal", [False, True])
def test_blending_with_the_identity(causal: bool) -> None:
    (q, k, v), _ = random_qkv(20, 20, seed=4)
    plain = attention(q, k, v, causal=causal)
    how = {"method": "soft_identity", "causal": causal}
    assert torch.equal(attention(q, k, v, u=0.0, **how), plain)
    assert torch.equal(attention(q, k, v, u=1.0, **how), v)
    half = attention(q, k, v, u=[0.5, 0.0], **how)
    torch.testing.assert_close(half[:, 0], 0.5 * plain[:, 0] + 0.5 * v[:, 0])
    assert torch.equal(half[:, 1], plain[:, 1])
    u = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda o, v, u: soft_identity(o, v, u), [plain.requires_grad_(), v.requires_grad_(), u]
    )
    assert torch.equal(guided(plain, half, 0.0), plain)
    torch.testing.assert_close(guided(plain, half, 2.0), 3 * plain - 2 * half)
    for wrong, message in ((1.5, "expected shares between"), ([0.1] * 3, r"expected one number or \(2,\)")):
        with pytest.raises(KernelError, match=message):
            attention(q, k, v, u=wrong, **how)


# ---- heads ----------------------------------------------------------------------------------------------------------
def test_the_greedy_hunt_never_falls_and_finds_what_composes() -> None:
    heads = [(layer, head) for layer in range(3) for head in range(4)]
    worth = {(0, 1): 3.0, (2, 0): 2.0, (1, 3): 1.0, (1, 1): -5.0}
    asked: list[frozenset[tuple[int, int]]] = []

    def value(chosen: frozenset[tuple[int, int]]) -> float:
        asked.append(chosen)
        spoilt = 2.5 if {(0, 1), (2, 0)} <= chosen else 0.0
        return sum(worth.get(head, 0.0) for head in chosen) - spoilt - 0.1 * len(chosen)

    rounds = hunt_heads(value, heads)
    assert [r.taken for r in rounds] == [(), ((0, 1),), ((1, 3),)]
    assert all(a.value < b.value for a, b in itertools.pairwise(rounds))
    assert len(asked) == 1 + 12 + 11 + 10
    assert hunt_heads(value, heads) == rounds
    # Two at once help alone but not together: the better one is taken by itself.
    assert [r.taken for r in hunt_heads(value, heads, rounds=1, take=2)] == [(), ((0, 1), (2, 0))]
    worth[(0, 1)] = worth[(2, 0)] = 1.2
    assert [r.taken for r in hunt_heads(value, heads, rounds=1, take=2)] == [(), ((0, 1),)]
    assert helpful_heads(value, heads) == ((0, 1), (1, 3), (2, 0))
    assert [r.chosen for r in hunt_heads(lambda _: 0.0, heads)] == [frozenset()]
    with pytest.raises(KernelError, match="there twice"):
        hunt_heads(value, [(0, 0), (0, 0)])


# ---- style ----------------------------------------------------------------------------------------------------------
def test_style_in_its_limits() -> None:
    (q, k, v), g = random_qkv(9, 14, seed=5)
    how = {"method": "style"}
    assert torch.equal(attention(q, k, v, gamma=1.0, tau=1.0, **how), attention(q, k, v))
    flat = attention(q, k, v, tau=0.0, **how)
    torch.testing.assert_close(flat, v.mean(dim=2, keepdim=True).expand_as(flat))
    order = torch.randperm(14, generator=g)
    assert relative(attention(q, k[:, :, order], v[:, :, order], **how), attention(q, k, v, **how)) < 1e-12
    other = torch.randn(q.shape, generator=g, dtype=q.dtype)
    want = torch.softmax(1.3 * (0.6 * q + 0.4 * other) @ k.mT / 4, dim=-1) @ v
    got = [attention(q, k, v, query=other, gamma=0.6, tau=1.3, backend=b, **how) for b in ("torch", "reference")]  # type: ignore[arg-type]
    assert all(relative(x, want) < 1e-12 for x in got)
    before = math.inf
    for tau in (0.0, 0.5, 1.0, 2.0, 4.0):
        spread = float(
            entropy(attention(q, k, torch.eye(14, dtype=q.dtype).expand(2, 2, -1, -1), tau=tau, **how)).mean()
        )
        assert spread < before
        before = spread
    for options, message in (({"gamma": 1.5}, "gamma is 1.5"), ({"query": q[:, :1]}, "query has shape")):
        with pytest.raises(KernelError, match=message):
            attention(q, k, v, **how, **options)


def test_a_sequence_takes_the_mean_and_spread_of_another() -> None:
    g = torch.Generator().manual_seed(6)
    x, like = (torch.randn(2, n, 5, generator=g, dtype=torch.float64) * s + m for n, s, m in ((30, 2, 3), (50, 5, -7)))
    x[..., 2] = 4.0
    got = adain(x, like)
    torch.testing.assert_close(got.mean(dim=1), like.mean(dim=1))
    spread = like.std(dim=1, correction=0)
    spread[:, 2] = 0.0
    torch.testing.assert_close(got.std(dim=1, correction=0), spread, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(adain(got, like), got)
    torch.testing.assert_close(adain(like, like), like)


def test_scores_with_keys_of_another_are_sharpened_by_how_much_flatter_they_are() -> None:
    (q, k, _), g = random_qkv(200, 200, seed=7)
    other = torch.randn(k.shape, generator=g, dtype=k.dtype)
    assert bool((style_temperature(q, k, k) == 1.0).all())
    torch.testing.assert_close(style_temperature(q, 1.4 * k, k), torch.full((2, 2), 1.4, dtype=k.dtype))
    assert bool((style_temperature(q, 9 * k, other) == 2.0).all())


# ---- contrast -------------------------------------------------------------------------------------------------------
def test_contrast_recovers_the_signal_from_the_noise() -> None:
    g = torch.Generator().manual_seed(8)
    noise, signal = (torch.rand(3, 40, generator=g, dtype=torch.float64) + 0.05 for _ in range(2))
    task, general = (x / x.sum(dim=-1, keepdim=True) for x in (noise * signal, noise))
    found = contrast(task, general, floor=0.0)
    torch.testing.assert_close(found, signal / signal.sum(dim=-1, keepdim=True))
    torch.testing.assert_close(contrast(general, general, floor=0.0), torch.full_like(task, 1 / 40))
    far = contrast(task, general, floor=1e9)
    torch.testing.assert_close(far, task)
    torch.testing.assert_close(contrast(task, 7.0 * general), contrast(task, general))
    with pytest.raises(KernelError, match="floor is -1"):
        contrast(task, general, floor=-1.0)


def test_rows_of_weights_and_their_entropy() -> None:
    (q, k, _), _ = random_qkv(3, 10, seed=9)
    mask = torch.tensor([[True] * 4 + [False] * 6, [False] * 10])
    rows = attention_rows(q, k, key_mask=mask, scale=0.25)
    torch.testing.assert_close(rows[0, ..., :4], weights_of(q, k[:, :, :4], causal=False)[0])
    assert bool((rows[1] == 0).all())
    assert bool((rows[0, ..., 4:] == 0).all())
    torch.testing.assert_close(entropy(torch.full((8,), 0.125)), torch.tensor(math.log(8)))
    assert float(entropy(torch.tensor([0.0, 1.0]))) == 0.0


def test_kept_regions_are_joined_and_small_ones_dropped() -> None:
    weights = torch.tensor([[9.0, 0, 8, 0, 0, 0, 7, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 2, 3, 0]])
    assert kept_share(weights, 0.3).long().tolist() == [[1, 0, 1, 0, 0, 0, 1, 0, 0, 0], [0] * 6 + [1, 1, 1, 0]]
    assert kept_share(weights, 0.3, gap=1, least=2).long().tolist()[0] == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert bool(kept_share(weights, 1.0).all())
    assert kept_share(weights[0], 0.1).long().tolist() == [1] + [0] * 9
    with pytest.raises(KernelError, match="share is 0"):
        kept_share(weights, 0.0)


def test_attention_refined_by_contrast() -> None:
    (q, k, v), g = random_qkv(12, 17, seed=10)
    general = torch.randn(1, 1, 4, 16, generator=g, dtype=torch.float64)
    mask = torch.rand(2, 17, generator=g) < 0.7
    task = attention_rows(q.mean(dim=2, keepdim=True), k, key_mask=mask).mean(dim=(1, 2))
    asked = attention_rows(general.expand(2, 2, -1, -1), k, key_mask=mask).mean(dim=(1, 2))
    count = mask.sum(dim=1, keepdim=True)
    c = count * contrast(task, asked, floor=0.1, tokens=count)
    scores = q @ k.mT / 4 + 0.8 * torch.log(c + 1e-6)[:, None, None]
    want = torch.softmax(scores.masked_fill(~mask[:, None, None], -math.inf), dim=-1) @ v
    for backend in ("torch", "reference"):
        how = {"method": "contrast", "general": general, "key_mask": mask, "backend": backend}
        assert relative(attention(q, k, v, gamma=0.8, floor=0.1, **how), want) < 1e-12
        assert relative(attention(q, k, v, gamma=0.0, **how), attention(q, k, v, key_mask=mask)) < 1e-12
    with pytest.raises(KernelError, match="general has shape"):
        attention(q, k, v, method="contrast", general=general[0])
    with pytest.raises(KernelError, match="cannot be causal"):
        attention(q, k, v, method="contrast", causal=True)
