"""Sink calibration: keys that soak up attention for nothing are turned down (ACT, arXiv 2406.15765).

With S the sinks and A the weights, A' is beta A on S, and what that frees goes to the other keys in proportion to their
weights. Ours is the closed form: with a the mass on S and both parts normalised, o' = beta a o_S + (1 - beta a) o_rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.checks import compute_dtype, positive, visible
from kernels.dense.reference import masked_attention
from kernels.dense.sdpa import sdpa_attention
from kernels.engines.partial import colstat, over_all_keys, partial_attention, reference_colstat
from kernels.errors import KernelError
from kernels.registry import Mechanism

__all__ = ["MECHANISM", "find_sinks", "reference_sinks", "sink_attention"]

_FEW = 64
"""Sinks of a head up to which their scores are written out."""


def find_sinks(
    q: Tensor,
    k: Tensor,
    *,
    causal: bool = False,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    alpha: float = 5.0,
    least: int = 8,
) -> tuple[Tensor, Tensor]:
    """Which keys are sinks, and the attention that each key receives, both (B, H, Lk).

    A key is one if it receives more than ``alpha`` times what it would if every query looked at all its keys alike:
    under that attention none is, at any place of a causal call. The paper compares with a number, which early keys of
    a causal call exceed for nothing. Keys that fewer than ``least`` queries may see are none, nor is the first key.

    Args:
        q: queries (B, Hq, Lq, D).
        k: keys (B, Hk, Lk, D).
        causal: bottom-right aligned.
        key_mask: bool (B, Lk).
        scale: 1 / sqrt(D) if None.
        alpha: times the even share.
        least: queries that have to be able to see it.
    """
    with torch.no_grad():
        _, lse = partial_attention(q, k, k[..., :1], causal=causal, key_mask=key_mask, scale=scale)
        received = colstat(q, k, lse, causal=causal, key_mask=key_mask, scale=scale)
        return _above(received, q.shape[2], causal, key_mask, alpha, least), received


def sink_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    sinks: Tensor | None = None,
    beta: float = 0.4,
    alpha: float = 5.0,
    least: int = 8,
    heads: Sequence[bool] | None = None,
) -> Tensor:
    """Dense attention with its sinks turned down, (B, H, Lq, Dv).

    Args:
        q: queries (B, H, Lq, D).
        k: keys (B, H, Lk, D).
        v: values (B, H, Lk, Dv).
        causal: bottom-right aligned. ``sinks`` must then be given: found here, they would tell what comes later.
        key_mask: bool (B, Lk).
        scale: factor on the dot products.
        sinks: bool, broadcastable to (B, H, Lk); None finds those of this call (`find_sinks`).
        beta: what is left of their weights, 1 for all of it.
        alpha: of `find_sinks`.
        least: of `find_sinks`.
        heads: which heads are calibrated; all if None. The paper keeps those that help one by one on calibration data.
    """
    given = _sinks(q, k, causal, key_mask, scale, sinks, beta, alpha, least, heads, find_sinks)
    if not bool(given.any()):
        return sdpa_attention(q, k, v, causal=causal, key_mask=key_mask, scale=scale)
    batch, count, lq, _ = q.shape
    given_type, to = q.dtype, compute_dtype(q)
    q, k, v = q.to(to), k.to(to), v.to(to)
    # Heads have sinks of their own: each is a sequence with a mask.
    flat = q.flatten(0, 1)[:, None], k.flatten(0, 1)[:, None], v.flatten(0, 1)[:, None]
    sink = given.flatten(0, 1)
    shown = torch.ones_like(sink) if key_mask is None else key_mask.repeat_interleave(count, dim=0)
    o_rest, l_rest = over_all_keys(*flat, causal=causal, key_mask=shown & ~sink, scale=scale)
    o_sink, l_sink = _of_sinks(*flat, sink & shown, causal=causal, scale=scale)
    # Where all that a query sees are sinks nothing can take what would be freed.
    alone = l_rest == float("-inf")
    apart = torch.where(alone | (l_sink == float("-inf")), 0.0, l_sink) - l_rest.masked_fill(alone, 0.0)
    mass = torch.sigmoid(apart).masked_fill(l_sink == float("-inf"), 0.0)
    on_sinks = torch.where(alone, 1.0, beta * mass)[..., None]
    out = on_sinks * o_sink + (1.0 - on_sinks) * o_rest
    return out.view(batch, count, lq, v.shape[3]).to(given_type)


def reference_sinks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    sinks: Tensor | None = None,
    beta: float = 0.4,
    alpha: float = 5.0,
    least: int = 8,
    heads: Sequence[bool] | None = None,
) -> Tensor:
    """The definition, on the whole matrix of weights; as `sink_attention`."""

    def found(q: Tensor, k: Tensor, **how: object) -> tuple[Tensor, Tensor]:
        received = reference_colstat(q.detach(), k.detach(), causal=causal, key_mask=key_mask, scale=scale)
        return _above(received, q.shape[2], causal, key_mask, alpha, least), received

    to = compute_dtype(q)
    wide = q.to(to), k.to(to), v.to(to)
    sink = _sinks(wide[0], wide[1], causal, key_mask, scale, sinks, beta, alpha, least, heads, found)[:, :, None]
    eye = torch.eye(k.shape[2], dtype=to, device=k.device).expand(*k.shape[:2], -1, -1)
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    weights = masked_attention(wide[0], wide[1], eye, mask, scale=scale)[0]
    on_sinks = weights.masked_fill(~sink, 0.0)
    rest = weights - on_sinks
    mass = on_sinks.sum(dim=-1, keepdim=True)
    left = rest.sum(dim=-1, keepdim=True)
    moved = beta * on_sinks + rest * (1.0 + (1.0 - beta) * mass / left.clamp_min(torch.finfo(to).tiny))
    return (torch.where(left > 0.0, moved, weights) @ wide[2]).to(q.dtype)


def _sinks(
    q: Tensor,
    k: Tensor,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    sinks: Tensor | None,
    beta: float,
    alpha: float,
    least: int,
    heads: Sequence[bool] | None,
    find: object,
) -> Tensor:
    """The sinks of the heads that are calibrated, (B, H, Lk); `KernelError` for options that do not fit."""
    want = (*q.shape[:2], k.shape[2])
    if not 0.0 <= beta <= 1.0:
        raise KernelError(f"beta is {beta}, expected a share between 0 and 1")
    if not alpha > 0.0:
        raise KernelError(f"alpha is {alpha}, expected a positive number")
    positive("least", least)
    if sinks is None:
        if causal:
            raise KernelError("give sinks= in a causal call (find_sinks on what is known); found here they see ahead")
        how = {"causal": causal, "key_mask": key_mask, "scale": scale, "alpha": alpha, "least": least}
        sinks = find(q, k, **how)[0]  # type: ignore[operator]
    wrong = KernelError(f"sinks is {sinks.dtype} {tuple(sinks.shape)}, expected torch.bool that broadcasts to {want}")
    if sinks.dtype != torch.bool:
        raise wrong
    try:
        found = sinks.expand(want)
    except RuntimeError as e:
        raise wrong from e
    if heads is not None:
        if len(heads) != q.shape[1]:
            raise KernelError(f"heads has {len(heads)} entries for {q.shape[1]} heads")
        found = found & torch.tensor([bool(x) for x in heads], device=q.device)[:, None]
    return found


def _above(received: Tensor, lq: int, causal: bool, key_mask: Tensor | None, alpha: float, least: int) -> Tensor:
    """Keys that receive more than alpha times their even share, by enough queries; not the first that is shown."""
    lk = received.shape[2]
    shown = torch.ones(1, lk, dtype=torch.bool, device=received.device) if key_mask is None else key_mask
    j = torch.arange(lk, device=received.device)
    if causal:
        at = torch.arange(lq, device=received.device) + (lk - lq)
        counts = torch.where(at >= 0, shown.cumsum(dim=1)[:, at.clamp_min(0)], 0) if lk else shown[:, :0]
        share = torch.where(counts > 0, 1.0 / counts.clamp_min(1).to(received.dtype), 0.0)
        # The even share of key j, summed over the queries from the first that sees it.
        later = share.flip(1).cumsum(dim=1).flip(1)
        first = (j - (lk - lq)).clamp(0, max(lq - 1, 0))
        viewers = (lk - j.clamp_min(lk - lq)).clamp(0, lq)
        even = later[:, first] / viewers.clamp_min(1)
    else:
        viewers = torch.full_like(j, lq)
        even = (1.0 / shown.sum(dim=1, keepdim=True).clamp_min(1)).to(received.dtype).expand(-1, lk)
    spared = shown & (shown.cumsum(dim=1) == 1)
    able = shown & ~spared & (viewers >= least)
    return (received > alpha * even[:, None]) & able[:, None]


def _of_sinks(q: Tensor, k: Tensor, v: Tensor, sink: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention over the sinks alone with its log-sum-exp, for (N, 1, L, D) and ``sink`` (N, Lk)."""
    most = int(sink.sum(dim=1).max())
    if most > _FEW:
        return over_all_keys(q, k, v, causal=causal, key_mask=sink, scale=scale)
    at = sink.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    some_k, some_v = (x.gather(2, at[:, None, :, None].expand(-1, -1, -1, x.shape[3])) for x in (k, v))
    mask = sink.gather(1, at)[:, None, None]
    if causal:
        i = torch.arange(q.shape[2], device=q.device)[:, None] + (k.shape[2] - q.shape[2])
        mask = mask & (at[:, None, None] <= i)
    return masked_attention(q, some_k, some_v, mask, scale=scale)


MECHANISM = Mechanism(
    name="calibrate_sinks",
    summary="dense attention with its sinks turned down: they keep a share of their weights, the others get the rest",
    paper="ACT, Attention Calibration Technique, arXiv 2406.15765 (the threshold by the even share is ours)",
    cost="O(Lq Lk (D + Dv)) time, about three times dense attention to find the sinks; O(L (D + Dv)) memory",
    use="constant or absent indicators and the first step soak up attention; tells which, and turns them down unasked",
    function="softmax over the visible keys, sinks times beta, the rest scaled up",
    reference=reference_sinks,
    torch=sink_attention,
)
