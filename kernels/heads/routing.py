"""Which heads a token uses and how much each counts: the router of Mixture-of-Head (MoH, arXiv 2410.11842).

Of H heads the first are shared, so that every token uses them; of the others each token uses those that a router
prefers. The factors of the authors' code are kept, with which routers that know nothing yet give 1 to every head used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.errors import KernelError

__all__ = ["Routing", "balance_loss", "head_use", "norm_routing", "two_stage_routing"]


@dataclass(frozen=True, slots=True)
class Routing:
    """Of each token and head whether it is used and how much it counts."""

    gates: Tensor
    """(B, H, L), 0 where the head is not used."""
    used: Tensor
    """(B, H, L), bool."""
    preferred: Tensor
    """(B, L, routed heads), the router's probabilities."""

    def shares(self) -> Tensor:
        """Of each head the share of tokens that use it, (H,)."""
        return self.used.to(self.gates.dtype).mean(dim=(0, 2))


def two_stage_routing(shared: Tensor, routed: Tensor, between: Tensor, *, active: int) -> Routing:
    """The gates of the paper's two stages: between the kinds of heads, and within each kind.

    With p the softmax over the routed heads and T the ``active`` largest of them (of equals the first), a routed head
    of T has the gate a2 active p_i / sum_T p; a shared one a1 hs softmax(shared)_i; (a1, a2) is twice the softmax of
    ``between``. Where one kind does not exist, or no routed head is used, the other kind alone counts, with a = 1.

    Args:
        shared: (B, L, hs), logits of the shared heads.
        routed: (B, L, hr), logits of the others.
        between: (B, L, 2), logits of the two kinds.
        active: routed heads that a token uses, at most hr.
    """
    hs, hr = shared.shape[-1], routed.shape[-1]
    if not 0 <= active <= hr:
        raise KernelError(f"active is {active}, expected a number of at most the {hr} routed heads")
    p = torch.softmax(routed, dim=-1)
    both = hs > 0 and active > 0
    a = 2.0 * torch.softmax(between, dim=-1) if both else torch.ones_like(between)
    chosen = _largest(p, active)
    kept = p.masked_fill(~chosen, 0.0)
    within = active * kept / kept.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)
    gates = torch.cat([a[..., :1] * hs * torch.softmax(shared, dim=-1), a[..., 1:] * within], dim=-1)
    used = torch.cat([torch.ones_like(shared, dtype=torch.bool), chosen], dim=-1)
    return Routing(gates.transpose(1, 2), used.transpose(1, 2), p)


def norm_routing(q: Tensor, *, shared: int, active: int) -> Routing:
    """Routing without weights, to go on with a trained model: heads whose query is long are used, with gate 1.

    The score of a routed head is the length of the token's query in it, before any rotation, over the standard
    deviation among the routed heads. The gate is 1 or 0; its gradient is that of the probability (straight-through).

    Args:
        q: queries (B, H, L, D).
        shared: heads from the first that every token uses.
        active: routed heads that a token uses.
    """
    if not 0 <= shared <= q.shape[1] or not 0 <= active <= q.shape[1] - shared:
        raise KernelError(f"{shared} shared and {active} routed heads are not among the {q.shape[1]} heads of q")
    length = q[:, shared:].norm(dim=-1).transpose(1, 2)
    spread = length.std(dim=-1, keepdim=True, correction=0) if length.shape[-1] else length
    p = torch.softmax(length / spread.clamp_min(torch.finfo(q.dtype).eps), dim=-1)
    chosen = _largest(p, active)
    hard = torch.where(chosen, 1.0 + p - p.detach(), torch.zeros_like(p))
    always = p.new_ones(*p.shape[:2], shared)
    used = torch.cat([always > 0, chosen], dim=-1)
    return Routing(torch.cat([always, hard], dim=-1).transpose(1, 2), used.transpose(1, 2), p)


def balance_loss(routing: Routing) -> Tensor:
    """The sum over routed heads of hr P f, with P the mean probability of one and f the share of tokens that use it.

    It is the number of active heads where the use is even and hr where all tokens take the same ones for sure. The
    paper adds 0.01 of it, averaged over the layers, to the loss of the task. f carries no gradient.
    """
    p = routing.preferred
    hr = p.shape[-1]
    if hr == 0:
        return p.sum()
    f = routing.used[:, -hr:].to(p.dtype).mean(dim=(0, 2))
    return hr * (p.mean(dim=(0, 1)) * f).sum()


def head_use(routing: Routing, groups: Tensor) -> Tensor:
    """Of each group of tokens and each head the share of tokens that use it, (groups, H).

    ``groups`` (B, L) or (L,) holds a whole number per token, such as the hour of its step or the level of its
    indicator. Groups without a token have NaN.
    """
    flat = groups.expand(routing.used.shape[0], -1).reshape(-1)
    used = routing.used.transpose(1, 2).flatten(0, 1).to(routing.gates.dtype)
    count = int(flat.max()) + 1
    sums = used.new_zeros(count, used.shape[1]).index_add_(0, flat, used.detach())
    return sums / torch.bincount(flat, minlength=count).to(sums.dtype)[:, None]


def _largest(p: Tensor, count: int) -> Tensor:
    """Which of the last axis are the ``count`` largest, the first of equals."""
    rank = p.detach().sort(dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(p, dtype=torch.bool).scatter(-1, rank[..., :count], True)
