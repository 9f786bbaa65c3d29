"""Engine 2 in Triton, backward. Importing this module imports Triton.

`row_grads` finds the gradient of each row's sum of scores. `query_grads` walks the segments of the forward pass again
from their states. `query_states` sums up what the queries of each segment send back, `carry` adds that up from right to
left, and `key_grads` and `value_grads` walk each segment from right to left from the state behind it: one kernel for
both would need more registers than there are. Gradients of queries and keys are cut by their own columns, those of
values by theirs, so that no gradient is added up from parts.
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
    operand,
    queries_of,
    row_factors,
    rows_of,
    shown_keys,
    state_at,
    whole,
)

__all__ = ["key_grads", "query_grads", "query_states", "row_grads", "value_grads"]


@triton.jit(do_not_specialize=LENGTHS)
def row_grads(
    V, KEYS, COUNTS, STATES, O, DO, TOTAL, DTOTAL, stride_vb, stride_vh, stride_vl, stride_vd, stride_gb, stride_gh,
    stride_gl, stride_gd, stride_cb, stride_cl, heads, share, lq, lk, before, first, segments, slots, width, scale,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, PER: tl.constexpr,
    HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr, KIND: tl.constexpr, EPS: tl.constexpr, OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of each row's sum of scores T, from its output and, for mala, from its sum of values V.

    With o = a N + b V, the gradient is a' (do . N) + b' (do . V). BLOCK_DV holds all columns here.
    """
    pid = tl.program_id(0)
    n, bh = pid % segments + first, pid // segments
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    V += b * stride_vb + h // share * stride_vh
    DO += b * stride_gb + h * stride_gh
    COUNTS += b * stride_cb
    O += bh.to(tl.int64) * lq * DV
    TOTAL += bh.to(tl.int64) * lq
    DTOTAL += bh.to(tl.int64) * lq
    if HAS_KEYS:
        KEYS += b * lk
    r = tl.arange(0, CHUNK)
    e = tl.arange(0, BLOCK_DV)
    slot = slots
    if CAUSAL:
        slot = n
    u = tl.load(STATES + (bh.to(tl.int64) * (slots + 1) + slot) * width + D * DV + D + e, mask=e < DV, other=0.0)
    begin = n * PER * CHUNK
    for start in range(begin, tl.minimum(begin + PER * CHUNK, lq + before), CHUNK):
        i = start + r - before
        there = (i >= 0) & (i < lq)
        do = rows_of(DO, i, there, stride_gl, stride_gd, 0, DV, BLOCK_DV).to(tl.float32)
        o = rows_of(O, i, there, DV, 1, 0, DV, BLOCK_DV).to(tl.float32)
        total = tl.load(TOTAL + i, mask=there, other=0.0)
        a, beta = row_factors(total, COUNTS, start + r, there, stride_cl, scale, KIND, EPS)
        along = tl.sum(do * o, 1)
        found = -a * along
        if KIND >= 2:
            values = tl.sum(do * u[None, :], 1)
            if CAUSAL:
                shown = shown_keys(KEYS, start + r, lk, HAS_KEYS)
                v = rows_of(V, start + r, shown, stride_vl, stride_vd, 0, DV, BLOCK_DV)
                ones = (r[:, None] >= r[None, :]).to(tl.float32)
                values += tl.sum(do * dot(ones, v, OPERAND, PRECISION), 1)
                u += tl.sum(v.to(tl.float32), 0)
            some = a > 0
            a = tl.where(some, a, 1.0)
            count = tl.maximum(tl.load(COUNTS + (start + r) * stride_cl, mask=there, other=0).to(tl.float32), 1.0)
            c = tl.zeros_like(total) + scale
            if KIND == 2:
                c = c / count
            slope = c / (c * total + EPS)
            found = tl.where(some, -slope * slope * (along / a - beta * values) - c / count * values, 0.0)
        tl.store(DTOTAL + i, found, mask=there)


@triton.jit(do_not_specialize=LENGTHS)
def query_states(
    Q, DECAY, COUNTS, DO, TOTAL, DTOTAL, STATES, stride_qb, stride_qh, stride_ql, stride_qd, stride_gb, stride_gh,
    stride_gl, stride_gd, stride_cb, stride_cl, heads, lq, before, segments, parts, width, scale, D: tl.constexpr,
    DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, PER: tl.constexpr,
    HAS_DECAY: tl.constexpr, FEATURE: tl.constexpr, KIND: tl.constexpr, EPS: tl.constexpr, OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What the queries of segment n add to the gradient of the state before it, to slot n."""
    pid = tl.program_id(0)
    part, n, bh = pid % parts, pid // parts % segments, pid // parts // segments
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    Q += b * stride_qb + h * stride_qh
    DO += b * stride_gb + h * stride_gh
    COUNTS += b * stride_cb
    TOTAL += bh.to(tl.int64) * lq
    DTOTAL += bh.to(tl.int64) * lq
    log_decay = 0.0
    if HAS_DECAY:
        log_decay = tl.load(DECAY + h)
    r = tl.arange(0, CHUNK)
    s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
    z = tl.zeros([BLOCK_D], dtype=tl.float32)
    u = tl.zeros([BLOCK_DV], dtype=tl.float32)
    begin = n * PER * CHUNK
    for start in range(begin, tl.minimum(begin + PER * CHUNK, lq + before), CHUNK):
        i = start + r - before
        there = (i >= 0) & (i < lq)
        q = queries_of(Q, i, lq, stride_ql, stride_qd, 0, D, BLOCK_D, FEATURE, OPERAND)
        do = rows_of(DO, i, there, stride_gl, stride_gd, part * BLOCK_DV, DV, BLOCK_DV).to(tl.float32)
        total = tl.zeros([CHUNK], dtype=tl.float32)
        if KIND >= 1:
            total = tl.load(TOTAL + i, mask=there, other=0.0)
        a, beta = row_factors(total, COUNTS, start + r, there, stride_cl, scale, KIND, EPS)
        # What is rounded for the product is rounded for u too: the two cancel to a small part of themselves.
        do = operand(do * a[:, None], OPERAND)
        # From the left edge of the segment on, so that exponents are not negative.
        ago = start - begin + r
        q = decayed(q, ago, log_decay, HAS_DECAY)
        s += dot(tl.trans(q), do, OPERAND, PRECISION)
        if KIND >= 1:
            dtotal = tl.load(DTOTAL + i, mask=there, other=0.0)
            z += tl.sum(q.to(tl.float32) * dtotal[:, None], 0)
        if KIND >= 2:
            u += tl.sum(do.to(tl.float32) * beta[:, None], 0)
    base = STATES + (bh.to(tl.int64) * (segments + 1) + n) * width
    to_s, at_s, to_z, at_z, to_u, at_u = state_at(base, 0, part * BLOCK_DV, D, DV, BLOCK_D, BLOCK_DV)
    tl.store(to_s, s, mask=at_s)
    tl.store(to_z, z, mask=at_z & is_first(part, BLOCK_D))
    tl.store(to_u, u, mask=at_u)


@triton.jit(do_not_specialize=LENGTHS)
def query_grads(
    K, V, Q, KEYS, DECAY, COUNTS, DO, TOTAL, DTOTAL, STATES, DQ, stride_qb, stride_qh, stride_ql, stride_qd, stride_kb,
    stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd, stride_gb, stride_gh, stride_gl,
    stride_gd, stride_cb, stride_cl, heads, share, lq, lk, before, first, segments, slots, parts, width, scale, D:
    tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, PER:
    tl.constexpr, HAS_KEYS: tl.constexpr, HAS_DECAY: tl.constexpr, CAUSAL: tl.constexpr, FEATURE: tl.constexpr, KIND:
    tl.constexpr, EPS: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one part of the columns of the queries of one segment; BLOCK_DV holds all columns of values."""
    pid = tl.program_id(0)
    part, n, bh = pid % parts, pid // parts % segments + first, pid // parts // segments
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    Q += b * stride_qb + h * stride_qh
    K += b * stride_kb + h // share * stride_kh
    V += b * stride_vb + h // share * stride_vh
    DO += b * stride_gb + h * stride_gh
    COUNTS += b * stride_cb
    TOTAL += bh.to(tl.int64) * lq
    DTOTAL += bh.to(tl.int64) * lq
    DQ += bh.to(tl.int64) * lq * D
    if HAS_KEYS:
        KEYS += b * lk
    log_decay = 0.0
    if HAS_DECAY:
        log_decay = tl.load(DECAY + h)
    r = tl.arange(0, CHUNK)
    column = part * BLOCK_D
    d = column + tl.arange(0, BLOCK_D)
    slot = slots
    if CAUSAL:
        slot = n
    base = STATES + (bh.to(tl.int64) * (slots + 1) + slot) * width
    to_s, at_s, to_z, at_z, _no_u, _not_u = state_at(base, column, 0, D, DV, BLOCK_D, BLOCK_DV)
    s = tl.load(to_s, mask=at_s, other=0.0)
    z = tl.load(to_z, mask=at_z, other=0.0)
    begin = n * PER * CHUNK
    for start in range(begin, tl.minimum(begin + PER * CHUNK, lq + before), CHUNK):
        i = start + r - before
        there = (i >= 0) & (i < lq)
        do = rows_of(DO, i, there, stride_gl, stride_gd, 0, DV, BLOCK_DV)
        total = tl.zeros([CHUNK], dtype=tl.float32)
        dtotal = tl.zeros([CHUNK], dtype=tl.float32)
        if KIND >= 1:
            total = tl.load(TOTAL + i, mask=there, other=0.0)
            dtotal = tl.load(DTOTAL + i, mask=there, other=0.0)
        a, _no_beta = row_factors(total, COUNTS, start + r, there, stride_cl, scale, KIND, EPS)
        if CAUSAL:
            shown = shown_keys(KEYS, start + r, lk, HAS_KEYS)
            v = rows_of(V, start + r, shown, stride_vl, stride_vd, 0, DV, BLOCK_DV)
            dp = dot(do, tl.trans(v), OPERAND, PRECISION) * a[:, None] + dtotal[:, None]
            dp = operand(apart(dp, log_decay, CHUNK, HAS_DECAY), OPERAND)
        dq = dot(do, tl.trans(s), OPERAND, PRECISION) * a[:, None]
        if KIND >= 1:
            dq += dtotal[:, None] * z[None, :]
        dq = decayed(dq, r, log_decay, HAS_DECAY)
        if CAUSAL:
            k = keys_of(K, shown, start + r, stride_kl, stride_kd, column, D, BLOCK_D, FEATURE, OPERAND)
            dq += dot(dp, k, OPERAND, PRECISION)
            m = tl.minimum(lk - start, CHUNK)
            k = decayed(k, m - r, log_decay, HAS_DECAY)
            s = whole(s, m, log_decay, HAS_DECAY) + dot(tl.trans(k), v, OPERAND, PRECISION)
            if KIND >= 1:
                z = whole(z, m, log_decay, HAS_DECAY) + tl.sum(k.to(tl.float32), 0)
        if FEATURE == "elu":
            # The derivative of ELU + 1 is its value where that is below 1, and 1 above.
            q = queries_of(Q, i, lq, stride_ql, stride_qd, column, D, BLOCK_D, FEATURE, "fp32")
            dq = dq * tl.minimum(q, 1.0)
        to = DQ + i.to(tl.int64)[:, None] * D + d[None, :]
        tl.store(to, kept(dq, DQ, OPERAND), mask=there[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=LENGTHS)
def key_grads(
    Q, K, V, KEYS, DECAY, COUNTS, DO, TOTAL, DTOTAL, STATES, DK, stride_qb, stride_qh, stride_ql, stride_qd, stride_kb,
    stride_kh, stride_kl, stride_kd, stride_vb, stride_vh, stride_vl, stride_vd, stride_gb, stride_gh, stride_gl,
    stride_gd, stride_cb, stride_cl, heads, share, lq, lk, before, segments, slots, parts, width, scale, D:
    tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, PER:
    tl.constexpr, HAS_KEYS: tl.constexpr, HAS_DECAY: tl.constexpr, CAUSAL: tl.constexpr, FEATURE: tl.constexpr, KIND:
    tl.constexpr, EPS: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one part of the columns of the keys of one segment; BLOCK_DV holds all columns of values."""
    pid = tl.program_id(0)
    part, n, bh = pid % parts, pid // parts % segments, pid // parts // segments
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    Q += b * stride_qb + h * stride_qh
    K += b * stride_kb + h // share * stride_kh
    V += b * stride_vb + h // share * stride_vh
    DO += b * stride_gb + h * stride_gh
    COUNTS += b * stride_cb
    TOTAL += bh.to(tl.int64) * lq
    DTOTAL += bh.to(tl.int64) * lq
    DK += bh.to(tl.int64) * lk * D
    if HAS_KEYS:
        KEYS += b * lk
    log_decay = 0.0
    if HAS_DECAY:
        log_decay = tl.load(DECAY + h)
    r = tl.arange(0, CHUNK)
    column = part * BLOCK_D
    d = column + tl.arange(0, BLOCK_D)
    slot = 0
    if CAUSAL:
        slot = n + 1
    base = STATES + (bh.to(tl.int64) * (slots + 1) + slot) * width
    to_s, at_s, to_z, at_z, _no_u, _not_u = state_at(base, column, 0, D, DV, BLOCK_D, BLOCK_DV)
    s = tl.load(to_s, mask=at_s, other=0.0)
    z = tl.load(to_z, mask=at_z, other=0.0)
    begin = n * PER * CHUNK
    chunks = tl.cdiv(tl.minimum(lk - begin, PER * CHUNK), CHUNK)
    for back in range(chunks):
        start = begin + (chunks - 1 - back) * CHUNK
        j = start + r
        m = tl.minimum(lk - start, CHUNK)
        shown = shown_keys(KEYS, j, lk, HAS_KEYS)
        v = rows_of(V, j, shown, stride_vl, stride_vd, 0, DV, BLOCK_DV)
        dk = decayed(dot(v, tl.trans(s), OPERAND, PRECISION) + z[None, :], m - r, log_decay, HAS_DECAY)
        if CAUSAL:
            i = j - before
            there = (i >= 0) & (i < lq)
            q = queries_of(Q, i, lq, stride_ql, stride_qd, column, D, BLOCK_D, FEATURE, OPERAND)
            do = rows_of(DO, i, there, stride_gl, stride_gd, 0, DV, BLOCK_DV)
            total = tl.zeros([CHUNK], dtype=tl.float32)
            dtotal = tl.zeros([CHUNK], dtype=tl.float32)
            if KIND >= 1:
                total = tl.load(TOTAL + i, mask=there, other=0.0)
                dtotal = tl.load(DTOTAL + i, mask=there, other=0.0)
            a, _no_beta = row_factors(total, COUNTS, j, there, stride_cl, scale, KIND, EPS)
            dp = dot(do, tl.trans(v), OPERAND, PRECISION) * a[:, None] + dtotal[:, None]
            dk += dot(tl.trans(apart(dp, log_decay, CHUNK, HAS_DECAY)), q, OPERAND, PRECISION)
            q = decayed(q, r, log_decay, HAS_DECAY)
            sent = do.to(tl.float32) * a[:, None]
            s = whole(s, m, log_decay, HAS_DECAY) + dot(tl.trans(q), sent, OPERAND, PRECISION)
            if KIND >= 1:
                z = whole(z, m, log_decay, HAS_DECAY) + tl.sum(q.to(tl.float32) * dtotal[:, None], 0)
        if FEATURE == "elu":
            k = keys_of(K, shown, j, stride_kl, stride_kd, column, D, BLOCK_D, FEATURE, OPERAND)
            dk = dk * tl.minimum(k.to(tl.float32), 1.0)
        if HAS_KEYS:
            dk = tl.where(shown[:, None], dk, 0.0)
        to = DK + j.to(tl.int64)[:, None] * D + d[None, :]
        tl.store(to, kept(dk, DK, OPERAND), mask=(j < lk)[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=LENGTHS)
def value_grads(
    Q, K, KEYS, DECAY, COUNTS, DO, TOTAL, STATES, DV_, stride_qb, stride_qh, stride_ql, stride_qd, stride_kb, stride_kh,
    stride_kl, stride_kd, stride_gb, stride_gh, stride_gl, stride_gd, stride_cb, stride_cl, heads, share, lq, lk,
    before, segments, slots, parts, width, scale, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV:
    tl.constexpr, CHUNK: tl.constexpr, PER: tl.constexpr, HAS_KEYS: tl.constexpr, HAS_DECAY: tl.constexpr, CAUSAL:
    tl.constexpr, FEATURE: tl.constexpr, KIND: tl.constexpr, EPS: tl.constexpr, OPERAND: tl.constexpr, PRECISION:
    tl.constexpr,
):  # fmt: skip
    """Gradients of one part of the columns of the values of one segment; BLOCK_D holds all columns of keys."""
    pid = tl.program_id(0)
    part, n, bh = pid % parts, pid // parts % segments, pid // parts // segments
    b, h = (bh // heads).to(tl.int64), (bh % heads).to(tl.int64)
    Q += b * stride_qb + h * stride_qh
    K += b * stride_kb + h // share * stride_kh
    DO += b * stride_gb + h * stride_gh
    COUNTS += b * stride_cb
    TOTAL += bh.to(tl.int64) * lq
    DV_ += bh.to(tl.int64) * lk * DV
    if HAS_KEYS:
        KEYS += b * lk
    log_decay = 0.0
    if HAS_DECAY:
        log_decay = tl.load(DECAY + h)
    r = tl.arange(0, CHUNK)
    column = part * BLOCK_DV
    e = column + tl.arange(0, BLOCK_DV)
    slot = 0
    if CAUSAL:
        slot = n + 1
    base = STATES + (bh.to(tl.int64) * (slots + 1) + slot) * width
    to_s, at_s, _no_z, _not_z, to_u, at_u = state_at(base, 0, column, D, DV, BLOCK_D, BLOCK_DV)
    s = tl.load(to_s, mask=at_s, other=0.0)
    u = tl.load(to_u, mask=at_u, other=0.0)
    begin = n * PER * CHUNK
    chunks = tl.cdiv(tl.minimum(lk - begin, PER * CHUNK), CHUNK)
    for back in range(chunks):
        start = begin + (chunks - 1 - back) * CHUNK
        j = start + r
        m = tl.minimum(lk - start, CHUNK)
        shown = shown_keys(KEYS, j, lk, HAS_KEYS)
        k = keys_of(K, shown, j, stride_kl, stride_kd, 0, D, BLOCK_D, FEATURE, OPERAND)
        dv = decayed(dot(k, s, OPERAND, PRECISION) + u[None, :], m - r, log_decay, HAS_DECAY)
        if CAUSAL:
            i = j - before
            there = (i >= 0) & (i < lq)
            q = queries_of(Q, i, lq, stride_ql, stride_qd, 0, D, BLOCK_D, FEATURE, OPERAND)
            do = rows_of(DO, i, there, stride_gl, stride_gd, column, DV, BLOCK_DV)
            total = tl.zeros([CHUNK], dtype=tl.float32)
            if KIND >= 1:
                total = tl.load(TOTAL + i, mask=there, other=0.0)
            a, beta = row_factors(total, COUNTS, j, there, stride_cl, scale, KIND, EPS)
            p = apart(tl.dot(q, tl.trans(k), input_precision=PRECISION), log_decay, CHUNK, HAS_DECAY)
            if KIND >= 2:
                p = tl.where(r[:, None] >= r[None, :], p + beta[:, None], 0.0)
            dv += dot(tl.trans(p * a[:, None]), do, OPERAND, PRECISION)
            sent = operand(do.to(tl.float32) * a[:, None], OPERAND)
            q = decayed(q, r, log_decay, HAS_DECAY)
            s = whole(s, m, log_decay, HAS_DECAY) + dot(tl.trans(q), sent, OPERAND, PRECISION)
            if KIND >= 2:
                u += tl.sum(sent.to(tl.float32) * beta[:, None], 0)
        if HAS_KEYS:
            dv = tl.where(shown[:, None], dv, 0.0)
        to = DV_ + j.to(tl.int64)[:, None] * DV + e[None, :]
        tl.store(to, kept(dv, DV_, OPERAND), mask=(j < lk)[:, None] & (e < DV)[None, :])
