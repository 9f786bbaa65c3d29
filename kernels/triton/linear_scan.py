"""Engine 2 in Triton: linear attention with a decay per head and a normaliser, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from kernels.triton.support import LOG2E, interpreting, launch, launch_options, on_device, operands, padded, require

__all__ = ["Cut", "ScanLaunch", "Weights", "cut", "linear_attention", "linear_scan", "scan_launch"]

_PROGRAMS = 1536
"""Programs that keep a large GPU busy; with more of them, states are written and read for nothing."""
_CARRIED = 1024


@dataclass(frozen=True, slots=True)
class Weights:
    """What the weights of the visible keys are, from their scores s_j with the sum T, of which there are n.

    "plain" scale s_j; "normalised" s_j / (T + eps); "mala" c (1 + 1 / (c T + eps)) s_j - c T / n with c = scale, which
    "mala per key" divides by n. ``feature`` is mapped over queries and keys before their product.
    """

    kind: Literal["plain", "normalised", "mala", "mala per key"] = "plain"
    scale: float = 1.0
    eps: float = 1e-6
    feature: Literal["none", "elu"] = "none"
    """"elu" is ELU + 1."""

    @property
    def number(self) -> int:
        """What the kernels call the kind."""
        return {"plain": 0, "normalised": 1, "mala per key": 2, "mala": 3}[self.kind]


@dataclass(frozen=True, slots=True)
class ScanLaunch:
    """Positions of a chunk, columns of values of a program, and how a kernel is launched with them."""

    chunk: int
    block_dv: int
    warps: int
    stages: int = 2


def scan_launch(d: int, dv: int, dtype: torch.dtype, *, backward: bool) -> ScanLaunch:
    """Tile sizes for keys of size ``d`` and values of size ``dv``.

    The state of a program, padded(d) x block_dv in float32, stays in registers; bfloat16 operands are half as large as
    those of float16 and float32, which products take as float32.
    """
    wide, columns = padded(d), padded(dv)
    if dtype == torch.bfloat16:
        most = 8192 if backward else 16384
        chunk = 64 if wide <= 128 else 32
    else:
        most = 4096 if backward else 8192
        chunk = 32 if wide <= 128 else 16
    block_dv = max(16, min(columns, most // wide))
    return ScanLaunch(chunk, block_dv, 8 if wide * block_dv > 4096 or backward else 4)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    weights: Weights,
    log_decay: Tensor | None = None,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Weighted sums of the values that each query sees, (B, H, Lq, Dv) in the type of q.

    Args:
        q: queries (B, H, Lq, D), float32, bfloat16 or float16.
        k: keys (B, H, Lk, D).
        v: values (B, H, Lk, Dv).
        causal: aligned bottom right; without it all queries see all keys, and ``log_decay`` is None.
        weights: what the weights are.
        log_decay: (H,), at most 0: scores fade by exp(log_decay) per position. It gets no gradient.
        key_mask: bool (B, Lk); hidden keys add nothing.

    Raises:
        KernelError: where Triton cannot run on these tensors.
    """
    require(q, k, v)
    ahead = q.shape[2] - k.shape[2] if causal else 0
    if ahead > 0:
        seeing = linear_attention(
            q[:, :, ahead:], k, v, causal=True, weights=weights, log_decay=log_decay, key_mask=key_mask
        )
        return pad(seeing, (0, 0, ahead, 0))
    if 0 in (*q.shape, *k.shape, *v.shape):
        return _nothing(q, k, v)
    work = _Work(weights, causal, _log2(log_decay, q), _counts(key_mask, k, causal) if weights.number >= 2 else None)
    out: Tensor = _Scan.apply(q, k, v, None, key_mask, work)[0]
    return out


def linear_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    state: Tensor | None = None,
    normaliser: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`kernels.engines.linear_scan.linear_scan` with Triton; the output has the type of q.

    With a ``normaliser`` each row is divided by the sum of its scores plus that number; the states are then
    (B, H, D, Dv + 1), with the sum of the keys as their last column, as if the values had ended in a one.
    """
    require(q, k, v)
    (batch, heads, length, d), dv = k.shape, v.shape[3]
    columns = dv + (normaliser is not None)
    if state is None:
        state = torch.zeros(batch, heads, d, columns, dtype=torch.float32, device=q.device)
    state = state.float()
    if 0 in (batch, heads, length, d, dv):
        return _nothing(q, k, v), state.clone()
    sums = state[..., dv] if normaliser is not None else state.new_zeros(batch, heads, d)
    flat = torch.cat([state[..., :dv].flatten(2), sums, state.new_zeros(batch, heads, dv)], dim=2)
    weights = Weights() if normaliser is None else Weights("normalised", eps=normaliser)
    work = _Work(weights, True, _log2(log_decay, q), None)
    out, last = _Scan.apply(q, k, v, flat, None, work)
    matrix = last[..., : d * dv].unflatten(2, (d, dv))
    if normaliser is not None:
        matrix = torch.cat([matrix, last[..., d * dv : d * dv + d, None]], dim=3)
    return out, matrix


def _nothing(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What no key or no query gives, still with a gradient (of zero)."""
    nothing = q[..., :0].sum() + k[..., :0].sum() + v[..., :0].sum()
    return nothing.expand(*q.shape[:3], v.shape[3]).clone()


def _log2(log_decay: Tensor | None, q: Tensor) -> Tensor | None:
    """Decays as the kernels take them, (H,) float32."""
    return None if log_decay is None else (log_decay.detach().to(q.device, torch.float64) * LOG2E).float().contiguous()


def _counts(key_mask: Tensor | None, k: Tensor, causal: bool) -> Tensor:
    """Visible keys up to each position (B, Lk), or all of them in each place; int32."""
    batch, _, length, _ = k.shape
    if key_mask is not None:
        if causal:
            return key_mask.cumsum(dim=1, dtype=torch.int32)
        return key_mask.sum(dim=1, keepdim=True, dtype=torch.int32).expand(-1, length)
    if causal:
        return torch.arange(1, length + 1, dtype=torch.int32, device=k.device).expand(batch, -1)
    return torch.full((1, 1), length, dtype=torch.int32, device=k.device).expand(batch, length)


@dataclass
class _Work:
    """Launches of one call. All tensors of a call are of one batch, and none is empty."""

    weights: Weights
    causal: bool
    decay: Tensor | None
    counts: Tensor | None

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, states: Tensor, how: Cut
    ) -> tuple[Tensor, Tensor]:
        """The output and the sums of scores; fills the states, of which the first is given."""
        from kernels.triton.linear_scan_forward import key_states, outputs

        fixed = self.fixed(q, v, keys, how)
        o = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
        total = torch.empty(q.shape[:3] if self.weights.number else (1,), dtype=torch.float32, device=q.device)
        shown, decay, counts = self.given(q, keys)
        heads, lq, lk = q.shape[1], q.shape[2], k.shape[2]
        problems = q.shape[0] * heads
        launch(
            key_states,
            how.segments_k * how.parts * problems,
            (k, v, shown, decay, states, *k.stride(), *v.stride(), heads, lk, how.segments_k, how.parts, how.width),
            _but(fixed, "CAUSAL", "EPS"),
        )
        self.carry(states, problems, heads, lk, how.segments_k, how, backwards=False)
        launch(
            outputs,
            (how.segments_q - how.first) * how.parts * problems,
            (q, k, v, shown, decay, counts, states, o, total),
            (*q.stride(), *k.stride(), *v.stride(), *_strides(self.counts), heads, lq, lk, how.before, how.first),
            (how.segments_q - how.first, how.segments_k, how.parts, how.width, self.weights.scale),
            fixed,
        )
        return o, total

    def backward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keys: Tensor | None,
        states: Tensor,
        o: Tensor,
        total: Tensor,
        do: Tensor,
        dlast: Tensor | None,
        how: Cut,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of q, k, v and the first state."""
        from kernels.triton.linear_scan_backward import key_grads, query_grads, query_states, row_grads

        scan = cut(q, k, v, self.causal, backward=True, segment=how.segment)
        fixed = self.fixed(q, v, keys, scan)
        shown, decay, counts = self.given(q, keys)
        (_, heads, lq, _), lk, dv = q.shape, k.shape[2], v.shape[3]
        problems = q.shape[0] * heads
        sent = _strides(self.counts)
        lengths = (heads, lq, lk, how.before)
        here = how.segments_q - how.first
        dtotal = torch.empty_like(total)
        if self.weights.number:
            launch(
                row_grads,
                here * problems,
                (v, shown, counts, states, o, do, total, dtotal, *v.stride(), *do.stride(), *sent, *lengths),
                (how.first, here, how.segments_k, how.width, self.weights.scale),
                {**_but(fixed, "BLOCK_D", "HAS_DECAY", "FEATURE"), "BLOCK_DV": padded(dv)},
            )
        dq, dk = (_parts(x, scan.parts) for x in (q, k))
        dv_ = torch.empty(v.shape, dtype=v.dtype, device=v.device)
        launch(
            query_grads,
            here * scan.parts * problems,
            (k, v, q, shown, decay, counts, do, total, dtotal, states, dq),
            (*q.stride(), *k.stride(), *v.stride(), *do.stride(), *sent, *lengths, how.first, here, how.segments_k),
            (scan.parts, how.width, q.numel(), self.weights.scale),
            fixed,
        )
        back = torch.empty(problems, how.segments_q + 1, how.width, dtype=torch.float32, device=q.device)
        back[:, -1] = 0.0 if dlast is None else dlast.reshape(problems, -1)
        launch(
            query_states,
            how.segments_q * scan.parts * problems,
            (q, decay, counts, do, total, dtotal, back, *q.stride(), *do.stride(), *sent, heads, lq, how.before),
            (how.segments_q, scan.parts, how.width, self.weights.scale),
            _but(fixed, "HAS_KEYS", "CAUSAL"),
        )
        self.carry(back, problems, heads, lq + how.before, how.segments_q, how, backwards=True)
        launch(
            key_grads,
            how.segments_k * scan.parts * problems,
            (q, k, v, shown, decay, counts, do, total, dtotal, back, dk, dv_),
            (*q.stride(), *k.stride(), *v.stride(), *do.stride(), *sent, *lengths, how.segments_k, how.segments_q),
            (scan.parts, how.width, k.numel(), self.weights.scale),
            fixed,
        )
        first = back[:, 0].view(*q.shape[:2], -1)
        return _summed(dq, q), _summed(dk, k), dv_, first

    def carry(
        self, states: Tensor, problems: int, heads: int, length: int, segments: int, how: Cut, *, backwards: bool
    ) -> None:
        """States from what segments add."""
        from kernels.triton.linear_scan_forward import carry

        block = min(_CARRIED, padded(how.width))
        blocks = -(-how.width // block)
        launch(
            carry,
            problems * blocks,
            (states, states if self.decay is None else self.decay, heads, length, segments, how.width, blocks),
            {
                "SEGMENT": how.segment,
                "BLOCK": block,
                "HAS_DECAY": self.decay is not None,
                "BACKWARDS": backwards,
                **launch_options(4, 2),
            },
        )

    def given(self, q: Tensor, keys: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Key mask, decays and counts, or any address in place of what is not there."""
        return tuple(q if x is None else x for x in (keys, self.decay, self.counts))  # type: ignore[return-value]

    def fixed(self, q: Tensor, v: Tensor, keys: Tensor | None, how: Cut) -> dict[str, object]:
        """The constants of every kernel and how it is launched."""
        d, dv = q.shape[3], v.shape[3]
        operand, precision = operands(q.dtype)
        return {
            "D": d,
            "DV": dv,
            "BLOCK_D": padded(d),
            "BLOCK_DV": how.launch.block_dv,
            "CHUNK": how.launch.chunk,
            "PER": how.segment // how.launch.chunk,
            "HAS_KEYS": keys is not None,
            "HAS_DECAY": self.decay is not None,
            "CAUSAL": self.causal,
            "FEATURE": self.weights.feature,
            "KIND": self.weights.number,
            "EPS": self.weights.eps,
            "OPERAND": operand,
            "PRECISION": precision,
            **launch_options(how.launch.warps, how.launch.stages),
        }


@dataclass(frozen=True, slots=True)
class Cut:
    """How a call is cut: positions per segment, segments of queries and of keys, parts of the columns of values."""

    launch: ScanLaunch
    segment: int
    before: int
    """Positions before the first query."""
    first: int
    """The first segment that holds queries."""
    segments_q: int
    segments_k: int
    parts: int
    width: int
    """Numbers of a state."""


def cut(q: Tensor, k: Tensor, v: Tensor, causal: bool, *, backward: bool = False, segment: int | None = None) -> Cut:
    """How to cut a call; the pass back keeps the segments of the pass forward."""
    (batch, heads, lq, d), lk, dv = q.shape, k.shape[2], v.shape[3]
    launch = scan_launch(d, dv, q.dtype, backward=backward)
    before = lk - lq if causal else 0
    if segment is None:
        # Long segments move fewer states, short ones give more programs.
        segment = 256
        while segment < 4096 and batch * heads * max(lq, lk) > 2 * segment * _PROGRAMS:
            segment *= 2
        if interpreting():
            segment = 64
    segments_k = -(-lk // segment)
    segments_q = segments_k if causal else -(-lq // segment)
    parts = -(-dv // launch.block_dv)
    return Cut(launch, segment, before, before // segment, segments_q, segments_k, parts, d * dv + d + dv)


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    how: Cut
    work: _Work
    started: bool

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _Scan(torch.autograd.Function):
    """The kernels with their backward pass, from a state (B, H, D Dv + D + Dv) and to a state."""

    @staticmethod
    def forward(
        ctx: _Context, q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, key_mask: Tensor | None, work: _Work
    ) -> tuple[Tensor, Tensor]:
        how = cut(q, k, v, work.causal)
        keys = None if key_mask is None else key_mask.contiguous().view(torch.uint8)
        problems = q.shape[0] * q.shape[1]
        states = torch.empty(problems, how.segments_k + 1, how.width, dtype=torch.float32, device=q.device)
        states[:, 0] = 0.0 if first is None else first.reshape(problems, -1)
        with on_device(q):
            o, total = work.forward(q, k, v, keys, states, how)
        ctx.save_for_backward(q, k, v, keys, states, o, total)
        ctx.how, ctx.work, ctx.started = how, work, first is not None
        ctx.set_materialize_grads(False)
        return o, states[:, -1].reshape(*q.shape[:2], -1).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, do: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, keys, states, o, total = ctx.saved_tensors
        do = torch.zeros_like(o) if do is None else do
        with on_device(q):
            dq, dk, dv, first = ctx.work.backward(q, k, v, keys, states, o, total, do, dlast, ctx.how)
        return dq, dk, dv, first if ctx.started else None, None, None


def _parts(x: Tensor, parts: int) -> Tensor:
    """Where the gradient of ``x`` goes, in float32 if it has several parts that are still to be added."""
    return torch.empty(parts, *x.shape, dtype=x.dtype if parts == 1 else torch.float32, device=x.device)


def _summed(parts: Tensor, x: Tensor) -> Tensor:
    """The gradient of ``x`` out of its parts."""
    return parts[0] if parts.shape[0] == 1 else parts.sum(dim=0).to(x.dtype)


def _strides(counts: Tensor | None) -> tuple[int, ...]:
    return (0, 0) if counts is None else counts.stride()


def _but(fixed: dict[str, object], *names: str) -> dict[str, object]:
    """Constants without those that a kernel does not take."""
    return {name: x for name, x in fixed.items() if name not in names}
