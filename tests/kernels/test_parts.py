"""Long inputs are computed part by part, and keys that move along with the queries are not copied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernels import attention
from kernels.engines import block_sparse, cutting
from kernels.engines.parts import Part, Piece, Scratch
from kernels.masks import MASKS
from tests.kernels.cases import Case, grads, random_qkv, relative, tolerance

_CASES = {
    "window": (Case("sliding_window", {"window": 40}), {"moving"}),
    "window and sinks": (Case("sliding_window", {"window": 40, "sinks": 11}), {"moving", "fixed"}),
    "powers by tokens": (Case("power", {"window": 40, "sinks": 16}), {"moving", "fixed"}),
    "powers by blocks": (Case("power", {"window": 32, "block": 16, "sinks": 16}), {"moving", "gathered"}),
    "windows per head": (Case("elastic_window", {"alpha": [40.0, 80.0], "beta": [0.0, 0.1], "block": 16}), {"moving"}),
    "halo": (Case("halo", {"block": 16, "halo": 8}), {"moving"}),
    "halo of zeros": (Case("halo", {"block": 8, "halo": 3, "pad_mode": "zero"}), {"gathered"}),
    "halo of zeros on a grid": (Case("halo", {"block": 4, "halo": 2, "pad_mode": "zero"}, grid=(17, 13)), {"gathered"}),
    "neighborhood": (Case("neighborhood", {"kernel": 40}, least=40), {"moving"}),
    "neighborhood on a grid": (Case("neighborhood", {"kernel": (3, 5)}, grid=(17, 13)), {"gathered"}),
    "every key": (Case("masked", {"rule": MASKS["full"](221)}), {"fixed"}),
}
"""Each with the kinds of keys that at least one of its parts has."""


def kind(piece: Piece) -> str:
    return "gathered" if piece.run is None else "moving" if piece.moves else "fixed"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Part, int]]]:
    """The parts that the forward and backward passes take, made very small for the one thread that there is."""
    found: list[tuple[Part, int]] = []

    def spied(view: cutting.View, *, problems: int, in_order: bool) -> Iterator[Part]:
        for part in cutting.parts_of(view, problems=problems, in_order=in_order):
            found.append((part, view.layout.plan.block_k))
            yield part

    monkeypatch.setattr(cutting, "_PART_SCORES", 1 << 12)
    monkeypatch.setattr(cutting, "_CHUNK_PAIRS", 1 << 13)
    monkeypatch.setattr(block_sparse, "parts_of", spied)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield found
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", _CASES)
def test_many_parts_equal_the_definition(
    seen: list[tuple[Part, int]], name: str, masked: bool, dtype: torch.dtype
) -> None:
    case, kinds = _CASES[name]
    tensors, g = random_qkv(case.length(221), case.length(221), seed=31)
    key_mask = torch.rand(2, case.length(221), generator=g) < 0.7 if masked else None
    tensors = [x.to(dtype).double() for x in tensors]
    weight = torch.randn(2, 2, case.length(221), 16, generator=g, dtype=torch.float64).to(dtype).double()
    for causal in case.causals:
        call = {"key_mask": key_mask, "weight": weight, "causal": causal, **case.kwargs}
        want = grads(tensors, backend="reference", **call)
        got = grads([x.to(dtype) for x in tensors], backend="torch", **call)
        assert max(relative(a, b) for a, b in zip(got, want, strict=True)) < tolerance(dtype)
    assert len(seen) >= 8
    assert {kind(piece) for part, _ in seen for piece in part.pieces} >= kinds


@pytest.mark.parametrize("name", _CASES)
def test_rows_of_every_kind_are_those_of_their_blocks(seen: list[tuple[Part, int]], name: str) -> None:
    case, _ = _CASES[name]
    length = case.length(221)
    (q, k, v), _ = random_qkv(length, length, seed=32)
    attention(q, k, v, causal=case.causals[-1], **case.kwargs)
    for part, block in seen:
        for piece in part.pieces:
            blocks = torch.randn(part.problems.stop, int(piece.blocks.max()) + 1, block, 3, dtype=torch.float64)
            rows = piece.rows(blocks, torch.float64, Scratch(blocks, torch.float64))
            want = blocks[part.problems][:, piece.blocks].flatten(0, 1).flatten(1, 2)
            assert torch.equal(rows.expand_as(want), want)
            weights, x = torch.randn(len(want), 2, want.shape[1]).double(), torch.randn(len(want), 2, 3).double()
            into, expected = torch.zeros_like(blocks), torch.zeros_like(blocks)
            piece.add_gradients(into, weights, x, 0.5)
            for p in range(part.problems.start, part.problems.stop):
                some = (0.5 * weights.mT @ x).view(-1, *piece.blocks.shape, block, 3)[p - part.problems.start]
                expected[p].index_add_(0, piece.blocks.flatten(), some.flatten(0, 1))
            assert relative(into, expected) < 1e-12


def test_every_tile_is_in_one_part(seen: list[tuple[Part, int]]) -> None:
    for case, _ in _CASES.values():
        length = case.length(221)
        (q, k, v), _ = random_qkv(length, length, seed=33)
        seen.clear()
        attention(q, k, v, causal=case.causals[-1], **case.kwargs)
        tiles = [(p, job) for part, _ in seen for p in range(4)[part.problems] for job in part.jobs.tolist()]
        assert len(tiles) == len(set(tiles))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["window", "window and sinks", "powers by blocks", "windows per head", "neighborhood"])
def test_keys_that_are_no_numbers_stay_hidden(seen: list[tuple[Part, int]], name: str, bad: float) -> None:
    case, _ = _CASES[name]
    (q, k, v), _ = random_qkv(221, 221, seed=34)
    key_mask = torch.ones(2, 221, dtype=torch.bool)
    key_mask[:, 50:60] = False

    def run(keys: Tensor) -> Tensor:
        return attention(q, keys, v, causal=True, key_mask=key_mask, **case.kwargs)

    before, poisoned = run(k), k.clone()
    poisoned[:, :, 50:60] = bad
    assert relative(run(poisoned), before) < 1e-12
    leaf = v.clone().requires_grad_()
    of_values = [
        torch.autograd.grad(attention(q, keys, leaf, causal=True, key_mask=key_mask, **case.kwargs).sum(), leaf)[0]
        for keys in (k, poisoned)
    ]
    assert relative(of_values[1], of_values[0]) < 1e-12
    # Nor does the future matter to the past.
    poisoned[:, :, 130:] = bad
    assert relative(run(poisoned)[:, :, :130], before[:, :, :130]) < 1e-12
