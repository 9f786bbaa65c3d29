"""Engine 3 in Triton: attention that each key receives. Importing this module imports Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton.block_sparse_pieces import LENGTHS, load_rows

__all__ = ["received"]


@triton.jit(do_not_specialize=LENGTHS)
def received(
    Q, K, LSE, OUT, stride_qb, stride_qh, stride_ql, stride_qd, stride_kb, stride_kh, stride_kl, stride_kd, heads,
    share, lq, lk, blocks, offset, scale, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sum over the queries of their weights on one block of keys, from the log-sum-exp of a first pass."""
    pid = tl.program_id(0)
    block, bh = pid % blocks, pid // blocks
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    start = block.to(tl.int64) * BLOCK_N
    Q += b * stride_qb + h * stride_qh
    LSE += bh.to(tl.int64) * lq
    r, c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    K += b * stride_kb + h // share * stride_kh + start * stride_kl
    k = load_rows(K, c, stride_kl, stride_kd, lk - start, D, BLOCK_D, True)
    total = tl.zeros([BLOCK_N], dtype=tl.float32)
    begin = 0
    if CAUSAL:
        # The first query that sees a key of the block stands at its first key.
        begin = tl.maximum(block * BLOCK_N - offset, 0) // BLOCK_M * BLOCK_M
    for at in range(begin, lq, BLOCK_M):
        rows = at + r
        q = load_rows(Q, rows.to(tl.int64), stride_ql, stride_qd, lq, D, BLOCK_D, True)
        lse = tl.load(LSE + rows, mask=rows < lq, other=float("inf"))
        lse = tl.where(lse == float("-inf"), float("inf"), lse * 1.4426950408889634)
        s = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale - lse[None, :]
        if CAUSAL:
            s = tl.where((block * BLOCK_N + c)[:, None] <= (rows + offset)[None, :], s, float("-inf"))
        # No weight is above one, but those of keys outside of the log-sum-exp, which the caller drops, might overflow.
        total += tl.sum(tl.exp2(tl.minimum(s, 0.0)), 1)
    tl.store(OUT + bh.to(tl.int64) * lk + start + c, total, mask=c < lk - start)
