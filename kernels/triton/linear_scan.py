"""Engine 2 in Triton: linear attention with a decay per head and a normaliser, forward and backward."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.autocast import in_declared_types
from kernels.once import differentiable_once
from kernels.triton.linear_scan_cut import Cut, cut
from kernels.triton.linear_scan_launches import Launches, Weights
from kernels.triton.support import LOG2E, on_device, require

__all__ = ["Weights", "linear_attention", "linear_scan"]


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
        k: keys (B, Hk, Lk, D); neighbouring heads of queries share one.
        v: values (B, Hk, Lk, Dv).
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
    work = Launches(weights, causal, _log2(log_decay, q), _counts(key_mask, k, causal) if weights.number >= 2 else None)
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
    work = Launches(weights, True, _log2(log_decay, q), None)
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


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    how: Cut
    work: Launches
    started: bool

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _Scan(torch.autograd.Function):
    """The kernels with their backward pass, from a state (B, H, D Dv + D + Dv) and to a state."""

    @staticmethod
    def forward(
        ctx: _Context, q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, key_mask: Tensor | None, work: Launches
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
    @differentiable_once
    @in_declared_types
    def backward(ctx: _Context, do: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, keys, states, o, total = ctx.saved_tensors
        do = torch.zeros_like(o) if do is None else do
        with on_device(q):
            dq, dk, dv, first = ctx.work.backward(q, k, v, keys, states, o, total, do, dlast, ctx.how)
        return dq, dk, dv, first if ctx.started else None, None, None
