"""What the kernels of engine 2 compute and move in a pass forward, counted from how they cut a call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.triton.haar import rows_at_once
from kernels.triton.linear_scan_cut import cut
from kernels.triton.support import padded

__all__ = ["Work", "features_work", "scan_work"]


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs of matrix products, and bytes that are read from memory and written to it."""

    flops: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def least_seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The roofline: the longer of computing at one rate and moving at the other."""
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)


def scan_work(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, normalised: bool) -> Work:
    """One call of `linear_attention`; the tensors may lie on the device "meta"."""
    (batch, heads, lq, d), lk, dv = q.shape, k.shape[2], v.shape[3]
    how, size = cut(q, k, v, causal), q.element_size()
    states = 4.0 * how.width * (how.segments_k + 1)
    # Keys and queries are read by each part of the columns of values; causal outputs need keys and values once more.
    moved = float(size * ((how.parts * lk * d + lk * dv) * (2 if causal else 1) + how.parts * lq * d + lq * dv))
    moved += 3 * states + (states if causal else 4.0 * how.width * how.segments_q) + (4 * lq if normalised else 0)
    flops = 2.0 * lk * d * dv * (2 if causal else 1) + 2.0 * lq * d * dv
    if causal:
        flops += 2.0 * lq * how.launch.chunk * (d * how.parts + dv)
    return Work(batch * heads * flops, batch * heads * moved)


def features_work(x: Tensor, features: int, levels: int, *, causal: bool) -> Work:
    """One call of `haar_features`; ``x`` (B, H, L, D) may lie on the device "meta"."""
    rows, d, size = x.shape[0] * x.shape[1] * x.shape[2], x.shape[3], x.element_size()
    chunk = rows_at_once(x)
    reach = chunk + (padded(1 << levels) if causal else 0)
    # Half types are multiplied in parts, to keep 16 bits: two products for the transform, three for the projection.
    mixing, projecting = (2, 3) if x.dtype == torch.bfloat16 else (3, 3) if size == 2 else (1, 1)
    flops = 2.0 * rows * d * (reach * mixing + features * projecting)
    return Work(flops, rows * size * (d * reach / chunk + features))
