"""Few queries over many keys: several programs share them, and what they find is joined to the whole."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch

from kernels import attention, partial_attention
from kernels.masks import MASKS
from kernels.triton import block_sparse
from kernels.triton.block_sparse import splits_for
from tests.kernels.cases import poisoned_memory, random_qkv, relative


class _Launched:
    """Which kernels are launched, with how many programs."""

    def __init__(self) -> None:
        self.programs: dict[str, int] = {}

    def __call__(self, kernel: Any, programs: int, *parts: Any) -> None:
        self.programs[kernel.__name__] = programs
        _launch(kernel, programs, *parts)


_launch = block_sparse.launch


@pytest.mark.parametrize(
    ("lq", "method", "options"),
    [
        (1, "sliding_window", {"window": 300}),
        (20, "sliding_window", {"window": 200, "sinks": 100}),
        (3, "power", {"window": 40, "block": 64, "sinks": 2}),
        (1, "masked", {"rule": MASKS["causal_document"]([20, 330])}),
    ],
)
def test_stretches_of_the_keys_join_to_the_whole(lq: int, method: str, options: dict[str, Any], device: str) -> None:
    (q, k, v), g = random_qkv(lq, 340, seed=lq, batch=2, heads=(2, 1, 1), d=20, dv=24)
    mask = torch.rand(2, 340, generator=g) < 0.7
    mask[1, 100:] = False
    kept = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    leaves = [x.float().to(device).requires_grad_() for x in (q, k, v)]
    weight = torch.randn(2, 2, lq, 24, generator=g).to(device)
    found = []
    launched = _Launched()
    for backend in ("triton", "reference"):
        with poisoned_memory(), patch.object(block_sparse, "launch", launched):
            out = attention(*leaves, method=method, causal=True, key_mask=mask.to(device), backend=backend, **kept)
        found.append([out, *torch.autograd.grad(out, leaves, weight)])
    assert launched.programs["forward_split"] >= 2 * 4
    assert launched.programs["forward_split"] % 4 == 0
    for a, b in zip(*found, strict=True):
        assert relative(a, b) < 1e-5


def test_what_sees_nothing_is_zero_and_the_sums_are_those_of_all_stretches(device: str) -> None:
    (q, k, v), _ = random_qkv(2, 400, seed=1, batch=2, heads=(2, 1, 1), d=16)
    mask = torch.zeros(2, 400, dtype=torch.bool, device=device)
    mask[0, 380:] = True
    inputs = [x.float().to(device) for x in (q, k, v)]
    launched = _Launched()
    with patch.object(block_sparse, "launch", launched):
        out, lse = partial_attention(*inputs, key_mask=mask, backend="triton")
    assert "combine" in launched.programs
    want, sums = partial_attention(*inputs, key_mask=mask, backend="torch")
    assert relative(out, want) < 1e-5
    assert relative(lse[0], sums[0]) < 1e-5
    assert bool((out[1] == 0).all())
    assert bool((lse[1] == float("-inf")).all())


def test_half_types_are_joined_in_float32(device: str) -> None:
    (q, k, v), _ = random_qkv(1, 600, seed=2, batch=1, heads=(1, 1, 1), d=64)
    rounded = [x.to(device, torch.float16) for x in (q, k, v)]
    out = partial_attention(*rounded, backend="triton")[0]
    want = partial_attention(*(x.double() for x in rounded))[0]
    assert out.dtype == torch.float16
    # No more than what rounding the output costs.
    assert relative(out, want) < 1e-3


@pytest.mark.parametrize(
    ("programs", "blocks", "splits"),
    [(1, 1000, 250), (1, 10_000, 264), (64, 1000, 5), (264, 1000, 1), (10_000, 1000, 1), (1, 7, 1), (1, 0.5, 1)],
)
def test_as_many_programs_share_a_tile_as_keep_a_gpu_busy(programs: int, blocks: float, splits: int) -> None:
    assert splits_for(programs, blocks) == splits


def test_long_inputs_are_not_split(device: str) -> None:
    (q, k, v), _ = random_qkv(40, 40, seed=3, batch=1, heads=(1, 1, 1))
    launched = _Launched()
    with patch.object(block_sparse, "launch", launched):
        attention(*(x.float().to(device) for x in (q, k, v)), method="sliding_window", window=9, backend="triton")
    assert list(launched.programs) == ["forward"]
