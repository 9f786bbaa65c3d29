"""Engine 2 in Triton, forward. Importing this module imports Triton.

The keys are cut into segments of PER chunks. `key_states` sums up each segment, `carry` turns those sums into the
states at the edges of the segments, and `outputs` walks each segment from its state: the segments run in parallel, and
a state is read and written once per segment, not per chunk. Without causality `outputs` only reads the last state.

A state is one row of float32: the (D, DV) matrix of keys times values, the D sums of keys and the DV sums of values.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton.linear_scan_pieces import (
    LENGTHS,
    apart,
    decayed,
    dot,
    is_first,
    kept,
    keys_of,
    queries_of,
    row_factors,
    rows_of,
    shown_keys,
    state_at,
    whole,
)

__all__ = ["carry", "key_states", "outputs"]


@triton.jit(do_not_specialize=LENGTHS)
def key_states(
    K, V, KEYS, DECAY, STATES, stride_kb, stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd,
    heads, share, lk, segments, parts, width, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, PER: tl.constexpr, HAS_KEYS: tl.constexpr, HAS_DECAY: tl.constexpr,
    FEATURE: tl.constexpr, KIND: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What segment n of the keys adds to the state, for one part of the columns of values, to slot n + 1."""
    pid = tl.program_id(0)
    part, n, bh = pid % parts, pid // parts % segments, pid // parts // segments
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    K += b * stride_kb + h // share * stride_kh
    V += b * stride_vb + h // share * stride_vh
    if HAS_KEYS:
        KEYS += b * lk
    log_decay = 0.0
    if HAS_DECAY:
        log_decay = tl.load(DECAY + h)
    r = tl.arange(0, CHUNK)
    s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
    z = tl.zeros([BLOCK_D], dtype=tl.float32)
    u = tl.zeros([BLOCK_DV], dtype=tl.float32)
    begin = n * PER * CHUNK
    for start in range(begin, tl.minimum(begin + PER * CHUNK, lk), CHUNK):
        m = tl.minimum(lk - start, CHUNK)
        shown = shown_keys(KEYS, start + r, lk, HAS_KEYS)
        k = keys_of(K, shown, start + r, stride_kl, stride_kd, 0, D, BLOCK_D, FEATURE, OPERAND)
        v = rows_of(V, start + r, shown, stride_vl, stride_vd, part * BLOCK_DV, DV, BLOCK_DV)
        k = decayed(k, m - r, log_decay, HAS_DECAY)
        s = whole(s, m, log_decay, HAS_DECAY) + dot(tl.trans(k), v, OPERAND, PRECISION)
        if KIND >= 1:
            z = whole(z, m, log_decay, HAS_DECAY) + tl.sum(k.to(tl.float32), 0)
        if KIND >= 2:
            u += tl.sum(v.to(tl.float32), 0)
    base = STATES + (bh.to(tl.int64) * (segments + 1) + n + 1) * width
    to_s, at_s, to_z, at_z, to_u, at_u = state_at(base, 0, part * BLOCK_DV, D, DV, BLOCK_D, BLOCK_DV)
    tl.store(to_s, s, mask=at_s)
    tl.store(to_z, z, mask=at_z & is_first(part, BLOCK_D))
    tl.store(to_u, u, mask=at_u)


@triton.jit(do_not_specialize=LENGTHS)
def carry(
    STATES, DECAY, heads, length, segments, width, blocks, SEGMENT: tl.constexpr, BLOCK: tl.constexpr,
    HAS_DECAY: tl.constexpr, BACKWARDS: tl.constexpr,
):  # fmt: skip
    """Turn what segments add into states, in place: from slot 0 up, or from the last one down."""
    pid = tl.program_id(0)
    block, bh = pid % blocks, pid // blocks
    at = block * BLOCK + tl.arange(0, BLOCK)
    there = at < width
    log_decay = 0.0
    if HAS_DECAY:
        log_decay = tl.load(DECAY + bh % heads)
    base = STATES + bh.to(tl.int64) * (segments + 1) * width + at
    slot = 0
    if BACKWARDS:
        slot = segments
    x = tl.load(base + slot * width, mask=there, other=0.0)
    for step in range(segments):
        n = step
        to = step + 1
        if BACKWARDS:
            n = segments - 1 - step
            to = n
        rows = tl.minimum(length - n * SEGMENT, SEGMENT)
        x = whole(x, rows, log_decay, HAS_DECAY) + tl.load(base + to * width, mask=there, other=0.0)
        tl.store(base + to * width, x, mask=there)


@triton.jit(do_not_specialize=LENGTHS)
def outputs(  # noqa: C901 - cases of constants, of which a compiled kernel has one each
    Q, K, V, KEYS, DECAY, COUNTS, STATES, O, TOTAL, stride_qb, stride_qh, stride_ql, stride_qd, stride_kb, stride_kh,
    stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd, stride_cb, stride_cl, heads, share, lq, lk,
    before, first, segments, slots, parts, width, scale, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, PER: tl.constexpr, HAS_KEYS: tl.constexpr, HAS_DECAY: tl.constexpr,
    CAUSAL: tl.constexpr, FEATURE: tl.constexpr, KIND: tl.constexpr, EPS: tl.constexpr, OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Output rows and, where there is a normaliser, sums of scores of one segment and part of the columns.

    Query i stands at position i + before; segments count from ``first`` on the axis of positions. Both outputs are
    contiguous.
    """
    pid = tl.program_id(0)
    part, n, bh = pid % parts, pid // parts % segments + first, pid // parts // segments
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    Q += b * stride_qb + h * stride_qh
    K += b * stride_kb + h // share * stride_kh
    V += b * stride_vb + h // share * stride_vh
    COUNTS += b * stride_cb
    O += bh.to(tl.int64) * lq * DV
    TOTAL += bh.to(tl.int64) * lq
    if HAS_KEYS:
        KEYS += b * lk
    log_decay = 0.0
    if HAS_DECAY:
        log_decay = tl.load(DECAY + h)
    r = tl.arange(0, CHUNK)
    e = part * BLOCK_DV + tl.arange(0, BLOCK_DV)
    slot = slots
    if CAUSAL:
        slot = n
    base = STATES + (bh.to(tl.int64) * (slots + 1) + slot) * width
    to_s, at_s, to_z, at_z, to_u, at_u = state_at(base, 0, part * BLOCK_DV, D, DV, BLOCK_D, BLOCK_DV)
    s = tl.load(to_s, mask=at_s, other=0.0)
    z = tl.load(to_z, mask=at_z, other=0.0)
    u = tl.load(to_u, mask=at_u, other=0.0)
    begin = n * PER * CHUNK
    for start in range(begin, tl.minimum(begin + PER * CHUNK, lq + before), CHUNK):
        i = start + r - before
        there = (i >= 0) & (i < lq)
        q = queries_of(Q, i, lq, stride_ql, stride_qd, 0, D, BLOCK_D, FEATURE, OPERAND)
        total = tl.zeros([CHUNK], dtype=tl.float32)
        if KIND >= 1:
            total = tl.sum(q.to(tl.float32) * z[None, :], 1)
            if HAS_DECAY:
                total = total * tl.exp2(log_decay * r.to(tl.float32))
        if CAUSAL:
            m = tl.minimum(lk - start, CHUNK)
            shown = shown_keys(KEYS, start + r, lk, HAS_KEYS)
            k = keys_of(K, shown, start + r, stride_kl, stride_kd, 0, D, BLOCK_D, FEATURE, OPERAND)
            p = apart(tl.dot(q, tl.trans(k), input_precision=PRECISION), log_decay, CHUNK, HAS_DECAY)
            k = decayed(k, m - r, log_decay, HAS_DECAY)
            if KIND >= 1:
                # As early as may be: what is summed up here then need not stay in registers.
                z = whole(z, m, log_decay, HAS_DECAY) + tl.sum(k.to(tl.float32), 0)
                total += tl.sum(p, 1)
        a, beta = row_factors(total, COUNTS, start + r, there, stride_cl, scale, KIND, EPS)
        o = decayed(dot(q, s, OPERAND, PRECISION), r, log_decay, HAS_DECAY)
        if KIND >= 2:
            o += beta[:, None] * u[None, :]
        if CAUSAL:
            if KIND >= 2:
                # Added before the product is rounded: what is left of the scores may be far smaller than they are.
                p = tl.where(r[:, None] >= r[None, :], p + beta[:, None], 0.0)
            v = rows_of(V, start + r, shown, stride_vl, stride_vd, part * BLOCK_DV, DV, BLOCK_DV)
            o += dot(p, v, OPERAND, PRECISION)
            s = whole(s, m, log_decay, HAS_DECAY) + dot(tl.trans(k), v, OPERAND, PRECISION)
            if KIND >= 2:
                u += tl.sum(v.to(tl.float32), 0)
        to = O + i.to(tl.int64)[:, None] * DV + e[None, :]
        tl.store(to, kept(o * a[:, None], O, OPERAND), mask=there[:, None] & (e < DV)[None, :])
        if KIND >= 1:
            tl.store(TOTAL + i, total, mask=there & is_first(part, CHUNK))
