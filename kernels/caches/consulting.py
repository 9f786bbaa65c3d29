"""When a forecast should consult memory: where it is unsure about what it looks at most (DRAGIN's rule, ATLAS').

DRAGIN's is as its code has it; ATLAS (arXiv 2504.01281) is reconstructed from its abstract.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.errors import KernelError

__all__ = ["attention_shift", "consult", "need", "need_by_layers"]


def need(received: Tensor, entropy: Tensor, *, counts: Tensor | None = None) -> Tensor:
    """How much each step asks for memory: n a_t H_t, (..., n).

    Args:
        received: attention that each step receives in the last layer, (..., n); its sum does not matter.
        entropy: of the predictive distribution of each step, (..., n); an interval's width over its usual one serves.
        counts: bool (..., n), which steps count; all if None.
    """
    if received.shape != entropy.shape:
        raise KernelError(f"received {tuple(received.shape)} and entropy {tuple(entropy.shape)} differ in shape")
    total = received.sum(dim=-1, keepdim=True)
    share = received / total.clamp_min(torch.finfo(received.dtype).tiny)
    asked = received.shape[-1] * share * entropy
    return asked if counts is None else asked.masked_fill(~counts, 0.0)


def attention_shift(received: Sequence[Tensor]) -> Tensor:
    """How much received attention (..., n) moves from layer to layer, the mean of |a^(l+1) - a^l|; 0 if it stays."""
    if len(received) < 2:
        raise KernelError(f"{len(received)} layers were given, expected at least two")
    layers = torch.stack(list(received))
    return layers.diff(dim=0).abs().mean(dim=0)


def need_by_layers(
    received: Sequence[Tensor], sure: Sequence[Tensor], *, depth: Sequence[float] | None = None, alpha: float = 1.0
) -> Tensor:
    """The multi-layer attention gradient of ATLAS, alpha G_t D_t, (..., n).

    G is `attention_shift`, D the sum over layers of ``depth`` times 1 - p, with p (..., n) in ``sure`` the probability
    of what came as it is read out at that layer. ``depth`` is one weight per layer, 1 / layers each if None.
    """
    layers = len(sure)
    weights = [1.0 / layers] * layers if depth is None else list(depth)
    if len(weights) != layers or layers != len(received):
        raise KernelError(f"{len(received)} layers of attention, {layers} of read-outs, {len(weights)} weights")
    doubt = torch.stack([w * (1.0 - p) for w, p in zip(weights, sure, strict=True)]).sum(dim=0)
    return alpha * attention_shift(received) * doubt


def consult(needs: Tensor, *, threshold: float) -> Tensor:
    """Whether any step (..., n) asks for more than ``threshold``, (...,); DRAGIN sets 0.8 to 1.3 for `need`."""
    return (needs > threshold).any(dim=-1)
