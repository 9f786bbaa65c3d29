"""Sliding window: a query sees the keys nearest to it, and perhaps the very first ones."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import positive
from kernels.engines.kept import Reach
from kernels.engines.ruled import ruled_mechanism
from kernels.engines.rules import Call, Form, Rule
from kernels.registry import Taxonomy

__all__ = ["MECHANISM", "sliding_window"]


def sliding_window(call: Call, *, window: int = 256, sinks: int = 0) -> Rule:
    """Keys at a distance below ``window`` (itself is at distance 0), and the first ``sinks`` keys of the sequence."""
    window, sinks, causal = positive("window", window), positive("sinks", sinks, least=0), call.causal

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        near = i - j < window
        if not causal:
            near = near & (j - i < window)
        if sinks:
            near = near | (j < sinks)
        return near & (j <= i) if causal else near

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        end = i + 1 if causal else i + window
        sink_end = torch.full_like(i, sinks)
        sink_end = torch.minimum(sink_end, i + 1) if causal else sink_end
        return torch.stack([i - window + 1, torch.zeros_like(i)]), torch.stack([end, sink_end])

    return Rule(sees, spans, form=Form(window, sinks, causal=causal))


def _reach(*, window: int = 256, sinks: int = 0) -> Reach:
    return Reach(positive("window", window) - 1, positive("sinks", sinks, least=0))


MECHANISM = ruled_mechanism(
    "sliding_window",
    sliding_window,
    summary="the nearest keys of each query, with optional first keys (sinks)",
    paper="Beltagy et al. 2020 (Longformer), arXiv 2004.05150; sinks: Xiao et al. 2023, arXiv 2309.17453",
    cost="O(L (window + sinks) D) time, O(L D) memory",
    use="the last hours of a history, with its first steps as an anchor",
    taxonomy=Taxonomy(unit="slash", importance="fixed", budget="uniform", kv="evict"),
    reach=_reach,
)
