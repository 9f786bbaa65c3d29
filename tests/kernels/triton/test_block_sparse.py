"""Engine 1 in Triton against the definition: every mask, awkward shapes, forward and backward."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelError, attention, describe
from kernels.engines.plan import plan_from_lists
from kernels.engines.ruled import made_once
from kernels.engines.rules import Call, Rule, boolean
from kernels.masks import MASKS
from kernels.triton.block_sparse import ruled_attention
from kernels.triton.block_sparse_lists import Lists, schedule, schedule_of
from kernels.windows.elastic_window import elastic_window
from kernels.windows.power import power
from kernels.windows.sliding_window import sliding_window
from tests.kernels.cases import CASES, Case, grads, poisoned_memory, random_qkv, relative

LINEAR = ("lightning", "mala", "wersa")
SERVED = [p for p in CASES if "triton" in describe(p.values[0].method).backends and p.values[0].method not in LINEAR]
SHAPES = [
    {"lengths": (33, 64), "sizes": (16, 5), "heads": (2, 1, 1), "mask": "some", "causal": True},
    {"lengths": (65, 31), "sizes": (33, 24), "heads": (2, 2, 2), "mask": "none", "causal": False},
    {"lengths": (70, 97), "sizes": (40, 40), "heads": (2, 2, 1), "mask": "all of one sequence", "causal": True},
    {"lengths": (97, 61), "sizes": (20, 64), "heads": (1, 2, 1), "mask": "some", "causal": False},
]


def moved(options: dict[str, Any], device: str) -> dict[str, Any]:
    """Options with their tensors on the device."""
    return {name: x.to(device) if isinstance(x, Tensor) else x for name, x in options.items()}


def compared(case: Case, shape: dict[str, Any], dtype: torch.dtype, device: str, *, batch: int = 2) -> None:
    """Assert that output and gradients are those of the definition, for one case at one shape."""
    lq = case.length(shape["lengths"][0])
    lk = case.length(shape["lengths"][1]) if case.cross else lq
    (d, dv), heads, mask = shape["sizes"], shape["heads"], shape["mask"]
    causal = shape["causal"] if shape["causal"] in case.causals else case.causals[0]
    tensors, g = random_qkv(lq, lk, seed=lq, batch=batch, heads=heads, d=d, dv=dv)
    key_mask = None if mask == "none" else torch.rand(batch, lk, generator=g) < 0.6
    if key_mask is not None:
        key_mask[-1] &= mask != "all of one sequence"
        key_mask = key_mask.to(device)
    weight = torch.randn(batch, max(heads), lq, dv, generator=g, dtype=torch.float64).to(device)
    rounded = [x.to(device, dtype) for x in tensors]
    kwargs = {"key_mask": key_mask, "weight": weight, "causal": causal, **moved(case.kwargs, device)}
    want = grads([x.double() for x in rounded], backend="reference", **kwargs)
    with poisoned_memory():
        got = grads(rounded, backend="triton", **kwargs)
    allowed = 1e-5 if dtype == torch.float32 else 1e-2
    largest = max(float(x.norm()) for x in want[1:])
    for n, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.dtype == dtype
        assert relative(a, b, beside=largest if n else 0.0) < allowed
    if mask == "all of one sequence" and case.rows_sum_to_one:
        assert bool((got[0][-1] == 0).all())


@pytest.mark.parametrize(("case", "n"), [pytest.param(p.values[0], n, id=p.id) for n, p in enumerate(SERVED)])
def test_triton_equals_the_definition_and_so_do_its_gradients(case: Case, n: int, device: str) -> None:
    compared(case, SHAPES[n % len(SHAPES)], torch.float32, device)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (Case("sliding_window", {"window": 20, "sinks": 3}), torch.float16),
        (Case("masked", {"rule": MASKS["causal_document"]([9, 1, 14, 40, 80])}), torch.float16),
        (Case("neighborhood", {"kernel": 3, "dilation": 4}, least=12), torch.float16),
        (Case("power", {"window": 3, "block": 1, "sinks": 1}), torch.bfloat16),
    ],
    ids=str,
)
def test_half_types_come_back_as_they_were_and_close(case: Case, dtype: torch.dtype, device: str) -> None:
    compared(case, SHAPES[0], dtype, device, batch=1)


@pytest.mark.parametrize("lengths", [(1, 1), (2, 1), (31, 32), (32, 33)])
def test_lengths_around_a_block(lengths: tuple[int, int], device: str) -> None:
    shape = {"lengths": lengths, "sizes": (16, 16), "heads": (1, 1, 1), "mask": "none", "causal": True}
    compared(Case("sliding_window", {"window": 9}), shape, torch.float32, device, batch=1)


def test_strides_do_not_matter_and_blocks_seen_whole_are_not_asked(device: str) -> None:
    (q, k, v), _ = random_qkv(200, 200, seed=4, batch=1, heads=(2, 2, 2), d=16, dv=24)
    plain = [x.float().to(device) for x in (q, k, v)]
    turned = [x.transpose(1, 3).contiguous().transpose(1, 3) for x in plain]
    assert not any(x.is_contiguous() for x in turned)
    asked: list[int] = []
    call = Call(heads=2, lq=200, lk=200, causal=True, device=torch.device(device), offset=0)
    rule = sliding_window(call, window=150)

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        asked.append(i.shape[0] * i.shape[1] * j.shape[2])
        return rule.sees(h, i, j)

    by_bits = ruled_attention(*turned, Rule(sees, rule.spans), call, scale=0.25)
    assert 0 < sum(asked) < 200 * 200 / 2
    by_form = ruled_attention(*plain, rule, call, scale=0.25)
    for a, b in zip(by_bits, by_form, strict=True):
        assert relative(a, b) < 1e-6
    want = attention(*plain, method="sliding_window", window=150, causal=True, scale=0.25, backend="reference")
    assert relative(by_form[0], want) < 1e-5


@pytest.mark.parametrize("pad_mode", ["mask", "zero"])
@pytest.mark.parametrize("grid", [(20,), (5, 6)])
def test_tables_of_relative_positions_reach_the_kernels(grid: tuple[int, ...], pad_mode: str, device: str) -> None:
    (q, k, v), g = random_qkv(math.prod(grid), math.prod(grid), seed=19)
    tables = [torch.randn(11, 16, generator=g).to(device) for _ in grid]
    options = {"method": "halo", "block": 4, "halo": 1, "grid": grid, "pad_mode": pad_mode}
    rounded = [x.float().to(device) for x in (q, k, v)]
    got = attention(*rounded, rel_tables=tables, backend="triton", **options)
    wide = [x.double() for x in (*rounded, *tables)]
    want = attention(*wide[:3], rel_tables=wide[3:], backend="reference", **options)
    assert relative(got, want) < 1e-5


def test_rows_of_one_key_and_huge_scores_stay_finite(device: str) -> None:
    (q, k, v), _ = random_qkv(40, 40, seed=11, batch=1)
    mask = torch.zeros(1, 40, dtype=torch.bool, device=device)
    mask[:, 3] = True
    for options in ({"method": "sliding_window", "window": 7}, {"method": "neighborhood", "kernel": 3, "dilation": 2}):
        leaves = [(x * 1e3).float().to(device).requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, causal=True, key_mask=mask, backend="triton", **options)
        assert bool(torch.isfinite(out).all())
        assert all(bool(torch.isfinite(x).all()) for x in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize("scale", [-0.5, 0.0])
def test_scales_that_turn_the_order_of_scores_around(scale: float, device: str) -> None:
    (q, k, v), _ = random_qkv(20, 20, seed=6, batch=1, heads=(1, 1, 1))
    inputs = [x.float().to(device).requires_grad_() for x in (q, k, v)]
    found = []
    for backend in ("triton", "reference"):
        out = attention(*inputs, method="sliding_window", causal=True, window=7, scale=scale, backend=backend)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), inputs)])
    for a, b in zip(*found, strict=True):  # gradients reach some ten, in float32 on both sides
        assert float((a - b).abs().max()) < 2e-6 * max(5.0, float(b.abs().max()))


def test_lists_of_plain_options_are_made_once_and_windows_are_runs() -> None:
    call = Call(heads=2, lq=256, lk=256, causal=True, device=torch.device("cpu"), offset=0)
    one, other = (made_once(elastic_window, call, {"alpha": [64.0, 128.0], "beta": 0.0}) for _ in range(2))
    assert one is other
    assert one is not made_once(elastic_window, call, {"alpha": [64.0, 64.0], "beta": 0.0})
    assert schedule(one, call, block_m=32, block_n=32) is schedule(other, call, block_m=32, block_n=32)
    for options, runs in (({"window": 100}, True), ({"window": 100, "sinks": 64}, False)):
        assert schedule(sliding_window(call, **options), call, block_m=32, block_n=32).runs == runs


def test_no_queries_and_no_keys_give_nothing(device: str) -> None:
    for lq, lk in ((0, 3), (3, 0)):
        q, k = (torch.zeros(1, 1, n, 16, device=device, requires_grad=True) for n in (lq, lk))
        out = attention(q, k, k, method="sliding_window", backend="triton")
        assert out.shape == (1, 1, lq, 16)
        assert bool((out == 0).all())
        out.sum().backward()


def test_what_triton_cannot_do_is_refused_with_the_reason(device: str) -> None:
    q = torch.zeros(1, 1, 2, 4, device=device)
    with pytest.raises(KernelError, match=r"takes float32, bfloat16 and float16, not torch.float64"):
        attention(q.double(), q.double(), q.double(), method="power", backend="triton")
    wide = torch.zeros(1, 1, 2, 300, device=device)
    with pytest.raises(KernelError, match="head sizes up to 256, not 300"):
        attention(wide, wide, wide, method="power", backend="triton")


RULES = st.one_of(
    st.builds(
        lambda w, s: lambda call: sliding_window(call, window=w, sinks=s), st.integers(1, 150), st.integers(0, 70)
    ),
    st.builds(
        lambda w, c: lambda call: power(call, window=w, block=c, sinks=c),
        st.integers(1, 80),
        st.sampled_from([1, 6, 64]),
    ),
    st.builds(lambda a: lambda call: elastic_window(call, alpha=[a, 9.0], beta=0.1, block=7), st.floats(0, 80)),
    st.builds(lambda d: lambda call: MASKS["prefix_lm_document"](d, 9), st.lists(st.integers(1, 90), min_size=1)),
    st.builds(lambda d: lambda call: MASKS["share_question"](d), st.lists(st.integers(1, 90), min_size=1)),
    st.builds(lambda g: lambda call: MASKS["global_sliding_window"](300, 20, g), st.integers(0, 40)),
)


@settings(max_examples=60, deadline=None)
@given(
    make=RULES,
    lengths=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    blocks=st.sampled_from([(32, 32), (64, 32), (128, 64)]),
    causal=st.booleans(),
)
def test_lists_and_bits_are_the_mask_both_ways(
    make: Any, lengths: tuple[int, int], blocks: tuple[int, int], causal: bool
) -> None:
    (lq, lk), (m, n) = lengths, blocks
    call = Call(heads=2, lq=lq, lk=lk, causal=causal, device=torch.device("cpu"), offset=lk - lq)
    rule = replace(make(call), form=None)
    made = schedule(rule, call, block_m=m, block_n=n)
    masks = ((made.bits[..., None] >> torch.arange(32)) & 1).flatten(2).bool()
    want = boolean(rule, call)
    for turned in (False, True):
        got = torch.zeros(made.groups, made.tiles * m, made.blocks * n, dtype=torch.int64)
        full, part = (made.full_turned, made.part_turned) if turned else (made.full, made.part)
        for lists, whole in ((full, True), (part, False)):
            for row, e, other in items(lists):
                group, first = divmod(row, made.blocks if turned else made.tiles)
                tile, block = (other, first) if turned else (first, other)
                seen = masks[int(made.entry[e]) if turned else e].long() if not whole else 1
                got[group, tile * m : (tile + 1) * m, block * n : (block + 1) * n] += seen
        assert torch.equal(got[:, :lq, :lk], want.long())
        assert not bool(got[:, :, lk:].any())


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    cut=st.sampled_from([(8, 1), (64, 2), (5, 7), (64, 63), (32, 32)]),
    blocks=st.sampled_from([(32, 32), (64, 32), (128, 64)]),
)
def test_chosen_blocks_are_the_same_cut_into_other_sizes(
    seed: int, lengths: tuple[int, int], cut: tuple[int, int], blocks: tuple[int, int]
) -> None:
    (lq, lk), (m, n) = lengths, blocks
    g = torch.Generator().manual_seed(seed)
    call = Call(heads=2, lq=lq, lk=lk, causal=True, device=torch.device("cpu"), offset=lk - lq)
    tiles, listed = -(-lq // cut[0]), -(-lk // cut[1])
    chosen = torch.rand(2, tiles, listed, generator=g) < 0.5
    i, j = torch.arange(lq)[:, None], torch.arange(lk)
    causal = j <= i + call.offset
    want = chosen[:, i // cut[0], j // cut[1]] & causal
    by_tile = torch.nn.functional.pad(causal, (0, listed * cut[1] - lk, 0, tiles * cut[0] - lq), value=True)
    by_tile[:, lk:] = False
    whole = by_tile.view(tiles, cut[0], listed, cut[1]).all(dim=3).all(dim=1) & chosen
    index = torch.where(chosen, torch.arange(listed), -1)
    plan = plan_from_lists(index, whole, blocks=listed, block_q=cut[0], block_k=cut[1])
    made = schedule_of(plan, lambda h, i, j: j <= i, call, block_m=m, block_n=n)
    masks = ((made.bits[..., None] >> torch.arange(32)) & 1).flatten(2).bool()
    got = torch.zeros(2, made.tiles * m, made.blocks * n, dtype=torch.int64)
    for lists, all_seen in ((made.full, True), (made.part, False)):
        for row, e, block in items(lists):
            head, tile = divmod(row, made.tiles)
            got[head, tile * m : (tile + 1) * m, block * n : (block + 1) * n] += 1 if all_seen else masks[e].long()
    assert torch.equal(got[:, :lq, :lk], want.long())
    assert not bool(got[:, :lq, lk:].any())


def items(lists: Lists) -> list[tuple[int, int, int]]:
    """Row, place and content of every item."""
    starts = lists.starts.tolist()
    return [
        (row, e, int(lists.index[e])) for row in range(len(starts) - 1) for e in range(starts[row], starts[row + 1])
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case("sliding_window", {"window": 1024, "sinks": 64}),
        Case("power", {"window": 256}),
        Case("power", {"window": 256, "block": 64}),
        Case("elastic_window", {"alpha": [64.0, 256.0], "beta": [0.0, 0.2]}),
        Case("masked", {"rule": MASKS["causal_document"]([900, 1, 1400, 4000])}),
        Case("halo", {"block": 64, "halo": 32}),
        Case(
            "halo",
            {"block": 8, "halo": 3, "rel_bias": torch.linspace(-1, 1, 2 * 64 * 196).view(2, 64, 196)},
            grid=(40, 51),
        ),
        Case("neighborhood", {"kernel": 255}, least=255),
        Case("neighborhood", {"kernel": (7, 13), "dilation": (2, 1)}, grid=(40, 51)),
    ],
    ids=str,
)
def test_on_a_gpu_at_real_lengths(case: Case, dtype: torch.dtype, gpu: str) -> None:
    for sizes in ((64, 64), (128, 96)):
        shape = {"lengths": (2040, 2333), "sizes": sizes, "heads": (2, 2, 2), "mask": "some", "causal": True}
        compared(case, shape, dtype, gpu)
