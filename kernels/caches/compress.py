"""Smaller caches: which keys and values to keep, and which pages of them to read.

Importance of a key by CRITIC (arXiv 2504.01281, from its abstract: the three scores are reconstructed) and as SnapKV
has it (arXiv 2404.14469); Quest's bounds by page (arXiv 2406.10774) leave all in place and read the best.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from kernels.checks import compute_dtype, default_scale, positive, repeat_heads
from kernels.dispatch import attention
from kernels.errors import KernelError

__all__ = ["critic_importance", "kept", "page_bounds", "page_scores", "quest_attention", "snap_importance", "take"]


def critic_importance(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, weights: Sequence[float] = (1.0, 1.0, 1.0)
) -> Tensor:
    """Importance of each key for the latest queries, (B, Hk, Lk): received attention, calm, size of what is read.

    With a_ij the weight of query i on key j: the mean over i of a_ij; the sum of a_ij (1 - H(a_i) / log Lk), so that
    queries that know what they want count more; the sum of a_ij |v_j|. Each is scaled to 0 .. 1 over the keys of a
    head, and they are added by ``weights``. A head of keys takes the mean over the queries that share it.

    Args:
        q: the latest queries (B, Hq, w, D), causal: the last of them sees all keys.
        k: keys (B, Hk, Lk, D).
        v: values (B, Hk, Lk, Dv).
        scale: 1 / sqrt(D) if None.
        weights: of the three.
    """
    if len(weights) != 3:
        raise KernelError(f"weights has {len(weights)} entries, expected three")
    a = _rows(q, k, scale)
    calm = 1.0 + torch.special.xlogy(a, a).sum(dim=-1, keepdim=True) / max(
        float(torch.log(torch.tensor(a.shape[-1]))), 1e-9
    )
    size = repeat_heads(v, q.shape[1]).to(a.dtype).norm(dim=-1)
    scores = (a.mean(dim=2), (a * calm).sum(dim=2), a.sum(dim=2) * size)
    total = a.new_zeros(*k.shape[:2], k.shape[2])
    for weight, score in zip(weights, scores, strict=True):
        total = total + weight * _scaled(_grouped(score, k.shape[1]))
    return total


def snap_importance(q: Tensor, k: Tensor, *, scale: float | None = None, pool: int = 21) -> Tensor:
    """Attention that keys receive from the latest queries q (B, Hq, w, D), smoothed over ``pool`` keys; (B, Hk, Lk)."""
    received = _grouped(_rows(q, k, scale).sum(dim=2), k.shape[1])
    return avg_pool1d(received, positive("pool", pool) | 1, stride=1, padding=pool // 2, count_include_pad=False)


def kept(importance: Tensor, share: float, *, sinks: int = 4, window: int = 32, least: int = 0) -> Tensor:
    """The positions that are kept of each head, (B, Hk, n), in order.

    The first ``sinks``, the last ``window``, and of the rest the most important, ``share`` of all keys altogether but
    never fewer than sinks and window. All of them where there are at most ``least``, or where the share is 1.
    """
    if not 0.0 < share <= 1.0:
        raise KernelError(f"share is {share}, expected one above 0 and at most 1")
    length = importance.shape[-1]
    sinks, window = min(positive("sinks", sinks, least=0), length), min(positive("window", window, least=0), length)
    count = length if length <= least else max(round(share * length), min(sinks + window, length))
    j = torch.arange(length, device=importance.device)
    always = (j < sinks) | (j >= length - window)
    ranked = importance.masked_fill(always, float("inf")).argsort(dim=-1, descending=True, stable=True)
    return ranked[..., :count].sort(dim=-1).values


def take(x: Tensor, positions: Tensor) -> Tensor:
    """The rows of keys or values x (B, Hk, L, D) at ``positions`` (B, Hk, n); (B, Hk, n, D)."""
    return x.gather(2, positions[..., None].expand(-1, -1, -1, x.shape[3]))


def page_bounds(k: Tensor, *, page: int = 16) -> tuple[Tensor, Tensor]:
    """The least and the largest of each channel in every page of keys, both (B, Hk, pages, D)."""
    page = positive("page", page)
    short = -k.shape[2] % page
    low, high = (
        torch.nn.functional.pad(k, (0, 0, 0, short), value=x).view(*k.shape[:2], -1, page, k.shape[3])
        for x in (torch.inf, -torch.inf)
    )
    return low.amin(dim=3), high.amax(dim=3)


def page_scores(q: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """A bound from above on q . k for the keys of each page, (B, Hq, Lq, pages), for queries q (B, Hq, Lq, D)."""
    low, high = (repeat_heads(x, q.shape[1]) for x in bounds)
    # The larger of q low and q high, channel by channel: the positive part reads the one, the negative the other.
    found: Tensor = q.clamp_min(0.0) @ high.mT + q.clamp_max(0.0) @ low.mT
    return found


def quest_attention(
    q: Tensor, k: Tensor, v: Tensor, *, budget: int = 1024, page: int = 16, scale: float | None = None
) -> Tensor:
    """One query per head (B, Hq, 1, D) over the pages that may hold its best keys; (B, Hq, 1, Dv).

    Pages within ``budget`` keys, by the sum of `page_scores` over the queries that share a head of keys; the current
    (last) page always. With a budget of all keys it is dense attention.
    """
    if q.ndim != 4 or q.shape[2] != 1:
        raise KernelError(f"q has shape {tuple(q.shape)}, expected one query, (batch, heads, 1, head size)")
    bounds = page_bounds(k, page=page)
    pages = bounds[0].shape[2]
    read = min(max(positive("budget", budget) // page, 1), pages)
    scores = page_scores(q, bounds)[:, :, 0].reshape(*k.shape[:2], -1, pages).sum(dim=2)
    scores[..., -1] = torch.inf
    chosen = scores.topk(read, dim=-1).indices
    at = (chosen[..., None] * page + torch.arange(page, device=q.device)).flatten(2)
    real = at < k.shape[2]
    some = [take(x, at.clamp_max(k.shape[2] - 1)) for x in (k, v)]
    # Each head of keys has pages of its own, and the last one may be short.
    sharing = q.shape[1] // k.shape[1]
    flat_q = q.reshape(-1, sharing, 1, q.shape[3])
    out = attention(flat_q, *(x.flatten(0, 1)[:, None] for x in some), key_mask=real.flatten(0, 1), scale=scale)
    return out.view(q.shape[0], q.shape[1], 1, v.shape[3])


def _rows(q: Tensor, k: Tensor, scale: float | None) -> Tensor:
    """The causal weights of the latest queries, (B, Hq, w, Lk)."""
    to, lq, lk = compute_dtype(q), q.shape[2], k.shape[2]
    if lq > lk:
        raise KernelError(f"{lq} queries see {lk} keys; expected no more queries than keys")
    scores = default_scale(q, scale) * (q.to(to) @ repeat_heads(k, q.shape[1]).to(to).mT)
    later = torch.ones(lq, lk, dtype=torch.bool, device=q.device).triu(1 + lk - lq)
    return torch.softmax(scores.masked_fill(later, float("-inf")), dim=-1)


def _grouped(score: Tensor, heads: int) -> Tensor:
    """The mean (B, Hk, Lk) over the query heads (B, Hq, Lk) that share a head of keys."""
    return score.reshape(score.shape[0], heads, -1, score.shape[2]).mean(dim=2)


def _scaled(x: Tensor) -> Tensor:
    """``x`` moved and scaled to 0 .. 1 along the last axis; 0 where all are equal."""
    low, high = x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True)
    return (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)
