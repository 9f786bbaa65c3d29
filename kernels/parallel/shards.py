"""Which positions of a sequence each process holds."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import positive
from kernels.errors import KernelError

__all__ = ["own_positions"]


def own_positions(length: int, rank: int, size: int, *, zigzag: bool = False, ulysses: int = 1) -> Tensor:
    """Positions that a process holds, of shape (length / size,); they index the axis of the length.

    In order, parts lie one after the other. With ``zigzag`` the sequence is cut into twice as many pieces as the ring
    has, and part r has pieces r and the r-th from behind, so that causal work is even. With ``ulysses`` > 1
    neighbouring processes share a part of the ring, each a piece of it in order.

    Raises `KernelError` where the length does not split evenly: pad it at its end (nothing real sees that in a causal
    call; hide it by ``key_mask`` in any other).
    """
    if size % positive("ulysses", ulysses):
        raise KernelError(f"ulysses = {ulysses} does not divide {size} processes")
    ring = size // ulysses
    pieces = size * (2 if zigzag else 1)
    if length % pieces:
        raise KernelError(
            f"{length} positions do not split into {pieces} pieces; pad to {-(-length // pieces) * pieces}"
        )
    at, within = divmod(rank, ulysses)
    all_of = torch.arange(length)
    if zigzag:
        parts = all_of.view(2 * ring, -1)
        part = torch.cat([parts[at], parts[2 * ring - 1 - at]])
    else:
        part = all_of.view(ring, -1)[at]
    return part.view(ulysses, -1)[within]
