"""Splitting model-wide vectors into heads."""

from __future__ import annotations

from torch import Tensor

__all__ = ["split_heads"]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, heads * D) to (B, heads, L, D)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
