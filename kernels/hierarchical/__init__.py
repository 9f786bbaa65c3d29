"""Cascading hierarchical attention across levels of tokens (HARMONY, arXiv 2408.01000): level 1 -> 2 -> 3.

`reference` is the definition as loops, `torch_impl` the fast version; both have true masks and, for comparison, the
zero masks of the paper's public release.
"""

from __future__ import annotations

from kernels.hierarchical.torch_impl import hierarchical_attention

__all__ = ["hierarchical_attention"]
