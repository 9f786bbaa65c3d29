"""Linear attention as it is defined, once as a matrix of weights and once as a recurrence."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["decay_matrix", "quadratic_linear_attention", "recurrent_linear_attention"]


def decay_matrix(lq: int, lk: int, log_decay: Tensor) -> Tensor:
    """exp(log_decay (i - j)) where key j is at or before query i, else 0; (H, Lq, Lk), aligned bottom right."""
    i = torch.arange(lq, device=log_decay.device)[:, None] + (lk - lq)
    apart = i - torch.arange(lk, device=log_decay.device)[None, :]
    weights = torch.exp(log_decay[:, None, None] * apart.clamp_min(0))
    return torch.where(apart >= 0, weights, torch.zeros_like(weights))


def quadratic_linear_attention(q: Tensor, k: Tensor, v: Tensor, *, log_decay: Tensor) -> Tensor:
    """((q k^T) * decay_matrix) v for q, k (B, H, L, D), v (B, H, Lk, Dv), log_decay (H,); (B, H, Lq, Dv)."""
    weights = torch.einsum("bhid,bhjd->bhij", q, k) * decay_matrix(q.shape[2], k.shape[2], log_decay)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def recurrent_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, log_decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step by step: S <- exp(log_decay) S + k v^T, o = q S; returns o (B, H, L, Dv) and the state for the next step.

    The state (B, H, D, Dv) is that of a run which goes on at the next position: decayed once more than the last S.
    """
    decay = torch.exp(log_decay)[:, None, None]
    state = q.new_zeros(*k.shape[:2], k.shape[3], v.shape[3]) if state is None else state
    out = []
    for t in range(q.shape[2]):
        now = state + k[:, :, t, :, None] * v[:, :, t, None, :]
        out.append((q[:, :, t, None] @ now)[:, :, 0])
        state = decay * now
    return torch.stack(out, dim=2), state
