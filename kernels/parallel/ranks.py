"""The processes that share a sequence, what they send each other, and how many bytes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.errors import KernelError
from kernels.once import differentiable_once

__all__ = ["Ranks"]


class Ranks:
    """A group of `torch.distributed` (gloo on CPUs, NCCL on GPUs), or one process alone without any.

    `sent` counts the bytes that this process has sent to others so far, forward and backward.

    Args:
        group: of the process group that was set up; None for all of its processes.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        alone = not dist.is_initialized()
        self.rank = 0 if alone else dist.get_rank(group)
        self.size = 1 if alone else dist.get_world_size(group)
        if self.rank < 0:
            raise KernelError("this process is not in the group")
        self.sent = 0

    def start(self, send: Mapping[int, Sequence[Tensor]], receive: Mapping[int, Sequence[Tensor]]) -> list[dist.Work]:
        """Begin to send tensors to ranks and to fill tensors from ranks; `wait` on each of what comes back."""
        operations = []
        for rank, tensors in sorted(send.items()):
            for x in tensors:
                self.sent += x.numel() * x.element_size()
                operations.append(dist.P2POp(dist.isend, x.contiguous(), self._peer(rank), self.group))
        for rank, tensors in sorted(receive.items()):
            operations += [dist.P2POp(dist.irecv, x, self._peer(rank), self.group) for x in tensors]
        return dist.batch_isend_irecv(operations) if operations else []

    def exchange(self, send: Mapping[int, Sequence[Tensor]], receive: Mapping[int, Sequence[Tensor]]) -> None:
        """Send tensors to ranks and fill tensors from ranks, and wait for both."""
        for work in self.start(send, receive):
            work.wait()

    def all_to_all(self, x: Tensor) -> Tensor:
        """Part n of x (P, ...) goes to rank n; what comes back is the part of every rank, (P, ...). With gradients."""
        if len(x) != self.size:
            raise KernelError(f"{len(x)} parts for {self.size} processes")
        return x if self.size == 1 else cast(Tensor, _AllToAll.apply(x, self))  # type: ignore[no-untyped-call]

    def all_gather(self, x: Tensor) -> Tensor:
        """The x of every rank, (P, ...). Its gradient is the sum over the ranks of what each makes of it."""
        return self.all_to_all(x[None].expand(self.size, *x.shape))

    def _peer(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    ranks: Ranks


class _AllToAll(torch.autograd.Function):
    """Parts to their ranks; their gradients back."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return _swapped(x, ranks)

    @staticmethod
    @differentiable_once
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        return _swapped(gradient, ctx.ranks), None


def _swapped(x: Tensor, ranks: Ranks) -> Tensor:
    found = torch.empty_like(x, memory_format=torch.contiguous_format)
    others = [n for n in range(ranks.size) if n != ranks.rank]
    found[ranks.rank] = x[ranks.rank]
    ranks.exchange({n: [x[n]] for n in others}, {n: [found[n]] for n in others})
    return found
