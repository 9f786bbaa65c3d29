"""Landmark attention: what each query reads, loop by loop, and what its grouped softmax equals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels import KernelError, attention
from kernels.sparse.landmark import retrieved_blocks
from tests.kernels.cases import random_qkv, relative


def by_hand(q: Tensor, k: Tensor, v: Tensor, *, block: int, top_k: int | None, shown: Tensor) -> Tensor:
    """One query of one head after the other, as the paper has it."""
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for row in range(q.shape[2]):
                t = row + k.shape[2] - q.shape[2]
                if t < 0:
                    continue
                s = [float(q[b, h, row] @ k[b, h, j]) / math.sqrt(q.shape[3]) for j in range(k.shape[2])]
                mine = t // block
                own = [j for j in range(mine * block, t + 1) if j % block != block - 1 and shown[b, j]]
                groups = []
                for g in range(mine):
                    keys = [j for j in range(g * block, g * block + block - 1) if shown[b, j]]
                    if keys and shown[b, g * block + block - 1]:
                        groups.append((s[g * block + block - 1], keys))
                groups = sorted(groups, key=lambda x: -x[0])[: len(groups) if top_k is None else top_k]
                total = sum(math.exp(s[j]) for j in own) + sum(math.exp(gate) for gate, _ in groups)
                for j in own:
                    out[b, h, row] += math.exp(s[j]) / total * v[b, h, j]
                for gate, keys in groups:
                    inside = sum(math.exp(s[j]) for j in keys)
                    for j in keys:
                        out[b, h, row] += math.exp(gate) / total * math.exp(s[j]) / inside * v[b, h, j]
    return out


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("top_k", [None, 0, 1, 2])
@pytest.mark.parametrize("lengths", [(23, 23), (9, 23), (23, 9)])
def test_it_is_the_loops_of_the_paper(backend: str, top_k: int | None, lengths: tuple[int, int]) -> None:
    (q, k, v), g = random_qkv(*lengths, seed=1, d=6, dv=3)
    shown = torch.rand(2, lengths[1], generator=g) < 0.8
    got = attention(q, k, v, method="landmark", block=4, top_k=top_k, causal=True, key_mask=shown, backend=backend)
    want = by_hand(q, k, v, block=4, top_k=top_k, shown=shown)
    assert relative(got, want) < 1e-12


@pytest.mark.parametrize("top_k", [3, None])
def test_values_of_landmarks_are_never_read(top_k: int | None) -> None:
    (q, k, v), g = random_qkv(50, 50, seed=2)
    other = v.clone()
    other[:, :, 6::7] = torch.randn(other[:, :, 6::7].shape, generator=g, dtype=v.dtype)
    found = [attention(q, k, x, method="landmark", block=7, top_k=top_k, causal=True) for x in (v, other)]
    assert torch.equal(*found)


def test_blocks_longer_than_the_sequence_are_dense_and_enough_blocks_the_form_for_training() -> None:
    (q, k, v), _ = random_qkv(50, 50, seed=3)
    dense = attention(q, k, v, causal=True)
    assert relative(attention(q, k, v, method="landmark", block=51, causal=True), dense) < 1e-12
    some, every = (attention(q, k, v, method="landmark", block=7, top_k=n, causal=True) for n in (7, None))
    assert relative(some, every) < 1e-12


@pytest.mark.parametrize("top_k", [9, None])
def test_landmarks_that_know_the_mass_of_their_block_give_the_flat_softmax(top_k: int | None) -> None:
    # One query, so that each landmark can be made to score the log-sum-exp of its block.
    (q, k, v), _ = random_qkv(1, 46, seed=4, batch=1, heads=(1, 1, 1))
    scale = 1.0 / 4.0
    unit = q[0, 0, 0] / q[0, 0, 0].square().sum()
    for at in range(4, 46, 5):
        k[0, 0, at] = unit * torch.logsumexp(scale * k[0, 0, at - 4 : at] @ q[0, 0, 0], 0) / scale
    got = attention(q, k, v, method="landmark", block=5, top_k=top_k, causal=True)
    ordinary = (torch.arange(46) % 5 != 4)[None]
    assert relative(got, attention(q, k, v, key_mask=ordinary)) < 1e-12


def test_more_blocks_come_nearer_to_all_of_them() -> None:
    (q, k, v), _ = random_qkv(256, 256, seed=5, heads=(4, 4, 4))
    every = attention(q, k, v, method="landmark", block=8, top_k=None, causal=True)
    errors = [
        relative(attention(q, k, v, method="landmark", block=8, top_k=n, causal=True), every)
        for n in (0, 2, 4, 8, 16, 31)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


def test_the_best_landmarks_are_read_the_same_each_time() -> None:
    (q, k, _), _ = random_qkv(40, 40, seed=6)
    found = [retrieved_blocks(q, k, key_mask=None, scale=1.0, block=5, top_k=3) for _ in range(2)]
    assert torch.equal(*found)
    assert found[0].shape == (2, 2, 40, 3)
    for row in range(40):
        for at in found[0][0, 0, row].tolist():
            assert -1 <= at < row // 5


def test_options_that_do_not_fit_are_refused() -> None:
    (q, k, v), _ = random_qkv(8, 8, seed=7)
    with pytest.raises(KernelError, match="block is 1, expected a whole number of at least 2"):
        attention(q, k, v, method="landmark", block=1, causal=True)
    with pytest.raises(KernelError, match="top_k is -1, expected a whole number of at least 0"):
        attention(q, k, v, method="landmark", top_k=-1, causal=True)
    with pytest.raises(KernelError, match="'landmark' is causal only"):
        attention(q, k, v, method="landmark")
