"""Selective self-attention: a temperature per query sharpens its row, one per value weighs what it gives."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from kernels.checks import blanked, check_key_mask, compute_dtype, repeat_heads, visible
from kernels.compiled import Like
from kernels.dense.reference import masked_attention
from kernels.dense.sdpa import sdpa_attention
from kernels.dispatch import attention
from kernels.engines.kept import KEPT, State, kept_keys, kept_like
from kernels.errors import KernelError
from kernels.registry import Backend, Mechanism

__all__ = ["MECHANISM", "SelectiveAttention", "position_temperature", "reference_selective", "selective_attention"]


def selective_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    tau_q: Tensor | None = None,
    tau_v: Tensor | None = None,
) -> Tensor:
    """softmax(tau_q scale q k^T) (tau_v v), (B, H, Lq, Dv): dense attention of scaled queries and values.

    ``tau_q`` broadcasts to (B, H, Lq) and ``tau_v`` to (B, H, Lk); 1 if None. Larger is sharper. Both get gradients.
    """
    q, v = _scaled("tau_q", q, tau_q), _scaled("tau_v", v, tau_v)
    return sdpa_attention(q, k, v, causal=causal, key_mask=key_mask, scale=scale)


def reference_selective(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    tau_q: Tensor | None = None,
    tau_v: Tensor | None = None,
) -> Tensor:
    """The definition, with the temperatures on the scores and on the weights; as `selective_attention`."""
    to, dtype = compute_dtype(q), q.dtype
    q, k, v = q.to(to), k.to(to), v.to(to)
    ones = q.new_ones(())
    tau_q = (ones if tau_q is None else tau_q.to(to)).expand(q.shape[:3])
    tau_v = (ones if tau_v is None else tau_v.to(to)).expand(v.shape[:3])
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    scores = tau_q[..., None] * scale * torch.einsum("bhid,bhjd->bhij", q, k)
    eye = torch.eye(k.shape[2], device=q.device, dtype=to).expand(*k.shape[:2], -1, -1)
    # The softmax of given scores: queries of size 0 add nothing to a bias.
    weights = masked_attention(0.0 * q, k, eye, mask, scale=1.0, bias=scores)[0]
    return torch.einsum("bhij,bhjd->bhid", weights * tau_v[..., None, :], v).to(dtype)


def position_temperature(seen: Tensor, alpha: Tensor | float) -> Tensor:
    """1 + sigmoid(alpha) log(n) for queries that see n keys (1 where none is seen)."""
    alpha = torch.as_tensor(alpha, device=seen.device)
    alpha = alpha.to(compute_dtype(alpha))
    return 1.0 + torch.sigmoid(alpha) * torch.log(seen.clamp_min(1).to(alpha.dtype))


def _scaled(name: str, x: Tensor, tau: Tensor | None) -> Tensor:
    """``x`` (B, H, L, D) times ``tau`` (B, H, L), multiplied in the type of scores; `KernelError` if it cannot be."""
    if tau is None:
        return x
    try:
        wide = tau.expand(x.shape[:3])
    except RuntimeError as e:
        raise KernelError(
            f"{name} has shape {tuple(tau.shape)}, which does not broadcast to {tuple(x.shape[:3])}"
        ) from e
    to = compute_dtype(x)
    return (x.to(to) * wide.to(to)[..., None]).to(x.dtype)


class SelectiveAttention(nn.Module):
    """Selective attention with learned temperatures tanh(w . gelu(x)) + 1 + sigmoid(alpha) log(n); as `attention`.

    x is the token's query (or its value, for the value temperature), w one vector and alpha one number per head. n is
    the number of keys that the query sees, and for a value the number of keys up to it (all visible ones if not
    causal). It starts at w = 0 and alpha = ``alpha``, close to plain attention.
    """

    def __init__(
        self, heads: int, head_dim: int, *, value_dim: int | None = None, values: bool = True, alpha: float = -4.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.query_weight = nn.Parameter(torch.zeros(heads, head_dim))
        self.query_alpha = nn.Parameter(torch.full((heads,), alpha))
        self.value_weight: nn.Parameter | None = None
        self.value_alpha: nn.Parameter | None = None
        if values:
            self.value_weight = nn.Parameter(torch.zeros(heads, head_dim if value_dim is None else value_dim))
            self.value_alpha = nn.Parameter(torch.full((heads,), alpha))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool = False,
        key_mask: Tensor | None = None,
        scale: float | None = None,
        backend: Backend | None = None,
    ) -> Tensor:
        """(B, H, Lq, Dv) for q (B, H, Lq, D); heads of k and v divide H; see `attention`."""
        if q.shape[1] != self.heads or self.heads % v.shape[1]:
            raise KernelError(f"this module has {self.heads} heads but q has {q.shape[1]} and v {v.shape[1]}")
        check_key_mask(key_mask, k)
        at_query, at_key = _seen(q, k, causal, key_mask)
        v = repeat_heads(blanked(key_mask, v), self.heads)
        tau_v = None
        if self.value_weight is not None and self.value_alpha is not None:
            tau_v = _temperature(v, self.value_weight, self.value_alpha, at_key)
        tau_q = _temperature(q, self.query_weight, self.query_alpha, at_query)
        return attention(
            q,
            k,
            v,
            method="selective",
            causal=causal,
            key_mask=key_mask,
            scale=scale,
            backend=backend,
            tau_q=tau_q,
            tau_v=tau_v,
        )


def _temperature(x: Tensor, weight: Tensor, alpha: Tensor, seen: Tensor) -> Tensor:
    """(B, H, L) temperatures of the tokens x (B, H, L, D)."""
    by_token = torch.tanh((gelu(x.to(weight.dtype)) * weight[:, None]).sum(dim=-1))
    return by_token + position_temperature(seen[:, None], alpha[:, None])


def _seen(q: Tensor, k: Tensor, causal: bool, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """How many keys each query sees, (B or 1, Lq), and each key's own count for its value, (B or 1, Lk)."""
    lq, lk = q.shape[2], k.shape[2]
    shown = torch.ones(1, lk, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    if not causal:
        total = shown.sum(dim=1, keepdim=True)
        return total.expand(-1, lq), total.expand(-1, lk)
    so_far = shown.cumsum(dim=1)
    at = torch.arange(lq, device=q.device) + (lk - lq)
    counts = torch.where(at >= 0, so_far[:, at.clamp_min(0)], 0) if lk else torch.zeros_like(at)[None]
    return counts, so_far


def _stateful(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State | None,
    *,
    key_mask: Tensor | None,
    scale: float,
    tau_q: Tensor | None = None,
    tau_v: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Over the next positions, whose temperatures are given; values are kept with theirs."""
    q = _scaled("tau_q", q, tau_q)
    if tau_v is not None:
        v = _scaled("tau_v", repeat_heads(v, q.shape[1]), tau_v)
    return kept_keys(sdpa_attention)(q, k, v, state, key_mask=key_mask, scale=scale)


def _state_like(
    q: Like,
    k: Like,
    v: Like,
    state: State | None,
    *,
    tau_q: Tensor | None = None,
    tau_v: Tensor | None = None,
) -> dict[str, Like]:
    found = kept_like()(q, k, v, state)
    if tau_v is not None:
        values = found["v"]
        found["v"] = replace(values, shape=(values.shape[0], q.shape[1], *values.shape[2:]))
    return found


MECHANISM = Mechanism(
    name="selective",
    summary="dense attention with a temperature per query and per value",
    paper="Selective Self-Attention, arXiv 2411.12892",
    cost="O(Lq Lk (D + Dv)) time, O(L (D + Dv)) memory",
    use="histories with spikes among calm: each step learns how sharply it looks",
    function="softmax over the visible keys, with temperatures",
    reference=reference_selective,
    torch=selective_attention,
    stateful=_stateful,
    state_names=KEPT,
    state_like=_state_like,
    build=SelectiveAttention,
)
