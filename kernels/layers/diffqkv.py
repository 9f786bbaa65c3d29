"""DiffQKV: keys are compressed more than values, and the query projection may be wider than the model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kernels.checks import blanked, positive
from kernels.dispatch import attention
from kernels.errors import KernelError
from kernels.layers.heads import split_heads
from kernels.registry import Backend

__all__ = ["DiffQKVAttention"]


class DiffQKVAttention(nn.Module):
    """Attention of width heads * head_dim with its own head counts and sizes of queries, keys and values.

    Args:
        heads: query heads.
        head_dim: size of a query head; the width is heads * head_dim unless ``width`` says otherwise.
        key_heads: divides heads; heads / 4 if None.
        value_heads: divides heads; heads / 2 if None.
        key_dim: size of a key head, head_dim if None. Where it differs a learned U (key_dim, head_dim) per key head
            takes keys to the size of the queries.
        value_dim: size of a value head, head_dim if None.
        width: of inputs and outputs; smaller than heads * head_dim is the augmented query.
        top_values: read only the values of this many largest weights.
        bias: of the projections of queries, keys and values.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        key_heads: int | None = None,
        value_heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        width: int | None = None,
        top_values: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        width = heads * head_dim if width is None else positive("width", width)
        self.query_heads = positive("heads", heads)
        self.key_heads = max(heads // 4, 1) if key_heads is None else positive("key_heads", key_heads)
        self.value_heads = max(heads // 2, 1) if value_heads is None else positive("value_heads", value_heads)
        for name, count in (("key_heads", self.key_heads), ("value_heads", self.value_heads)):
            if heads % count:
                raise KernelError(f"{name} = {count} does not divide the {heads} query heads")
        self.head_dim = positive("head_dim", head_dim)
        self.key_dim = head_dim if key_dim is None else positive("key_dim", key_dim)
        self.value_dim = head_dim if value_dim is None else positive("value_dim", value_dim)
        self.top_values = top_values
        self.to_q = nn.Linear(width, heads * head_dim, bias=bias)
        self.to_k = nn.Linear(width, self.key_heads * self.key_dim, bias=bias)
        self.to_v = nn.Linear(width, self.value_heads * self.value_dim, bias=bias)
        self.expand: nn.Parameter | None = None
        if self.key_dim != head_dim:
            drawn = torch.randn(self.key_heads, self.key_dim, head_dim) / math.sqrt(self.key_dim)
            self.expand = nn.Parameter(drawn)
        self.out = nn.Linear(heads * self.value_dim, width)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        causal: bool = False,
        key_mask: Tensor | None = None,
        scale: float | None = None,
        backend: Backend | None = None,
    ) -> Tensor:
        """(B, Lq, width) from queries (B, Lq, width), keys and values (B, Lk, width); see `MultiHead`."""
        # Blank before the projections, whose weights would get NaN for a gradient otherwise.
        key = blanked(key_mask, query if key is None else key, 1)
        value = key if value is None else blanked(key_mask, value, 1)
        expand: Tensor | None = None
        if self.expand is not None:
            expand = self.expand.repeat_interleave(self.query_heads // self.key_heads, dim=0)
        mixed = attention(
            split_heads(self.to_q(query), self.query_heads),
            split_heads(self.to_k(key), self.key_heads),
            split_heads(self.to_v(value), self.value_heads),
            method="diffqkv",
            causal=causal,
            key_mask=key_mask,
            scale=scale,
            backend=backend,
            expand=expand,
            top_values=self.top_values,
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def cache_elements(self, length: int) -> int:
        """Numbers that a cache of keys and values of ``length`` tokens holds."""
        return length * (self.key_heads * self.key_dim + self.value_heads * self.value_dim)
