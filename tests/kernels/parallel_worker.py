"""One of several gloo processes that hold parts of a sequence: computes every strategy and saves what it has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.parallel import (
    Ranks,
    own_positions,
    parallel_lightning,
    parallel_sliding_window,
    ring_attention,
    two_dimensional_attention,
    ulysses_attention,
)

Run = Callable[..., Tensor]
Made = tuple[Run, Tensor, list[Ranks]]

BATCH, HEADS, KEY_HEADS, LENGTH, SIZE, VALUE_SIZE = 2, 4, 2, 48, 8, 6
MASKS: dict[str, bool] = {"ring masked": True, "ulysses masked": True, "window masked": True, "lightning masked": True}


def inputs() -> tuple[list[Tensor], Tensor, Tensor]:
    """q, k, v in float32, a mask, and the weight of the outputs."""
    g = torch.Generator().manual_seed(3)
    q = torch.randn(BATCH, HEADS, LENGTH, SIZE, generator=g)
    k = torch.randn(BATCH, KEY_HEADS, LENGTH, SIZE, generator=g)
    v = torch.randn(BATCH, KEY_HEADS, LENGTH, VALUE_SIZE, generator=g)
    mask = torch.rand(BATCH, LENGTH, generator=g) < 0.7
    return [q, k, v], mask, torch.randn(BATCH, HEADS, LENGTH, VALUE_SIZE, generator=g)


def strategies(
    ranks: Ranks, columns: Ranks | None, rows: Ranks | None
) -> dict[str, tuple[Run, dict[str, Any], Tensor]]:
    """By name: what is called, its options, and the positions that this process holds."""
    here, size = ranks.rank, ranks.size
    straight = own_positions(LENGTH, here, size)
    zigzag = own_positions(LENGTH, here, size, zigzag=True)
    found: dict[str, tuple[Run, dict[str, Any], Tensor]] = {
        "ring": (ring_attention, {"ranks": ranks}, straight),
        "ring masked": (ring_attention, {"ranks": ranks}, straight),
        "ring causal": (ring_attention, {"ranks": ranks, "causal": True}, straight),
        "zigzag causal": (ring_attention, {"ranks": ranks, "causal": True, "zigzag": True}, zigzag),
        "ulysses": (ulysses_attention, {"ranks": ranks}, straight),
        "ulysses causal": (ulysses_attention, {"ranks": ranks, "causal": True}, straight),
        "ulysses masked": (ulysses_attention, {"ranks": ranks, "causal": True}, straight),
        "ulysses mala": (ulysses_attention, {"ranks": ranks, "method": "mala", "causal": True}, straight),
        "lightning": (parallel_lightning, {"ranks": ranks}, straight),
        "lightning masked": (parallel_lightning, {"ranks": ranks, "log_decay": -0.2, "scale": 0.5}, straight),
        "window": (parallel_sliding_window, {"ranks": ranks, "window": 7}, straight),
        "window causal": (parallel_sliding_window, {"ranks": ranks, "window": 31, "causal": True}, straight),
        "window masked": (parallel_sliding_window, {"ranks": ranks, "window": 20}, straight),
    }
    if columns is not None and rows is not None:
        for name, how in (("2-D", {}), ("2-D causal", {"causal": True, "zigzag": True})):
            at = own_positions(LENGTH, here, size, zigzag=bool(how), ulysses=columns.size)
            found[name] = (two_dimensional_attention, {"heads": columns, "ring": rows, **how}, at)
    return found


def compute(ranks: Ranks, columns: Ranks | None, rows: Ranks | None) -> dict[str, dict[str, Any]]:
    """Of every strategy the own positions, output, gradients, and bytes sent forward and in all."""
    tensors, mask, weight = inputs()
    found = {}
    for name, (run, how, at) in strategies(ranks, columns, rows).items():
        groups = [g for g in (ranks, columns, rows) if g is not None]
        before = sum(g.sent for g in groups)
        leaves = [x[:, :, at].clone().requires_grad_() for x in tensors]
        out = run(*leaves, key_mask=mask[:, at] if name in MASKS else None, **how)
        forward = sum(g.sent for g in groups) - before
        grads = torch.autograd.grad((out * weight[:, :, at]).sum(), leaves)
        sent = sum(g.sent for g in groups) - before
        found[name] = {"at": at, "results": [out.detach(), *grads], "forward": forward, "sent": sent}
    return found


def main(rank: int, size: int, folder: str) -> None:
    """Join the group by a file in ``folder``, compute, and save to a file of its own."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size, timeout=timedelta(minutes=5)
    )
    columns = rows = None
    if size == 4:
        pairs = [[0, 1], [2, 3], [0, 2], [1, 3]]
        groups = [dist.new_group(pair) for pair in pairs]
        mine = [Ranks(g) for g, pair in zip(groups, pairs, strict=True) if rank in pair]
        columns, rows = mine
    torch.save(compute(Ranks(), columns, rows), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
