"""Pieces of the block-sparse Triton kernels: rows of matrices in and out, and the two forms of masks."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["LENGTHS", "form_sees", "load_rows", "packed_bit", "store_rows"]

LENGTHS = (
    *("heads", "lq", "lk", "tiles", "blocks", "offset", "lift", "near", "first", "parts", "chunks"),
    *("splits", "problems"),
)
"""Arguments that Triton would compile anew for, were they 1 or a multiple of 16."""


@triton.jit
def load_rows(
    base, rows, stride_l, stride_d, last, SIZE: tl.constexpr, BLOCK: tl.constexpr, BOUNDED: tl.constexpr
):  # fmt: skip
    """Rows x BLOCK of a matrix; 0 from row ``last`` on if BOUNDED, and from column SIZE on."""
    d = tl.arange(0, BLOCK)
    at = base + rows[:, None] * stride_l + d[None, :] * stride_d
    if BOUNDED:
        x = tl.load(at, mask=(rows < last)[:, None] & (d < SIZE)[None, :], other=0.0)
    elif SIZE == BLOCK:
        x = tl.load(at)
    else:
        x = tl.load(at, mask=(d < SIZE)[None, :], other=0.0)
    return x


@triton.jit
def store_rows(
    base, x, rows, stride_l, stride_d, last, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The reverse of `load_rows`, in the type of the target."""
    d = tl.arange(0, BLOCK)
    at = base + rows[:, None] * stride_l + d[None, :] * stride_d
    tl.store(at, x.to(base.dtype.element_ty), mask=(rows < last)[:, None] & (d < SIZE)[None, :])


@triton.jit
def form_sees(
    i, j, lift, near, first, CAUSAL: tl.constexpr, UNIT: tl.constexpr, POWERS: tl.constexpr,
):  # fmt: skip
    """A `Form` for broadcastable positions; ``lift`` makes negative query positions divide as positive ones do."""
    if UNIT == 1:
        bj = j
        apart = i - j
    else:
        bj = j // UNIT
        apart = (i + lift) // UNIT - lift // UNIT - bj
    if not CAUSAL:
        apart = tl.abs(apart)
    seen = (apart < near) | (bj < first)
    if POWERS:
        seen = seen | ((apart & (apart - 1)) == 0)
    if CAUSAL:
        seen = seen & (j <= i)
    return seen


@triton.jit
def packed_bit(BITS, entry, r, c, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The packed mask of a partial block at its rows r and columns c, broadcastable."""
    word = tl.load(BITS + tl.cast(entry, tl.int64) * (BLOCK_M * (BLOCK_N // 32)) + r * (BLOCK_N // 32) + c // 32)
    return ((word >> (c % 32)) & 1) != 0
