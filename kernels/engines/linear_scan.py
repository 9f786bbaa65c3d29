"""Engine 2: causal linear attention with per-head decay, chunk by chunk, forward and backward, in plain PyTorch.

With a state S = sum over s < start of lambda^(start - s) k_s v_s^T, a chunk of m positions r = 0 .. m - 1 gives

    O = ((Q K^T) * lambda^(r - c)) V + lambda^r (Q S),     S <- lambda^m S + (lambda^(m - r) K)^T V

Only exponents r and m - r, never negative, are formed, so every factor is at most 1. Segments of several chunks are
computed at once and sized to stay in cache; the backward pass goes right to left from the states at their starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.autocast import in_declared_types
from kernels.checks import compute_dtype, repeat_heads
from kernels.once import differentiable_once

__all__ = ["linear_attention", "linear_scan"]

_SEGMENT_SCORES = 1 << 18
"""Scores held at once: 1 MiB in float32."""
_SEGMENT_ROWS = 256
"""Rows that a segment has at least: the state at its start is kept for the way back."""


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, log_decay: Tensor | None, causal: bool, chunk: int | None = None
) -> Tensor:
    """The sum over the visible j of exp(log_decay (i - j)) (q_i . k_j) v_j, without a scale or a normaliser.

    For q (B, H, Lq, D), k (B, H, Lk, D), v (B, H, Lk, Dv); causal calls are aligned bottom right. ``log_decay`` (H,),
    at most 0, or None for no decay (the only choice if not causal). k and v may have fewer heads, which neighbouring
    heads of q share. Returns (B, H, Lq, Dv) in float32 (float64).
    """
    to = compute_dtype(q)
    if not causal:
        return q.to(to) @ repeat_heads(k.to(to).transpose(-1, -2) @ v.to(to), q.shape[1])
    before = k.shape[2] - q.shape[2]
    if before < 0:
        seeing = linear_attention(q[:, :, -before:], k, v, log_decay=log_decay, causal=True, chunk=chunk)
        return torch.nn.functional.pad(seeing, (0, 0, -before, 0))
    state = None
    if before:
        early, values = k[:, :, :before].to(to), v[:, :, :before].to(to)
        if log_decay is None:
            state = early.transpose(-1, -2) @ values
        else:
            ago = torch.arange(before, 0, -1, device=q.device, dtype=to)
            # By turns for the heads that share keys: side by side they would be repeated in memory.
            fading = torch.exp(log_decay.to(to)[:, None] * ago).view(k.shape[1], -1, before, 1).unbind(1)
            state = torch.stack([(early * by).transpose(-1, -2) @ values for by in fading], dim=2).flatten(1, 2)
    return linear_scan(q, k[:, :, before:], v[:, :, before:], log_decay=log_decay, state=state, chunk=chunk)[0]


def linear_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    state: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Causal linear attention over equally long q, k (B, H, L, D), v (B, H, L, Dv), from a state and to a state.

    k and v may have fewer heads than q; neighbouring heads of q then share one, and without decay its state as well.

    Args:
        q: queries.
        k: keys.
        v: values.
        log_decay: (H,), at most 0; None for no decay. It gets no gradient.
        state: (B, H or those of k without decay, D, Dv), what a run up to the position before gave; None for none.
        chunk: positions per chunk; None chooses.

    Returns:
        The output (B, H, L, Dv) and the state with which a run over the next positions goes on, both in float32
        (float64 for float64 inputs).
    """
    to = compute_dtype(q)
    if state is None:
        heads = k.shape[1] if log_decay is None else q.shape[1]
        state = q.new_zeros(k.shape[0], heads, k.shape[3], v.shape[3], dtype=to)
    if chunk is None:
        chunk = 128 if min(k.shape[3], v.shape[3]) > 64 else 64
    decay = None if log_decay is None else log_decay.detach().to(device=q.device, dtype=to)
    o, last = _LinearScan.apply(q, k, v, state.to(to), decay, chunk)  # type: ignore[no-untyped-call]
    return o, last


@dataclass(frozen=True, slots=True)
class _Segment:
    """Chunks computed together: rows [start, start + chunks * size), with the powers of the decay that they need.

    Queries of the heads that share a state stand below each other, as (B, H, chunks, sharing * size, D).
    """

    start: int
    chunks: int
    size: int
    mask: Tensor
    into: Tensor | None
    """lambda^r, (H, 1, size, 1): from the state at the start of a chunk to its row r; None without decay."""
    out_of: Tensor | None
    """lambda^(size - r), (H, 1, size, 1): from row r to the state behind the chunk."""
    whole: Tensor | None
    """lambda^size, (H, 1, 1)."""

    def cut(self, x: Tensor, to: torch.dtype) -> Tensor:
        """Its rows of (B, H, L, D) as (B, H, chunks, size, D)."""
        rows = x[:, :, self.start : self.start + self.chunks * self.size]
        # Contiguous, as each product would otherwise make that copy for itself.
        return rows.to(to).contiguous().view(*x.shape[:2], self.chunks, self.size, x.shape[3])

    def spread(self, x: Tensor, heads: int, to: torch.dtype) -> Tensor:
        """Its rows of keys or values (B, Hk, L, D) for each of ``heads`` with a state of its own."""
        return repeat_heads(self.cut(x, to), heads)

    def stack(self, x: Tensor, heads: int, to: torch.dtype) -> Tensor:
        """Its rows of queries (B, Hq, L, D), those of heads that share one of ``heads`` states below each other."""
        rows = self.cut(x, to)
        if x.shape[1] == heads:
            return rows
        return rows.view(rows.shape[0], heads, rows.shape[1] // heads, *rows.shape[2:]).transpose(2, 3).flatten(3, 4)

    def put(self, into: Tensor, x: Tensor) -> None:
        """Write (B, H, chunks, size, D), or queries as `stack` and keys as `spread` has them, to its rows."""
        if x.shape[1] > into.shape[1]:
            x = x.view(x.shape[0], into.shape[1], x.shape[1] // into.shape[1], *x.shape[2:]).sum(dim=2)
        elif x.shape[1] < into.shape[1]:
            x = x.view(*x.shape[:3], x.shape[3] // self.size, self.size, x.shape[4]).transpose(2, 3).flatten(1, 2)
        into[:, :, self.start : self.start + self.chunks * self.size] = x.flatten(2, 3)

    def entering(self, x: Tensor) -> Tensor:
        """``x`` (B, H, chunks, size, D) times lambda^r."""
        return x if self.into is None else x * self.into

    def leaving(self, x: Tensor) -> Tensor:
        """``x`` (B, H, chunks, size, D) times lambda^(size - r)."""
        return x if self.out_of is None else x * self.out_of

    def carried(self, first: Tensor, local: Tensor, *, backwards: bool = False) -> tuple[Tensor, Tensor]:
        """States at the edge of each chunk, (B, H, chunks, D, Dv), and the one beyond, from what each chunk adds."""
        states = torch.empty_like(local)
        into, added = states.unbind(2), local.unbind(2)
        order = range(self.chunks - 1, -1, -1) if backwards else range(self.chunks)
        # One operator per chunk: each state is written where it is read from.
        into[order[0]].copy_(first)
        for n, after in itertools.pairwise(order):
            _step(added[n], into[n], self.whole, into[after])
        beyond = torch.empty_like(first)
        _step(added[order[-1]], into[order[-1]], self.whole, beyond)
        return states, beyond


def _step(added: Tensor, state: Tensor, whole: Tensor | None, into: Tensor) -> None:
    """Write ``added`` plus the state times ``whole`` (1 if None)."""
    if whole is None:
        torch.add(added, state, out=into)
    else:
        torch.addcmul(added, state, whole, out=into)


def _plus(a: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``a`` + x y, in place of ``a``; (B, H, chunks, n, m)."""
    flat = a.flatten(0, 2)
    torch.baddbmm(flat, x.flatten(0, 2), y.flatten(0, 2), out=flat)
    return a


def _segments(
    length: int, chunk: int, problems: int, sharing: int, decay: Tensor | None, like: Tensor
) -> list[_Segment]:
    """The segments of ``length`` rows from left to right; what does not fill a chunk is a chunk of its own."""
    device, to = like.device, like.dtype

    def made(start: int, chunks: int, size: int) -> _Segment:
        r = torch.arange(size, device=device, dtype=to)
        below = torch.ones(size, size, device=device, dtype=to).tril_()
        if decay is None:
            return _Segment(start, chunks, size, below.repeat(sharing, 1), None, None, None)
        apart = (r[:, None] - r[None, :]).clamp_min_(0)
        mask = (torch.exp(decay[:, None, None] * apart) * below)[:, None]
        into, out_of = torch.exp(decay[:, None] * r), torch.exp(decay[:, None] * (size - r))
        whole = torch.exp(decay * size)[:, None, None]
        return _Segment(start, chunks, size, mask, into[:, None, :, None], out_of[:, None, :, None], whole)

    def all_of() -> Iterator[_Segment]:
        full, rest = divmod(length, chunk)
        most = max(1, _SEGMENT_ROWS // chunk, _SEGMENT_SCORES // (chunk * chunk * max(problems, 1)))
        if full:
            shape = made(0, min(most, full), chunk)
        for first in range(0, full, most):
            yield _moved(shape, first * chunk, min(most, full - first))
        if rest:
            yield made(full * chunk, 1, rest)

    return list(all_of())


def _moved(segment: _Segment, start: int, chunks: int) -> _Segment:
    """The same powers for other rows."""
    s = segment
    return _Segment(start, chunks, s.size, s.mask, s.into, s.out_of, s.whole)


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    segments: list[_Segment]

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _LinearScan(torch.autograd.Function):
    """The chunked scan with its backward pass; the decay gets no gradient."""

    @staticmethod
    def forward(
        ctx: _Context, q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor | None, chunk: int
    ) -> tuple[Tensor, Tensor]:
        batch, heads, length, _ = q.shape
        to, held = state.dtype, state.shape[1]
        segments = _segments(length, chunk, batch * heads, heads // held, decay, state)
        out = q.new_empty(batch, heads, length, v.shape[3], dtype=to)
        starts: list[Tensor] = []
        for s in segments:
            starts.append(state)
            qs, ks, vs = s.stack(q, held, to), s.spread(k, held, to), s.spread(v, held, to)
            states, state = s.carried(state, s.leaving(ks).transpose(-1, -2) @ vs)
            inside = ((qs @ ks.transpose(-1, -2)).mul_(s.mask)) @ vs
            s.put(out, _plus(inside, s.entering(qs), states))
        ctx.save_for_backward(q, k, v, *starts)
        ctx.segments = segments
        return out, state.clone() if not segments else state

    @staticmethod
    @differentiable_once
    @in_declared_types
    def backward(ctx: _Context, do: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *starts = ctx.saved_tensors
        to, held = do.dtype, dstate.shape[1]
        dq, dk, dv = (torch.empty_like(x, dtype=to) for x in (q, k, v))
        for s, start in zip(reversed(ctx.segments), reversed(starts), strict=True):
            qs, gs = s.stack(q, held, to), s.stack(do, held, to)
            ks, vs = s.spread(k, held, to), s.spread(v, held, to)
            states, _ = s.carried(start, s.leaving(ks).transpose(-1, -2) @ vs)
            after, dstate = s.carried(dstate, s.entering(qs).transpose(-1, -2) @ gs, backwards=True)
            z = (gs @ vs.transpose(-1, -2)).mul_(s.mask)
            p = (qs @ ks.transpose(-1, -2)).mul_(s.mask)
            s.put(dq, z @ ks + s.entering(gs @ states.transpose(-1, -2)))
            s.put(dk, z.transpose(-1, -2) @ qs + s.leaving(vs @ after.transpose(-1, -2)))
            s.put(dv, p.transpose(-1, -2) @ gs + s.leaving(ks @ after))
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dstate, None, None
