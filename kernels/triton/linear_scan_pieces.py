"""Pieces of the linear-scan Triton kernels: rows in, operands of products, powers of the decay, factors of rows.

A row i of the output is a_i (N_i + beta_i V_i) with N_i the sum over the visible keys of their scores times values, T_i
that of their scores and V_i that of their values. KIND says how a and beta follow from T_i and the number n_i of keys:

    0 plain        a = scale                             beta = 0
    1 normalised   a = 1 / (T + EPS)                     beta = 0
    2 mala, code   a = c + c / (c T + EPS), c = scale/n  a beta = -c T / n
    3 mala         the same with c = scale
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "LENGTHS",
    "apart",
    "decayed",
    "dot",
    "is_first",
    "kept",
    "keys_of",
    "operand",
    "queries_of",
    "row_factors",
    "rows_of",
    "shown_keys",
    "state_at",
    "whole",
]

LENGTHS = ("heads", "lq", "lk", "length", "before", "first", "segments", "slots", "runs", "stride_cb", "stride_sb")
"""Arguments that Triton would compile anew for, were they 1 or a multiple of 16."""


@triton.jit
def operand(x, OPERAND: tl.constexpr):
    """``x`` as products take it; "rounded" is what bfloat16 does where products of that type are wrong."""
    if OPERAND == "bf16":
        y = x.to(tl.bfloat16)
    elif OPERAND == "rounded":
        # To the nearest, as GPUs do; the interpreter would cut digits off.
        y = x.to(tl.float32).to(tl.int32, bitcast=True)
        y = ((y + 0x7FFF + ((y >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    else:
        y = x.to(tl.float32)
    return y


@triton.jit
def dot(x, y, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """X y in float32."""
    return tl.dot(operand(x, OPERAND), operand(y, OPERAND), input_precision=PRECISION)


@triton.jit
def kept(x, BASE, OPERAND: tl.constexpr):
    """``x`` in the type that BASE points to, rounded to the nearest in the interpreter too."""
    if OPERAND == "rounded" and BASE.dtype.element_ty == tl.bfloat16:
        x = operand(x, OPERAND)
    return x.to(BASE.dtype.element_ty)


@triton.jit
def rows_of(base, rows, shown, stride_l, stride_d, first, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK columns from ``first`` on of some rows of a matrix; 0 where they are not ``shown`` or not there."""
    d = first + tl.arange(0, BLOCK)
    at = base + rows.to(tl.int64)[:, None] * stride_l + d[None, :] * stride_d
    return tl.load(at, mask=shown[:, None] & (d < SIZE)[None, :], other=0.0)


@triton.jit
def _mapped(x, shown, first, FEATURE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, OPERAND: tl.constexpr):
    """The feature map of rows, ELU + 1 or none, as products take it; 0 stays where nothing is shown."""
    if FEATURE == "elu":
        x = x.to(tl.float32)
        there = shown[:, None] & (first + tl.arange(0, BLOCK) < SIZE)[None, :]
        x = tl.where(there, tl.where(x > 0, x + 1.0, tl.exp(tl.minimum(x, 0.0))), 0.0)
    return operand(x, OPERAND)


@triton.jit
def queries_of(
    Q, rows, lq, stride_l, stride_d, first, D: tl.constexpr, BLOCK_D: tl.constexpr, FEATURE: tl.constexpr,
    OPERAND: tl.constexpr,
):  # fmt: skip
    """Features of rows of the queries from column ``first`` on, 0 outside of them."""
    shown = (rows >= 0) & (rows < lq)
    x = rows_of(Q, rows, shown, stride_l, stride_d, first, D, BLOCK_D)
    return _mapped(x, shown, first, FEATURE, D, BLOCK_D, OPERAND)


@triton.jit
def shown_keys(KEYS, rows, lk, HAS_KEYS: tl.constexpr):
    """Which rows of the keys are there and visible."""
    shown = rows < lk
    if HAS_KEYS:
        shown = shown & (tl.load(KEYS + rows, mask=shown, other=0) != 0)
    return shown


@triton.jit
def keys_of(
    K, shown, rows, stride_l, stride_d, first, D: tl.constexpr, BLOCK_D: tl.constexpr, FEATURE: tl.constexpr,
    OPERAND: tl.constexpr,
):  # fmt: skip
    """Features of rows of the keys from column ``first`` on, 0 for those that are not ``shown``."""
    x = rows_of(K, rows, shown, stride_l, stride_d, first, D, BLOCK_D)
    return _mapped(x, shown, first, FEATURE, D, BLOCK_D, OPERAND)


@triton.jit
def apart(s, log_decay, CHUNK: tl.constexpr, HAS_DECAY: tl.constexpr):
    """Scores of a chunk with themselves times lambda^(i - j) where j is not behind i, else 0."""
    r = tl.arange(0, CHUNK)
    ago = r[:, None] - r[None, :]
    if HAS_DECAY:
        s = s * tl.exp2(log_decay * tl.maximum(ago, 0).to(tl.float32))
    return tl.where(ago >= 0, s, 0.0)


@triton.jit
def decayed(x, steps, log_decay, HAS_DECAY: tl.constexpr):
    """Rows of ``x`` times lambda^steps, float32 then; steps below 0, of rows that are not there, count as 0."""
    if HAS_DECAY:
        x = x.to(tl.float32) * tl.exp2(log_decay * tl.maximum(steps, 0).to(tl.float32))[:, None]
    return x


@triton.jit
def whole(x, steps, log_decay, HAS_DECAY: tl.constexpr):
    """A state times lambda^steps."""
    if HAS_DECAY:
        x = x * tl.exp2(log_decay * steps.to(tl.float32))
    return x


@triton.jit
def row_factors(total, COUNTS, at, there, stride_cl, scale, KIND: tl.constexpr, EPS: tl.constexpr):
    """A and beta of rows at the positions ``at`` of the counts; 0 for mala's rows that see nothing."""
    beta = tl.zeros_like(total)
    a = beta + scale
    if KIND == 1:
        a = 1.0 / (total + EPS)
    if KIND >= 2:
        n = tl.load(COUNTS + at * stride_cl, mask=there, other=0).to(tl.float32)
        most = tl.maximum(n, 1.0)
        c = a
        if KIND == 2:
            c = scale / most
        a = c + c / (c * total + EPS)
        beta = tl.where(n > 0, -c * total / most / a, 0.0)
        a = tl.where(n > 0, a, 0.0)
    return a, beta


@triton.jit
def state_at(
    base, first_d, first_dv, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Addresses and masks of the three parts of a state: (D, DV) matrix, D sums of keys, DV sums of values.

    Of all three what begins at row ``first_d`` and column ``first_dv`` of the matrix.
    """
    d = first_d + tl.arange(0, BLOCK_D)
    e = first_dv + tl.arange(0, BLOCK_DV)
    matrix = base + d[:, None] * DV + e[None, :]
    there = (d < D)[:, None] & (e < DV)[None, :]
    return matrix, there, base + D * DV + d, d < D, base + D * DV + D + e, e < DV


@triton.jit
def is_first(part, SIZE: tl.constexpr):
    """Whether this is the first part of the columns, which alone does what is not about values; a mask of SIZE."""
    return tl.zeros([SIZE], dtype=tl.int32) + part == 0
