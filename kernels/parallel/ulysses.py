"""Ulysses: each process takes some of the heads over the whole sequence, and gives their outputs back.

Works with any mechanism, as a head sees the sequence as it is (DeepSpeed Ulysses, arXiv 2309.14509). In two dimensions
(USP, arXiv 2405.07719) neighbours exchange heads, and the groups that they make are a ring.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.checks import check_qkv, repeat_heads
from kernels.dispatch import attention
from kernels.errors import KernelError
from kernels.parallel.ranks import Ranks
from kernels.parallel.ring import ring_attention

__all__ = ["two_dimensional_attention", "ulysses_attention"]


def ulysses_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ranks: Ranks,
    method: str = "sdpa",
    causal: bool = False,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    **options: object,
) -> Tensor:
    """Attention by any method, of this process's queries over the keys of all; (B, H, L / P, Dv).

    Each process sends (P - 1) / P of its queries, keys, values and outputs, and as much on the way back. Options with
    a value per head are refused where heads are apart; a number for all heads is not.

    Args:
        q: own queries (B, Hq, L / P, D), parts in order (`own_positions`); P divides the largest head count.
        k: own keys (B, Hk, L / P, D), whose heads are repeated where P does not divide them.
        v: own values (B, Hv, L / P, Dv), as the keys.
        ranks: the processes.
        method: as in `attention`.
        causal: as in `attention`.
        key_mask: own bool (B, L / P).
        scale: as in `attention`.
        options: of the method.
    """
    heads = check_qkv(q, k, v)
    if heads % ranks.size:
        raise KernelError(f"{ranks.size} processes do not divide {heads} heads")
    _refuse_per_head(options, heads, ranks)
    q, k, v = (_by_heads(_divisible(x, heads, ranks), ranks) for x in (q, k, v))
    mask = None if key_mask is None else _all_of(key_mask, ranks)
    out = attention(q, k, v, method=method, causal=causal, key_mask=mask, scale=scale, **options)  # type: ignore[arg-type]
    return _by_length(out, ranks)


def two_dimensional_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    heads: Ranks,
    ring: Ranks,
    causal: bool = False,
    zigzag: bool = False,
    key_mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Dense attention with heads exchanged among neighbours and a ring of these groups; (B, H, L / P, Dv).

    ``heads`` are this process's neighbours (ranks u, u + 1, ...), ``ring`` those at its place in the other groups; q,
    k and v are of `own_positions(L, rank, P, zigzag=zigzag, ulysses=heads.size)`; the rest as in `ring_attention`.
    """
    most = check_qkv(q, k, v)
    if most % heads.size:
        raise KernelError(f"{heads.size} processes do not divide {most} heads")
    q, k, v = (_by_heads(_divisible(x, most, heads), heads) for x in (q, k, v))
    mask = None if key_mask is None else _all_of(key_mask, heads)
    out = ring_attention(q, k, v, ranks=ring, causal=causal, zigzag=zigzag, key_mask=mask, scale=scale)
    return _by_length(out, heads)


def _refuse_per_head(options: dict[str, object], heads: int, ranks: Ranks) -> None:
    """`KernelError` for an option that may hold a value per head, of which a process has some only."""
    for name, value in options.items():
        many = isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.ndim > 0)
        if many and ranks.size > 1 and len(value) == heads:  # type: ignore[arg-type]
            raise KernelError(f"{name} has a value for each of the {heads} heads, which are in {ranks.size} processes")


def _divisible(x: Tensor, heads: int, ranks: Ranks) -> Tensor:
    """``x`` with heads repeated until the processes can share them, and each gets those of its queries."""
    return repeat_heads(x, min(math.lcm(x.shape[1], ranks.size), heads))


def _by_heads(x: Tensor, ranks: Ranks) -> Tensor:
    """(B, H, L / P, D) of every head to (B, H / P, L, D) of the whole sequence."""
    parts = x.view(x.shape[0], ranks.size, -1, *x.shape[2:]).transpose(0, 1)
    found = ranks.all_to_all(parts)
    return torch.cat(found.unbind(0), dim=2)


def _by_length(x: Tensor, ranks: Ranks) -> Tensor:
    """And back."""
    parts = torch.stack(x.chunk(ranks.size, dim=2))
    return torch.cat(ranks.all_to_all(parts).unbind(0), dim=1)


def _all_of(key_mask: Tensor, ranks: Ranks) -> Tensor:
    """The masks (B, L / P) of all processes side by side, (B, L)."""
    return torch.cat(ranks.all_gather(key_mask.to(torch.uint8)).unbind(0), dim=1).to(torch.bool)
