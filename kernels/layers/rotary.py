"""Rotary position embeddings: queries and keys are turned by their positions, so that products tell distances."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.autocast import as_declared
from kernels.checks import compute_dtype
from kernels.errors import KernelError

__all__ = ["rotary"]


def rotary(
    x: Tensor, *, positions: Tensor | None = None, offset: int = 0, base: float = 10_000.0, interleaved: bool = False
) -> Tensor:
    """``x`` (B, H, L, D) with pair n of each head turned by position * base^(-2 n / D) (RoPE, arXiv 2104.09864).

    Args:
        x: queries or keys; D is even. For a causal call with fewer queries than keys, queries have offset = Lk - Lq.
        positions: (L,) or (B, L); offset, offset + 1, ... if None.
        offset: the first position, where ``positions`` is None.
        base: larger turns slower.
        interleaved: pairs are neighbours (0, 1), (2, 3), ... as in the paper, instead of the halves (0, D / 2), ...

    Returns:
        As ``x`` in shape and type; angles are float32 (float64 for float64).

    Raises:
        KernelError: for an odd D, or for positions that do not fit.
    """
    if x.ndim != 4 or x.shape[3] % 2:
        raise KernelError(f"x has shape {tuple(x.shape)}, expected (batch, heads, length, an even head size)")
    batch, _, length, d = x.shape
    to = compute_dtype(x)
    if positions is None:
        positions = torch.arange(offset, offset + length, device=x.device)
    elif tuple(positions.shape) not in ((length,), (batch, length)):
        raise KernelError(f"positions has shape {tuple(positions.shape)}, expected {(length,)} or {(batch, length)}")
    rates = base ** (-torch.arange(0, d, 2, device=x.device, dtype=torch.float64) / d)
    # The product in float64: far positions have angles of which float32 would keep few digits.
    angles = (positions.to(torch.float64)[..., None] * rates).view(-1, 1, length, d // 2)
    cos, sin = angles.cos().to(to), angles.sin().to(to)
    with as_declared(x):
        wide = x.to(to)
        a, b = (wide[..., 0::2], wide[..., 1::2]) if interleaved else wide.chunk(2, dim=3)
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=4 if interleaved else 3)
        return turned.flatten(3).to(x.dtype)
