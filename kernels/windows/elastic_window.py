"""Elastic windows (MoA): each head has a causal window that grows with the length of the input by its own rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.checks import positive
from kernels.engines.kept import Reach
from kernels.engines.ruled import ruled_mechanism
from kernels.engines.rules import EVERY_KEY, Call, Rule
from kernels.errors import KernelError
from kernels.registry import Taxonomy

__all__ = ["MECHANISM", "elastic_window", "window_blocks"]


def window_blocks(length: int, alpha: float, beta: float, *, block: int = 64) -> int:
    """Blocks that a head with span alpha + beta * length (in keys) sees of ``length`` keys, its own among them."""
    return max(1, math.floor(alpha / block + beta * length / block))


def elastic_window(
    call: Call,
    *,
    alpha: float | Sequence[float] = 0.0,
    beta: float | Sequence[float] = 0.5,
    block: int = 64,
    length: int | None = None,
) -> Rule:
    """Key blocks at a block distance below floor((alpha + beta N) / block), at least 1, and always block 0.

    ``alpha`` (in keys) and ``beta`` are one number for all heads or one per head; N is ``length``, the number of
    keys if None: give it where a sequence arrives step by step, as windows would otherwise grow on the way. Not causal,
    the distance counts in both directions and the queries of block 0 see all keys.
    """
    c, causal, lk = positive("block", block), call.causal, call.lk
    spans_of = zip(_per_head("alpha", alpha, call.heads), _per_head("beta", beta, call.heads), strict=True)
    n = lk if length is None else positive("length", length)
    reach = torch.tensor([window_blocks(n, a, b, block=c) for a, b in spans_of], device=call.device)

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        bi, bj = i.div(c, rounding_mode="floor"), j.div(c, rounding_mode="floor")
        if causal:
            return ((bi - bj < reach[h]) | (bj == 0)) & (j <= i)
        return ((bi - bj).abs() < reach[h]) | (bj == 0) | (bi == 0)

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        bi = i.div(c, rounding_mode="floor")
        lo = torch.stack([(bi - reach[h] + 1) * c, (0 * bi).expand_as(bi - reach[h])])
        if causal:
            return lo, torch.minimum(torch.stack([(bi + 1) * c, torch.full_like(bi, c)]), i + 1)
        hi = torch.stack([(bi + reach[h]) * c, torch.full_like(bi, c).expand_as(bi - reach[h])])
        return torch.where(bi == 0, 0, lo), torch.where(bi == 0, lk, hi)

    return Rule(sees, spans, per_head=True, block=c)


def _per_head(name: str, given: object, heads: int) -> list[float]:
    """One finite number per head; `KernelError` if ``given`` is neither a number nor one per head."""
    values: list[object] = list(given) if isinstance(given, Sequence) else [given] * heads
    if len(values) != heads:
        raise KernelError(f"{name} has {len(values)} entries for {heads} heads")
    found = [float(x) for x in values if isinstance(x, int | float) and math.isfinite(x)]
    if len(found) != heads:
        raise KernelError(f"{name} is {given!r}, expected finite numbers")
    return found


def _reach(*, alpha: object = 0.0, beta: object = 0.5, block: int = 64, length: int | None = None) -> Reach:
    """A window that grows with the input reaches every key; one of a given length its longest."""
    if length is None:
        return Reach(EVERY_KEY)
    heads = max(len(x) if isinstance(x, Sequence) else 1 for x in (alpha, beta))
    pairs = zip(_per_head("alpha", alpha, heads), _per_head("beta", beta, heads), strict=True)
    return Reach(block * max(window_blocks(length, a, b, block=block) for a, b in pairs), block)


MECHANISM = ruled_mechanism(
    "elastic_window",
    elastic_window,
    summary="a window per head that grows with the input, and the first block",
    paper="MoA, Mixture of Attention Spans, arXiv 2406.14909",
    cost="O(L sum over heads of (alpha + beta L) D) time, O(L D) memory",
    use="long histories where some heads need the last minutes only and others weeks; `span_search` finds the windows",
    taxonomy=Taxonomy(unit="block", importance="fixed", budget="adaptive over heads", kv="evict"),
    reach=_reach,
)
