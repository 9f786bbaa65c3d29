"""Any mechanism behind projections: inputs (B, L, width), outputs (B, L, width)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kernels.checks import blanked, positive
from kernels.dispatch import Functional, attention_with_state, build
from kernels.errors import KernelError
from kernels.layers.heads import split_heads
from kernels.registry import Backend, mechanism

__all__ = ["MultiHead"]


class MultiHead(nn.Module):
    """Projections to query, key and value heads, one mechanism over them, and a projection back.

    The head counts and sizes of queries, keys and values are independent as in `attention`; `core` is the module of
    the mechanism (`build`), with its parameters if it has any. No positions are added: that is the caller's.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        head_dim: int | None = None,
        key_heads: int | None = None,
        value_heads: int | None = None,
        value_dim: int | None = None,
        method: str = "sdpa",
        options: Mapping[str, object] | None = None,
        bias: bool = False,
        out_bias: bool = True,
    ) -> None:
        super().__init__()
        width = positive("width", width)
        self.query_heads = positive("heads", heads)
        self.key_heads = heads if key_heads is None else positive("key_heads", key_heads)
        self.value_heads = self.key_heads if value_heads is None else positive("value_heads", value_heads)
        if head_dim is None and width % heads:
            raise KernelError(f"width {width} does not split into {heads} heads; give head_dim")
        self.head_dim = width // heads if head_dim is None else positive("head_dim", head_dim)
        self.value_dim = self.head_dim if value_dim is None else positive("value_dim", value_dim)
        most = max(self.query_heads, self.key_heads, self.value_heads)
        for count in (self.query_heads, self.key_heads, self.value_heads):
            if most % count:
                raise KernelError(f"{count} heads do not divide {most} heads")
        if mechanism(method).layer:
            raise KernelError(f"{method!r} is itself a layer; choose the method of its core instead")
        self.to_q = nn.Linear(width, self.query_heads * self.head_dim, bias=bias)
        self.to_k = nn.Linear(width, self.key_heads * self.head_dim, bias=bias)
        self.to_v = nn.Linear(width, self.value_heads * self.value_dim, bias=bias)
        self.core = build(method, heads=most, head_dim=self.head_dim, **(options or {}))
        self.out = nn.Linear(most * self.value_dim, width, bias=out_bias)

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
        """(B, Lq, width) from queries (B, Lq, width), keys and values (B, Lk, width).

        ``key`` is the query and ``value`` the key where they are None; the rest as in `attention`.
        """
        # Blank before the projections, whose weights would get NaN for a gradient otherwise.
        key = blanked(key_mask, query if key is None else key, 1)
        value = key if value is None else blanked(key_mask, value, 1)
        q = split_heads(self.to_q(query), self.query_heads)
        k = split_heads(self.to_k(key), self.key_heads)
        v = split_heads(self.to_v(value), self.value_heads)
        mixed: Tensor = self.core(q, k, v, causal=causal, key_mask=key_mask, scale=scale, backend=backend)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def append(
        self, x: Tensor, state: Mapping[str, Tensor] | None = None, *, key_mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, n, width) of the next positions x (B, n, width) from a state, and the next; causal self-attention.

        As `attention_with_state`. Raises `KernelError` for a mechanism with parameters of its own, or without a state.
        """
        if not isinstance(self.core, Functional):
            raise KernelError(f"{type(self.core).__name__} has parameters of its own and keeps no state")
        x = blanked(key_mask, x, 1)
        q = split_heads(self.to_q(x), self.query_heads)
        k = split_heads(self.to_k(x), self.key_heads)
        v = split_heads(self.to_v(x), self.value_heads)
        options: dict[str, Any] = dict(self.core.options)
        mixed, state = attention_with_state(q, k, v, state=state, method=self.core.method, key_mask=key_mask, **options)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out, state

    def attention_flops(self, lq: int, lk: int) -> int:
        """Multiplications and additions of the two products with the scores, if all keys are seen."""
        heads = self.out.in_features // self.value_dim
        return 2 * heads * lq * lk * (self.head_dim + self.value_dim)

    def cache_elements(self, length: int) -> int:
        """Numbers that a cache of keys and values of ``length`` tokens holds."""
        return length * (self.key_heads * self.head_dim + self.value_heads * self.value_dim)
