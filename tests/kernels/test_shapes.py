"""Sizes that users have: wide heads, lengths around the real blocks, other queries than keys, half types both ways."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import attention, describe
from kernels.masks import MASKS
from tests.kernels.cases import CASES, Case, grads, random_qkv, relative, tolerance

every_case = pytest.mark.parametrize("case", CASES)

_WIDE = [
    Case("sdpa"),
    Case("masked", {"rule": MASKS["causal_document"]([63, 1, 64, 65, 128])}),
    Case("sliding_window", {"window": 64}),
    Case("sliding_window", {"window": 600, "sinks": 2}),
    Case("power", {"window": 128}),
    Case("power", {"window": 128, "block": 64}),
    Case("elastic_window", {"alpha": [64.0, 0.0], "beta": [0.0, 0.5]}),
    Case("halo"),
    Case("neighborhood", {"kernel": 64}, least=64),
    Case("neighborhood", {"kernel": 7, "dilation": 9}, least=63),
    Case("lightning", rows_sum_to_one=False),
    Case("mala"),
    Case("wersa"),
    Case("block_prefix_query", {"block": 64}),
    Case("landmark", {"top_k": 1}),
    Case("hip", {"keys": 32, "window": 64, "sinks": 2}),
]
"""Every engine with the options that it has by default or in earnest: blocks of 64 and 128."""
_LENGTHS = st.sampled_from([1, 2, 63, 64, 65, 127, 128, 129, 193, 257])


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{n}-{c}") for n, c in enumerate(_WIDE)])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors])
@given(
    seed=st.integers(0, 10_000),
    lengths=st.tuples(_LENGTHS, _LENGTHS),
    sizes=st.sampled_from([(16, 128), (32, 16), (64, 64), (128, 128), (128, 1)]),
    heads=st.sampled_from([(2, 2, 2), (2, 1, 1), (1, 2, 1)]),
    masked=st.booleans(),
    causal=st.booleans(),
)
def test_real_head_sizes_and_blocks_equal_the_definition(
    case: Case,
    seed: int,
    lengths: tuple[int, int],
    sizes: tuple[int, int],
    heads: tuple[int, int, int],
    masked: bool,
    causal: bool,
) -> None:
    lq = case.length(lengths[0])
    lk = case.length(lengths[1]) if case.cross else lq
    causal = causal if causal in case.causals else case.causals[0]
    tensors, g = random_qkv(lq, lk, seed=seed, heads=heads, d=sizes[0], dv=sizes[1])
    key_mask = torch.rand(2, lk, generator=g) < 0.7 if masked else None
    weight = torch.randn(2, 2, lq, sizes[1], generator=g, dtype=torch.float64)
    want = grads(tensors, key_mask=key_mask, weight=weight, causal=causal, backend="reference", **case.kwargs)
    singles = [x.float() for x in tensors]
    got = grads(singles, key_mask=key_mask, weight=weight, causal=causal, **case.kwargs)
    # A gradient is a sum over all rows of weights, which may cancel.
    largest = max(*(float(x.norm()) for x in want[1:]), 0.2 * float(weight.norm()))
    assert relative(got[0], want[0]) < 1e-5
    for a, b in zip(got[1:], want[1:], strict=True):
        assert relative(a, b, beside=largest) < 1e-5


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_half_types_are_those_of_the_rounded_inputs(case: Case, dtype: torch.dtype) -> None:
    length = case.length(70)
    tensors, g = random_qkv(length, length, seed=21)
    rounded = [x.to(dtype) for x in tensors]
    weight = torch.randn(2, 2, length, 16, generator=g, dtype=torch.float64).to(dtype)
    mask = torch.rand(2, length, generator=g) < 0.8
    for causal in case.causals:
        want = grads(
            [x.double() for x in rounded],
            key_mask=mask,
            weight=weight.double(),
            causal=causal,
            backend="reference",
            **case.kwargs,
        )
        got = grads(rounded, key_mask=mask, weight=weight, causal=causal, **case.kwargs)
        largest = max(float(x.norm()) for x in want[1:])
        for a, b in zip(got, want, strict=True):
            assert a.dtype == dtype
            assert relative(a, b, beside=largest) < tolerance(dtype) * case.digits_lost


# PyTorch's own kernels keep sums and maxima in float32 but round the weights to the type of the inputs.
@pytest.mark.parametrize("case", [p for p in CASES if p.values[0].method not in ("sdpa", "selective")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_single_and_rounded_once(case: Case, dtype: torch.dtype) -> None:
    # Statistics, states and products in float32: what a call in float32 gives, rounded at the end.
    length = case.length(300)
    tensors, _ = random_qkv(length, length, seed=22)
    rounded = [x.to(dtype) for x in tensors]
    for causal in case.causals:
        got = attention(*rounded, causal=causal, **case.kwargs)
        single = attention(*(x.float() for x in rounded), causal=causal, **case.kwargs)
        # Half a unit in the last place, and the differences of float32 that may tip a value over.
        assert got.dtype == dtype
        allowed = torch.finfo(dtype).eps / 2 * single.abs() * 1.01 + 2e-5 * case.digits_lost
        assert float(((got.float() - single).abs() - allowed).max()) <= 0


@pytest.mark.parametrize("case", [p for p in CASES if p.values[0].cross and True in p.values[0].causals])
@pytest.mark.parametrize(("lq", "lk"), [(50, 31), (31, 50), (1, 40), (40, 1)])
def test_causal_calls_are_aligned_at_the_last_query_and_key(case: Case, lq: int, lk: int) -> None:
    lk = case.length(lk)
    tensors, g = random_qkv(lq, lk, seed=23)
    leaves = [x.requires_grad_() for x in tensors]
    out = attention(*leaves, causal=True, **case.kwargs)
    blind = max(lq - lk, 0)
    assert bool((out[:, :, :blind] == 0).all())
    assert bool((out[:, :, blind:] != 0).any(dim=-1).all()) or not case.every_row_sees
    by_query, *_ = torch.autograd.grad(out.sum(), leaves)
    assert bool((by_query[:, :, :blind] == 0).all())
    if min(lq, lk) > 4:
        # Keys behind a query's own position do not reach it.
        q, k, v = (x.detach() for x in tensors)
        behind = lk - 3
        k, v = k.clone(), v.clone()
        if describe(case.method).looks_ahead == "no":
            k[:, :, behind:] += torch.randn(k[:, :, behind:].shape, generator=g, dtype=k.dtype)
        v[:, :, behind:] += 1.0
        moved = attention(q, k, v, causal=True, **case.kwargs)
        assert torch.equal(moved[:, :, : lq - 3], out[:, :, : lq - 3])
        assert not torch.equal(moved[:, :, lq - 3 :], out[:, :, lq - 3 :])


_POSITION_FREE = [
    Case("sdpa"),
    Case("mala"),
    Case("mala", {"c": 1.0}),
    Case("diffqkv", {"top_values": 7}),
    Case("selective", {"tau_q": torch.tensor(2.0)}),
    Case("masked", {"rule": MASKS["full"](31)}),
]


@pytest.mark.parametrize("case", _POSITION_FREE, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_the_order_of_keys_does_not_matter_where_positions_do_not(case: Case, masked: bool) -> None:
    (q, k, v), g = random_qkv(31, 31, seed=9)
    order = torch.randperm(31, generator=g)
    mask = torch.rand(2, 31, generator=g) < 0.6 if masked else None
    mixed = attention(
        q, k[:, :, order], v[:, :, order], key_mask=None if mask is None else mask[:, order], **case.kwargs
    )
    assert relative(mixed, attention(q, k, v, key_mask=mask, **case.kwargs)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [False, True])
def test_wide_enough_is_dense_in_every_type_on_every_grid(dtype: torch.dtype, causal: bool) -> None:
    (q, k, v), _ = random_qkv(60, 60, seed=24)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    want = attention(*(x.double() for x in (q, k, v)), causal=causal)
    cases: list[tuple[str, dict[str, object]]] = [
        ("sliding_window", {"window": 60}),
        ("power", {"window": 64}),
        ("elastic_window", {"beta": 1.0, "block": 8}),
        ("halo", {"block": 16, "halo": 60}),
        ("neighborhood", {"kernel": 60}),
        ("masked", {"rule": MASKS["full"](60)}),
        ("diffqkv", {"top_values": 60}),
        ("selective", {"tau_q": torch.tensor(1.0), "tau_v": torch.tensor(1.0)}),
    ]
    cases += [
        ("hyper", {"block": 8, "exact": 61}),
        ("routing", {"clusters": 1, "norm": "none"}),
    ]
    if causal:
        cases += [
            ("landmark", {"block": 61}),
            ("flexprefill", {"block": 8, "coverage": 1.0}),
            ("hip", {"keys": 60, "window": 8, "block": 8}),
            ("dhsa", {"budget": 60, "local": 8, "first": 8, "block": 8}),
        ]
    if not causal:
        for grid in ((6, 10), (3, 4, 5)):
            cases.append(("neighborhood", {"kernel": grid, "grid": grid}))
            cases.append(("halo", {"block": 3, "halo": 10, "grid": grid}))
    for method, options in cases:
        got: Tensor = attention(q, k, v, method=method, causal=causal, **options)  # type: ignore[arg-type]
        assert float((got.double() - want).abs().max()) < (1e-5 if dtype == torch.float32 else 2e-2), method


@every_case
def test_rows_that_see_nothing_are_zero_in_every_type(case: Case) -> None:
    length = case.length(33)
    tensors, _ = random_qkv(length, length, seed=25)
    blind = torch.zeros(2, length, dtype=torch.bool)
    blind[0] = True
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        leaves = [x.to(dtype).requires_grad_() for x in tensors]
        for causal in case.causals:
            out = attention(*leaves, causal=causal, key_mask=blind, **case.kwargs)
            assert bool((out[1] == 0).all())
            assert bool((out[0] != 0).any())
            for x in torch.autograd.grad(out.float().sum(), leaves):
                assert bool((x[1] == 0).all())
                assert bool(torch.isfinite(x).all())
