"""Kernels: efficient attention mechanisms behind one interface, `attention(q, k, v, method=...)`.

They know nothing of time series, services or prices; a mechanism is a function of queries, keys and values.
"""

from __future__ import annotations

from kernels.dispatch import attention, build
from kernels.errors import KernelError
from kernels.hierarchical import hierarchical_attention
from kernels.registry import Description, Mechanism, Taxonomy, available, describe

__all__ = [
    "Description",
    "KernelError",
    "Mechanism",
    "Taxonomy",
    "attention",
    "available",
    "build",
    "describe",
    "hierarchical_attention",
]
