"""What the linear scan launches for a call, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kernels.triton.linear_scan_cut import Cut, cut
from kernels.triton.support import launch, launch_options, operands, padded, summed_heads

__all__ = ["Launches", "Weights"]

_CARRIED = 1024
"""Numbers of a state that a program carries from segment to segment."""


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


@dataclass
class Launches:
    """The kernels of one call, in order. All tensors of a call are of one batch, and none is empty."""

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
        heads, share, lq, lk = q.shape[1], q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
        problems = q.shape[0] * heads
        launch(
            key_states,
            how.segments_k * how.parts * problems,
            (k, v, shown, decay, states, *k.stride(), *v.stride(), heads, share, lk),
            (how.segments_k, how.parts, how.width),
            _but(fixed, "CAUSAL", "EPS"),
        )
        self.carry(states, problems, heads, lk, how.segments_k, how, backwards=False)
        launch(
            outputs,
            (how.segments_q - how.first) * how.parts * problems,
            (q, k, v, shown, decay, counts, states, o, total),
            (*q.stride(), *k.stride(), *v.stride(), *_strides(self.counts), heads, share, lq, lk),
            (how.before, how.first),
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
        from kernels.triton.linear_scan_backward import (
            key_grads,
            query_grads,
            query_states,
            row_grads,
            value_grads,
        )

        scan = cut(q, k, v, self.causal, backward=True, segment=how.segment)
        fixed = self.fixed(q, v, keys, scan)
        shown, decay, counts = self.given(q, keys)
        (_, heads, lq, _), lk, dv = q.shape, k.shape[2], v.shape[3]
        problems = q.shape[0] * heads
        sent = _strides(self.counts)
        lengths = (heads, heads // k.shape[1], lq, lk, how.before)
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
        # Each head of queries gives gradients of its own; those of heads that share keys are added up at the end.
        dq, dk, dv_ = (torch.empty(*q.shape[:2], *x.shape[2:], dtype=x.dtype, device=x.device) for x in (q, k, v))
        # Gradients of queries and keys are cut by their columns, those of values and the states by the values'.
        by_d = {**fixed, "BLOCK_D": scan.launch.block_d, "BLOCK_DV": padded(dv)}
        parts_d = -(-q.shape[3] // scan.launch.block_d)
        launch(
            query_grads,
            here * parts_d * problems,
            (k, v, q, shown, decay, counts, do, total, dtotal, states, dq),
            (*q.stride(), *k.stride(), *v.stride(), *do.stride(), *sent, *lengths, how.first, here, how.segments_k),
            (parts_d, how.width, self.weights.scale),
            by_d,
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
            how.segments_k * parts_d * problems,
            (q, k, v, shown, decay, counts, do, total, dtotal, back, dk),
            (*q.stride(), *k.stride(), *v.stride(), *do.stride(), *sent, *lengths, how.segments_k, how.segments_q),
            (parts_d, how.width, self.weights.scale),
            by_d,
        )
        # Rows that decay are held in float32 beside themselves, which leaves room for half of a large state.
        large = self.decay is not None and padded(q.shape[3]) * scan.launch.block_dv > 4096
        columns = max(16, scan.launch.block_dv // 2) if large else scan.launch.block_dv
        parts_v = -(-dv // columns)
        launch(
            value_grads,
            how.segments_k * parts_v * problems,
            (q, k, shown, decay, counts, do, total, back, dv_),
            (*q.stride(), *k.stride(), *do.stride(), *sent, *lengths, how.segments_k, how.segments_q),
            (parts_v, how.width, self.weights.scale),
            {**fixed, "BLOCK_DV": columns},
        )
        first = back[:, 0].view(*q.shape[:2], -1)
        return dq, summed_heads(dk, k), summed_heads(dv_, v), first

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


def _strides(counts: Tensor | None) -> tuple[int, ...]:
    return (0, 0) if counts is None else counts.stride()


def _but(fixed: dict[str, object], *names: str) -> dict[str, object]:
    """Constants without those that a kernel does not take."""
    return {name: x for name, x in fixed.items() if name not in names}
