"""Kernels: efficient attention mechanisms behind one interface, `attention(q, k, v, method=...)`.

They know nothing of time series, services or prices; a mechanism is a function of queries, keys and values.
"""

from __future__ import annotations

from kernels.dispatch import attention, attention_with_state, build
from kernels.engines.partial import colstat, merge, partial_attention
from kernels.engines.rules import Rule
from kernels.errors import KernelError
from kernels.extras import alibi_slopes, attention_with_lse, varlen_attention
from kernels.hierarchical import hierarchical_attention
from kernels.layers.multihead import MultiHead
from kernels.layers.rotary import rotary
from kernels.registry import Description, Mechanism, Taxonomy, available, describe

__all__ = [
    "Description",
    "KernelError",
    "Mechanism",
    "MultiHead",
    "Rule",
    "Taxonomy",
    "alibi_slopes",
    "attention",
    "attention_with_lse",
    "attention_with_state",
    "available",
    "build",
    "colstat",
    "describe",
    "hierarchical_attention",
    "merge",
    "partial_attention",
    "rotary",
    "varlen_attention",
]


def __dir__() -> list[str]:
    """What completion offers: the promised names."""
    return sorted(__all__)
