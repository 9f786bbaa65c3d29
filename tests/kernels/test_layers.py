"""Temperatures, independent head counts, and the layers around them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from kernels import KernelError, MultiHead, attention, build, rotary
from kernels.dense.selective import position_temperature
from kernels.layers.diffqkv import DiffQKVAttention
from kernels.layers.sqa import SparseQueryAttention
from tests.kernels.cases import random_qkv, relative


def selective(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    return attention(q, k, v, method="selective", **options)


def test_temperatures_in_their_limits() -> None:
    (q, k, v), _ = random_qkv(9, 14, seed=1)
    one = torch.ones(())
    assert torch.equal(selective(q, k, v, tau_q=one, tau_v=one), attention(q, k, v))
    torch.testing.assert_close(selective(q, k, v, tau_q=0 * one), v.mean(dim=2, keepdim=True).expand(-1, -1, 9, -1))
    best = (q @ k.transpose(-1, -2)).argmax(dim=-1)
    sharp = selective(q, k, v, tau_q=torch.tensor(1e5))
    torch.testing.assert_close(sharp, v.gather(2, best[..., None].expand(-1, -1, -1, 16)))
    tau_v = torch.ones(2, 2, 14, dtype=torch.float64)
    tau_v[:, :, 4] = 0.0
    weights = torch.softmax(q @ k.transpose(-1, -2) / 4.0, dim=-1)
    weights[..., 4] = 0.0
    torch.testing.assert_close(selective(q, k, v, tau_v=tau_v), weights @ v)


@pytest.mark.parametrize("causal", [False, True])
def test_temperatures_fold_into_queries_and_values(causal: bool) -> None:
    (q, k, v), g = random_qkv(11, 11, seed=8)
    tau_q, tau_v = (torch.rand(2, 2, 11, generator=g, dtype=torch.float64) * 2 for _ in range(2))
    folded = (tau_q[..., None] * q, k, tau_v[..., None] * v)
    want = scaled_dot_product_attention(*folded, is_causal=causal)
    for backend in ("torch", "reference"):
        assert relative(selective(q, k, v, tau_q=tau_q, tau_v=tau_v, causal=causal, backend=backend), want) < 1e-12
    # A temperature of 0 is the mean over the keys that are seen.
    shown = torch.rand(2, 11, generator=g) < 0.6
    shown[:, 0] = True
    counted = shown[:, None, None].expand(2, 2, 11, 11).double()
    counted = counted.tril() if causal else counted
    flat = selective(q, k, v, tau_q=torch.tensor(0.0), causal=causal, key_mask=shown)
    assert relative(flat, counted @ v / counted.sum(dim=-1, keepdim=True)) < 1e-12


def test_sharper_rows_have_less_entropy() -> None:
    (q, k, _), _ = random_qkv(8, 12, seed=2)
    eye = torch.eye(12, dtype=torch.float64).expand(2, 2, -1, -1)
    before = torch.full((2, 2, 8), math.inf, dtype=torch.float64)
    for tau in (0.0, 0.3, 1.0, 2.0, 5.0):
        weights = selective(q, k, eye, tau_q=torch.tensor(tau))
        entropy = -(weights * weights.clamp_min(1e-300).log()).sum(dim=-1)
        assert bool((entropy <= before + 1e-12).all())
        before = entropy


def test_temperatures_get_gradients() -> None:
    (q, k, v), g = random_qkv(5, 5, seed=3, batch=1, d=3, dv=2)
    tau_q, tau_v = (torch.rand(1, 2, 5, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(
        lambda q, k, v, a, b: selective(q, k, v, tau_q=a, tau_v=b, causal=True), [*leaves, tau_q, tau_v]
    )
    with pytest.raises(KernelError, match="tau_q has shape"):
        selective(q, k, v, tau_q=torch.ones(4))


def test_position_temperature_of_the_paper() -> None:
    found = position_temperature(torch.tensor([0, 1, 2, 512]), 0.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 1.3466, 4.1192]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_the_module_of_selective_attention_counts_what_is_seen(causal: bool) -> None:
    (q, k, v), g = random_qkv(6, 9, seed=4, heads=(4, 2, 2))
    mask = torch.rand(2, 9, generator=g) < 0.6
    module = build("selective", heads=4, head_dim=16, alpha=0.0).double()
    out = module(q, k, v, causal=causal, key_mask=mask)
    seen = torch.zeros(2, 6)
    for b in range(2):
        for i in range(6):
            seen[b, i] = int(mask[b, : i + 4].sum()) if causal else int(mask[b].sum())
    tau_q = 1 + 0.5 * torch.log(seen.clamp_min(1))[:, None]
    keys = mask.cumsum(dim=1) if causal else mask.sum(dim=1, keepdim=True).expand(-1, 9)
    tau_v = 1 + 0.5 * torch.log(keys.clamp_min(1))[:, None]
    want = selective(q, k, v, tau_q=tau_q, tau_v=tau_v, causal=causal, key_mask=mask)
    assert relative(out, want) < 1e-6
    grads = torch.autograd.grad(out.square().sum(), list(module.parameters()))
    assert len(grads) == 4
    assert all(bool((x != 0).any()) for x in grads)
    plain = build("selective", heads=4, head_dim=16, values=False)
    assert len(list(plain.parameters())) == 2
    with pytest.raises(KernelError, match="this module has 4 heads"):
        module(k, k, v)


@pytest.mark.parametrize("heads", [(4, 2, 2), (4, 1, 1), (4, 1, 4), (4, 4, 2), (2, 4, 4)])
def test_head_counts_are_independent(heads: tuple[int, int, int]) -> None:
    (q, k, v), _ = random_qkv(9, 11, seed=5, heads=heads)
    most = max(heads)
    wide = [x.repeat_interleave(most // x.shape[1], dim=1) for x in (q, k, v)]
    assert relative(attention(q, k, v), scaled_dot_product_attention(*wide)) < 1e-12
    if heads[1] == heads[2] and heads[0] == 4:
        assert relative(attention(q, k, v), scaled_dot_product_attention(q, k, v, enable_gqa=True)) < 1e-12


@pytest.mark.parametrize("per_head", [False, True])
def test_expanded_keys_are_never_made(per_head: bool) -> None:
    (q, _, v), g = random_qkv(7, 10, seed=6, heads=(4, 2, 4))
    k = torch.randn(2, 2, 10, 6, generator=g, dtype=torch.float64)
    u = torch.randn(*((4,) if per_head else ()), 6, 16, generator=g, dtype=torch.float64)
    got = attention(q, k, v, method="diffqkv", expand=u)
    keys = k.repeat_interleave(2, dim=1) @ u
    # The scale is that of the size 16 which the dot product has, not of the 6 numbers of a key.
    want = torch.softmax(q @ keys.transpose(-1, -2) / 4.0, dim=-1) @ v
    assert relative(got, want) < 1e-12
    assert relative(attention(q, k, v, method="diffqkv", expand=u, backend="reference"), want) < 1e-12
    for options, message in (({}, "give expand=.Dk, Dq."), ({"expand": u[..., :3]}, "expand has shape")):
        with pytest.raises(KernelError, match=message):
            attention(q, k, v, method="diffqkv", **options)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="head size 16 but k has 6"):
        attention(q, k, v)


def test_reading_fewer_values_errs_by_the_mass_left_out_at_most() -> None:
    (q, k, v), _ = random_qkv(12, 30, seed=7)
    dense = attention(q, k, v)
    weights = torch.softmax(q @ k.transpose(-1, -2) / 4.0, dim=-1).sort(dim=-1, descending=True).values
    errors = []
    for most in (1, 3, 10, 29, 30, 99):
        some = attention(q, k, v, method="diffqkv", top_values=most)
        left_out = 1.0 - weights[..., :most].sum(dim=-1)
        bound = 2.0 * left_out * v.norm(dim=-1).amax(dim=-1, keepdim=True)
        assert bool(((some - dense).norm(dim=-1) <= bound + 1e-12).all())
        errors.append(float((some - dense).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-2] < 1e-12


def test_sparse_query_attention_with_all_heads_is_multi_head_attention() -> None:
    torch.manual_seed(1)
    layer = SparseQueryAttention(4, 8, query_heads=4, kv_heads=4)
    same = torch.nn.MultiheadAttention(32, 4, bias=True, batch_first=True).eval()
    with torch.no_grad():
        same.in_proj_weight.copy_(torch.cat([layer.to_q.weight, layer.to_k.weight, layer.to_v.weight]))
        same.in_proj_bias.zero_()
        same.out_proj.weight.copy_(layer.out.weight)
        same.out_proj.bias.copy_(layer.out.bias)
    x = torch.randn(2, 11, 32)
    assert relative(layer(x), same(x, x, x, need_weights=False)[0]) < 1e-6
    ours = MultiHead(32, heads=4)
    ours.load_state_dict(layer.state_dict())
    for causal in (False, True):
        assert torch.equal(layer(x, causal=causal), ours(x, causal=causal))


@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (4, 2), (2, 1), (8, 4), (2, 4)])
def test_sparse_query_attention_is_attention_of_repeated_heads_at_its_own_cost(queries: int, keys: int) -> None:
    torch.manual_seed(2)
    layer = build("sqa", heads=8, head_dim=4, query_heads=queries, kv_heads=keys)
    assert isinstance(layer, SparseQueryAttention)
    x = torch.randn(2, 13, 32)
    most = max(queries, keys)
    q, k, v = (
        t.view(2, 13, n, 4).transpose(1, 2).repeat_interleave(most // n, dim=1)
        for t, n in ((layer.to_q(x), queries), (layer.to_k(x), keys), (layer.to_v(x), keys))
    )
    mixed = scaled_dot_product_attention(q, k, v)
    assert relative(layer(x), layer.out(mixed.transpose(1, 2).flatten(2))) < 1e-6
    with FlopCounterMode(display=False) as counted:
        attention(q, k, v, backend="reference")
    assert counted.get_total_flops() == 2 * layer.attention_flops(13, 13)
    assert layer.attention_flops(13, 13) * 8 == most * build("sqa", heads=8, head_dim=4, query_heads=8).attention_flops(
        13, 13
    )
    assert layer.cache_elements(100) == 2 * 100 * keys * 4
    assert sum(p.numel() for p in layer.parameters()) == (queries + 2 * keys + most) * 4 * 32 + 32


def test_query_heads_of_a_group_may_trade_places() -> None:
    torch.manual_seed(3)
    layer = SparseQueryAttention(8, 4, query_heads=4, kv_heads=2)
    x = torch.randn(1, 9, 32)
    before = layer(x)
    order = torch.tensor([1, 0, 2, 3])
    with torch.no_grad():
        layer.to_q.weight.copy_(layer.to_q.weight.view(4, 4, 32)[order].view(16, 32))
        layer.out.weight.copy_(layer.out.weight.view(32, 4, 4)[:, order].reshape(32, 16))
    assert relative(layer(x), before) < 1e-6


def test_diffqkv_layer_counts_its_cache_and_learns() -> None:
    torch.manual_seed(4)
    layer = build("diffqkv", heads=8, head_dim=6, key_heads=2, value_heads=4, key_dim=3, value_dim=5, width=32)
    assert isinstance(layer, DiffQKVAttention)
    assert layer.cache_elements(10) == 10 * (2 * 3 + 4 * 5)
    x, y = torch.randn(2, 7, 32), torch.randn(2, 9, 32)
    out = layer(x, y, causal=True)
    assert out.shape == (2, 7, 32)
    grads = torch.autograd.grad(out.square().sum(), list(layer.parameters()))
    assert all(bool((g != 0).any()) for g in grads)
    assert relative(out, layer(x, y, causal=True, backend="reference")) < 1e-6
    # As many key and value heads and no expansion: a plain grouped layer.
    plain = DiffQKVAttention(4, 8, key_heads=2, value_heads=2)
    same = MultiHead(32, heads=4, key_heads=2)
    same.load_state_dict(plain.state_dict())
    assert relative(plain(x), same(x)) < 1e-6
    with pytest.raises(KernelError, match="key_heads = 3 does not divide the 8 query heads"):
        build("diffqkv", heads=8, head_dim=4, key_heads=3)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sdpa", {}),
        ("sliding_window", {"window": 4}),
        ("wersa", {"levels": 2, "features": 16}),
        ("selective", {}),
        ("lightning", {}),
        ("mala", {}),
    ],
)
def test_any_method_stands_behind_projections(method: str, options: dict[str, Any]) -> None:
    torch.manual_seed(5)
    layer = MultiHead(24, heads=4, key_heads=2, method=method, options=options).eval()
    x = torch.randn(2, 10, 24)
    mask = torch.rand(2, 10) < 0.7
    out = layer(x, causal=True, key_mask=mask)
    assert out.shape == (2, 10, 24)
    assert relative(out, layer(x, causal=True, key_mask=mask, backend="reference")) < 1e-5
    grads = torch.autograd.grad(out.square().sum(), list(layer.parameters()), allow_unused=True)
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in grads)


def test_layers_refuse_what_does_not_fit() -> None:
    with pytest.raises(KernelError, match="width 10 does not split into 4 heads"):
        MultiHead(10, heads=4)
    with pytest.raises(KernelError, match="3 heads do not divide 4 heads"):
        MultiHead(12, heads=4, key_heads=3)
    with pytest.raises(KernelError, match="'sqa' is itself a layer"):
        MultiHead(12, heads=4, method="sqa")
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(KernelError, match="'sqa' is a layer with its own projections"):
        attention(q, q, q, method="sqa")


@pytest.mark.parametrize("method", ["selective", "wersa", "halo", "sqa", "diffqkv"])
def test_modules_in_float64_have_exact_gradients_for_their_parameters_too(method: str) -> None:
    options = {"wersa": {"levels": 2, "features": 8, "dropout": 0.0}, "halo": {"relative": True, "block": 4, "halo": 1}}
    torch.manual_seed(1)
    module = build(method, heads=2, head_dim=4, **options.get(method, {})).double()
    shape, count = ((1, 8, 8), 1) if method in ("sqa", "diffqkv") else ((1, 2, 8, 4), 3)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(count)]
    parameters = list(module.parameters())

    def run(*_: Tensor) -> Tensor:
        out: Tensor = module(*inputs, causal=True)
        return out

    assert parameters
    assert torch.autograd.gradcheck(run, [*inputs, *parameters], fast_mode=True)


@pytest.mark.parametrize("method", ["sdpa", "selective", "wersa", "sqa", "diffqkv"])
def test_modules_take_nothing_from_what_is_hidden(method: str) -> None:
    # Queries of the hidden positions are numbers here: their rows are the caller's to leave out.
    g = torch.Generator().manual_seed(2)
    mask = torch.rand(1, 12, generator=g) < 0.7
    torch.manual_seed(3)
    layer = method in ("sqa", "diffqkv")
    module = build(method, heads=2, head_dim=4).eval() if layer or method != "sdpa" else MultiHead(8, heads=2).eval()
    shape, axis = ((1, 12, 8), 1) if layer or method == "sdpa" else ((1, 2, 12, 4), 2)
    q, k, v = (torch.randn(shape, generator=g) for _ in range(3))
    hidden = ~mask.view(1, -1, *(1,) * (len(shape) - 2)) if axis == 1 else ~mask[:, None, :, None]
    found = []
    for value in (0.0, float("nan")):
        module.zero_grad()
        out = module(q, k.masked_fill(hidden, value), v.masked_fill(hidden, value), key_mask=mask)
        out.sum().backward()
        found.append([out.detach(), *(p.grad for p in module.parameters() if p.grad is not None)])
    assert all(map(torch.equal, *found))


def test_gradients_of_values_in_bfloat16_are_as_exact_as_the_others() -> None:
    for heads in ((2, 2, 2), (2, 1, 1)):
        tensors, g = random_qkv(256, 256, seed=4, batch=1, heads=heads)
        weight = torch.randn(1, 2, 256, 16, generator=g).bfloat16()
        found = []
        for dtype in (torch.float64, torch.bfloat16):
            leaves = [x.bfloat16().to(dtype).requires_grad_() for x in tensors]
            found.append(torch.autograd.grad(attention(*leaves, method="mala"), leaves, weight.to(dtype)))
        assert all(relative(a, b) < 3e-3 for a, b in zip(found[1], found[0], strict=True))


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_products_tell_distances_and_nothing_else_of_positions(interleaved: bool) -> None:
    (q, k, _), _ = random_qkv(5, 9, seed=5, d=6)
    turned = [rotary(x, interleaved=interleaved) for x in (q, k)]
    for x, y in zip((q, k), turned, strict=True):
        torch.testing.assert_close(x.norm(dim=-1), y.norm(dim=-1))
        assert torch.equal(x[:, :, 0], y[:, :, 0])
    far = [rotary(x, interleaved=interleaved, offset=100_000) for x in (q, k)]
    near, apart = (a @ b.mT for a, b in (turned, far))
    assert relative(apart, near) < 1e-9
    # By its definition: as complex numbers, pair n is multiplied by exp(i position rate).
    first = k[..., 0::2] if interleaved else k[..., :3]
    second = k[..., 1::2] if interleaved else k[..., 3:]
    rates = 10_000.0 ** (-torch.arange(0, 6, 2, dtype=torch.float64) / 6)
    want = torch.complex(first, second) * torch.polar(torch.ones(9, 3).double(), torch.arange(9)[:, None] * rates)
    pairs = turned[1].unflatten(3, (3, 2)) if interleaved else turned[1].unflatten(3, (2, 3)).mT
    assert relative(pairs, torch.view_as_real(want)) < 1e-12


def test_rotary_takes_positions_of_each_sequence_and_refuses_what_does_not_fit() -> None:
    (q, _, _), _ = random_qkv(5, 9, seed=6)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 3, 9, 1, 2]])
    by_sequence = rotary(q, positions=positions)
    assert torch.equal(by_sequence[0], rotary(q)[0])
    assert torch.equal(by_sequence[1:, :, 1:2], rotary(q[1:, :, 1:2], offset=3))
    assert rotary(q.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(KernelError, match="even head size"):
        rotary(q[..., :3])
    with pytest.raises(KernelError, match="positions has shape"):
        rotary(q, positions=positions[:, :2])
