"""Engine 1 in Triton where the keys of a tile are listed one by one (grids). Importing this module imports Triton.

A tile of queries gathers its rows and, in chunks, its keys by index; the mask has one bit per query and listed key.
The same key may be listed several times. The gradients of keys, values and bias are added up by atomic operations in
float32, so that they may differ in the last digits from one call to the next.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton.block_sparse_pieces import LENGTHS, packed_bit

__all__ = ["backward", "forward"]


@triton.jit
def _gather(base, rows, stride_l, stride_d, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """The rows of a matrix at the indices ``rows``, 0 where those are negative."""
    d = tl.arange(0, BLOCK)
    at = base + rows.to(tl.int64)[:, None] * stride_l + d[None, :] * stride_d
    return tl.load(at, mask=(rows >= 0)[:, None] & (d < SIZE)[None, :], other=0.0)


@triton.jit
def _scores(
    q, k, cols, KEYS, BIAS, BITS, tile, chunk, chunks, row, bias_rows, bias_cols, scale, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, HAS_KEYS: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Masked scores in log2 of a tile and one chunk of its listed keys."""
    r, c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if HAS_BIAS:
        at = chunk * BLOCK_N + c
        inside = (row < bias_rows)[:, None] & (at < bias_cols)[None, :]
        bias = tl.load(BIAS + row[:, None] * bias_cols + at[None, :], mask=inside, other=0.0)
        s += bias * 1.4426950408889634
    s = tl.where(packed_bit(BITS, tile * chunks + chunk, r[:, None], c[None, :], BLOCK_M, BLOCK_N), s, float("-inf"))
    if HAS_KEYS:
        shown = tl.load(KEYS + cols, mask=cols >= 0, other=0)
        s = tl.where((shown != 0)[None, :], s, float("-inf"))
    return s


@triton.jit(do_not_specialize=LENGTHS)
def forward(
    Q, K, V, KEYS, BIAS, O, LSE, ROWS, COLS, BITS, stride_qb, stride_qh, stride_ql, stride_qd, stride_kb, stride_kh,
    stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd, stride_biash, heads, share, lq, lk, tiles,
    parts, chunks, bias_rows, bias_cols, scale, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, HAS_KEYS: tl.constexpr,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Output and natural log-sum-exp of the rows of one tile; ``parts`` tiles in a row share one list of keys."""
    pid = tl.program_id(0)
    tile, bh = pid % tiles, pid // tiles
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    K += b * stride_kb + h // share * stride_kh
    V += b * stride_vb + h // share * stride_vh
    if HAS_KEYS:
        KEYS += b * lk
    if HAS_BIAS:
        BIAS += h * stride_biash
    r, c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    rows = tl.load(ROWS + tile * BLOCK_M + r)
    row = (tile % parts) * BLOCK_M + r
    q = _gather(Q + b * stride_qb + h * stride_qh, rows, stride_ql, stride_qd, D, BLOCK_D)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], dtype=tl.float32)
    m = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    l = tl.zeros([BLOCK_M], dtype=tl.float32)
    listed = COLS + (tile // parts) * chunks * BLOCK_N
    for chunk in range(chunks):
        cols = tl.load(listed + chunk * BLOCK_N + c)
        k = _gather(K, cols, stride_kl, stride_kd, D, BLOCK_D)
        s = _scores(
            q, k, cols, KEYS, BIAS, BITS, tile, chunk, chunks, row, bias_rows, bias_cols, scale, BLOCK_M, BLOCK_N,
            HAS_KEYS, HAS_BIAS, PRECISION,
        )  # fmt: skip
        new = tl.maximum(m, tl.max(s, 1))
        top = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp2(s - top[:, None])
        shrink = tl.exp2(m - top)
        v = _gather(V, cols, stride_vl, stride_vd, DV, BLOCK_DV)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
        l = l * shrink + tl.sum(p, 1)
        m = new
    some = l > 0
    l = tl.where(some, l, 1.0)
    d = tl.arange(0, BLOCK_DV)
    into = bh.to(tl.int64) * lq + rows
    at = O + into[:, None] * DV + d[None, :]
    tl.store(at, (acc / l[:, None]).to(O.dtype.element_ty), mask=(rows >= 0)[:, None] & (d < DV)[None, :])
    lse = tl.where(some, (m + tl.log2(l)) * 0.6931471805599453, float("-inf"))
    tl.store(LSE + into, lse, mask=rows >= 0)


@triton.jit(do_not_specialize=LENGTHS)
def backward(
    Q, K, V, KEYS, BIAS, O, DO, LSE, DLSE, DQ, DK, DV_, DBIAS, ROWS, COLS, BITS, stride_qb, stride_qh, stride_ql,
    stride_qd, stride_kb, stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd, stride_gb,
    stride_gh, stride_gl, stride_gd, stride_biash, heads, share, lq, lk, tiles, parts, chunks, bias_rows, bias_cols,
    scale,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, HAS_KEYS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_DLSE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """All gradients of one tile; DK, DV_ (B, heads of keys, Lk, .) and DBIAS are float32 and start at zero."""
    pid = tl.program_id(0)
    tile, bh = pid % tiles, pid // tiles
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    K += b * stride_kb + h // share * stride_kh
    V += b * stride_vb + h // share * stride_vh
    # The heads of all sequences are counted through, and so are those of keys that they share.
    DK += bh.to(tl.int64) // share * lk * D
    DV_ += bh.to(tl.int64) // share * lk * DV
    if HAS_KEYS:
        KEYS += b * lk
    if HAS_BIAS:
        BIAS += h * stride_biash
        DBIAS += h * stride_biash
    r, c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    d, dv = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    rows = tl.load(ROWS + tile * BLOCK_M + r)
    row = (tile % parts) * BLOCK_M + r
    from_ = bh.to(tl.int64) * lq + rows
    q = _gather(Q + b * stride_qb + h * stride_qh, rows, stride_ql, stride_qd, D, BLOCK_D)
    do = _gather(DO + b * stride_gb + h * stride_gh, rows, stride_gl, stride_gd, DV, BLOCK_DV)
    o = _gather(O + bh.to(tl.int64) * lq * DV, rows, DV, 1, DV, BLOCK_DV)
    lse = tl.load(LSE + from_, mask=rows >= 0, other=float("-inf"))
    empty = lse == float("-inf")
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    if HAS_DLSE:
        delta -= tl.where(empty, 0.0, tl.load(DLSE + from_, mask=rows >= 0, other=0.0))
    lse = tl.where(empty, float("inf"), lse * 1.4426950408889634)
    dq = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    natural = scale * 0.6931471805599453
    listed = COLS + (tile // parts) * chunks * BLOCK_N
    for chunk in range(chunks):
        cols = tl.load(listed + chunk * BLOCK_N + c)
        k = _gather(K, cols, stride_kl, stride_kd, D, BLOCK_D)
        v = _gather(V, cols, stride_vl, stride_vd, DV, BLOCK_DV)
        s = _scores(
            q, k, cols, KEYS, BIAS, BITS, tile, chunk, chunks, row, bias_rows, bias_cols, scale, BLOCK_M, BLOCK_N,
            HAS_KEYS, HAS_BIAS, PRECISION,
        )  # fmt: skip
        p = tl.exp2(s - lse[:, None])
        ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
        dk_part = tl.dot(tl.trans(ds).to(q.dtype), q, input_precision=PRECISION) * natural
        dv_part = tl.dot(tl.trans(p).to(do.dtype), do, input_precision=PRECISION)
        real = (cols >= 0)[:, None]
        into = cols.to(tl.int64)[:, None]
        tl.atomic_add(DK + into * D + d[None, :], dk_part, mask=real & (d < D)[None, :], sem="relaxed")
        tl.atomic_add(DV_ + into * DV + dv[None, :], dv_part, mask=real & (dv < DV)[None, :], sem="relaxed")
        if HAS_BIAS:
            at = chunk * BLOCK_N + c
            inside = (row < bias_rows)[:, None] & (at < bias_cols)[None, :]
            tl.atomic_add(DBIAS + row[:, None] * bias_cols + at[None, :], ds, mask=inside, sem="relaxed")
    at = DQ + from_[:, None] * D + d[None, :]
    tl.store(at, (dq * natural).to(DQ.dtype.element_ty), mask=(rows >= 0)[:, None] & (d < D)[None, :])
