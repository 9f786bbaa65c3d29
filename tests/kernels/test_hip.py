"""HiP: the tree search finds high scores, never looks behind the tile, and is dense with keys enough."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels import KernelError, attention
from kernels.sparse import hip
from kernels.sparse.hip import chosen_units
from tests.kernels.cases import random_qkv, relative

SMALL = {"window": 16, "sinks": 0, "block": 8, "unit": 1, "stride": 1}


def found_keys(q: Tensor, k: Tensor, keys: int) -> list[list[set[int]]]:
    """Of each head and tile the keys that the search found, those of the window left out."""
    units = chosen_units(q, k, keys=keys, **SMALL)  # type: ignore[arg-type]
    tiles = units.shape[2]
    offset = k.shape[2] - q.shape[2]
    ends = [min((t + 1) * 8, q.shape[2]) + offset - 16 for t in range(tiles)]
    return [
        [{u for u in units[0, h, t].tolist() if 0 <= u < ends[t]} for t in range(tiles)] for h in range(len(units[0]))
    ]


@pytest.mark.parametrize("options", [{"keys": 200}, {"keys": 8, "window": 200}])
def test_keys_enough_or_a_wide_window_are_dense(options: dict[str, int]) -> None:
    (q, k, v), _ = random_qkv(100, 100, seed=1)
    dense = attention(q, k, v, causal=True)
    got = attention(q, k, v, method="hip", causal=True, **{**SMALL, **options})  # type: ignore[arg-type]
    assert relative(got, dense) < 1e-12


def test_more_keys_err_less() -> None:
    (q, k, v), _ = random_qkv(256, 256, seed=2, heads=(4, 4, 4))
    dense = attention(q, k, v, causal=True)
    errors = [
        relative(attention(q, k, v, method="hip", causal=True, keys=n, **SMALL), dense)  # type: ignore[arg-type]
        for n in (4, 16, 64, 128, 240)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


@pytest.mark.parametrize("unit", [1, 3])
def test_units_are_found_once_in_order_and_before_the_tile(unit: int) -> None:
    (q, k, _), _ = random_qkv(150, 170, seed=3)
    options = {**SMALL, "unit": unit, "sinks": 4}
    units = chosen_units(q, k, keys=12, **options)  # type: ignore[arg-type]
    for row in units.flatten(0, 1).unbind(0):
        for t, listed in enumerate(row.tolist()):
            real = [u for u in listed if u >= 0]
            assert len(set(real)) == len(real)
            end = min((t + 1) * 8, 150) + 20
            assert {u for u in range(-(-end // unit)) if u * unit >= end - 16} <= set(real)
            assert set(range(-(-4 // unit))) <= set(real)
            assert max(real) * unit < end


def test_neighbours_that_score_alike_are_found_nearly_all_and_others_better_than_by_chance() -> None:
    recall = {"walk": 0.0, "noise": 0.0}
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, 1, 1024, 8, generator=g, dtype=torch.float64)
        q = torch.randn(1, 1, 1, 8, generator=g, dtype=torch.float64)
        for name, k in (("noise", noise), ("walk", noise.cumsum(dim=2))):
            (keys,) = found_keys(q, k, 64)[0]
            scores = (k[0, 0, : 1024 - 16] @ q[0, 0, 0]).tolist()
            best = set(sorted(range(1008), key=lambda j: -scores[j])[:64])
            assert len(keys) == 64
            recall[name] += len(best & keys) / 64 / 20
    assert recall["walk"] >= 0.95
    assert recall["noise"] >= 2 * 64 / 1008


def test_a_run_of_high_scores_as_long_as_an_interval_is_found() -> None:
    for start in (0, 17, 333, 900):
        k = torch.zeros(1, 1, 1040, 4, dtype=torch.float64)
        # 1,024 keys are searched in 32 intervals of 32: a run of 63 holds a whole one.
        k[:, :, start : start + 63, 0] = 1.0
        q = torch.ones(1, 1, 1, 4, dtype=torch.float64)
        (keys,) = found_keys(q, k, 32)[0]
        assert len(keys & set(range(start, start + 63))) == 32


def test_it_takes_as_many_halvings_as_the_longest_interval_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    highest = hip._highest

    def counted(x: Tensor) -> Tensor:
        asked.append(x.shape[2])
        return highest(x)

    monkeypatch.setattr(hip, "_highest", counted)
    for length, nodes in ((1000, 10), (4096, 64), (130, 64)):
        asked.clear()
        (q, k, _), _ = random_qkv(1, length + 16, seed=4, batch=1, heads=(1, 1, 1))
        chosen_units(q, k, keys=nodes, **SMALL)  # type: ignore[arg-type]
        assert len(asked) == math.ceil(math.log2(-(-length // nodes)))
        assert set(asked) == {2 * nodes}


def test_what_lies_behind_a_tile_changes_neither_its_choice_nor_its_output() -> None:
    (q, k, v), g = random_qkv(96, 96, seed=5)
    options = {"keys": 8, **SMALL}
    before = chosen_units(q, k, **options)  # type: ignore[arg-type]
    for at in (40, 64):
        moved = [x.clone() for x in (q, k, v)]
        for x in moved:
            x[:, :, at:] += torch.randn(x[:, :, at:].shape, generator=g, dtype=x.dtype)
        assert torch.equal(chosen_units(*moved[:2], **options)[:, :, : at // 8], before[:, :, : at // 8])  # type: ignore[arg-type]


def test_far_keys_that_matter_are_found_where_a_window_of_as_many_keys_fails() -> None:
    (q, k, v), g = random_qkv(512, 512, seed=6)
    k *= 0.1
    needle = torch.randn(2, 2, 1, 16, generator=g, dtype=torch.float64)
    k[:, :, 100:140] = needle
    q = 0.1 * q + needle
    dense = attention(q, k, v, causal=True)
    by_search = attention(q, k, v, method="hip", causal=True, keys=64, window=16, sinks=0, block=8)
    by_window = attention(q, k, v, method="sliding_window", causal=True, window=80)
    assert relative(by_search[:, :, 200:], dense[:, :, 200:]) < 0.5 * relative(by_window[:, :, 200:], dense[:, :, 200:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 7, "block": 8}, "window is 7, expected a whole number of at least 8"),
        ({"keys": 1, "unit": 2}, "keys is 1, expected a whole number of at least 2"),
        ({"representative": "last"}, "representative is 'last', expected 'middle' or 'first'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    (q, k, v), _ = random_qkv(8, 8, seed=7)
    with pytest.raises(KernelError, match=message):
        attention(q, k, v, method="hip", causal=True, **options)  # type: ignore[arg-type]
