"""Engine 1 in Triton, forward. Importing this module imports Triton.

A program holds one tile of queries and walks the key blocks of its two lists: those that all of its queries see in
full, which are not masked, and the partial ones. Where the full blocks of every list follow each other (RUNS, as those
of windows do), only the first is looked up. Neighbouring heads of queries may share one of keys. Inside a partial block
the mask is either a `Form`, computed from positions, or one bit per (query, key) of that block, packed 32 to a word.

Where tiles are few and their lists long, as for one query over many keys, several programs share a tile:
`forward_split` gives each a stretch of both lists, and `combine` joins what they found by their log-sum-exps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton.block_sparse_pieces import LENGTHS, form_sees, load_rows, packed_bit, store_rows

__all__ = ["combine", "forward", "forward_split"]


@triton.jit
def _attend(
    acc, m, l, q, K, V, KEYS, BITS, entry, block, i, stride_kl, stride_kd, stride_vl, stride_vd, lk, lift, near, first,
    scale, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, PARTIAL: tl.constexpr, USE_BITS: tl.constexpr, HAS_KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, UNIT: tl.constexpr, POWERS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of keys joins the running maximum m, sum l and output of a tile of queries.

    The maximum is that of the products, before they are multiplied by ``scale``, which is positive: the exponent
    then is one multiply-add for each.
    """
    c = tl.arange(0, BLOCK_N)
    start = block.to(tl.int64) * BLOCK_N
    left = lk - block * BLOCK_N
    k = load_rows(K + start * stride_kl, c, stride_kl, stride_kd, left, D, BLOCK_D, PARTIAL)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if PARTIAL:
        if USE_BITS:
            r = tl.arange(0, BLOCK_M)
            seen = packed_bit(BITS, entry, r[:, None], c[None, :], BLOCK_M, BLOCK_N)
        else:
            j = block * BLOCK_N + c
            seen = form_sees(i[:, None], j[None, :], lift, near, first, CAUSAL, UNIT, POWERS) & (c < left)[None, :]
        s = tl.where(seen, s, float("-inf"))
    if HAS_KEYS:
        shown = tl.load(KEYS + start + c, mask=c < left, other=0)
        s = tl.where((shown != 0)[None, :], s, float("-inf"))
    new = tl.maximum(m, tl.max(s, 1))
    # A row that has seen nothing yet has the maximum -inf, from which nothing can be subtracted.
    top = tl.where(new == float("-inf"), 0.0, new)
    p = tl.exp2(s * scale - (top * scale)[:, None])
    shrink = tl.exp2((m - top) * scale)
    v = load_rows(V + start * stride_vl, c, stride_vl, stride_vd, left, DV, BLOCK_DV, PARTIAL)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return acc, new, l * shrink + tl.sum(p, 1)


@triton.jit
def _tile(
    Q, K, V, KEYS, FULL_FROM, FULL, PART_FROM, PART, BITS, stride_qb, stride_qh, stride_ql, stride_qd, stride_kb,
    stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd, tile, bh, split, splits, heads, share,
    lq, lk, tiles, offset, lift, near, first, scale, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, GROUPED: tl.constexpr,
    USE_BITS: tl.constexpr, HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr, UNIT: tl.constexpr, POWERS: tl.constexpr,
    RUNS: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Weighted sums, largest products and sums of weights of a tile over its lists, or over one stretch of ``splits``.

    ``bh`` numbers heads over the batch.
    """
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    Q += b * stride_qb + h * stride_qh + tile.to(tl.int64) * BLOCK_M * stride_ql
    K += b * stride_kb + h // share * stride_kh
    V += b * stride_vb + h // share * stride_vh
    if HAS_KEYS:
        KEYS += b * lk
    r = tl.arange(0, BLOCK_M)
    i = tile * BLOCK_M + r + offset
    q = load_rows(Q, r, stride_ql, stride_qd, lq - tile * BLOCK_M, D, BLOCK_D, True)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], dtype=tl.float32)
    m = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    l = tl.zeros([BLOCK_M], dtype=tl.float32)
    at = tile
    if GROUPED:
        at = tile + (bh % heads) * tiles
    begin, behind = tl.load(FULL_FROM + at), tl.load(FULL_FROM + at + 1)
    lead = begin
    if RUNS:
        lead = tl.load(FULL + begin, mask=begin < behind, other=0) - begin
    if SPLIT:
        begin, behind = begin + (behind - begin) * split // splits, begin + (behind - begin) * (split + 1) // splits
    for e in range(begin, behind):
        block = lead + e if RUNS else tl.load(FULL + e)
        acc, m, l = _attend(
            acc, m, l, q, K, V, KEYS, BITS, e, block, i, stride_kl, stride_kd, stride_vl, stride_vd, lk, lift, near,
            first, scale, D, DV, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV, False, USE_BITS, HAS_KEYS, CAUSAL, UNIT, POWERS,
            PRECISION,
        )  # fmt: skip
    begin, behind = tl.load(PART_FROM + at), tl.load(PART_FROM + at + 1)
    if SPLIT:
        begin, behind = begin + (behind - begin) * split // splits, begin + (behind - begin) * (split + 1) // splits
    for e in range(begin, behind):
        acc, m, l = _attend(
            acc, m, l, q, K, V, KEYS, BITS, e, tl.load(PART + e), i, stride_kl, stride_kd, stride_vl, stride_vd,
            lk, lift, near, first, scale, D, DV, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV, True, USE_BITS, HAS_KEYS,
            CAUSAL, UNIT, POWERS, PRECISION,
        )  # fmt: skip
    return acc, m, l


@triton.jit
def _put(
    acc, m, l, O, LSE, at, left, scale, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Output and natural log-sum-exp of the rows of a tile that are not beyond ``left``, from row ``at`` on."""
    r = tl.arange(0, BLOCK_M)
    some = l > 0
    l = tl.where(some, l, 1.0)
    store_rows(O + at * DV, acc / l[:, None], r, DV, 1, left, DV, BLOCK_DV)
    lse = tl.where(some, (m * scale + tl.log2(l)) * 0.6931471805599453, float("-inf"))
    tl.store(LSE + at + r, lse, mask=r < left)


@triton.jit(do_not_specialize=LENGTHS)
def forward(
    Q, K, V, KEYS, O, LSE, FULL_FROM, FULL, PART_FROM, PART, BITS, stride_qb, stride_qh, stride_ql, stride_qd,
    stride_kb, stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd, heads, share, lq, lk, tiles,
    offset, lift, near, first, scale, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, GROUPED: tl.constexpr, USE_BITS: tl.constexpr,
    HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr, UNIT: tl.constexpr, POWERS: tl.constexpr, RUNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Output (contiguous) and natural log-sum-exp of one tile of queries of one head; ``scale`` includes log2(e)."""
    pid = tl.program_id(0)
    tile, bh = pid % tiles, pid // tiles
    acc, m, l = _tile(
        Q, K, V, KEYS, FULL_FROM, FULL, PART_FROM, PART, BITS, stride_qb, stride_qh, stride_ql, stride_qd, stride_kb,
        stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd, tile, bh, 0, 1, heads, share, lq,
        lk, tiles, offset, lift, near, first, scale, D, DV, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV, GROUPED, USE_BITS,
        HAS_KEYS, CAUSAL, UNIT, POWERS, RUNS, PRECISION, False,
    )  # fmt: skip
    at = bh.to(tl.int64) * lq + tile * BLOCK_M
    _put(acc, m, l, O, LSE, at, lq - tile * BLOCK_M, scale, DV, BLOCK_M, BLOCK_DV)


@triton.jit(do_not_specialize=LENGTHS)
def forward_split(
    Q, K, V, KEYS, O, LSE, FULL_FROM, FULL, PART_FROM, PART, BITS, stride_qb, stride_qh, stride_ql, stride_qd,
    stride_kb, stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd, splits, problems, heads,
    share, lq, lk, tiles, offset, lift, near, first, scale, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, GROUPED: tl.constexpr,
    USE_BITS: tl.constexpr, HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr, UNIT: tl.constexpr, POWERS: tl.constexpr,
    RUNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`forward` over one of the ``splits`` stretches of the lists; outputs and log-sum-exps stand stretch by stretch.

    Both are float32. ``problems`` is the number of heads over the batch.
    """
    pid = tl.program_id(0)
    tile, at = pid % tiles, pid // tiles
    acc, m, l = _tile(
        Q, K, V, KEYS, FULL_FROM, FULL, PART_FROM, PART, BITS, stride_qb, stride_qh, stride_ql, stride_qd, stride_kb,
        stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd, tile, at % problems,
        at // problems, splits, heads, share, lq, lk, tiles, offset, lift, near, first, scale, D, DV, BLOCK_M, BLOCK_N,
        BLOCK_D, BLOCK_DV, GROUPED, USE_BITS, HAS_KEYS, CAUSAL, UNIT, POWERS, RUNS, PRECISION, True,
    )  # fmt: skip
    row = at.to(tl.int64) * lq + tile * BLOCK_M
    _put(acc, m, l, O, LSE, row, lq - tile * BLOCK_M, scale, DV, BLOCK_M, BLOCK_DV)


@triton.jit(do_not_specialize=("splits", "rows"))
def combine(PARTS, LSES, O, LSE, splits, rows, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr):
    """Rows of the output from those of ``splits`` stretches (splits, rows, DV) and their natural log-sum-exps."""
    at = tl.program_id(0).to(tl.int64) * BLOCK_M
    r = tl.arange(0, BLOCK_M)
    left = rows - at
    acc = tl.zeros([BLOCK_M, BLOCK_DV], dtype=tl.float32)
    m = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    l = tl.zeros([BLOCK_M], dtype=tl.float32)
    for _part in range(splits):
        part = load_rows(PARTS + at * DV, r, DV, 1, left, DV, BLOCK_DV, True)
        lse = tl.load(LSES + at + r, mask=r < left, other=float("-inf")) * 1.4426950408889634
        new = tl.maximum(m, lse)
        top = tl.where(new == float("-inf"), 0.0, new)
        shrink, weight = tl.exp2(m - top), tl.exp2(lse - top)
        acc = acc * shrink[:, None] + part * weight[:, None]
        m, l = new, l * shrink + weight
        PARTS += rows.to(tl.int64) * DV
        LSES += rows
    _put(acc, m, l, O, LSE, at, left, 1.0, DV, BLOCK_M, BLOCK_DV)
