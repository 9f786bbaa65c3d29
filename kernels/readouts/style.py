"""Style injection: the queries of one sequence read the keys and values of another (StyleID, arXiv 2312.09008).

A content's queries, mixed with those of the pass that is being styled, attend to a style's keys and values, with scores
sharpened by tau: queries of one input against keys of another have scores of less spread.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import compute_dtype
from kernels.dense.reference import reference_attention
from kernels.dense.sdpa import sdpa_attention
from kernels.errors import KernelError
from kernels.registry import Mechanism

__all__ = ["MECHANISM", "adain", "reference_style", "style_attention", "style_temperature"]


def style_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    query: Tensor | None = None,
    gamma: float = 0.75,
    tau: float = 1.5,
) -> Tensor:
    """softmax(tau scale (gamma q + (1 - gamma) query) k^T) v; (B, H, Lq, Dv).

    Args:
        q: queries of the content (B, H, Lq, D).
        k: keys of the style (B, H, Lk, D).
        v: values of the style (B, H, Lk, Dv).
        causal: bottom-right aligned.
        key_mask: bool (B, Lk).
        scale: factor on the dot products.
        query: queries of the pass that is being styled, as ``q``; ``q`` itself if None.
        gamma: how much of the content's own query stays, 0 to 1.
        tau: factor on the scores, positive; `style_temperature` measures it.
    """
    to = compute_dtype(q)  # a mixed query that is rounded is another query
    mixed = _mixed(q.to(to), None if query is None else query.to(to), gamma, tau)
    out = sdpa_attention(mixed, k.to(to), v.to(to), causal=causal, key_mask=key_mask, scale=tau * scale)
    return out.to(q.dtype)


def reference_style(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    query: Tensor | None = None,
    gamma: float = 0.75,
    tau: float = 1.5,
) -> Tensor:
    """The definition; as `style_attention`."""
    to = compute_dtype(q)
    mixed = _mixed(q.to(to), None if query is None else query.to(to), gamma, tau)
    found = reference_attention(mixed, k.to(to), v.to(to), causal=causal, key_mask=key_mask, scale=tau * scale)
    return found.to(q.dtype)


def adain(x: Tensor, like: Tensor, *, eps: float = 1e-5) -> Tensor:
    """``x`` (..., L, D) with the mean and spread of ``like`` (..., L', D) along the length, by channel (AdaIN).

    A channel of ``x`` whose spread is below ``eps`` is constant, and becomes the mean of ``like``.
    """
    spread = x.std(dim=-2, keepdim=True, correction=0)
    scaled = (x - x.mean(dim=-2, keepdim=True)) / spread.clamp_min(eps)
    scaled = torch.where(spread < eps, torch.zeros_like(scaled), scaled)
    return scaled * like.std(dim=-2, keepdim=True, correction=0) + like.mean(dim=-2, keepdim=True)


def style_temperature(q: Tensor, own: Tensor, style: Tensor, *, least: float = 1.0, most: float = 2.0) -> Tensor:
    """How much flatter the scores of q (B, H, Lq, D) with the keys of another are than with its own; (B, H).

    The ratio of the standard deviations of q . own and q . style, both (B, H, L, D), within ``least`` and ``most``.
    """
    spreads = [(q @ x.mT).flatten(2).std(dim=-1, correction=0) for x in (own, style)]
    return (spreads[0] / spreads[1].clamp_min(torch.finfo(q.dtype).tiny)).clamp(least, most)


def _mixed(q: Tensor, query: Tensor | None, gamma: float, tau: float) -> Tensor:
    """The query gamma q + (1 - gamma) query; `KernelError` for what does not fit."""
    if not 0.0 <= gamma <= 1.0 or not 0.0 <= tau < float("inf"):
        raise KernelError(f"gamma is {gamma} and tau {tau}, expected a share between 0 and 1 and a number from 0 on")
    if query is None:
        return q
    if query.shape != q.shape:
        raise KernelError(f"query has shape {tuple(query.shape)}, expected that of q, {tuple(q.shape)}")
    to = compute_dtype(q)
    return (gamma * q.to(to) + (1.0 - gamma) * query.to(to)).to(q.dtype)


MECHANISM = Mechanism(
    name="style",
    summary="queries of one sequence, mixed with those of the pass itself, read keys and values of another, sharpened",
    paper="StyleID, arXiv 2312.09008",
    cost="O(Lq Lk (D + Dv)) time, O(L (D + Dv)) memory",
    use="a newcomer reads keys and values of a donor with a long history; tried, no gain for the bundled model",
    function="softmax over the visible keys of another sequence, with a factor tau on the scores",
    reference=reference_style,
    torch=style_attention,
)
