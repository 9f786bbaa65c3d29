"""DiffQKV: queries, keys and values with head counts and sizes of their own, and values read selectively."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import compute_dtype, positive, visible
from kernels.dense.reference import masked_attention
from kernels.dense.sdpa import sdpa_attention
from kernels.engines.kept import KEPT, kept_keys, kept_like
from kernels.errors import KernelError
from kernels.layers.diffqkv import DiffQKVAttention
from kernels.registry import Mechanism

__all__ = ["MECHANISM", "diffqkv_attention", "reference_diffqkv"]

_CHUNK_SCORES = 1 << 20


def diffqkv_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    expand: Tensor | None = None,
    top_values: int | None = None,
) -> Tensor:
    """softmax(scale q (k U)^T) v, (B, H, Lq, Dv), without making k U: U^T moves to the query.

    Args:
        q: queries (B, H, Lq, Dq).
        k: keys (B, H, Lk, Dk).
        v: values (B, H, Lk, Dv).
        causal: bottom-right aligned.
        key_mask: bool (B, Lk).
        scale: factor on the dot products; 1 / sqrt(Dq), the size that the dot product really has, if none was given.
        expand: U, (Dk, Dq) or one per head (H, Dk, Dq); needed where Dq differs from Dk.
        top_values: read only the values of this many largest weights of each query, which then sum to 1.
    """
    expansion = _expansion(q, k, expand)
    if expansion is not None:
        q = (q.to(compute_dtype(q)) @ expansion.transpose(-1, -2)).to(q.dtype)
    if top_values is None or 0 in (q.shape[2], k.shape[2]):
        return sdpa_attention(q, k, v, causal=causal, key_mask=key_mask, scale=scale)
    return _top(q, k, v, min(positive("top_values", top_values), k.shape[2]), causal, key_mask, scale)


def reference_diffqkv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    expand: Tensor | None = None,
    top_values: int | None = None,
) -> Tensor:
    """The definition: keys written out in the size of the queries, all weights; as `diffqkv_attention`."""
    to, dtype = compute_dtype(q), q.dtype
    q, k, v = q.to(to), k.to(to), v.to(to)
    expansion = _expansion(q, k, expand)
    if expansion is not None:
        k = k @ expansion
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    if top_values is not None and k.shape[2]:
        shape = (*q.shape[:3], k.shape[2])
        mask = torch.ones(shape, dtype=torch.bool, device=q.device) if mask is None else mask.expand(shape)
        scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~mask, float("-inf"))
        rank = scores.argsort(dim=-1, descending=True).argsort(dim=-1)
        mask = mask & (rank < positive("top_values", top_values))
    return masked_attention(q, k, v, mask, scale=scale)[0].to(dtype)


def _expansion(q: Tensor, k: Tensor, expand: Tensor | None) -> Tensor | None:
    """U as (H or 1, Dk, Dq) in the type of scores, None for keys as they are; `KernelError` if these do not fit."""
    if expand is None:
        if q.shape[3] != k.shape[3]:
            raise KernelError(f"q has head size {q.shape[3]} but k has {k.shape[3]}; give expand=(Dk, Dq)")
        return None
    want = (k.shape[3], q.shape[3])
    if tuple(expand.shape) not in (want, (q.shape[1], *want)):
        raise KernelError(f"expand has shape {tuple(expand.shape)}, expected {want} or {(q.shape[1], *want)}")
    return expand.to(compute_dtype(q)).reshape(-1, *want)


def _top(q: Tensor, k: Tensor, v: Tensor, most: int, causal: bool, key_mask: Tensor | None, scale: float) -> Tensor:
    """Attention over the ``most`` best keys of each query, some rows of scores at a time."""
    to, (batch, heads, lq, _), lk = compute_dtype(q), q.shape, k.shape[2]
    wide, values = k.to(to).transpose(-1, -2), v.to(to)
    rows = max(1, _CHUNK_SCORES // max(batch * heads * max(lk, most * v.shape[3]), 1))
    done = []
    for first in range(0, lq, rows):
        some = q[:, :, first : first + rows].to(to)
        scores = scale * (some @ wide)
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None], float("-inf"))
        if causal:
            i = torch.arange(first, first + some.shape[2], device=q.device) + (lk - lq)
            # Added, not filled in: the way back then keeps no mask of all pairs.
            later = torch.arange(lk, device=q.device) > i[:, None]
            scores = scores + scores.new_zeros(later.shape).masked_fill_(later, float("-inf"))
        best = scores.topk(most, dim=-1)
        sees = best.values[..., :1] > float("-inf")
        weights = torch.softmax(torch.where(sees, best.values, torch.zeros_like(best.values)), dim=-1)
        index = best.indices.flatten(2)[..., None].expand(-1, -1, -1, v.shape[3])
        read = values.gather(2, index).reshape(*best.indices.shape, v.shape[3])
        done.append(torch.where(sees, (weights[..., None, :] @ read)[..., 0, :], values.new_zeros(())))
    return torch.cat(done, dim=2).to(q.dtype)


MECHANISM = Mechanism(
    name="diffqkv",
    summary="head counts and sizes of queries, keys and values apart; optionally only the best values are read",
    paper="Sigma, arXiv 2501.13629",
    cost="O(Lq Lk (Dk + Dv)) time, O(L (D + Dv)) memory; a cache of nk Dk + nv Dv numbers per token",
    use="temporal encoder of a long history whose cache of keys and values is small",
    reference=reference_diffqkv,
    torch=diffqkv_attention,
    stateful=kept_keys(diffqkv_attention),
    state_names=KEPT,
    state_like=kept_like(),
    build=DiffQKVAttention,
    layer=True,
    free_head_size=True,
)
