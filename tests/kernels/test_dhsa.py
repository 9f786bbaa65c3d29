"""DHSA: where chunks begin, how they are scored, and which keys a tile of queries gets of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels import KernelError, attention
from kernels.sparse.dhsa import chosen_keys, key_boundaries
from tests.kernels.cases import random_qkv, relative

SMALL = {"budget": 20, "local": 8, "first": 4, "block": 8}


def sets(q: Tensor, k: Tensor, **options: object) -> list[list[list[int]]]:
    """Of each sequence and tile the keys that are read, as they are listed."""
    found = chosen_keys(q, k, **{**SMALL, **options})  # type: ignore[arg-type]
    return [[[j for j in row if j >= 0] for row in item] for item in found.tolist()]


def test_a_budget_of_all_keys_is_dense() -> None:
    (q, k, v), _ = random_qkv(100, 100, seed=1)
    dense = attention(q, k, v, causal=True)
    for chunk in (None, 7):
        got = attention(q, k, v, method="dhsa", causal=True, **{**SMALL, "budget": 100, "chunk": chunk})  # type: ignore[arg-type]
        assert relative(got, dense) < 1e-12


def test_a_larger_budget_errs_less() -> None:
    (q, k, v), _ = random_qkv(256, 256, seed=2, heads=(4, 4, 4))
    dense = attention(q, k, v, causal=True)
    errors = [
        relative(attention(q, k, v, method="dhsa", causal=True, **{**SMALL, "budget": n}), dense)  # type: ignore[arg-type]
        for n in (12, 24, 64, 128, 256)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_a_tile_reads_the_first_and_the_last_keys_and_no_more_than_its_budget(chunk: int | None, masked: bool) -> None:
    (q, k, _), g = random_qkv(61, 80, seed=3)
    shown = torch.rand(2, 80, generator=g) < (0.6 if masked else 2.0)
    for b, item in enumerate(sets(q, k, chunk=chunk, key_mask=shown)):
        for t, keys in enumerate(item):
            end = min((t + 1) * 8, 61) + 19
            allowed = [j for j in range(end) if shown[b, j]]
            assert len(set(keys)) == len(keys) == min(20, len(allowed))
            assert set(allowed[:4]) | set(allowed[-8:]) <= set(keys) <= set(allowed)


def test_chunks_of_one_key_and_tiles_of_one_query_are_the_best_keys() -> None:
    (q, k, _), _ = random_qkv(70, 70, seed=4)
    scores = q.mean(dim=1) @ k.mean(dim=1).mT
    for b, item in enumerate(sets(q, k, chunk=1, block=1, budget=6, local=1, first=0)):
        for i, keys in enumerate(item):
            ranked = sorted(range(i), key=lambda j: -float(scores[b, i, j]))
            assert set(keys) == {i, *ranked[:5]}


def test_one_chunk_leaves_it_to_how_recent_keys_are() -> None:
    (q, k, _), _ = random_qkv(64, 64, seed=5)
    for item in sets(q, k, chunk=64):
        assert set(item[7]) == set(range(4)) | set(range(48, 64))


def test_the_score_of_a_chunk_of_equal_keys_grows_with_the_root_of_its_length() -> None:
    # One long chunk whose keys score 1 beside short ones of 2 keys: it wins where 1 * sqrt(n) > s * sqrt(2).
    for long, wins in ((16, True), (4, False)):
        k = torch.zeros(1, 1, 64, 2, dtype=torch.float64)
        k[0, 0, 8 : 8 + long, 0] = 1.0
        k[0, 0, 40:42, 0] = 2.0
        q = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
        q[..., 0] = 1.0
        starts = [0, 8, 8 + long, 40, 42]
        keys = chosen_keys(q, k, budget=3, local=1, first=0, block=1, boundaries=torch.tensor([starts]))[0, 0].tolist()
        best = range(8, 8 + long) if wins else range(40, 42)
        assert set(keys) - {63} == set(list(best)[-2:])


def test_boundaries_lie_where_the_keys_change_and_keep_apart() -> None:
    g = torch.Generator().manual_seed(6)
    regimes = torch.randn(6, 16, generator=g, dtype=torch.float64) * 3
    lengths = [20, 33, 9, 40, 25, 60]
    k = torch.cat([regimes[n].expand(length, -1) for n, length in enumerate(lengths)])
    k = (k + 0.1 * torch.randn(k.shape, generator=g, dtype=torch.float64))[None, None]
    starts = key_boundaries(k)[0].nonzero()[:, 0].tolist()
    assert starts[0] == 0
    assert {sum(lengths[:n]) for n in range(6)} <= set(starts)
    noise = key_boundaries(torch.randn(3, 2, 500, 8, generator=g))
    for row in noise:
        at = row.nonzero()[1:, 0]
        assert len(at) > 10
        assert int(at.diff().min()) > 8


def test_a_regime_like_the_present_one_is_read_whole() -> None:
    g = torch.Generator().manual_seed(7)
    calm, busy = torch.randn(2, 16, generator=g, dtype=torch.float64)
    of = [calm, busy, calm, busy]
    k = torch.cat([x.expand(64, -1) for x in of])[None, None] + 0.3 * torch.randn(1, 1, 256, 16, generator=g)
    keys = set(sets(2 * k, k, budget=100, local=16, first=4)[0][-1])
    assert set(range(64, 128)) <= keys
    assert len(keys & set(range(128, 192))) == 0


def test_heads_share_the_choice_but_not_the_output() -> None:
    (q, k, v), _ = random_qkv(96, 96, seed=8)
    eye = torch.eye(96, dtype=v.dtype).expand(2, 2, -1, -1)
    out = attention(q, k, eye, method="dhsa", causal=True, **SMALL)  # type: ignore[arg-type]
    assert torch.equal(out[:, 0] > 0, out[:, 1] > 0)
    assert not torch.equal(out[:, 0], out[:, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 10}, "local 8 and first 4 keys do not fit into a budget of 10"),
        ({"chunk": 0}, "chunk is 0, expected a whole number of at least 1"),
        ({"boundaries": torch.tensor([[1, 2]])}, "boundaries must begin with 0 and ascend"),
        ({"boundaries": torch.tensor([[0, 2, 2]])}, "boundaries must begin with 0 and ascend"),
        ({"boundaries": torch.tensor([0, 2])}, "expected whole numbers of shape"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    (q, k, v), _ = random_qkv(8, 8, seed=9)
    with pytest.raises(KernelError, match=message):
        attention(q, k, v, method="dhsa", causal=True, **{**SMALL, **options})  # type: ignore[arg-type]
