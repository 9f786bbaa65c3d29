"""The front door of the attention kernels: masks, head counts, alignment, names and messages."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kernels
from kernels import KernelError, Mechanism, MultiHead, attention, available, build, describe, partial_attention
from kernels.foreign import FOREIGN
from kernels.registry import mechanism


def by_hand(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float) -> Tensor:
    """Attention one query at a time, in plain loops."""
    heads = max(q.shape[1], k.shape[1], v.shape[1])
    out = torch.zeros(q.shape[0], heads, q.shape[2], v.shape[3], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(heads):
            for i in range(q.shape[2]):
                seen = [
                    j
                    for j in range(k.shape[2])
                    if (not causal or j <= i + k.shape[2] - q.shape[2]) and (key_mask is None or bool(key_mask[b, j]))
                ]
                if seen:
                    hq, hk, hv = (h * x.shape[1] // heads for x in (q, k, v))
                    weights = torch.softmax(torch.stack([scale * q[b, hq, i] @ k[b, hk, j] for j in seen]), 0)
                    out[b, h, i] = sum(w * v[b, hv, j] for w, j in zip(weights, seen, strict=True))
    return out


@pytest.mark.parametrize("backend", ["reference", "torch"])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(0, 7), st.integers(1, 5), st.integers(1, 5)),
    heads=st.sampled_from([(1, 1, 1), (2, 1, 2), (4, 2, 1), (3, 3, 3), (2, 4, 4), (1, 2, 4), (2, 1, 4)]),
    causal=st.booleans(),
    masked=st.booleans(),
)
def test_dense_attention_equals_the_loops(
    backend: str, seed: int, shape: tuple[int, ...], heads: tuple[int, ...], causal: bool, masked: bool
) -> None:
    b, lq, lk, d, dv = shape
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(b, heads[0], lq, d, generator=g, dtype=torch.float64)
    k = torch.randn(b, heads[1], lk, d, generator=g, dtype=torch.float64)
    v = torch.randn(b, heads[2], lk, dv, generator=g, dtype=torch.float64)
    key_mask = torch.rand(b, lk, generator=g) < 0.6 if masked else None
    got = attention(q, k, v, backend=backend, causal=causal, key_mask=key_mask, scale=0.7)
    want = by_hand(q, k, v, causal=causal, key_mask=key_mask, scale=0.7)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_the_last_query_of_a_causal_call_sees_every_key() -> None:
    g = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(1, 1, n, 4, generator=g) for n in (2, 9, 9))
    causal = attention(q, k, v, causal=True)
    torch.testing.assert_close(causal[:, :, -1], attention(q, k, v)[:, :, -1])
    torch.testing.assert_close(causal[:, :, 0], attention(q[:, :, :1], k[:, :, :8], v[:, :, :8])[:, :, 0])


def test_an_unknown_method_or_option_names_what_is_near() -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(KernelError, match="no attention method 'sdpaa'; did you mean 'sdpa'"):
        attention(q, q, q, method="sdpaa")
    with pytest.raises(KernelError, match="'sdpa' has no option 'window'"):
        attention(q, q, q, method="sdpa", window=3)
    with pytest.raises(KernelError, match="no option 'windw'; did you mean 'window'"):
        attention(q, q, q, method="sliding_window", windw=3)
    with pytest.raises(KernelError, match="no option 'levls'; did you mean 'levels'"):
        build("wersa", heads=1, head_dim=4, levls=3)
    with pytest.raises(KernelError, match="no backend 'tritn'; did you mean 'triton'"):
        attention(q, q, q, backend="tritn")  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="'sdpa' has no backend 'triton'"):
        attention(q, q, q, backend="triton")


@pytest.mark.parametrize("name", FOREIGN)
def test_an_argument_of_another_library_is_answered_by_what_is_written_here(name: str) -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(KernelError) as refused:
        attention(q, q, q, method="sdpa", **{name: 1})
    assert str(refused.value) == f"attention method 'sdpa' has no option {name!r}; {FOREIGN[name]}"
    assert f"`{name}`" in (Path(__file__).parents[2] / "docs" / "kernels.md").read_text()


def test_numbers_of_numpy_are_numbers() -> None:
    q = torch.randn(1, 2, 64, 4, generator=torch.Generator().manual_seed(1))
    whole = np.int64(8)
    for method, numbers in (
        ("sliding_window", {"window": whole, "sinks": np.int32(2)}),
        ("elastic_window", {"alpha": np.array([4.0, 20.0]), "beta": np.float32(0.5), "block": whole}),
        ("halo", {"block": np.int64(4), "halo": np.int64(1), "grid": (whole, whole)}),
        ("neighborhood", {"kernel": np.array([3, 3]), "grid": [whole, whole]}),
        ("lightning", {"log_decay": np.float32(-0.5), "chunk": whole}),
        ("diffqkv", {"top_values": whole}),
    ):
        own = {name: [int(n) for n in x] if isinstance(x, tuple | list) else x.tolist() for name, x in numbers.items()}
        causal = method == "lightning"
        got = attention(q, q, q, method=method, causal=np.bool_(causal), **numbers)  # type: ignore[arg-type]
        assert torch.equal(got, attention(q, q, q, method=method, causal=causal, **own))
    assert MultiHead(whole, heads=np.int64(2)).head_dim == 4
    for wrong in (True, np.bool_(True), 2.0, "3", torch.tensor([1, 2])):
        with pytest.raises(KernelError, match=r"window is .* expected a whole number"):
            attention(q, q, q, method="sliding_window", window=wrong)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "1", True, torch.ones(2), [1.0]])
def test_a_scale_that_is_no_number_is_refused(scale: object) -> None:
    q = torch.zeros(1, 1, 2, 4)
    for call in (attention, partial_attention):
        with pytest.raises(KernelError, match=r"scale is .* expected a finite number"):
            call(q, q, q, scale=scale)  # type: ignore[arg-type]


def test_a_flag_or_a_scale_that_would_be_misread_is_refused() -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(KernelError, match="causal is 'no', expected True or False"):
        attention(q, q, q, causal="no")  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="wants a gradient"):
        attention(q, q, q, scale=torch.tensor(0.5, requires_grad=True))  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="chunk is 0, expected a whole number of at least 1"):
        attention(q, q, q, method="lightning", causal=True, chunk=0)


def test_a_mechanism_refuses_the_calls_that_it_does_not_serve() -> None:
    q, k = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 3, 4)
    with pytest.raises(KernelError, match="'lightning' is causal only; pass causal=True"):
        attention(q, q, q, method="lightning")
    with pytest.raises(KernelError, match="'halo' is self-attention: 2 queries, 3 keys"):
        attention(q, k, k, method="halo")


@pytest.mark.parametrize("method", available())
def test_every_method_says_what_it_is(method: str) -> None:
    told = describe(method)
    assert told.name == method
    assert told.summary
    assert told.paper
    assert told.cost.startswith("O(")
    assert told.backends == mechanism(method).backends
    assert set(asdict(told.taxonomy)) == {"unit", "importance", "budget", "kv"}
    assert all(asdict(told.taxonomy).values())
    assert "call" not in told.options


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 2, 4), (1, 1, 2, 4), (1, 1, 2, 4)), "q has shape"),
        (((1, 1, 2, 4), (2, 1, 2, 4), (1, 1, 2, 4)), "batch sizes differ"),
        (((1, 1, 2, 4), (1, 1, 3, 4), (1, 1, 2, 4)), "3 keys but v has 2"),
        (((1, 1, 2, 4), (1, 1, 2, 5), (1, 1, 2, 4)), "head size 4 but k has 5"),
        (((1, 3, 2, 4), (1, 2, 2, 4), (1, 1, 2, 4)), "k has 2 heads"),
        (((1, 1, 2, 4), (1, 1, 2, 4), (1, 1, 2, 0)), "expected heads of at least 1 number"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        attention(*(torch.zeros(s) for s in shapes))


def test_masks_and_types_that_do_not_fit_are_refused() -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(KernelError, match="key_mask"):
        attention(q, q, q, key_mask=torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(KernelError, match="key_mask"):
        attention(q, q, q, key_mask=torch.ones(1, 2))
    with pytest.raises(KernelError, match="types differ"):
        attention(q, q.double(), q)
    with pytest.raises(KernelError, match="expected a floating type"):
        attention(q.long(), q.long(), q.long())


def test_the_package_is_ours_and_its_promises_hold() -> None:
    assert Path(kernels.__file__).parent == Path(__file__).parents[2] / "kernels"
    assert set(kernels.__all__) <= set(dir(kernels))
    assert "sdpa" in available()
    for name in available():
        found = mechanism(name)
        assert isinstance(found, Mechanism)
        assert found.name == name
        assert found.summary
