"""Contexts that are encoded apart, smaller caches, and when to consult memory: what the papers' formulas promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelError, attention
from kernels.caches.ape import ContextCache
from kernels.caches.compress import (
    critic_importance,
    kept,
    page_bounds,
    page_scores,
    quest_attention,
    snap_importance,
    take,
)
from kernels.caches.consulting import attention_shift, consult, need, need_by_layers
from tests.kernels.cases import random_qkv, relative


def mass_of_contexts(q: Tensor, k: Tensor, *, contexts: tuple[int, int], temperature: float, share: float) -> float:
    """The mean weight on the contexts' keys."""
    eye = torch.eye(k.shape[2], dtype=q.dtype).expand(*k.shape[:2], -1, -1)
    weights = attention(q, k, eye, method="ape", contexts=contexts, temperature=temperature, share=share)
    return float(weights[..., contexts[0] : contexts[1]].sum(dim=-1).mean())


# ---- contexts -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("causal", [False, True])
def test_with_temperature_and_share_one_it_is_one_softmax(causal: bool) -> None:
    (q, k, v), g = random_qkv(7, 30, seed=1)
    mask = torch.rand(2, 30, generator=g) < 0.7
    want = attention(q, k, v, causal=causal, key_mask=mask)
    for contexts in ((4, 20), (0, 30), (0, 9), (25, 30), None):
        how = {"contexts": contexts, "temperature": 1.0, "share": 1.0, "causal": causal, "key_mask": mask}
        assert relative(attention(q, k, v, method="ape", **how), want) < 1e-12


def test_the_partition_function_is_raised_to_a_power() -> None:
    (q, k, v), _ = random_qkv(5, 21, seed=2)
    t, s = 0.6, 0.7
    scores = q @ k.mT / 4
    x, y = scores[..., 3:17], torch.cat([scores[..., :3], scores[..., 17:]], dim=-1)
    z_x, z_y = (x / t).exp().sum(dim=-1, keepdim=True) ** (s * t), y.exp().sum(dim=-1, keepdim=True)
    o_x = torch.softmax(x / t, dim=-1) @ v[:, :, 3:17]
    o_y = torch.softmax(y, dim=-1) @ torch.cat([v[:, :, :3], v[:, :, 17:]], dim=2)
    got = attention(q, k, v, method="ape", contexts=(3, 17), temperature=t, share=s)
    assert relative(got, (z_x * o_x + z_y * o_y) / (z_x + z_y)) < 1e-12


def test_a_small_temperature_reads_the_best_key() -> None:
    (q, k, v), _ = random_qkv(6, 20, seed=3)
    got = attention(q, k, v, method="ape", contexts=(0, 20), temperature=1e-7)
    best = (q @ k.mT).argmax(dim=-1)
    torch.testing.assert_close(got, take(v, best))


def test_the_mass_on_contexts_grows_with_their_number_slower_for_a_smaller_share() -> None:
    (q, k, _), _ = random_qkv(4, 16 * 256 + 8, seed=4, batch=1)
    found = {}
    for share in (1.0, 0.9, 0.6):
        for count in (1, 16, 256):
            n = 16 * count
            found[share, count] = mass_of_contexts(q, k[:, :, : n + 8], contexts=(0, n), temperature=0.9, share=share)
        assert found[share, 1] < found[share, 16] < found[share, 256]
    assert all(found[0.6, c] < found[0.9, c] < found[1.0, c] for c in (1, 16, 256))


def test_contexts_are_put_and_dropped_apart_and_their_order_does_not_matter() -> None:
    (q, k, v), _ = random_qkv(3, 40, seed=5, heads=(4, 2, 2))
    cut = {"a": slice(4, 14), "b": slice(14, 31)}
    caches = []
    for order in ("ab", "ba"):
        cache = ContextCache(k[:, :, :4], v[:, :, :4])
        assert cache.position == 4
        for name in order:
            cache.put(name, k[:, :, cut[name]], v[:, :, cut[name]])
        caches.append(cache)
    own = (q, k[:, :, 37:], v[:, :, 37:])
    outs = [c.attend(*own, temperature=0.8) for c in caches]
    assert relative(outs[0], outs[1]) < 1e-12
    flat = [torch.cat([x[:, :, :31], x[:, :, 37:]], dim=2) for x in (k, v)]
    want = attention(q, *flat, method="ape", causal=True, contexts=(4, 31), temperature=0.8)
    assert relative(outs[0], want) < 1e-12
    # With T = S = 1 and one context it is what encoding in sequence would give.
    alone = caches[0].attend(*own, names=["a"], temperature=1.0, share=1.0)
    row = [torch.cat([x[:, :, :14], x[:, :, 37:]], dim=2) for x in (k, v)]
    assert relative(alone, attention(q, *row, causal=True)) < 1e-12
    assert caches[0].position == 4 + 17
    assert caches[0].nbytes() == 2 * 2 * 2 * 31 * 16 * 8
    caches[0].drop("b")
    assert list(caches[0]) == ["a"]
    assert relative(caches[0].attend(*own, temperature=1.0, share=1.0), alone) < 1e-12
    with pytest.raises(KernelError, match="no context 'b'"):
        caches[0].drop("b")
    with pytest.raises(KernelError, match="no context 'c'"):
        caches[0].attend(*own, names=["c"])
    with pytest.raises(KernelError, match="context 'c' has shape"):
        caches[0].put("c", k[:1], v[:1])
    for options, message in (
        ({"contexts": (3, 99)}, "is no range of the 40 keys"),
        ({"contexts": (3,)}, "expected the first key"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"share": -1.0}, "share is -1.0"),
    ):
        with pytest.raises(KernelError, match=message):
            attention(q, k, v, method="ape", **options)


# ---- smaller caches -------------------------------------------------------------------------------------------------
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 999),
    length=st.integers(1, 80),
    share=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
    sinks=st.integers(0, 6),
    window=st.integers(0, 10),
)
def test_sinks_and_window_are_kept_in_order_and_all_at_a_share_of_one(
    seed: int, length: int, share: float, sinks: int, window: int
) -> None:
    (q, k, v), _ = random_qkv(min(8, length), length, seed=seed, heads=(4, 2, 2))
    for importance in (critic_importance(q, k, v), snap_importance(q, k, pool=5)):
        positions = kept(importance, share, sinks=sinks, window=window)
        n = length if share == 1.0 else max(round(share * length), min(sinks + window, length))
        assert positions.shape == (2, 2, n)
        assert bool((positions.diff(dim=-1) > 0).all())
        always = {*range(min(sinks, length)), *range(max(length - window, 0), length)}
        assert all(always <= set(row) for row in positions.flatten(0, 1).tolist())
        if share == 1.0:
            assert torch.equal(take(k, positions), k)
        rest = [sorted(set(range(length)) - set(row)) for row in positions.flatten(0, 1).tolist()]
        for scores, row, gone in zip(importance.flatten(0, 1), positions.flatten(0, 1).tolist(), rest, strict=True):
            free = [j for j in row if j not in always]
            assert not (free and gone) or float(scores[free].min()) >= float(scores[gone].max()) - 1e-12
    assert kept(importance, share, least=length).shape[2] == length


def test_importance_is_the_three_scores() -> None:
    (q, k, v), _ = random_qkv(5, 12, seed=6, batch=1, heads=(2, 1, 1))
    scores = (q @ k.mT / 4).masked_fill(torch.ones(5, 12, dtype=torch.bool).triu(8), -math.inf)
    a = torch.softmax(scores, dim=-1)
    parts = []
    for one in (
        a.mean(dim=2),
        (a * (1 + (a * a.clamp_min(1e-300).log()).sum(dim=-1, keepdim=True) / math.log(12))).sum(dim=2),
        (a * v.norm(dim=-1)[:, :, None]).sum(dim=2),
    ):
        x = one.mean(dim=1, keepdim=True)
        parts.append((x - x.min()) / (x.max() - x.min()))
    torch.testing.assert_close(critic_importance(q, k, v), parts[0] + parts[1] + parts[2])
    torch.testing.assert_close(critic_importance(q, k, v, weights=(0, 2, 0)), 2 * parts[1])
    with pytest.raises(KernelError, match="weights has 2 entries"):
        critic_importance(q, k, v, weights=(1.0, 1.0))
    with pytest.raises(KernelError, match="share is 0"):
        kept(parts[0], 0.0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), share=st.sampled_from([0.1, 0.25, 0.5, 0.9]))
def test_what_is_lost_is_at_most_twice_the_dropped_mass(seed: int, share: float) -> None:
    (q, k, v), _ = random_qkv(8, 60, seed=seed, heads=(2, 2, 2))
    positions = kept(critic_importance(q, k, v), share, sinks=2, window=4)
    one = q[:, :, -1:]
    whole = attention(one, k, v)
    got = attention(one, take(k, positions), take(v, positions))
    a = torch.softmax(one @ k.mT / 4, dim=-1)
    dropped = 1 - a[:, :, 0].gather(2, positions).sum(dim=-1)
    bound = 2 * dropped * v.norm(dim=-1).amax(dim=-1)
    assert bool(((got - whole)[:, :, 0].norm(dim=-1) <= bound + 1e-12).all())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), length=st.integers(1, 70), page=st.sampled_from([1, 4, 16]))
def test_page_scores_bound_every_key_of_the_page(seed: int, length: int, page: int) -> None:
    (q, k, v), _ = random_qkv(3, length, seed=seed, heads=(4, 2, 2))
    scores = page_scores(q, page_bounds(k, page=page))
    products = q @ k.repeat_interleave(2, dim=1).mT
    of_page = scores.repeat_interleave(page, dim=-1)[..., :length]
    assert bool((of_page >= products - 1e-12).all())
    if page == 1:
        torch.testing.assert_close(of_page, products)
    one = q[:, :, :1]
    everything = quest_attention(one, k, v, budget=length + page, page=page)
    assert relative(everything, attention(one, k, v)) < 1e-12
    few = quest_attention(one, k, v, budget=page, page=page)
    first = (length - 1) // page * page
    assert relative(few, attention(one, k[:, :, first:], v[:, :, first:])) < 1e-12
    with pytest.raises(KernelError, match="expected one query"):
        quest_attention(q, k, v)


def test_pages_are_those_that_hold_what_is_looked_for() -> None:
    (q, k, v), _ = random_qkv(1, 256, seed=7, batch=1)
    k[:, :, 100] = 5 * q[:, :, 0]
    got = quest_attention(q, k, v, budget=32, page=16)
    whole = attention(q, k, v)
    assert relative(got, whole) < 0.05


# ---- when to consult ------------------------------------------------------------------------------------------------
def test_need_follows_doubt_about_what_is_looked_at() -> None:
    g = torch.Generator().manual_seed(8)
    received, entropy = (torch.rand(3, 12, generator=g, dtype=torch.float64) for _ in range(2))
    found = need(received, entropy)
    torch.testing.assert_close(found, 12 * received / received.sum(dim=-1, keepdim=True) * entropy)
    torch.testing.assert_close(need(5.0 * received, entropy), found)
    sure = need(received, torch.zeros_like(entropy))
    assert not bool(consult(sure, threshold=0.0).any())
    rates = [float(consult(found, threshold=t).double().mean()) for t in (0.0, 0.8, 1.3, 99.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1.0
    assert rates[-1] == 0.0
    blind = need(received, entropy, counts=torch.zeros(3, 12, dtype=torch.bool))
    assert not bool(consult(blind, threshold=0.0).any())
    with pytest.raises(KernelError, match="differ in shape"):
        need(received, entropy[:, :3])


def test_need_by_layers_is_nothing_where_attention_stays() -> None:
    g = torch.Generator().manual_seed(9)
    layers = [torch.rand(7, generator=g) for _ in range(3)]
    sure = [torch.rand(7, generator=g) for _ in range(3)]
    shift = ((layers[1] - layers[0]).abs() + (layers[2] - layers[1]).abs()) / 2
    torch.testing.assert_close(attention_shift(layers), shift)
    assert bool((need_by_layers([layers[0]] * 3, sure) == 0).all())
    want = 2 * shift * sum(w * (1 - p) for w, p in zip((0.1, 0.2, 0.7), sure, strict=True))
    torch.testing.assert_close(need_by_layers(layers, sure, depth=(0.1, 0.2, 0.7), alpha=2.0), want)
    with pytest.raises(KernelError, match="expected at least two"):
        attention_shift(layers[:1])
    with pytest.raises(KernelError, match="2 weights"):
        need_by_layers(layers, sure, depth=(1.0, 1.0))
