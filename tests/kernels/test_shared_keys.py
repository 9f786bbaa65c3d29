"""Heads of queries that share heads of keys (GQA, MQA): the definition, without keys repeated in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import attention, build, describe, partial_attention
from kernels.engines import cutting
from kernels.engines.linear_scan import linear_scan
from kernels.lab.clock import peak_bytes
from tests.kernels.cases import CASES, Case, grads, random_qkv, relative, tolerance

_SHARING = [p for p in CASES if describe(p.values[0].method).shares_keys]  # type: ignore[union-attr, arg-type]
_LONG: list[tuple[str, dict[str, Any]]] = [
    ("sliding_window", {"window": 64, "sinks": 16}),
    ("elastic_window", {"alpha": [64.0] * 8, "beta": 0.0}),
    ("halo", {"block": 32, "halo": 16}),
    ("neighborhood", {"kernel": 64}),
    ("power", {"window": 64, "sinks": 0}),
    ("lightning", {}),
    ("mala", {}),
    ("wersa", {"features": 32}),
]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if inputs were long: parts of few tiles, of one problem and of several."""
    monkeypatch.setattr(cutting, "_PART_SCORES", 1 << 12)
    monkeypatch.setattr(cutting, "_CHUNK_PAIRS", 1 << 13)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def per_head(case: Case, heads: int) -> dict[str, Any]:
    """Its options for so many heads, where they are one for each of two."""
    kwargs = dict(case.kwargs)
    for name in ("alpha", "beta"):
        if isinstance(kwargs.get(name), list):
            kwargs[name] = [x + h for h, x in enumerate(kwargs[name] * (heads // 2))]
    bias = kwargs.get("rel_bias")
    if isinstance(bias, Tensor):
        kwargs["rel_bias"] = torch.cat([bias + 0.1 * n for n in range(heads // 2)])
    return kwargs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [9, 221])
@pytest.mark.parametrize("case", _SHARING)
@pytest.mark.usefixtures("small_parts")
def test_shared_heads_equal_the_definition(case: Case, length: int, dtype: torch.dtype) -> None:
    n = case.length(length)
    tensors, g = random_qkv(n, n, seed=41, heads=(4, 2, 2), dv=8)
    tensors = [x.to(dtype).double() for x in tensors]
    weight = torch.randn(2, 4, n, 8, generator=g, dtype=torch.float64).to(dtype).double()
    for causal in case.causals:
        for key_mask in (None, torch.rand(2, n, generator=g) < 0.7):
            call = {"key_mask": key_mask, "weight": weight, "causal": causal, **per_head(case, 4)}
            want = grads(tensors, backend="reference", **call)
            got = grads([x.to(dtype) for x in tensors], backend="torch", **call)
            error = max(relative(a, b) for a, b in zip(got, want, strict=True))
            assert error < case.digits_lost * tolerance(dtype)


@pytest.mark.parametrize("case", [p for p in _SHARING if p.values[0].cross])  # type: ignore[union-attr]
@pytest.mark.parametrize("lengths", [(5, 90), (90, 20)])
def test_fewer_and_more_queries_than_keys(case: Case, lengths: tuple[int, int]) -> None:
    tensors, g = random_qkv(*lengths, seed=42, heads=(4, 1, 1))
    weight = torch.randn(2, 4, lengths[0], 16, generator=g, dtype=torch.float64)
    for causal in case.causals:
        call = {"key_mask": None, "weight": weight, "causal": causal, **per_head(case, 4)}
        want, got = (grads(tensors, backend=b, **call) for b in ("reference", "torch"))
        assert max(relative(a, b) for a, b in zip(got, want, strict=True)) < case.digits_lost * 1e-10


@pytest.mark.parametrize("heads", [(6, 2, 3), (6, 3, 1), (2, 4, 2), (1, 3, 3), (4, 4, 2)])
@pytest.mark.parametrize("method", ["sliding_window", "mala"])
def test_any_counts_that_divide_the_largest(method: str, heads: tuple[int, int, int]) -> None:
    tensors, g = random_qkv(40, 40, seed=43, heads=heads)
    weight = torch.randn(2, max(heads), 40, 16, generator=g, dtype=torch.float64)
    call = {"method": method, "key_mask": None, "weight": weight, "causal": True}
    want, got = (grads(tensors, backend=b, **call) for b in ("reference", "torch"))
    assert max(relative(a, b) for a, b in zip(got, want, strict=True)) < 1e-10


@pytest.mark.parametrize("case", _SHARING)
@pytest.mark.parametrize("key_heads", [2, 4])
def test_a_batch_of_none(case: Case, key_heads: int) -> None:
    n = case.length(40)
    tensors, _ = random_qkv(n, n, seed=48, batch=0, heads=(4, key_heads, key_heads))
    for causal in case.causals:
        call = {"key_mask": None, "weight": torch.ones(0, 4, n, 16), "causal": causal, **per_head(case, 4)}
        out, *gradients = grads(tensors, backend="torch", **call)
        assert out.shape == (0, 4, n, 16)
        assert [g.shape for g in gradients] == [x.shape for x in tensors]


@pytest.mark.parametrize("relative_tables", [False, True])
def test_modules_share_keys_too(relative_tables: bool) -> None:
    torch.manual_seed(0)
    module = build("halo", heads=4, head_dim=16, block=8, halo=3, relative=relative_tables).double()
    (q, k, v), _ = random_qkv(50, 50, seed=44, heads=(4, 2, 2))
    wide = [x.repeat_interleave(2, dim=1) for x in (k, v)]
    assert relative(module(q, k, v), module(q, *wide)) < 1e-12


@pytest.mark.parametrize(
    ("method", "options", "causal"),
    [(m, o, causal) for m, o in _LONG for causal in (False, True) if causal or m != "lightning"],
    ids=str,
)
def test_keys_are_not_repeated_in_memory(method: str, options: dict[str, Any], causal: bool) -> None:
    n, heads = 8192, 8
    (q, k, v), _ = random_qkv(n, n, seed=45, batch=1, heads=(heads, 1, 1), d=32, dv=32)
    q, k, v = q.float(), k.float(), v.float()
    wide = [x.repeat_interleave(heads, dim=1) for x in (k, v)]

    def run(k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, method=method, causal=causal, **options)

    assert relative(run(k, v), run(*wide)) < 1e-5
    saved = peak_bytes(lambda: run(*(x.repeat_interleave(heads, dim=1) for x in (k, v))), "cpu") - peak_bytes(
        lambda: run(k, v), "cpu"
    )
    assert saved > 0.9 * sum(x.nbytes for x in wide)


@pytest.mark.parametrize("dense", [partial_attention, attention])
def test_dense_attention_repeats_no_keys_either(dense: Callable[..., Any]) -> None:
    n, heads = 1024, 8
    (q, k, v), _ = random_qkv(n, n, seed=49, batch=1, heads=(heads, 2, 1), d=32, dv=32)
    q, k, v = q.float(), k.float(), v.float()

    def repeated() -> Any:
        return dense(q, *(x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v)), causal=True)

    got, want = (x if isinstance(x, tuple) else (x,) for x in (dense(q, k, v, causal=True), repeated()))
    for a, b in zip(got, want, strict=True):
        assert relative(a, b) < 1e-5
    saved = peak_bytes(repeated, "cpu") - peak_bytes(lambda: dense(q, k, v, causal=True), "cpu")
    # All but the values of one head, which are there twice, to be as many as the keys.
    assert saved > 0.6 * 2 * q.nbytes


def test_a_state_is_shared_and_goes_on() -> None:
    (q, k, v), _ = random_qkv(200, 200, seed=46, heads=(6, 2, 2))
    whole, last = linear_scan(q, k, v)
    assert last.shape == (2, 2, 16, 16)
    first, state = linear_scan(q[:, :, :77], k[:, :, :77], v[:, :, :77])
    second, after = linear_scan(q[:, :, 77:], k[:, :, 77:], v[:, :, 77:], state=state)
    assert relative(torch.cat([first, second], dim=2), whole) < 1e-12
    assert relative(after, last) < 1e-12
    wide = linear_scan(q, *(x.repeat_interleave(3, dim=1) for x in (k, v)))
    assert relative(whole, wide[0]) < 1e-12
    assert relative(last.repeat_interleave(3, dim=1), wide[1]) < 1e-12


def test_heads_that_fade_at_their_own_rates_share_keys_but_no_state() -> None:
    (q, k, v), _ = random_qkv(200, 200, seed=47, heads=(6, 2, 2))
    decay = -torch.linspace(0.01, 0.5, 6, dtype=torch.float64)
    got, last = linear_scan(q, k, v, log_decay=decay)
    want, after = linear_scan(q, *(x.repeat_interleave(3, dim=1) for x in (k, v)), log_decay=decay)
    assert last.shape == (2, 6, 16, 16)
    assert relative(got, want) < 1e-12
    assert relative(last, after) < 1e-12
    first, state = linear_scan(q[:, :, :77], k[:, :, :77], v[:, :, :77], log_decay=decay)
    second, _ = linear_scan(q[:, :, 77:], k[:, :, 77:], v[:, :, 77:], log_decay=decay, state=state)
    assert relative(torch.cat([first, second], dim=2), want) < 1e-12
