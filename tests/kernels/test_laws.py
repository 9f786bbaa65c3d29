"""Laws that hold for every mechanism: the fast version equals the definition, at awkward shapes, both ways."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import attention, available, build, describe
from tests.kernels.cases import CASES, Case, grads, poisoned_memory, random_qkv, relative, tolerance

LENGTHS = st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 61, 64, 65, 127])
every_case = pytest.mark.parametrize("case", CASES)


def test_every_method_that_is_a_function_has_a_case() -> None:
    assert {p.values[0].method for p in CASES} == {m for m in available() if describe(m).backends}


@every_case
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors])
@given(
    seed=st.integers(0, 10_000),
    lengths=st.tuples(LENGTHS, LENGTHS),
    sizes=st.sampled_from([(16, 16), (16, 5), (7, 24), (33, 1)]),
    heads=st.sampled_from([(2, 2, 2), (2, 1, 2), (2, 2, 1), (1, 2, 1)]),
    mask=st.sampled_from(["none", "some", "all of one sequence"]),
    causal=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_fast_equals_the_definition_and_so_do_its_gradients(
    case: Case,
    seed: int,
    lengths: tuple[int, int],
    sizes: tuple[int, int],
    heads: tuple[int, int, int],
    mask: str,
    causal: bool,
    dtype: torch.dtype,
) -> None:
    lq = case.length(lengths[0])
    lk = case.length(lengths[1]) if case.cross else lq
    causal = causal if causal in case.causals else case.causals[0]
    tensors, g = random_qkv(lq, lk, seed=seed, heads=heads, d=sizes[0], dv=sizes[1])
    key_mask = None if mask == "none" else torch.rand(2, lk, generator=g) < 0.6
    if key_mask is not None and mask == "all of one sequence":
        key_mask[1] = False
    weight = torch.randn(2, 2, lq, sizes[1], generator=g, dtype=torch.float64)
    want = grads(tensors, key_mask=key_mask, weight=weight, causal=causal, backend="reference", **case.kwargs)
    with poisoned_memory():
        got = grads(
            [x.to(dtype) for x in tensors],
            key_mask=key_mask,
            weight=weight,
            causal=causal,
            backend="torch",
            **case.kwargs,
        )
    allowed = tolerance(dtype) * case.digits_lost
    assert relative(got[0], want[0]) < allowed
    largest = max(float(x.norm()) for x in want[1:])
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        assert relative(a, b, beside=largest) < allowed
    if key_mask is not None and mask == "all of one sequence" and case.rows_sum_to_one:
        assert bool((got[0][1] == 0).all())


@every_case
def test_gradcheck_of_the_fast_version(case: Case) -> None:
    length = case.length(11)
    tensors, g = random_qkv(length, length, seed=3, batch=1, d=3, dv=2)
    key_mask = torch.rand(1, length, generator=g) < 0.8
    for causal in case.causals:
        leaves = [x.requires_grad_() for x in tensors]
        assert torch.autograd.gradcheck(
            lambda *x, c=causal: attention(*x, causal=c, key_mask=key_mask, backend="torch", **case.kwargs),
            leaves,
            fast_mode=True,
        )


@every_case
def test_a_batch_is_its_items_side_by_side_whatever_the_strides(case: Case) -> None:
    length = case.length(45)
    tensors, g = random_qkv(length, length, seed=5, batch=3)
    key_mask = torch.rand(3, length, generator=g) < 0.7
    turned = [x.transpose(1, 3).contiguous().transpose(1, 3) for x in tensors]
    assert not any(x.is_contiguous() for x in turned)
    for causal in case.causals:
        together = attention(*turned, causal=causal, key_mask=key_mask, **case.kwargs)
        for b in range(3):
            alone = attention(
                *(x[b : b + 1] for x in tensors), causal=causal, key_mask=key_mask[b : b + 1], **case.kwargs
            )
            assert relative(together[b : b + 1], alone) < 1e-12


@every_case
def test_half_types_come_back_as_they_were_and_close(case: Case) -> None:
    length = case.length(70)
    tensors, _ = random_qkv(length, length, seed=6)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = [x.to(dtype) for x in tensors]
        for causal in case.causals:
            got = attention(*rounded, causal=causal, **case.kwargs)
            want = attention(*(x.double() for x in rounded), causal=causal, backend="reference", **case.kwargs)
            assert got.dtype == dtype
            assert relative(got, want) < tolerance(dtype) * case.digits_lost


@pytest.mark.parametrize("case", [p for p in CASES if True in p.values[0].causals])
@pytest.mark.parametrize("at", [0, 9, 40])
def test_a_causal_output_does_not_move_with_what_comes_later(case: Case, at: int) -> None:
    length = case.length(50)
    tensors, g = random_qkv(length, length, seed=7)
    before = attention(*tensors, causal=True, **case.kwargs)
    # Values first: they cannot change which keys are chosen, and those of later keys reach no query.
    for some, settled in (([tensors[2]], at), (tensors[:2], case.settled(at))):
        for x in some:
            x[:, :, at:] += torch.randn(x[:, :, at:].shape, generator=g, dtype=x.dtype)
        after = attention(*tensors, causal=True, **case.kwargs)
        assert torch.equal(before[:, :, :settled], after[:, :, :settled])
        assert not torch.equal(before[:, :, at:], after[:, :, at:])
        before = after


@pytest.mark.parametrize("case", [p for p in CASES if p.values[0].rows_sum_to_one])
def test_weights_of_a_row_sum_to_one(case: Case) -> None:
    length = case.length(67)
    (q, k, v), _ = random_qkv(length, length, seed=8)
    for causal in case.causals:
        out = attention(q, k, torch.ones_like(v), causal=causal, **case.kwargs)
        seen = out[out != 0] if case.method == "wersa" else out
        # The random features of wersa may all be zero for a row; its denominator carries 1e-6.
        assert float((seen - 1).abs().max()) < (1e-2 if case.method == "wersa" else 1e-6)


@pytest.mark.parametrize("method", ["sdpa", "mala"])
def test_the_order_of_keys_does_not_matter_where_positions_do_not(method: str) -> None:
    (q, k, v), g = random_qkv(20, 31, seed=9)
    order = torch.randperm(31, generator=g)
    mixed = attention(q, k[:, :, order], v[:, :, order], method=method)
    assert relative(mixed, attention(q, k, v, method=method)) < 1e-12


@every_case
def test_a_module_gives_what_the_call_gives(case: Case) -> None:
    length = case.length(21)
    tensors, g = random_qkv(length, length, seed=10)
    mask = torch.rand(2, length, generator=g) < 0.7
    if case.method in ("diffqkv", "routing", "selective", "wersa"):
        # It has parameters of its own and is tested beside its mechanism.
        assert describe(case.method).build_options is not None
        return
    module = build(case.method, heads=2, head_dim=16, **{k: v for k, v in case.kwargs.items() if k != "method"})
    assert list(module.parameters()) == []
    for causal in case.causals:
        got: Tensor = module(*tensors, causal=causal, key_mask=mask)
        assert torch.equal(got, attention(*tensors, causal=causal, key_mask=mask, **case.kwargs))
    assert case.method in repr(module)


@every_case
def test_long_rows_of_one_key_and_of_huge_scores_stay_finite(case: Case) -> None:
    length = case.length(40)
    (q, k, v), _ = random_qkv(length, length, seed=11)
    mask = torch.zeros(2, length, dtype=torch.bool)
    mask[:, 3] = True
    for causal in case.causals:
        sizes = (1.0,) if case.method == "mala" else (1.0, 1e3)
        for size in sizes:
            leaves = [(x * size).float().requires_grad_() for x in (q, k, v)]
            out = attention(*leaves, causal=causal, key_mask=mask, **case.kwargs)
            assert bool(torch.isfinite(out).all())
            assert all(bool(torch.isfinite(x).all()) for x in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.slow
@every_case
def test_sequences_longer_than_what_is_computed_at_once(case: Case) -> None:
    # 32 problems of these lengths need several sections of the linear mechanisms and several parts of the others.
    length = case.length(523)
    tensors, g = random_qkv(length, length, seed=12, batch=16, d=5, dv=3)
    mask = torch.rand(16, length, generator=g) < 0.8
    weight = torch.randn(16, 2, length, 3, generator=g, dtype=torch.float64)
    for causal in case.causals:
        got, want = (
            grads(tensors, key_mask=mask, weight=weight, causal=causal, backend=b, **case.kwargs)
            for b in ("torch", "reference")
        )
        largest = max(float(x.norm()) for x in want[1:])
        for a, b in zip(got, want, strict=True):
            assert relative(a, b, beside=largest) < tolerance(torch.float64) * case.digits_lost


@every_case
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_what_hidden_keys_and_values_hold_reaches_neither_output_nor_gradients(case: Case, backend: str) -> None:
    length = case.length(40)
    (q, k, v), g = random_qkv(length, length, seed=13)
    mask = torch.rand(2, length, generator=g) < 0.6
    hidden = ~mask[:, None, :, None]
    weight = torch.randn(2, 2, length, 16, generator=g, dtype=torch.float64)
    how = {"causal": case.causals[-1], "key_mask": mask, "weight": weight, "backend": backend, **case.kwargs}
    before = grads([q, k, v], **how)
    assert all(bool((x.masked_select(hidden) == 0).all()) for x in before[2:])
    for value in (float("nan"), float("-inf"), 1e300):
        after = grads([q, k.masked_fill(hidden, value), v.masked_fill(hidden, value)], **how)
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@every_case
def test_autocast_changes_neither_states_nor_what_the_way_back_computes_again(case: Case) -> None:
    length = case.length(40)
    tensors, g = random_qkv(length, length, seed=14)
    mask = torch.rand(2, length, generator=g) < 0.8
    weight = torch.randn(2, 2, length, 16, generator=g)
    how = {"causal": case.causals[-1], "key_mask": mask, **case.kwargs}
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [x.to(dtype).requires_grad_() for x in tensors]
        plain = attention(*leaves, **how)
        want = torch.autograd.grad(plain, leaves, weight.to(dtype))
        with torch.autocast("cpu", torch.bfloat16):
            out = attention(*leaves, **how)
            inside = torch.autograd.grad(out, leaves, weight.to(dtype), retain_graph=True)
        assert out.dtype == dtype
        assert torch.equal(out, plain)
        assert all(map(torch.equal, torch.autograd.grad(out, leaves, weight.to(dtype)), want))
        # Products that PyTorch differentiates itself are its own matter if the way back is under autocast as well.
        assert all(
            relative(a, b) < (2e-2 if case.products_by_pytorch else 1e-6) for a, b in zip(inside, want, strict=True)
        )


def test_types_that_autocast_mixes_are_taken_in_its_own() -> None:
    (q, k, v), _ = random_qkv(5, 7, seed=15)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(q.bfloat16(), k.float(), v.bfloat16())
    assert torch.equal(out, attention(q.bfloat16(), k.bfloat16(), v.bfloat16()))
