"""The twelve mask patterns of LongCA-bench (arXiv 2510.17896), each as a `Rule` for a sequence of known length.

`kernels.engines.rules.area` counts the visible pairs of a rule without writing the mask out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from kernels.checks import positive
from kernels.engines.rules import Rule
from kernels.errors import KernelError

__all__ = [
    "MASKS",
    "block_causal_document",
    "causal",
    "causal_blockwise",
    "causal_document",
    "full",
    "full_document",
    "global_sliding_window",
    "prefix_lm_causal",
    "prefix_lm_document",
    "share_question",
    "sliding_window",
    "sliding_window_causal",
]


def full(length: int) -> Rule:
    """1: every key."""
    return _ranges(lambda i: [(0 * i, 0 * i + length)])


def causal(length: int) -> Rule:
    """2: every key up to the query."""
    return _ranges(lambda i: [(0 * i, i + 1)])


def full_document(documents: Sequence[int]) -> Rule:
    """3: every key of the same document; documents are given by their lengths."""
    start, end = _documents(documents)
    return _ranges(lambda i: [(start(i), end(i))])


def causal_document(documents: Sequence[int]) -> Rule:
    """4: every key of the same document up to the query."""
    start, _ = _documents(documents)
    return _ranges(lambda i: [(start(i), i + 1)])


def sliding_window(window: int) -> Rule:
    """5: keys at a distance of at most ``window``, on both sides."""
    w = positive("window", window, least=0)
    return _ranges(lambda i: [(i - w, i + w + 1)])


def sliding_window_causal(window: int) -> Rule:
    """6: keys at most ``window`` before the query, and itself."""
    w = positive("window", window, least=0)
    return _ranges(lambda i: [(i - w, i + 1)])


def share_question(documents: Sequence[int]) -> Rule:
    """7: causal within a document, and every later document sees all of the first one (the shared question)."""
    start, _ = _documents(documents)
    first = documents[0]
    return _ranges(lambda i: [(start(i), i + 1), (0 * i, torch.where(i >= first, first, 0))])


def causal_blockwise(documents: Sequence[int]) -> Rule:
    """8: causal within a document, and the last document sees every key up to the query."""
    start, _ = _documents(documents)
    last = sum(documents[:-1])
    return _ranges(lambda i: [(torch.where(i >= last, 0, start(i)), i + 1)])


def prefix_lm_causal(prefix: int) -> Rule:
    """9: causal, but the first ``prefix`` positions see each other."""
    p = positive("prefix", prefix, least=0)
    return _ranges(lambda i: [(0 * i, torch.where(i < p, p, i + 1))])


def prefix_lm_document(documents: Sequence[int], prefix: int) -> Rule:
    """10: the same within each document."""
    start, end = _documents(documents)
    p = positive("prefix", prefix, least=0)

    def spans(i: Tensor) -> list[tuple[Tensor, Tensor]]:
        lo = start(i)
        inner = torch.minimum(lo + p, end(i))
        return [(lo, torch.where(i - lo < p, inner, i + 1))]

    return _ranges(spans)


def global_sliding_window(length: int, window: int, globals_: int) -> Rule:
    """11: keys at a distance of at most ``window``; the first ``globals_`` positions see and are seen by all."""
    w, g = positive("window", window, least=0), positive("globals_", globals_, least=0)
    return _ranges(
        lambda i: [(torch.where(i < g, 0, i - w), torch.where(i < g, length, i + w + 1)), (0 * i, 0 * i + g)]
    )


def block_causal_document(documents: Sequence[int], block: int = 1024) -> Rule:
    """12: blocks of the same document up to the query's own block, whole; documents are multiples of ``block``."""
    start, end = _documents(documents)
    c = positive("block", block)
    if any(n % c for n in documents):
        raise KernelError(f"documents {list(documents)} are not multiples of the block {c}")
    return _ranges(lambda i: [(start(i), torch.minimum((i.div(c, rounding_mode="floor") + 1) * c, end(i)))])


MASKS: dict[str, Callable[..., Rule]] = {
    f.__name__: f
    for f in (
        full,
        causal,
        full_document,
        causal_document,
        sliding_window,
        sliding_window_causal,
        share_question,
        causal_blockwise,
        prefix_lm_causal,
        prefix_lm_document,
        global_sliding_window,
        block_causal_document,
    )
}


def _ranges(of: Callable[[Tensor], list[tuple[Tensor, Tensor]]]) -> Rule:
    """The rule of a few ranges of keys per query; the elementwise form follows from them."""

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = torch.zeros((), dtype=torch.bool, device=i.device)
        for lo, hi in of(i):
            seen = seen | ((j >= lo) & (j < hi))
        return seen

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        pairs = of(i)
        return torch.stack([lo for lo, _ in pairs]), torch.stack([hi for _, hi in pairs])

    return Rule(sees, spans)


def _documents(lengths: Sequence[int]) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Where the document of a position starts and ends."""
    if not lengths or any(not isinstance(n, int) or n < 1 for n in lengths):
        raise KernelError(f"documents is {lengths!r}, expected lengths of at least 1")
    edges = torch.tensor([0, *accumulate(lengths)])

    def start(i: Tensor) -> Tensor:
        return edges.to(i)[_index(i)]

    def end(i: Tensor) -> Tensor:
        return edges.to(i)[_index(i) + 1]

    def _index(i: Tensor) -> Tensor:
        found = torch.searchsorted(edges[1:].to(i), i.contiguous(), right=True)
        return found.clamp(max=len(lengths) - 1)

    return start, end
