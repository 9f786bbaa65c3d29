"""Contrast: what a task looks at, with what any question would look at divided out (CARVE, arXiv 2509.06461).

Weights of a query are taken as noise, the same for all queries, times a signal of its own. Those of a general query are
the noise, so that their ratio is the signal: C(j) = A_task(j) / (A_general(j) + floor * mean of A_general).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import compute_dtype
from kernels.dense.reference import masked_attention
from kernels.dense.sdpa import sdpa_attention
from kernels.errors import KernelError
from kernels.registry import Mechanism

__all__ = [
    "MECHANISM",
    "attention_rows",
    "contrast",
    "contrast_attention",
    "entropy",
    "kept_share",
    "reference_contrast",
]

_LEAST = 1e-6


def attention_rows(q: Tensor, k: Tensor, *, key_mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """The weights of a few queries q (B, H, n, D) over keys (B, H, Lk, D), (B, H, n, Lk); hidden keys have 0.

    All of them are made: it is for reading out, of the last query or of a general one. Rows without a key are 0.
    """
    to = compute_dtype(q)
    scores = (q.to(to) @ k.to(to).mT) * (q.shape[3] ** -0.5 if scale is None else scale)
    if key_mask is None:
        return torch.softmax(scores, dim=-1)
    shown = key_mask[:, None, None]
    weights = torch.softmax(scores.masked_fill(~shown & shown.any(dim=-1, keepdim=True), float("-inf")), dim=-1)
    return weights.masked_fill(~shown, 0.0)


def contrast(task: Tensor, general: Tensor, *, floor: float = 0.05, tokens: Tensor | None = None) -> Tensor:
    """The ratio task / (general + floor times the mean of general) along the last axis, summing to one, (..., L).

    ``task`` and ``general`` are weights over the same tokens. A larger floor goes back to the task's own weights;
    ``tokens`` (..., 1) is how many of them count where some are hidden, with weights of 0. Where
    both are equal, and the floor 0, all tokens count alike. Raises `KernelError` for a negative floor.
    """
    if not floor >= 0.0:
        raise KernelError(f"floor is {floor}, expected a number of at least 0")
    least = torch.finfo(task.dtype).tiny
    mean = general.sum(dim=-1, keepdim=True) / (general.shape[-1] if tokens is None else tokens)
    ratio = task / (general + floor * mean).clamp_min(least)
    return ratio / ratio.sum(dim=-1, keepdim=True).clamp_min(least)


def entropy(weights: Tensor) -> Tensor:
    """-sum of w log w along the last axis (...,): how spread out a query looks, in nats."""
    found: Tensor = -torch.special.xlogy(weights, weights).sum(dim=-1)
    return found


def kept_share(weights: Tensor, share: float, *, gap: int = 0, least: int = 1) -> Tensor:
    """Which tokens are among the best ``share`` of them, bool (..., L): the region that a second pass is given.

    Kept tokens at most ``gap`` apart are joined, and runs of fewer than ``least`` dropped (CARVE's regions, on a line).
    A share of 1 keeps all. Raises `KernelError` for a share that is none.
    """
    if not 0.0 < share <= 1.0:
        raise KernelError(f"share is {share}, expected one above 0 and at most 1")
    count = max(1, round(share * weights.shape[-1]))
    rank = weights.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    flat = (rank < count).flatten(0, -2) if weights.ndim > 1 else (rank < count)[None]
    rows = []
    for row in flat.tolist():
        runs: list[list[int]] = []
        for n in (n for n, kept in enumerate(row) if kept):
            if runs and n - runs[-1][1] <= gap + 1:
                runs[-1][1] = n
            else:
                runs.append([n, n])
        kept = torch.zeros(len(row), dtype=torch.bool)
        for first, last in runs:
            kept[first : last + 1] = last + 1 - first >= least
        rows.append(kept)
    return torch.stack(rows).to(weights.device).view(weights.shape)


def contrast_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    general: Tensor | None = None,
    gamma: float = 1.0,
    floor: float = 0.05,
) -> Tensor:
    """Attention refined by contrast: the scores get gamma log C, (B, H, Lq, Dv).

    C is that of the mean query of the call (the task) against ``general``, a mean over heads, and one where all tokens
    count alike. That a task is one query, and the soft form in place of a crop, are ours.

    Args:
        q: queries of the task (B, H, Lq, D).
        k: keys (B, H, Lk, D).
        v: values (B, H, Lk, Dv).
        causal: never true: the mean query looks at all.
        key_mask: bool (B, Lk).
        scale: factor on the dot products.
        general: queries that ask nothing in particular, (B or 1, H or 1, n, D); None for one that sees all keys alike.
        gamma: 0 changes nothing.
        floor: of `contrast`.
    """
    to = compute_dtype(q)
    if 0 in (q.shape[2], k.shape[2]):
        return sdpa_attention(q, k, v, causal=False, key_mask=key_mask, scale=scale)
    # A further column of q and k: the scores get what the key's own column holds.
    extra = _log_contrast(q, k, key_mask, scale, general, gamma, floor) / (scale if scale else 1.0)
    wide = [
        torch.cat([q.to(to), q.new_ones(*q.shape[:3], 1, dtype=to)], dim=3),
        torch.cat([k.to(to), extra.expand(*k.shape[:3])[..., None]], dim=3),
    ]
    if not scale:
        wide[0], scale = torch.cat([0.0 * wide[0][..., :-1], wide[0][..., -1:]], dim=3), 1.0
    return sdpa_attention(wide[0], wide[1], v.to(to), causal=False, key_mask=key_mask, scale=scale).to(q.dtype)


def reference_contrast(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    general: Tensor | None = None,
    gamma: float = 1.0,
    floor: float = 0.05,
) -> Tensor:
    """The definition, with the scores written out; as `contrast_attention`."""
    to = compute_dtype(q)
    wide = q.to(to), k.to(to), v.to(to)
    mask = None if key_mask is None else key_mask[:, None, None]
    bias = None
    if 0 not in (q.shape[2], k.shape[2]):
        bias = _log_contrast(wide[0], wide[1], key_mask, scale, general, gamma, floor)[:, :, None]
    return masked_attention(*wide, mask, scale=scale, bias=bias)[0].to(q.dtype)


def _log_contrast(
    q: Tensor,
    k: Tensor,
    key_mask: Tensor | None,
    scale: float,
    general: Tensor | None,
    gamma: float,
    floor: float,
) -> Tensor:
    """The bias gamma log C of each key, (B, 1, Lk), 0 where C is the mean one and for hidden keys."""
    to = compute_dtype(q)
    shown = q.new_ones(1, k.shape[2], dtype=to) if key_mask is None else key_mask.to(to)
    count = shown.sum(dim=-1, keepdim=True).clamp_min(1.0)
    task = attention_rows(q.to(to).mean(dim=2, keepdim=True), k, key_mask=key_mask, scale=scale).mean(dim=(1, 2))
    if general is None:
        asked = (shown / count).expand_as(task)
    else:
        if general.ndim != 4 or general.shape[3] != q.shape[3]:
            raise KernelError(f"general has shape {tuple(general.shape)}, expected (B, H, queries, {q.shape[3]})")
        wide = general.expand(q.shape[0], q.shape[1], -1, -1)
        asked = attention_rows(wide, k, key_mask=key_mask, scale=scale).mean(dim=(1, 2))
    # The mean is that over the keys that are shown, so that padding changes nothing.
    c = contrast(task, asked, floor=floor, tokens=count)
    return (gamma * torch.log(c * count + _LEAST) * shown)[:, None]


MECHANISM = Mechanism(
    name="contrast",
    summary="attention refined by what the task looks at and a general question does not",
    paper="CARVE, contrastive attention refinement, arXiv 2509.06461 (from its abstract; the soft form is ours)",
    cost="O(Lq Lk (D + Dv)) time, O(L (D + Dv)) memory",
    use="`beyond_habit` of `Forecaster.explain`: what attention is on in this one only; a second look where unsure",
    function="softmax over the visible keys of scores + gamma log C",
    reference=reference_contrast,
    torch=contrast_attention,
    causal="never",
)
