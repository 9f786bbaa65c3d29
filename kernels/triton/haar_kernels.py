"""Features of WERSA in Triton, forward and backward. Importing this module imports Triton.

The transform along the sequence is a matrix product within a chunk: row t of the matrix has step_l(t) / 2^l in the
columns over which level l takes its mean, the last 2^l positions (causal) or the aligned block of 2^l that holds t. A
causal row reaches at most 2^J - 1 positions back, into the HALO rows before the chunk; what lies before the start
counts as the first row, so that the column of that row has what all of them would have.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton.linear_scan_pieces import LENGTHS, dot, kept, operand, rows_of

__all__ = ["features", "features_backward", "weight_grads"]


@triton.jit
def _taken(t, s, LEVEL: tl.constexpr, CAUSAL: tl.constexpr):
    """How often level l of row t takes the value of position s, as float32; t and s broadcastable."""
    if CAUSAL:
        n = ((t - s >= 0) & (t - s < (1 << LEVEL)) & (s > 0)).to(tl.float32)
        n += tl.where(s == 0, tl.maximum((1 << LEVEL) - t, 0), 0).to(tl.float32)
    else:
        n = ((t >> LEVEL) == (s >> LEVEL)).to(tl.float32)
    return n


@triton.jit
def _mixing(STEPS, t, s, length, stride_sl, LEVELS: tl.constexpr, CAUSAL: tl.constexpr):
    """The matrix of rows t and columns s; 0 in rows and columns that are not there."""
    w = tl.zeros([t.shape[0], s.shape[0]], dtype=tl.float32)
    for level in tl.static_range(LEVELS + 1):
        step = tl.load(STEPS + t * stride_sl + level, mask=t < length, other=0.0)
        w += (step * (1.0 / (1 << level)))[:, None] * _taken(t[:, None], s[None, :], level, CAUSAL)
    return tl.where((s >= 0)[None, :], w, 0.0)


@triton.jit
def _close(x, y, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """The product of x and y to 16 bits at least, for inputs of any type.

    Rounded to half types, one feature in some hundreds would have the wrong sign and so the wrong slope, which is an
    error of several percent in the gradients.
    """
    if OPERAND == "fp32":
        z = tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="tf32x3" if PRECISION == "tf32" else PRECISION)
    else:
        x_high, y_high = operand(x, OPERAND), operand(y, OPERAND)
        x_low = x.to(tl.float32) - x_high.to(tl.float32)
        z = tl.dot(operand(x_low, OPERAND), y_high) + tl.dot(x_high, y_high)
        if y.dtype == tl.float32:
            z += tl.dot(x_high, operand(y - y_high.to(tl.float32), OPERAND))
    return z


@triton.jit
def _shown(KEYS, rows, length, HAS_KEYS: tl.constexpr):
    """Which rows are there and visible."""
    shown = (rows >= 0) & (rows < length)
    if HAS_KEYS:
        shown = shown & (tl.load(KEYS + rows, mask=shown, other=0) != 0)
    return shown


@triton.jit(do_not_specialize=LENGTHS)
def features(
    X, KEYS, STEPS, W, F, stride_xb, stride_xh, stride_xl, stride_xd, stride_sb, stride_sl, heads, length, runs, parts,
    D: tl.constexpr, M: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr,
    HALO: tl.constexpr, PER: tl.constexpr, LEVELS: tl.constexpr, HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    HOLD: tl.constexpr, PIECE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One part of the columns of relu((A x) W) of a run of PER chunks of rows, 0 for hidden rows.

    F (B, H, length, M) is contiguous. W is read once if HOLD. Where products read operands from registers it would fill
    them, and PIECE columns of x are taken at a time, with rows of W read for every chunk.
    """
    pid = tl.program_id(0)
    part, run, bh = pid % parts, pid // parts % runs, pid // parts // runs
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    X += b * stride_xb + h * stride_xh
    STEPS += b * stride_sb
    F += bh.to(tl.int64) * length * M
    if HAS_KEYS:
        KEYS += b * length
    m = part * BLOCK_M + tl.arange(0, BLOCK_M)
    if HOLD:
        w = _piece(W, 0, part * BLOCK_M, D, M, PIECE, BLOCK_M)
    begin = run * PER * CHUNK
    for start in range(begin, tl.minimum(begin + PER * CHUNK, length), CHUNK):
        t = start + tl.arange(0, CHUNK)
        shown = _shown(KEYS, t, length, HAS_KEYS)
        own = _mixing(STEPS, t, t, length, stride_sl, LEVELS, CAUSAL)
        if CAUSAL:
            s = start - HALO + tl.arange(0, HALO)
            shown_before = _shown(KEYS, s, length, HAS_KEYS)
            before = _mixing(STEPS, t, s, length, stride_sl, LEVELS, CAUSAL)
        f = tl.zeros([CHUNK, BLOCK_M], dtype=tl.float32)
        for first in range(0, D, PIECE):
            x = rows_of(X, t, shown, stride_xl, stride_xd, first, D, PIECE)
            y = _close(own, x, OPERAND, PRECISION)
            if CAUSAL:
                x = rows_of(X, s, shown_before, stride_xl, stride_xd, first, D, PIECE)
                y += _close(before, x, OPERAND, PRECISION)
            if not HOLD:
                w = _piece(W, first, part * BLOCK_M, D, M, PIECE, BLOCK_M)
            f += _close(y, w, OPERAND, PRECISION)
        f = tl.where(shown[:, None], tl.maximum(f, 0.0), 0.0)
        to = F + t.to(tl.int64)[:, None] * M + m[None, :]
        tl.store(to, kept(f, F, OPERAND), mask=(t < length)[:, None] & (m < M)[None, :])


@triton.jit
def _piece(W, row, column, D: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A piece of W, 0 beyond its ends."""
    d, m = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    return tl.load(W + d[:, None] * M + m[None, :], mask=(d < D)[:, None] & (m < M)[None, :], other=0.0)


@triton.jit
def _passed(F, DF, rows, length, stride_gl, stride_gd, first, M: tl.constexpr, BLOCK_M: tl.constexpr):
    """Gradients of columns of the projection from ``first`` on: where a feature is 0 nothing passes."""
    there = rows < length
    df = rows_of(DF, rows, there, stride_gl, stride_gd, first, M, BLOCK_M)
    return tl.where(rows_of(F, rows, there, M, 1, first, M, BLOCK_M) > 0, df, 0.0)


@triton.jit(do_not_specialize=LENGTHS)
def features_backward(
    X, KEYS, STEPS, W, F, DF, DX, DSTEPS, stride_xb, stride_xh, stride_xl, stride_xd, stride_gb, stride_gh,
    stride_gl, stride_gd, stride_sb, stride_sl, heads, length, runs, D: tl.constexpr, M: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr, HALO: tl.constexpr, PER: tl.constexpr,
    LEVELS: tl.constexpr, HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr, NEED_STEPS: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of x, and of the steps of each row and head."""
    pid = tl.program_id(0)
    run, bh = pid % runs, pid // runs
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    X += b * stride_xb + h * stride_xh
    DF += b * stride_gb + h * stride_gh
    STEPS += b * stride_sb
    F += bh.to(tl.int64) * length * M
    DX += bh.to(tl.int64) * length * D
    DSTEPS += bh.to(tl.int64) * length * (LEVELS + 1)
    if HAS_KEYS:
        KEYS += b * length
    d = tl.arange(0, BLOCK_D)
    begin = run * PER * CHUNK
    for start in range(begin, tl.minimum(begin + PER * CHUNK, length), CHUNK):
        t, t_next = start + tl.arange(0, CHUNK), start + CHUNK + tl.arange(0, HALO)
        there = t < length
        dy = tl.zeros([CHUNK, BLOCK_D], dtype=tl.float32)
        dy_next = tl.zeros([HALO, BLOCK_D], dtype=tl.float32)
        for first in range(0, M, BLOCK_M):
            # Read anew for every chunk: as it stands in a cache near by, it need not fill registers.
            w = _piece(W, 0, first, D, M, BLOCK_D, BLOCK_M)
            dp = _passed(F, DF, t, length, stride_gl, stride_gd, first, M, BLOCK_M)
            dy += dot(dp, tl.trans(w), OPERAND, PRECISION)
            if CAUSAL:
                dp = _passed(F, DF, t_next, length, stride_gl, stride_gd, first, M, BLOCK_M)
                dy_next += dot(dp, tl.trans(w), OPERAND, PRECISION)
        own = _mixing(STEPS, t, t, length, stride_sl, LEVELS, CAUSAL)
        dx = dot(tl.trans(own), dy, OPERAND, PRECISION)
        shown = _shown(KEYS, t, length, HAS_KEYS)
        if CAUSAL:
            reach = _mixing(STEPS, t_next, t, length, stride_sl, LEVELS, CAUSAL)
            dx += dot(tl.trans(reach), dy_next, OPERAND, PRECISION)
        to = DX + t.to(tl.int64)[:, None] * D + d[None, :]
        dx = tl.where(shown[:, None], dx, 0.0)
        tl.store(to, kept(dx, DX, OPERAND), mask=there[:, None] & (d < D)[None, :])
        if NEED_STEPS:
            x = rows_of(X, t, shown, stride_xl, stride_xd, 0, D, BLOCK_D)
            along = dot(dy, tl.trans(x), OPERAND, PRECISION)
            s = start - HALO + tl.arange(0, HALO)
            if CAUSAL:
                before = rows_of(X, s, _shown(KEYS, s, length, HAS_KEYS), stride_xl, stride_xd, 0, D, BLOCK_D)
                back = dot(dy, tl.trans(before), OPERAND, PRECISION)
            for level in tl.static_range(LEVELS + 1):
                found = tl.sum(along * _taken(t[:, None], t[None, :], level, CAUSAL), 1)
                if CAUSAL:
                    n = tl.where((s >= 0)[None, :], _taken(t[:, None], s[None, :], level, CAUSAL), 0.0)
                    found += tl.sum(back * n, 1)
                found = found * (1.0 / (1 << level))
                tl.store(DSTEPS + t.to(tl.int64) * (LEVELS + 1) + level, found, mask=there)


@triton.jit(do_not_specialize=LENGTHS)
def weight_grads(
    X, KEYS, STEPS, F, DF, DW, stride_xb, stride_xh, stride_xl, stride_xd, stride_gb, stride_gh, stride_gl, stride_gd,
    stride_sb, stride_sl, heads, length, runs, parts, D: tl.constexpr, M: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, CHUNK: tl.constexpr, HALO: tl.constexpr, PER: tl.constexpr, LEVELS: tl.constexpr,
    HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one part of the columns of W as one run of PER chunks gives them."""
    pid = tl.program_id(0)
    part, run, bh = pid % parts, pid // parts % runs, pid // parts // runs
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    X += b * stride_xb + h * stride_xh
    DF += b * stride_gb + h * stride_gh
    STEPS += b * stride_sb
    F += bh.to(tl.int64) * length * M
    if HAS_KEYS:
        KEYS += b * length
    d, m = tl.arange(0, BLOCK_D), part * BLOCK_M + tl.arange(0, BLOCK_M)
    dw = tl.zeros([BLOCK_D, BLOCK_M], dtype=tl.float32)
    begin = run * PER * CHUNK
    for start in range(begin, tl.minimum(begin + PER * CHUNK, length), CHUNK):
        t = start + tl.arange(0, CHUNK)
        x = rows_of(X, t, _shown(KEYS, t, length, HAS_KEYS), stride_xl, stride_xd, 0, D, BLOCK_D)
        y = dot(_mixing(STEPS, t, t, length, stride_sl, LEVELS, CAUSAL), x, OPERAND, PRECISION)
        if CAUSAL:
            s = start - HALO + tl.arange(0, HALO)
            x = rows_of(X, s, _shown(KEYS, s, length, HAS_KEYS), stride_xl, stride_xd, 0, D, BLOCK_D)
            y += dot(_mixing(STEPS, t, s, length, stride_sl, LEVELS, CAUSAL), x, OPERAND, PRECISION)
        dp = _passed(F, DF, t, length, stride_gl, stride_gd, part * BLOCK_M, M, BLOCK_M)
        dw += dot(tl.trans(y), dp, OPERAND, PRECISION)
    to = DW + (pid // parts).to(tl.int64) * (D * M) + d[:, None] * M + m[None, :]
    tl.store(to, dw, mask=(d < D)[:, None] & (m < M)[None, :])
