"""SQA: attention with fewer query heads, so that the work falls with them."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.layers.multihead import MultiHead

__all__ = ["SparseQueryAttention"]


class SparseQueryAttention(MultiHead):
    """Attention of width heads * head_dim with only ``query_heads`` query and ``kv_heads`` key and value heads.

    ``heads`` is what the width would hold. SQA: query_heads = heads / 2 (the default); sSQA: kv_heads = query_heads
    (the default); xSQA: query_heads <= heads / 4; rSQA: query_heads < kv_heads, where the work follows kv_heads.
    ``method`` and ``method_options`` choose the mechanism, e.g. a sliding window.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        query_heads: int | None = None,
        kv_heads: int | None = None,
        method: str = "sdpa",
        method_options: Mapping[str, object] | None = None,
        bias: bool = False,
    ) -> None:
        queries = max(heads // 2, 1) if query_heads is None else query_heads
        super().__init__(
            heads * head_dim,
            heads=queries,
            head_dim=head_dim,
            key_heads=queries if kv_heads is None else kv_heads,
            method=method,
            options=method_options,
            bias=bias,
        )
