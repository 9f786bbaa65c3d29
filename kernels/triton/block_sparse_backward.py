"""Engine 1 in Triton, backward. Importing this module imports Triton.

`query_grads` walks the lists of a tile of queries, as the forward pass does; `key_grads` walks the transposed lists of
a block of keys. Both compute the weights anew from the log-sum-exp, so that nothing is added up by several programs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton.block_sparse_pieces import LENGTHS, form_sees, load_rows, packed_bit, store_rows

__all__ = ["key_grads", "query_grads"]


@triton.jit
def _weights(
    q, k, lse, KEYS, BITS, entry, tile, block, lk, offset, lift, near, first, scale, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, PARTIAL: tl.constexpr, USE_BITS: tl.constexpr, HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    UNIT: tl.constexpr, POWERS: tl.constexpr, PRECISION: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """The weights of a tile on a block of keys, queries x keys, or keys x queries if TURNED; ``lse`` in log2."""
    r, c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    if TURNED:
        s = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
        r, c, lse = r[None, :], c[:, None], lse[None, :]
    else:
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        r, c, lse = r[:, None], c[None, :], lse[:, None]
    left = lk - block * BLOCK_N
    if PARTIAL:
        if USE_BITS:
            seen = packed_bit(BITS, entry, r, c, BLOCK_M, BLOCK_N)
        else:
            i, j = tile * BLOCK_M + r + offset, block * BLOCK_N + c
            seen = form_sees(i, j, lift, near, first, CAUSAL, UNIT, POWERS) & (c < left)
        s = tl.where(seen, s, float("-inf"))
    if HAS_KEYS:
        shown = tl.load(KEYS + block.to(tl.int64) * BLOCK_N + c, mask=c < left, other=0)
        s = tl.where(shown != 0, s, float("-inf"))
    return tl.exp2(s - lse)


@triton.jit
def _query_grad(
    dq, q, do, lse, delta, K, V, KEYS, BITS, entry, tile, block, stride_kl, stride_kd, stride_vl, stride_vd, lk,
    offset, lift, near, first, scale, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PARTIAL: tl.constexpr, USE_BITS: tl.constexpr,
    HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr, UNIT: tl.constexpr, POWERS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``dq`` with the part of one block of keys, still to be multiplied by the scale."""
    c = tl.arange(0, BLOCK_N)
    start = block.to(tl.int64) * BLOCK_N
    left = lk - block * BLOCK_N
    k = load_rows(K + start * stride_kl, c, stride_kl, stride_kd, left, D, BLOCK_D, PARTIAL)
    v = load_rows(V + start * stride_vl, c, stride_vl, stride_vd, left, DV, BLOCK_DV, PARTIAL)
    p = _weights(
        q, k, lse, KEYS, BITS, entry, tile, block, lk, offset, lift, near, first, scale, BLOCK_M, BLOCK_N, PARTIAL,
        USE_BITS, HAS_KEYS, CAUSAL, UNIT, POWERS, PRECISION, False,
    )  # fmt: skip
    ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])
    return tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)


@triton.jit(do_not_specialize=LENGTHS)
def query_grads(
    Q, K, V, KEYS, O, DO, LSE, DLSE, DELTA, DQ, FULL_FROM, FULL, PART_FROM, PART, BITS, stride_qb, stride_qh,
    stride_ql, stride_qd, stride_kb, stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd,
    stride_gb, stride_gh, stride_gl, stride_gd, heads, share, lq, lk, tiles, offset, lift, near, first, scale,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, GROUPED: tl.constexpr, USE_BITS: tl.constexpr, HAS_KEYS: tl.constexpr,
    HAS_DLSE: tl.constexpr, CAUSAL: tl.constexpr, UNIT: tl.constexpr, POWERS: tl.constexpr, RUNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of one tile of queries, and DELTA = rowsum(DO * O) - DLSE, which `key_grads` reads."""
    pid = tl.program_id(0)
    tile, bh = pid % tiles, pid // tiles
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    Q += b * stride_qb + h * stride_qh + tile.to(tl.int64) * BLOCK_M * stride_ql
    K += b * stride_kb + h // share * stride_kh
    V += b * stride_vb + h // share * stride_vh
    DO += b * stride_gb + h * stride_gh + tile.to(tl.int64) * BLOCK_M * stride_gl
    if HAS_KEYS:
        KEYS += b * lk
    row = bh.to(tl.int64) * lq + tile * BLOCK_M
    r = tl.arange(0, BLOCK_M)
    left = lq - tile * BLOCK_M
    q = load_rows(Q, r, stride_ql, stride_qd, left, D, BLOCK_D, True)
    do = load_rows(DO, r, stride_gl, stride_gd, left, DV, BLOCK_DV, True)
    o = load_rows(O + row * DV, r, DV, 1, left, DV, BLOCK_DV, True)
    lse = tl.load(LSE + row + r, mask=r < left, other=float("-inf"))
    empty = lse == float("-inf")
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    if HAS_DLSE:
        delta -= tl.where(empty, 0.0, tl.load(DLSE + row + r, mask=r < left, other=0.0))
    tl.store(DELTA + row + r, delta, mask=r < left)
    lse = tl.where(empty, float("inf"), lse * 1.4426950408889634)
    dq = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    at = tile
    if GROUPED:
        at = tile + (bh % heads) * tiles
    begin, behind = tl.load(FULL_FROM + at), tl.load(FULL_FROM + at + 1)
    lead = begin
    if RUNS:
        lead = tl.load(FULL + begin, mask=begin < behind, other=0) - begin
    for e in range(begin, behind):
        block = lead + e if RUNS else tl.load(FULL + e)
        dq = _query_grad(
            dq, q, do, lse, delta, K, V, KEYS, BITS, e, tile, block, stride_kl, stride_kd, stride_vl,
            stride_vd, lk, offset, lift, near, first, scale, D, DV, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV, False,
            USE_BITS, HAS_KEYS, CAUSAL, UNIT, POWERS, PRECISION,
        )  # fmt: skip
    for e in range(tl.load(PART_FROM + at), tl.load(PART_FROM + at + 1)):
        dq = _query_grad(
            dq, q, do, lse, delta, K, V, KEYS, BITS, e, tile, tl.load(PART + e), stride_kl, stride_kd, stride_vl,
            stride_vd, lk, offset, lift, near, first, scale, D, DV, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV, True,
            USE_BITS, HAS_KEYS, CAUSAL, UNIT, POWERS, PRECISION,
        )  # fmt: skip
    store_rows(DQ + row * D, dq * (scale * 0.6931471805599453), r, D, 1, left, D, BLOCK_D)


@triton.jit
def _key_grad(
    dk, dv, k, v, Q, DO, LSE, DELTA, KEYS, BITS, entry, tile, block, stride_ql, stride_qd, stride_gl, stride_gd, lq,
    lk, offset, lift, near, first, scale, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PARTIAL: tl.constexpr,
    USE_BITS: tl.constexpr, HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr, UNIT: tl.constexpr, POWERS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """``dk`` (still to be multiplied by the scale) and ``dv`` with the part of one tile of queries."""
    r = tl.arange(0, BLOCK_M)
    start = tile.to(tl.int64) * BLOCK_M
    left = lq - tile * BLOCK_M
    q = load_rows(Q + start * stride_ql, r, stride_ql, stride_qd, left, D, BLOCK_D, PARTIAL)
    do = load_rows(DO + start * stride_gl, r, stride_gl, stride_gd, left, DV, BLOCK_DV, PARTIAL)
    lse = tl.load(LSE + start + r, mask=r < left, other=float("-inf"))
    lse = tl.where(lse == float("-inf"), float("inf"), lse * 1.4426950408889634)
    delta = tl.load(DELTA + start + r, mask=r < left, other=0.0)
    p = _weights(
        q, k, lse, KEYS, BITS, entry, tile, block, lk, offset, lift, near, first, scale, BLOCK_M, BLOCK_N, PARTIAL,
        USE_BITS, HAS_KEYS, CAUSAL, UNIT, POWERS, PRECISION, True,
    )  # fmt: skip
    dv = tl.dot(p.to(do.dtype), do, dv, input_precision=PRECISION)
    ds = p * (tl.dot(v, tl.trans(do), input_precision=PRECISION) - delta[None, :])
    dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=LENGTHS)
def key_grads(
    Q, K, V, KEYS, DO, LSE, DELTA, DK, DV_, FULL_FROM, FULL, PART_FROM, PART, ENTRY, BITS, stride_qb, stride_qh,
    stride_ql, stride_qd, stride_kb, stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd,
    stride_gb, stride_gh, stride_gl, stride_gd, heads, share, lq, lk, blocks, offset, lift, near, first, scale,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, GROUPED: tl.constexpr, USE_BITS: tl.constexpr, HAS_KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, UNIT: tl.constexpr, POWERS: tl.constexpr, RUNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of one block of keys and of its values, as one head of queries gives them.

    The lists name tiles, ENTRY the places of their bits.
    """
    pid = tl.program_id(0)
    block, bh = pid % blocks, pid // blocks
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    start = block.to(tl.int64) * BLOCK_N
    Q += b * stride_qb + h * stride_qh
    K += b * stride_kb + h // share * stride_kh + start * stride_kl
    V += b * stride_vb + h // share * stride_vh + start * stride_vl
    DO += b * stride_gb + h * stride_gh
    LSE += bh.to(tl.int64) * lq
    DELTA += bh.to(tl.int64) * lq
    if HAS_KEYS:
        KEYS += b * lk
    c = tl.arange(0, BLOCK_N)
    left = lk - block * BLOCK_N
    k = load_rows(K, c, stride_kl, stride_kd, left, D, BLOCK_D, True)
    v = load_rows(V, c, stride_vl, stride_vd, left, DV, BLOCK_DV, True)
    dk = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_DV], dtype=tl.float32)
    at = block
    if GROUPED:
        at = block + (bh % heads) * blocks
    begin, behind = tl.load(FULL_FROM + at), tl.load(FULL_FROM + at + 1)
    lead = begin
    if RUNS:
        lead = tl.load(FULL + begin, mask=begin < behind, other=0) - begin
    for e in range(begin, behind):
        tile = lead + e if RUNS else tl.load(FULL + e)
        dk, dv = _key_grad(
            dk, dv, k, v, Q, DO, LSE, DELTA, KEYS, BITS, e, tile, block, stride_ql, stride_qd, stride_gl,
            stride_gd, lq, lk, offset, lift, near, first, scale, D, DV, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV, False,
            USE_BITS, HAS_KEYS, CAUSAL, UNIT, POWERS, PRECISION,
        )  # fmt: skip
    for e in range(tl.load(PART_FROM + at), tl.load(PART_FROM + at + 1)):
        entry = e
        if USE_BITS:
            entry = tl.load(ENTRY + e)
        dk, dv = _key_grad(
            dk, dv, k, v, Q, DO, LSE, DELTA, KEYS, BITS, entry, tl.load(PART + e), block, stride_ql, stride_qd,
            stride_gl, stride_gd, lq, lk, offset, lift, near, first, scale, D, DV, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV,
            True, USE_BITS, HAS_KEYS, CAUSAL, UNIT, POWERS, PRECISION,
        )  # fmt: skip
    row = bh.to(tl.int64) * lk + start
    store_rows(DK + row * D, dk * (scale * 0.6931471805599453), c, D, 1, left, D, BLOCK_D)
    store_rows(DV_ + row * DV, dv, c, DV, 1, left, DV, BLOCK_DV)
