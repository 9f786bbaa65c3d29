"""Mixture-of-Head (MoH): each token uses some of the heads, and only their attention is computed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kernels.checks import blanked, check_key_mask, check_qkv, default_scale, positive
from kernels.errors import KernelError, near
from kernels.heads.gathered import gathered_attention, reference_gathered
from kernels.heads.routing import Routing, balance_loss, norm_routing, two_stage_routing
from kernels.layers.heads import split_heads
from kernels.registry import Backend

__all__ = ["MixtureOfHeads"]

_ROUTERS = ("learned", "norm")


class MixtureOfHeads(nn.Module):
    """Attention of width heads * head_dim in which a token uses ``shared`` heads and ``active`` of the others.

    The sum over heads of MHA with a gate on each (MoH, arXiv 2410.11842). Keys and values of all heads exist for all
    tokens; queries of a head are those routed to it, so that the share (shared + active) / heads of the scores is
    computed. Routers start at zero, where every head used has the gate 1.

    Args:
        heads: H, in all.
        head_dim: size of a head.
        shared: heads that every token uses, the first ones; a quarter of all if None.
        active: further heads of each token, by the router; a quarter of all if None, 0 for shared heads alone.
        key_heads: heads of keys and values, which divide H; H if None.
        router: "learned" (the paper's), or "norm" (`norm_routing`, without weights, for a model that was trained
            with all heads).
        bias: of the projections of queries, keys and values.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        shared: int | None = None,
        active: int | None = None,
        key_heads: int | None = None,
        router: Literal["learned", "norm"] = "learned",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.heads, size = positive("heads", heads), positive("head_dim", head_dim)
        self.shared = heads // 4 if shared is None else positive("shared", shared, least=0)
        self.active = max(heads // 4, 1 - self.shared) if active is None else positive("active", active, least=0)
        self.key_heads = heads if key_heads is None else positive("key_heads", key_heads)
        if not 0 < self.shared + self.active <= heads:
            raise KernelError(f"{self.shared} shared and {self.active} active heads are not among {heads} heads")
        if heads % self.key_heads:
            raise KernelError(f"key_heads = {self.key_heads} does not divide the {heads} heads")
        if router not in _ROUTERS:
            raise KernelError(f"no router {router!r}; {near(str(router), _ROUTERS)}")
        self.router, width = router, heads * size
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(width, self.key_heads * size, bias=bias)
        self.to_v = nn.Linear(width, self.key_heads * size, bias=bias)
        self.out = nn.Linear(width, width)
        self.route: nn.Linear | None = None
        if router == "learned":
            # Logits of the shared heads, of the routed ones, and of the two kinds.
            self.route = nn.Linear(width, heads + 2, bias=False)
            nn.init.zeros_(self.route.weight)
        self.balance: Tensor | None = None
        """`balance_loss` of the last call, to be added to a loss (0.01 of it in the paper)."""

    def routing(self, x: Tensor, q: Tensor) -> Routing:
        """The gates of tokens x (B, L, width), whose queries are q (B, H, L, D)."""
        if self.route is None:
            return norm_routing(q, shared=self.shared, active=self.active)
        logits: Tensor = self.route(x)
        shared, routed, between = torch.tensor_split(logits, (self.shared, self.heads), dim=-1)
        return two_stage_routing(shared, routed, between, active=self.active)

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
        q = split_heads(self.to_q(query), self.heads)
        k, v = (split_heads(f(x), self.key_heads) for f, x in ((self.to_k, key), (self.to_v, value)))
        check_qkv(q, k, v)
        check_key_mask(key_mask, k)
        if backend == "triton":
            raise KernelError("'moh' has no backend 'triton'; it has ('reference', 'torch')")
        routing = self.routing(query, q)
        if not torch.compiler.is_exporting():
            # What is exported has outputs only.
            self.balance = balance_loss(routing)
        run = reference_gathered if backend == "reference" else gathered_attention
        mixed = run(
            q,
            k,
            v,
            routing.gates,
            routing.used,
            causal=causal,
            key_mask=key_mask,
            scale=default_scale(q, scale),
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def attention_flops(self, lq: int, lk: int) -> int:
        """Multiplications and additions of the two products with the scores, if all keys are seen."""
        return 4 * (self.shared + self.active) * lq * lk * (self.out.in_features // self.heads)
