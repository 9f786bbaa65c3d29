"""Sparse query attention needs no kernel of its own, only fewer query heads: it is a layer."""

from __future__ import annotations

from kernels.layers.sqa import SparseQueryAttention
from kernels.registry import Mechanism

__all__ = ["MECHANISM"]

MECHANISM = Mechanism(
    name="sqa",
    summary="a layer with fewer query heads than the width would hold",
    paper="SQA, Sparse Query Attention, arXiv 2510.01817",
    cost="O(Hq Lq Lk D) time in place of O(H Lq Lk D)",
    use="a temporal encoder with half the work where queries matter less than the cache of keys",
    build=SparseQueryAttention,
    layer=True,
)
