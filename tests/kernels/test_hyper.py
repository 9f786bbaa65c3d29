"""HyperAttention: buckets, an estimate that is right in the mean, and errors that fall with the samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels import KernelError, attention, partial_attention
from kernels.sparse.hyper import bucket_order, hyper_partial
from tests.kernels.cases import random_qkv, relative

SMALL = {"block": 16, "samples": 16, "bits": 5, "exact": 32}


def run(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
    return attention(q, k, v, method="hyper", **{**SMALL, **options})  # type: ignore[arg-type]


def test_buckets_that_follow_each_other_differ_in_one_sign() -> None:
    signs = torch.tensor([[1.0 if n >> bit & 1 else -1.0 for bit in range(6)] for n in range(64)])
    numbers = bucket_order(signs, torch.eye(6, dtype=torch.float64))
    assert sorted(numbers.tolist()) == list(range(64))
    in_order = signs[numbers.argsort()]
    assert bool(((in_order[1:] != in_order[:-1]).sum(dim=1) == 1).all())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", [{"exact": 300}, {"block": 300, "exact": 1}])
def test_short_inputs_and_large_blocks_are_dense(causal: bool, options: dict[str, int]) -> None:
    (q, k, v), _ = random_qkv(200, 200, seed=1)
    assert relative(run(q, k, v, causal=causal, **options), attention(q, k, v, causal=causal)) < 1e-12


@pytest.mark.parametrize("causal", [False, True])
def test_numerator_and_denominator_are_right_in_the_mean(causal: bool) -> None:
    (q, k, v), g = random_qkv(60, 60, seed=2, batch=1, heads=(1, 1, 1), dv=3)
    shown = torch.rand(1, 60, generator=g) < 0.8
    how = {"causal": causal, "key_mask": shown, "scale": 0.25}
    o, lse = partial_attention(q, k, v, **how)  # type: ignore[arg-type]
    wanted = torch.cat([lse.exp()[..., None], o * lse.exp()[..., None]], dim=-1)
    found = []
    for seed in range(100):
        o, lse = hyper_partial(q, k, v, block=6, samples=12, bits=3, exact=8, seed=seed, **how)  # type: ignore[arg-type]
        found.append(torch.cat([lse.exp()[..., None], o * lse.exp()[..., None]], dim=-1))
    draws = torch.stack(found)
    apart = (draws.mean(dim=0) - wanted).abs()
    assert bool((apart <= 5 * draws.std(dim=0) / 10 + 1e-9).all())
    assert float(draws.std(dim=0).max()) > 0


@pytest.mark.parametrize("causal", [False, True])
def test_the_error_falls_with_the_root_of_the_samples(causal: bool) -> None:
    (q, k, v), _ = random_qkv(1024, 1024, seed=3, batch=1, heads=(2, 2, 2))
    dense = attention(q, k, v, causal=causal)
    counts = (16, 64, 256, 1024)
    errors = [relative(run(q, k, v, causal=causal, samples=n), dense) for n in counts]
    assert errors == sorted(errors, reverse=True)
    slope = math.log(errors[-1] / errors[0]) / math.log(counts[-1] / counts[0])
    assert -0.65 < slope < -0.35


def test_clusters_are_found_by_their_buckets() -> None:
    g = torch.Generator().manual_seed(4)
    centres = 3 * torch.randn(16, 16, generator=g, dtype=torch.float64)
    of = torch.randint(16, (512,), generator=g)
    q, k = ((centres[of] + 0.3 * torch.randn(512, 16, generator=g, dtype=torch.float64))[None, None] for _ in range(2))
    v = torch.randn(1, 1, 512, 8, generator=g, dtype=torch.float64)
    dense = attention(q, k, v)
    by_bucket = relative(run(q, k, v, block=64, samples=0, bits=7), dense)
    # One bucket for all: blocks of neighbours in time.
    by_chance = relative(attention(q, k, v, method="halo", block=64, halo=0), dense)
    assert by_bucket < 0.5 * by_chance


def test_the_first_exact_piece_of_a_causal_call_is_exact() -> None:
    (q, k, v), _ = random_qkv(128, 128, seed=5)
    dense = attention(q, k, v, causal=True)
    assert relative(run(q, k, v, causal=True)[:, :, :32], dense[:, :, :32]) < 1e-12


def test_a_seed_gives_the_same_result_and_another_seed_another() -> None:
    (q, k, v), _ = random_qkv(100, 100, seed=6)
    first = run(q, k, v, causal=True, seed=7)
    torch.manual_seed(99)
    assert torch.equal(first, run(q, k, v, causal=True, seed=7))
    assert not torch.equal(first, run(q, k, v, causal=True, seed=8))


def test_keys_that_are_hidden_are_no_part_of_blocks_and_samples() -> None:
    # With half of the keys hidden the estimate is the one over the others alone.
    (q, k, v), _ = random_qkv(64, 128, seed=8)
    shown = torch.arange(128) % 2 == 0
    got = run(q, k, v, key_mask=shown.expand(2, -1), samples=1 << 16)
    assert relative(got, attention(q, k[:, :, shown], v[:, :, shown])) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 0}, "block is 0, expected a whole number of at least 1"),
        ({"samples": -1}, "samples is -1, expected a whole number of at least 0"),
        ({"bits": 0}, "bits is 0, expected a whole number of at least 1"),
        ({"seed": -1}, "seed is -1, expected a whole number of at least 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, int], message: str) -> None:
    (q, k, v), _ = random_qkv(8, 8, seed=9)
    with pytest.raises(KernelError, match=message):
        run(q, k, v, **options)
