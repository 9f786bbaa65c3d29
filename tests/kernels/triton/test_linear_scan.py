"""Engine 2 in Triton against the definition: decays, normalisers, features, awkward shapes, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import attention, build, describe
from kernels.engines.linear_scan import linear_scan as torch_scan
from kernels.triton.haar import haar_features
from kernels.triton.linear_scan import linear_scan
from kernels.triton.linear_scan_cut import scan_launch
from kernels.triton.support import interpreting, padded
from tests.kernels.cases import CASES, Case, grads, poisoned_memory, random_qkv, relative

LINEAR = [p.values[0] for p in CASES if p.values[0].method in ("lightning", "mala", "wersa")]
DECAY = Case("lightning", {"log_decay": [-0.05, -3.0]}, rows_sum_to_one=False)
WERSA = Case("wersa", {"levels": 3, "features": 24})
BOTH_WAYS = [
    pytest.param(c, x, id=f"{c}-{'causal' if x else 'all'}") for c in (DECAY, Case("mala"), WERSA) for x in c.causals
]
SEGMENT = 64
"""Positions of a segment under the interpreter, of two chunks in float32."""


def moved(options: dict[str, Any], device: str) -> dict[str, Any]:
    """Options with their tensors on the device."""
    return {name: x.to(device) if isinstance(x, Tensor) else x for name, x in options.items()}


def compared(
    case: Case,
    lengths: tuple[int, int],
    device: str,
    *,
    causal: bool = True,
    sizes: tuple[int, int] = (16, 16),
    mask: str = "none",
    dtype: torch.dtype = torch.float32,
    heads: tuple[int, int, int] = (2, 2, 2),
    batch: int = 1,
    turned: bool = False,
) -> None:
    """Assert that output and gradients are those of the definition, for one case at one shape."""
    lq, lk = lengths[0], lengths[1] if case.cross else lengths[0]
    tensors, g = random_qkv(lq, lk, seed=lq + lk, batch=batch, heads=heads, d=sizes[0], dv=sizes[1])
    key_mask = None if mask == "none" else torch.rand(batch, lk, generator=g) < 0.6
    if key_mask is not None:
        key_mask[-1] &= mask != "all of one sequence"
        key_mask = key_mask.to(device)
    weight = torch.randn(batch, max(heads), lq, sizes[1], generator=g, dtype=torch.float64).to(device)
    rounded = [x.to(device, dtype) for x in tensors]
    if turned:
        rounded = [x.transpose(1, 3).contiguous().transpose(1, 3) for x in rounded]
        weight = weight.transpose(2, 3).contiguous().transpose(2, 3)
    kwargs = {"key_mask": key_mask, "weight": weight, "causal": causal, **moved(case.kwargs, device)}
    want = grads([x.double() for x in rounded], backend="reference", **kwargs)
    with poisoned_memory():
        got = grads(rounded, backend="triton", **kwargs)
    allowed = 1e-5 * case.digits_lost if dtype == torch.float32 else 1e-2
    largest = max(float(x.norm()) for x in want[1:])
    for n, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.dtype == dtype
        assert relative(a, b, beside=largest if n else 0.0) < allowed
    if mask == "all of one sequence" and case.rows_sum_to_one:
        assert bool((got[0][-1] == 0).all())


@pytest.mark.parametrize(
    ("case", "causal"), [pytest.param(c, x, id=f"{c}-{'causal' if x else 'all'}") for c in LINEAR for x in c.causals]
)
def test_triton_equals_the_definition_and_so_do_its_gradients(case: Case, causal: bool, device: str) -> None:
    assert "triton" in describe(case.method).backends
    compared(case, (37, 67), device, causal=causal, sizes=(16, 24), mask="some", heads=(2, 1, 1))


@pytest.mark.parametrize("case", [DECAY, Case("mala"), WERSA], ids=str)
@pytest.mark.parametrize("lengths", [(1, 1), (2, 1), (31, 2), (32, 33), (SEGMENT + 1, SEGMENT), (7, 2 * SEGMENT + 3)])
def test_lengths_around_chunks_and_segments(case: Case, lengths: tuple[int, int], device: str) -> None:
    compared(case, lengths, device, heads=(1, 1, 1) if case.method != "lightning" else (2, 2, 2))


@pytest.mark.parametrize(("case", "causal"), BOTH_WAYS)
def test_everything_of_one_sequence_hidden(case: Case, causal: bool, device: str) -> None:
    heads = (2, 2, 2) if case is DECAY else (1, 1, 1)
    compared(case, (20, 20), device, causal=causal, mask="all of one sequence", batch=2, heads=heads)


@pytest.mark.parametrize("case", [DECAY, Case("mala"), WERSA], ids=str)
@pytest.mark.parametrize("sizes", [(7, 1), (33, 70), (128, 20)])
def test_head_sizes_and_strides(case: Case, sizes: tuple[int, int], device: str) -> None:
    # In float32 keys of 128 leave 32 columns of values to a program of the pass back, those of 33 leave 64.
    heads = (2, 2, 2) if case is DECAY else (1, 1, 1)
    compared(case, (37, 37), device, sizes=sizes, heads=heads, turned=True)


@pytest.mark.parametrize("method", ["lightning", "mala"])
def test_columns_of_values_in_several_parts_add_up(method: str, device: str) -> None:
    assert padded(40) > scan_launch(256, 40, torch.float32, backward=False).block_dv
    for causal in (True, False) if method == "mala" else (True,):
        compared(Case(method), (18, 35), device, causal=causal, sizes=(140, 40), mask="some", heads=(1, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("case", "causal"), BOTH_WAYS)
def test_half_types_come_back_as_they_were_and_close(case: Case, dtype: torch.dtype, causal: bool, device: str) -> None:
    heads = (2, 2, 2) if case is DECAY else (1, 1, 1)
    compared(case, (100, 100), device, causal=causal, dtype=dtype, heads=heads)


def test_bfloat16_keeps_what_is_left_of_larger_numbers(device: str) -> None:
    # Half of the weights are negative here, and gradients of values are a tenth of what they are the difference of.
    case = Case("mala", {"c": 1e-2})
    compared(case, (256, 256), device, sizes=(64, 16), dtype=torch.bfloat16, heads=(1, 1, 1))


def test_sums_beyond_float16_do_not_overflow(device: str) -> None:
    q, k = (torch.full((1, 1, 100, 16), x, dtype=torch.float16, device=device) for x in (1.0, 60.0))
    v = torch.full_like(k, 40.0).requires_grad_()
    out = attention(q, k, v, method="wersa", causal=True, levels=2, features=16, backend="triton")
    assert float((out.detach() - 40.0).abs().max()) < 0.1
    assert bool(torch.isfinite(torch.autograd.grad(out.sum(), v)[0]).all())


@pytest.mark.parametrize("normaliser", [None, 1e-6])
def test_a_run_in_two_parts_is_one_run(normaliser: float | None, device: str) -> None:
    g = torch.Generator().manual_seed(1)
    sizes = (16, 16, 20)
    q, k, v = (torch.rand(1, 2, 70, n, generator=g, dtype=torch.float64).to(device) for n in sizes)
    first = torch.rand(1, 2, 16, 20 + (normaliser is not None), generator=g, dtype=torch.float64).to(device)
    decay = torch.tensor([-0.01, -2.0], device=device)
    weights = [torch.rand(s, generator=g, dtype=torch.float64).to(device) for s in ((1, 2, 70, 20), first.shape)]

    def wanted(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if normaliser is None:
            return torch_scan(q, k, v, log_decay=decay, state=state)
        both, last = torch_scan(q, k, torch.nn.functional.pad(v, (0, 1), value=1.0), log_decay=decay, state=state)
        return both[..., :-1] / (both[..., -1:] + normaliser), last

    def parts(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        out = []
        for some in (slice(0, 33), slice(33, 70)):
            o, state = linear_scan(
                q[:, :, some], k[:, :, some], v[:, :, some], log_decay=decay, state=state, normaliser=normaliser
            )
            out.append(o)
        return torch.cat(out, dim=2), state

    found = []
    for run, dtype in ((wanted, torch.float64), (parts, torch.float32)):
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v, first)]
        ends = run(*leaves)
        total = sum((e * w.to(dtype)).sum() for e, w in zip(ends, weights, strict=True))
        found.append([*ends, *torch.autograd.grad(total, leaves)])
    for a, b in zip(found[1], found[0], strict=True):
        assert relative(a, b) < 1e-5


def test_no_positions_give_no_output_and_the_state_back(device: str) -> None:
    q = torch.zeros(1, 1, 0, 16, device=device, requires_grad=True)
    state = torch.ones(1, 1, 16, 16, device=device)
    out, last = linear_scan(q, q, q, state=state)
    assert out.shape == (1, 1, 0, 16)
    assert bool((last == 1).all())
    for method, lengths in (("mala", (3, 0)), ("mala", (0, 3)), ("lightning", (2, 0)), ("wersa", (0, 0))):
        q, k = (torch.zeros(1, 1, n, 16, device=device, requires_grad=True) for n in lengths)
        out = attention(q, k, k, method=method, causal=True, backend="triton")
        assert out.shape == q.shape
        assert bool((out == 0).all())
        out.sum().backward()


@pytest.mark.parametrize(("causal", "in_time"), [(True, True), (True, False), (False, False)])
def test_factors_and_projection_of_wersa_get_their_gradients(causal: bool, in_time: bool, device: str) -> None:
    g = torch.Generator().manual_seed(2)
    batch, length, levels = 2, 37, 3
    x = torch.randn(batch, 1, length, 40, generator=g, dtype=torch.float64)
    gates = torch.rand(batch, *([length] if in_time else []), levels + 1, generator=g, dtype=torch.float64)
    weights = torch.rand(levels + 1, generator=g, dtype=torch.float64)
    # In float32 the kernels take 64 columns of a projection of 40 rows at once.
    projection = torch.randn(40, 70, generator=g, dtype=torch.float64)
    v = torch.randn(batch, 1, length, 8, generator=g, dtype=torch.float64)
    mask = torch.rand(batch, length, generator=g) < 0.8
    given = [y.to(device) for y in (x, x.flip(2), v, gates, weights, projection)]

    def run(dtype: torch.dtype, backend: str) -> list[Tensor]:
        q, k, v, gates, weights, w = leaves = [y.to(dtype).requires_grad_() for y in given]
        options: dict[str, Any] = {"gates": gates, "scale_weights": weights, "projection": w, "levels": levels}
        options |= {"causal": causal, "key_mask": mask.to(device), "backend": backend}
        out = attention(q, k, v, method="wersa", pre_gelu=True, features=70, **options)
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]

    with poisoned_memory():
        got = run(torch.float32, "triton")
    for a, b in zip(got, run(torch.float64, "reference"), strict=True):
        assert relative(a, b) < 2e-5


def test_wersa_beyond_what_its_kernels_hold_is_computed_all_the_same(device: str) -> None:
    for options in ({"levels": 6, "features": 16}, {"levels": 2, "features": 260}):
        compared(Case("wersa", options), (70, 70), device, heads=(1, 1, 1))


def test_the_module_of_wersa_runs_and_learns(device: str) -> None:
    module = build("wersa", heads=2, head_dim=16, levels=2, features=16).to(device).eval()
    (q, k, v), _ = random_qkv(20, 20, seed=3)
    inputs = [x.float().to(device) for x in (q, k, v)]
    want, got = (module(*inputs, causal=True, backend=b) for b in ("torch", "triton"))
    assert relative(got, want) < 1e-5
    got.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in module.parameters())


def test_hidden_values_may_be_anything(device: str) -> None:
    (q, k, v), g = random_qkv(40, 40, seed=13, batch=1)
    mask = (torch.rand(1, 40, generator=g) < 0.6).to(device)
    for case in (DECAY, Case("mala"), WERSA):
        inputs = [x.float().to(device) for x in (q, k, v)]
        kwargs = {"causal": True, "key_mask": mask, "backend": "triton", **case.kwargs}
        before = attention(*inputs, **kwargs)
        for x in inputs[1:]:
            x.masked_fill_(~mask[:, None, :, None], float("nan"))
        assert relative(attention(*inputs, **kwargs), before) < 1e-6


def test_features_are_made_in_the_type_of_the_input(device: str) -> None:
    x = torch.ones(1, 1, 3, 16, dtype=torch.float16, device=device)
    ones = torch.ones(16, 4, device=device)
    found = haar_features(x, ones, torch.ones(1, 3, device=device), causal=False, mask=None)
    assert found.dtype == torch.float16
    assert bool((found == 16).all())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [DECAY, *LINEAR], ids=str)
def test_on_a_gpu_at_real_lengths(case: Case, dtype: torch.dtype, gpu: str) -> None:
    assert not interpreting()
    if case.options.get("c") == 1.0 and dtype != torch.float32:
        # Its output is what is left of numbers that grow with the length: half types keep none of its digits.
        case = Case("mala", {"c": 1e-3})
    for sizes in ((64, 64), (128, 96), (200, 256)):
        for causal in case.causals:
            compared(case, (2040, 2333), gpu, causal=causal, sizes=sizes, mask="some", dtype=dtype, batch=2)
