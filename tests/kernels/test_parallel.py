"""Sequences over several processes: four gloo processes equal one, forward and backward, and send what they should."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import KernelError, attention
from kernels.parallel import Ranks, own_positions, ring_attention, ulysses_attention
from kernels.parallel.ring import _tasks
from tests.kernels import parallel_worker as worker
from tests.kernels.cases import relative

Found = dict[str, dict[str, Any]]
WHOLE: dict[str, dict[str, Any]] = {
    "ring": {},
    "ring masked": {},
    "ring causal": {"causal": True},
    "zigzag causal": {"causal": True},
    "ulysses": {},
    "ulysses causal": {"causal": True},
    "ulysses masked": {"causal": True},
    "ulysses mala": {"method": "mala", "causal": True},
    "lightning": {"method": "lightning", "causal": True},
    "lightning masked": {"method": "lightning", "causal": True, "log_decay": -0.2, "scale": 0.5},
    "window": {"method": "sliding_window", "window": 7},
    "window causal": {"method": "sliding_window", "window": 31, "causal": True},
    "window masked": {"method": "sliding_window", "window": 20},
    "2-D": {},
    "2-D causal": {"causal": True},
}


def run_processes(size: int, folder: Path) -> list[Found]:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=worker.main, args=(rank, size, str(folder))) for rank in range(size)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(timeout=600)
    assert [p.exitcode for p in processes] == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return run_processes(4, tmp_path_factory.mktemp("four"))


def whole(name: str) -> list[Tensor]:
    """Output and gradients in one process, in float64."""
    tensors, mask, weight = worker.inputs()
    leaves = [x.double().requires_grad_() for x in tensors]
    out = attention(*leaves, key_mask=mask if name in worker.MASKS else None, backend="reference", **WHOLE[name])
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


def gathered(found: list[Found], name: str) -> list[Tensor]:
    at = torch.cat([f[name]["at"] for f in found])
    assert sorted(at.tolist()) == list(range(worker.LENGTH))
    return [torch.cat([f[name]["results"][n] for f in found], dim=2)[:, :, at.argsort()] for n in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_four_processes_equal_one(four: list[Found], name: str) -> None:
    for got, want in zip(gathered(four, name), whole(name), strict=True):
        assert relative(got, want) < 1e-5
        assert float((got - want).abs().max()) < 1e-5 * max(1.0, float(want.abs().max()))


@pytest.mark.slow
def test_bytes_sent_are_those_of_the_formulas(four: list[Found]) -> None:
    p, b, part = 4, worker.BATCH, worker.LENGTH // 4
    hq, hk, d, dv = worker.HEADS, worker.KEY_HEADS, worker.SIZE, worker.VALUE_SIZE
    keys = 4 * b * part * hk * (d + dv)
    for rank, found in enumerate(four):
        told = {name: (f["forward"], f["sent"]) for name, f in found.items()}
        for name in ("ring", "ring causal", "zigzag causal"):
            # Keys and values once round; on the way back again, with their gradients.
            assert told[name] == ((p - 1) * keys, 3 * (p - 1) * keys)
        assert told["ring masked"][0] == (p - 1) * (keys + b * part)
        # Heads of keys are repeated to the 4 processes.
        moved = 4 * b * part * (hq * d + 4 * d + 4 * dv + hq * dv) * (p - 1) // p
        for name in ("ulysses", "ulysses causal", "ulysses mala"):
            assert told[name] == (moved, 2 * moved)
        state = 4 * b * hq * d * dv * (p - 1)
        assert told["lightning"] == (state, 2 * state)
        row = 4 * b * hk * (d + dv)
        # A window of 7 wants 6 rows of each neighbour; causally of 31 over parts of 12: 12, 12 and 6 of earlier ones.
        sides = (rank > 0) + (rank < 3)
        assert told["window"] == (6 * sides * row, 2 * 6 * sides * row)
        onward, back = sum((12, 12, 6)[: 3 - rank]), sum((12, 12, 6)[:rank])
        assert told["window causal"] == (onward * row, (onward + back) * row)
        # Two by two: heads within a pair, then a ring of two over parts of twice the length and half of the heads.
        heads = 4 * b * part * (hq * d + hk * d + hk * dv + hq * dv) // 2
        ring = 4 * b * 2 * part * (hk // 2) * (d + dv)
        for name in ("2-D", "2-D causal"):
            assert told[name] == (heads + ring, 2 * heads + 3 * ring)


@pytest.mark.parametrize("name", [n for n in WHOLE if not n.startswith("2-D")])
def test_one_process_sends_nothing(name: str) -> None:
    ranks = Ranks()
    found = worker.compute(ranks, None, None)
    assert ranks.sent == 0
    for got, want in zip(gathered([found], name), whole(name), strict=True):
        assert relative(got, want) < 1e-5


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_parts_hold_each_position_once_and_zigzag_work_is_even(size: int) -> None:
    length = 48
    for zigzag in (False, True):
        for ulysses in (n for n in (1, 2, 4) if size % n == 0):
            parts = [own_positions(length, r, size, zigzag=zigzag, ulysses=ulysses) for r in range(size)]
            assert sorted(torch.cat(parts).tolist()) == list(range(length))
    part = length // size

    def area(rank: int, zigzag: bool) -> int:
        pairs = 0
        for source in range(size):
            for rows, keys, same in _tasks(rank, source, part, True, zigzag):
                n, m = rows.stop - rows.start, keys.stop - keys.start
                pairs += n * (n + 1) // 2 if same else n * m
        return pairs

    for zigzag in (False, True):
        assert sum(area(r, zigzag) for r in range(size)) == length * (length + 1) // 2
    even = {area(r, True) for r in range(size)}
    assert len(even) == 1
    if size == 4:
        # As counted by hand for 64 positions: 520 each, and 136, 392, 648, 904 in order.
        length, part = 64, 16
        assert [area(r, True) for r in range(4)] == [520] * 4
        assert [area(r, False) for r in range(4)] == [136, 392, 648, 904]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(KernelError, match="50 positions do not split into 8 pieces; pad to 56"):
        own_positions(50, 0, 4, zigzag=True)
    with pytest.raises(KernelError, match="ulysses = 3 does not divide 4"):
        own_positions(48, 0, 4, ulysses=3)
    q = torch.zeros(1, 2, 5, 4)
    with pytest.raises(KernelError, match="a zigzag part has two pieces"):
        ring_attention(q, q, q, ranks=Ranks(), causal=True, zigzag=True)
    with pytest.raises(KernelError, match="5 queries and 3 keys"):
        ring_attention(q, q[:, :, :3], q[:, :, :3], ranks=Ranks())
    ranks = Ranks()
    ranks.size = 4
    with pytest.raises(KernelError, match="4 processes do not divide 2 heads"):
        ulysses_attention(q, q, q, ranks=ranks)
    wide = torch.zeros(1, 4, 5, 4)
    with pytest.raises(KernelError, match="log_decay has a value for each of the 4 heads"):
        ulysses_attention(wide, wide, wide, ranks=ranks, method="lightning", causal=True, log_decay=[-0.1] * 4)
