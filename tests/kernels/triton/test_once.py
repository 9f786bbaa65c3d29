"""A second derivative through Triton's kernels is refused in one line, as everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kernels import KernelError, attention, partial_attention
from kernels.triton.haar import haar_features
from tests.kernels.cases import random_qkv

REFUSED = r"^attention has no second derivative here; backend='reference' is differentiable twice$"


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sliding_window", {"window": 5}),
        ("halo", {"block": 4, "halo": 1, "grid": (3, 4)}),
        ("lightning", {}),
        ("mala", {}),
        ("wersa", {"levels": 2, "features": 16}),
    ],
)
def test_a_second_derivative_is_refused(method: str, options: dict[str, Any], device: str) -> None:
    inputs, _ = random_qkv(12, 12, seed=4, batch=1)
    leaves = [x.float().to(device).requires_grad_() for x in inputs]
    causal = method == "lightning"
    out = attention(*leaves, method=method, causal=causal, backend="triton", **options)
    first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
    with pytest.raises(KernelError, match=REFUSED):
        torch.autograd.grad(torch.stack([x.square().sum() for x in first]).sum(), leaves)
    # Without a graph of the gradients they are what they were.
    out = attention(*leaves, method=method, causal=causal, backend="triton", **options)
    for a, b in zip(torch.autograd.grad(out.square().sum(), leaves), first, strict=True):
        assert torch.equal(a, b.detach())


def test_nor_is_there_one_of_a_part_or_of_features_alone(device: str) -> None:
    inputs, _ = random_qkv(12, 12, seed=5, batch=1)
    leaves = [x.float().to(device).requires_grad_() for x in inputs]
    _, lse = partial_attention(*leaves, backend="triton")
    (first,) = torch.autograd.grad(lse.sum(), leaves[:1], create_graph=True)
    with pytest.raises(KernelError, match=REFUSED):
        torch.autograd.grad(first.square().sum(), leaves[:1])
    x, w = leaves[0], torch.ones(16, 16, device=device, requires_grad=True)
    found = haar_features(x, w, torch.ones(1, 3, device=device), causal=True, mask=None)
    (first,) = torch.autograd.grad(found.square().sum(), [w], create_graph=True)
    with pytest.raises(KernelError, match=REFUSED):
        torch.autograd.grad(first.sum(), [w])
