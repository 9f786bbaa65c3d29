"""Rows of queries and keys in tiles and blocks, as engine 1 computes them, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.engines.plan import BlockPlan

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How (B, H, L, D) becomes (B R, G * blocks, block, D) and back; R heads share each of the G lists.

    Each of the B R is a problem of its own with the same lists. Keys may have fewer heads, which neighbouring heads of
    queries share: those of a problem, or of a head within it, are found by dividing its number.
    """

    plan: BlockPlan
    lq: int
    lk: int
    heads: int
    key_heads: int

    def _blocked(self, x: Tensor, blocks: int, block: int) -> Tensor:
        pad = blocks * block - x.shape[2]
        if pad:
            x = torch.nn.functional.pad(x, (0, 0, 0, pad))
        lists = x.shape[1] if self.plan.groups > 1 else 1
        # Contiguous, as parts take whole blocks of it by their number.
        return x.reshape(x.shape[0] * x.shape[1] // lists, lists * blocks, block, x.shape[3]).contiguous()

    @property
    def sharing(self) -> int:
        """R, the number of heads that share a list."""
        return self.heads // self.plan.groups

    @property
    def queries_per_key(self) -> int:
        """The number of heads of queries that share a head of keys."""
        return self.heads // self.key_heads

    @property
    def key_blocks(self) -> int:
        """Number of blocks of keys of a head."""
        return -(-self.lk // self.plan.block_k)

    def tile(self, x: Tensor) -> Tensor:
        """Rows of queries, (B, H, Lq, D), in tiles."""
        if self.plan.order is not None:
            x = x.index_select(2, self.plan.order.clamp_min(0))
        return self._blocked(x, self.plan.tiles, self.plan.block_q)

    def untile(self, x: Tensor) -> Tensor:
        """Tiles back to rows, (B, H, Lq, D)."""
        x = x.reshape(x.shape[0] // self.sharing, self.heads, -1, x.shape[3])
        order = self.plan.order
        if order is None:
            return x[:, :, : self.lq]
        real = (order >= 0).nonzero()[:, 0]
        return x.new_empty(x.shape[0], self.heads, self.lq, x.shape[3]).index_copy_(
            2, order[real], x.index_select(2, real)
        )

    def block_keys(self, x: Tensor) -> Tensor:
        """Rows of keys or values, (B, H, Lk, D), in blocks."""
        return self._blocked(x, self.key_blocks, self.plan.block_k)

    def unblock_keys(self, x: Tensor) -> Tensor:
        """Blocks back to rows, (B, H, Lk, D)."""
        lists = self.key_heads if self.plan.groups > 1 else 1
        return x.reshape(x.shape[0] * lists // self.key_heads, self.key_heads, -1, x.shape[3])[:, :, : self.lk]
