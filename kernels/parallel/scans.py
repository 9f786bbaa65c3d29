"""The linear scan over processes: only states are exchanged, of D x Dv numbers a head, however long the sequence is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.checks import blanked, check_qkv, compute_dtype, repeat_heads
from kernels.engines.linear_scan import linear_scan
from kernels.linear.lightning import log_decays
from kernels.parallel.ranks import Ranks

__all__ = ["parallel_lightning"]


def parallel_lightning(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ranks: Ranks,
    key_mask: Tensor | None = None,
    scale: float = 1.0,
    log_decay: Tensor | Sequence[float] | float | None = None,
) -> Tensor:
    """`attention(..., method="lightning", causal=True)` of this process's part of a sequence, (B, H, L / P, Dv).

    Each process sends P - 1 times the state of its own part, (B, H, D, Dv) in float32 (float64), and as much back.

    Args:
        q: own queries (B, Hq, L / P, D), parts in order (`own_positions`) and of equal lengths.
        k: own keys (B, Hk, L / P, D).
        v: own values (B, Hv, L / P, Dv).
        ranks: the processes.
        key_mask: own bool (B, L / P).
        scale: factor on the dot products.
        log_decay: as in `lightning`.
    """
    heads = check_qkv(q, k, v)
    k, v = (repeat_heads(blanked(key_mask, x), heads) for x in (k, v))
    to = compute_dtype(q)
    q = scale * repeat_heads(q, heads)
    rates = log_decays(log_decay, q)
    own, state = linear_scan(q, k, v, log_decay=rates)
    states = ranks.all_gather(state)
    out = own
    if ranks.rank > 0:
        # What earlier parts left, faded by the parts between.
        apart = torch.arange(ranks.rank - 1, -1, -1, device=q.device, dtype=to) * q.shape[2]
        fade = torch.exp(rates.to(to)[None] * apart[:, None])
        before = (fade[:, None, :, None, None] * states[: ranks.rank]).sum(dim=0)
        within = torch.exp(rates.to(to)[:, None] * torch.arange(q.shape[2], device=q.device, dtype=to))
        out = own + within[..., None] * (q.to(to) @ before)
    else:
        # Every rank takes part in the exchange on the way back.
        out = own + 0.0 * states.sum()
    return out.to(q.dtype)
