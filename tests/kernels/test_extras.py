"""Log-sum-exp, bias, ALiBi, learned sinks and packed sequences, against their formulas written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelError, alibi_slopes, attention, attention_with_lse, merge, varlen_attention
from kernels.masks import MASKS
from tests.kernels.cases import poisoned_memory, random_qkv, relative

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("sdpa", {}),
    ("sliding_window", {"window": 5}),
    ("sliding_window", {"window": 20, "sinks": 3}),
    ("power", {"window": 3, "sinks": 1}),
    ("elastic_window", {"alpha": [4.0, 20.0], "beta": [0.0, 0.3], "block": 4}),
    ("masked", {"rule": MASKS["global_sliding_window"](200, 4, 3)}),
]
every_method = pytest.mark.parametrize(("method", "options"), METHODS, ids=lambda x: x if isinstance(x, str) else "")


def written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    seen: Tensor,
    scale: float,
    bias: Tensor | None,
    alibi: Tensor | None,
    sink_logits: Tensor | None,
) -> tuple[Tensor, Tensor]:
    scores = scale * q @ k.mT
    if bias is not None:
        scores = scores + bias
    if alibi is not None:
        i = torch.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2]
        scores = scores - alibi[:, None, None] * (i - torch.arange(k.shape[2])).abs()
    scores = scores.masked_fill(~seen, -math.inf)
    extra = torch.full((*scores.shape[:3], 1), -math.inf, dtype=scores.dtype)
    if sink_logits is not None:
        extra = sink_logits[:, None, None].expand(extra.shape)
    whole = torch.cat([scores, extra], dim=-1)
    nothing = (whole == -math.inf).all(dim=-1, keepdim=True)
    weights = torch.softmax(whole.masked_fill(nothing, 0.0), dim=-1).masked_fill(nothing, 0.0)
    return weights[..., :-1] @ v, torch.logsumexp(whole.masked_fill(nothing, 0.0), dim=-1).masked_fill(
        nothing[..., 0], -math.inf
    )


@every_method
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.tuples(st.sampled_from([1, 2, 17, 64, 130]), st.sampled_from([1, 15, 64, 130])),
    causal=st.booleans(),
    masked=st.booleans(),
    with_bias=st.sampled_from(["none", "whole", "by key", "by head"]),
    with_alibi=st.booleans(),
    with_sinks=st.booleans(),
)
def test_extras_are_what_their_formulas_say_and_carry_gradients(
    method: str,
    options: dict[str, Any],
    seed: int,
    lengths: tuple[int, int],
    causal: bool,
    masked: bool,
    with_bias: str,
    with_alibi: bool,
    with_sinks: bool,
) -> None:
    lq, lk = lengths
    tensors, g = random_qkv(lq, lk, seed=seed, d=5, dv=3)
    key_mask = torch.rand(2, lk, generator=g) < 0.6 if masked else None
    shape = {"none": None, "whole": (2, 2, lq, lk), "by key": (2, 1, 1, lk), "by head": (1, 2, 1, 1)}[with_bias]
    extras: dict[str, Tensor | None] = {
        "bias": None if shape is None else torch.randn(shape, generator=g, dtype=torch.float64),
        "alibi": alibi_slopes(2).double() if with_alibi else None,
        "sink_logits": torch.randn(2, generator=g, dtype=torch.float64) if with_sinks else None,
    }
    eye = torch.eye(lk, dtype=torch.float64).expand(2, 2, -1, -1)
    how = {"method": method, "causal": causal, **options}
    seen = attention(*(0 * x for x in tensors[:2]), eye, key_mask=key_mask, backend="reference", **how) > 0
    found = []
    for ours in (True, False):
        leaves = [x.clone().requires_grad_() for x in tensors]
        more = {n: None if x is None else x.clone().requires_grad_() for n, x in extras.items()}
        if ours:
            with poisoned_memory():
                out, lse = attention_with_lse(*leaves, key_mask=key_mask, scale=0.4, **more, **how)
        else:
            out, lse = written_out(*leaves, seen=seen, scale=0.4, **more)
        real = lse > -math.inf
        loss = out.square().sum() + lse[real].sum()
        wanted = [*leaves, *(x for x in more.values() if x is not None)]
        grads = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        found.append([out.detach(), torch.where(real, lse.detach(), 0.0), real.double(), *grads])
    assert all(float((a - b).abs().max()) < 1e-9 for a, b in zip(*found, strict=True))


@every_method
def test_without_extras_it_is_the_method_itself(method: str, options: dict[str, Any]) -> None:
    tensors, _ = random_qkv(70, 90, seed=2, heads=(2, 1, 1))
    for dtype, most in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        rounded = [x.to(dtype) for x in tensors]
        out, lse = attention_with_lse(*rounded, method=method, causal=True, **options)
        want = attention(*(x.double() for x in rounded), method=method, causal=True, backend="reference", **options)
        assert out.dtype == dtype
        assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert relative(out, want) < most


def test_parts_with_a_bias_merge_to_the_whole() -> None:
    (q, k, v), g = random_qkv(9, 30, seed=3)
    bias = torch.randn(1, 2, 9, 30, generator=g, dtype=torch.float64)
    parts = [attention_with_lse(q, k[:, :, a:b], v[:, :, a:b], bias=bias[..., a:b]) for a, b in ((0, 11), (11, 30))]
    for got, want in zip(merge(*parts), attention_with_lse(q, k, v, bias=bias), strict=True):
        assert relative(got, want) < 1e-12


def test_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]
    # Six heads: those of four, then every second one of eight.
    torch.testing.assert_close(alibi_slopes(6), torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]))


def test_rows_of_bias_do_not_stay_in_memory() -> None:
    held: list[int] = []
    (q, k, v), _ = random_qkv(1000, 1000, seed=4, batch=1)
    leaves = [x.float().requires_grad_() for x in (q, k, v)]

    def pack(x: Tensor) -> Tensor:
        held.append(x.untyped_storage().nbytes())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attention_with_lse(*leaves, alibi=alibi_slopes(2), causal=True)
    # No matrix of all pairs, which would take 4 MB a head.
    assert max(held) < 1_000_000


# ---- packed sequences -----------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    sizes=st.lists(st.sampled_from([0, 1, 1, 4, 4, 9, 30]), min_size=1, max_size=6),
    more=st.booleans(),
    method=st.sampled_from(["sdpa", "sliding_window", "lightning", "mala"]),
    causal=st.booleans(),
)
def test_packed_sequences_are_each_by_itself(
    seed: int, sizes: list[int], more: bool, method: str, causal: bool
) -> None:
    causal = causal or method == "lightning"
    options: dict[str, Any] = {"window": 3} if method == "sliding_window" else {}
    of_k = [n + 5 if more else n for n in sizes]
    (q, k, v), _ = random_qkv(sum(sizes), sum(of_k), seed=seed, batch=1, heads=(4, 2, 2))
    starts = [torch.tensor([0, *x]).cumsum(0) for x in (sizes, of_k)]
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    got = varlen_attention(
        *leaves,
        cu_seqlens_q=starts[0],
        cu_seqlens_k=starts[1] if more else None,
        method=method,
        causal=causal,
        **options,
    )
    assert got.shape == (1, 4, sum(sizes), 16)
    others = [x.clone().requires_grad_() for x in (q, k, v)]
    rows = []
    for n in range(len(sizes)):
        a, b = (slice(int(s[n]), int(s[n + 1])) for s in starts)
        part = (others[0][:, :, a], others[1][:, :, b], others[2][:, :, b])
        rows.append(attention(*part, method=method, causal=causal, **options))
    want = torch.cat(rows, dim=2)
    assert sum(sizes) == 0 or float((got - want).detach().abs().max()) < 1e-9
    if not got.requires_grad:
        assert sum(sizes) == 0
        return
    pairs = [
        torch.autograd.grad(x.square().sum(), y, allow_unused=True, materialize_grads=True)
        for x, y in ((got, leaves), (want, others))
    ]
    assert all(float((a - b).abs().sum()) < 1e-8 for a, b in zip(*pairs, strict=True))


def test_what_does_not_fit_is_refused() -> None:
    (q, k, v), _ = random_qkv(6, 6, seed=5, batch=1)
    for options, message in (
        ({"method": "mala"}, "'mala' has no log-sum-exp here; those that have: .*sliding_window"),
        ({"bias": torch.zeros(6, 6)}, r"bias is torch.float32 \(6, 6\)"),
        ({"bias": torch.zeros(1, 2, 6, 6, dtype=torch.bool)}, "bias is torch.bool"),
        ({"alibi": torch.zeros(3)}, r"alibi has shape \(3,\), expected \(2,\)"),
        ({"sink_logits": torch.zeros(1, 2)}, "sink_logits has shape"),
        ({"window": 3}, "'sdpa' has no option 'window'"),
    ):
        with pytest.raises(KernelError, match=message):
            attention_with_lse(q, k, v, **options)  # type: ignore[arg-type]
    for given_as, message in (
        ([0, 3], r"cu_seqlens_q is \[0, 3\], expected numbers from 0 to 6"),
        ([0, 4, 2, 6], "never fall"),
        ([1, 6], "from 0 to 6"),
    ):
        with pytest.raises(KernelError, match=message):
            varlen_attention(q, k, v, cu_seqlens_q=given_as)
    with pytest.raises(KernelError, match="do not fit"):
        varlen_attention(q, k, v, cu_seqlens_q=[0, 6], cu_seqlens_k=[0, 2, 6])
    wide = torch.zeros(2, 1, 4, 3)
    with pytest.raises(KernelError, match="a batch of 2"):
        varlen_attention(wide, wide, wide, cu_seqlens_q=[0, 4])
