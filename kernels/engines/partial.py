"""Engine 3: attention over a part of the keys with its log-sum-exp, merging of parts, and received attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kernels.autocast import agreed, as_declared
from kernels.checks import blanked, check_key_mask, check_qkv, compute_dtype, default_scale, repeat_heads, visible
from kernels.compiled import Like, as_node
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.plan import block_for, plan_from_spans
from kernels.engines.rules import Call, full
from kernels.errors import KernelError
from kernels.registry import Backend
from kernels.triton.block_sparse import ruled_attention
from kernels.triton.partial import received_attention
from kernels.triton.support import serves

__all__ = ["colstat", "merge", "over_all_keys", "partial_attention", "reference_colstat"]

_CHUNK_SCORES = 1 << 19


def _partial_checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    key_mask: Tensor | None = None,
    temperature: float = 1.0,
    backend: str | None = None,
    **_: object,
) -> int:
    """The heads of the result; `KernelError` as `partial_attention`."""
    heads = check_qkv(q, k, v)
    if not temperature > 0.0:
        raise KernelError(f"temperature is {temperature}, expected a positive number")
    check_key_mask(key_mask, k)
    _known(backend)
    return heads


def _partial_like(q: Tensor, k: Tensor, v: Tensor, **how: object) -> tuple[Like, Like]:
    """What `partial_attention` gives."""
    check: Callable[..., int] = _partial_checked
    rows = (q.shape[0], check(q, k, v, **how), q.shape[2])
    return Like((*rows, v.shape[3]), q.dtype, q.device), Like(rows, compute_dtype(q), q.device)


@as_node(_partial_like)
def partial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    temperature: float = 1.0,
    offset: int | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over these keys alone, with what `merge` needs to join it to attention over others.

    Args:
        q: queries (B, Hq, Lq, D).
        k: keys (B, Hk, Lk, D).
        v: values (B, Hv, Lk, Dv).
        causal: query i sees key j only if j <= i + offset.
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: factor on the dot products, 1 / sqrt(D) if None.
        temperature: the scores are divided by it.
        offset: position of query 0 on the axis of these keys; Lk - Lq if None. Where ``k`` is the part of a longer
            sequence that starts at s, it is the offset in the whole less s, and may be negative.
        backend: "torch" or "triton"; None takes the fastest that serves the device.

    Returns:
        The output (B, H, Lq, Dv), 0 where no key is seen, and the log of the sum of exponentials (B, H, Lq) in float32
        (float64), -inf there. Both carry gradients.

    Raises:
        KernelError: for shapes that do not fit, or a temperature that is not positive.
    """
    q, k, v = agreed(q, k, v)
    heads = _partial_checked(q, k, v, key_mask=key_mask, temperature=temperature, backend=backend)
    scale = default_scale(q, scale) / temperature
    # Neighbouring heads of queries share keys that are there once; keys and values are of equal head counts.
    of_keys = math.lcm(k.shape[1], v.shape[1]) if q.shape[1] == heads else heads
    k, v = (repeat_heads(blanked(key_mask, x), of_keys) for x in (k, v))
    q = repeat_heads(q, heads)
    with as_declared(q):
        return over_all_keys(q, k, v, causal=causal, key_mask=key_mask, scale=scale, offset=offset, backend=backend)


def over_all_keys(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    offset: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`partial_attention` of tensors that are already checked, and 0 where a key is hidden.

    Keys and values have the same number of heads, which divides that of the queries.
    """
    lq, lk = q.shape[2], k.shape[2]
    call = Call(q.shape[1], lq, lk, causal, q.device, lk - lq if offset is None else offset)
    rule = full(call)
    if serves(backend, q, k, v):
        return ruled_attention(q, k, v, rule, call, scale=scale, key_mask=key_mask)
    block = block_for(rule, call)
    plan = plan_from_spans(rule, call, block_q=block, block_k=block)
    return block_sparse_attention(
        q, k, v, plan=plan, sees=rule.sees, scale=scale, key_mask=key_mask, offset=call.offset
    )


def _known(backend: str | None) -> str | None:
    """``backend`` if these functions have it; `KernelError` otherwise."""
    if backend not in (None, "torch", "triton"):
        raise KernelError(f"no backend {backend!r} here; expected 'torch' or 'triton'")
    return backend


def merge(*parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Attention over the union of disjoint sets of keys, from the (output, log-sum-exp) over each of them.

    Outputs are (B, H, Lq, Dv), log-sum-exps (B, H, Lq); what no part sees stays 0 and -inf. The order of the parts
    does not matter but for rounding.
    """
    if not parts:
        raise KernelError("merge needs at least one part")
    lses = torch.stack([lse for _, lse in parts])
    top = lses.detach().amax(dim=0)
    top = top.masked_fill(top == float("-inf"), 0.0)
    weights = torch.exp(lses - top)
    total = weights.sum(dim=0)
    empty = total == 0
    total = total.masked_fill(empty, 1.0)
    outputs = torch.stack([o.to(lses.dtype) for o, _ in parts])
    merged = (weights[..., None] * outputs).sum(dim=0) / total[..., None]
    return merged.to(parts[0][0].dtype), (top + total.log()).masked_fill(empty, float("-inf"))


def _colstat_like(
    q: Tensor, k: Tensor, lse: Tensor, *, key_mask: Tensor | None = None, backend: str | None = None, **_: object
) -> Like:
    """What `colstat` gives; `KernelError` as it."""
    heads = check_qkv(q, k, k)
    check_key_mask(key_mask, k)
    _known(backend)
    if tuple(lse.shape) != (q.shape[0], heads, q.shape[2]):
        raise KernelError(f"lse has shape {tuple(lse.shape)}, expected {(q.shape[0], heads, q.shape[2])}")
    return Like((q.shape[0], heads, k.shape[2]), compute_dtype(q), q.device)


@as_node(_colstat_like)
@torch.no_grad()
def colstat(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    *,
    causal: bool = False,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Attention that each key receives: the mean of its weight over the queries that may see it, (B, H, Lk).

    A second pass over q (B, Hq, Lq, D) and k (B, Hk, Lk, D) with the log-sum-exp (B, H, Lq) of the first, in memory of
    a few rows of scores. Hidden keys, and keys that no query may see, receive 0. It carries no gradient. ``backend`` is
    "torch" or "triton"; None takes the fastest that serves the device.
    """
    q, k = agreed(q, k)
    heads = _colstat_like(q, k, lse, key_mask=key_mask, backend=backend).shape[1]
    k = blanked(key_mask, k)
    to, lq, lk = compute_dtype(q), q.shape[2], k.shape[2]
    scale = default_scale(q, scale)
    by_triton = serves(backend, q, k)
    q = repeat_heads(q, heads)
    j = torch.arange(lk, device=q.device)
    with as_declared(q):
        if by_triton:
            received = received_attention(q, k, lse, causal=causal, scale=scale)
        else:
            received = _received(q.to(to) * scale, repeat_heads(k.to(to), heads), lse, causal)
    viewers = (lk - j.clamp_min(lk - lq)).clamp(0, lq) if causal else torch.full_like(j, lq)
    received = received / viewers.clamp_min(1)
    return received if key_mask is None else received.masked_fill(~key_mask[:, None], 0.0)


def _received(q: Tensor, k: Tensor, lse: Tensor, causal: bool) -> Tensor:
    """The sum over queries (B, H, Lq, D), already scaled, of their weights on the keys (B, H, Lk, D); (B, H, Lk)."""
    (batch, heads, lq, _), lk, to = q.shape, k.shape[2], q.dtype
    k = k.transpose(-1, -2)
    lse = lse.to(to).masked_fill(lse == float("-inf"), float("inf"))
    received = q.new_zeros(batch, heads, lk)
    rows = max(1, _CHUNK_SCORES // max(batch * heads * lk, 1))
    j = torch.arange(lk, device=q.device)
    for first in range(0, lq, rows):
        some = q[:, :, first : first + rows]
        weights = (some @ k).sub_(lse[:, :, first : first + rows, None]).exp_()
        if causal:
            i = torch.arange(first, first + some.shape[2], device=q.device) + (lk - lq)
            weights.masked_fill_(j[None, :] > i[:, None], 0.0)
        received += weights.sum(dim=2)
    return received


def reference_colstat(
    q: Tensor, k: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float | None = None
) -> Tensor:
    """The same from the whole matrix of weights, for q and k of equal head counts."""
    scores = default_scale(q, scale) * torch.einsum("bhid,bhjd->bhij", q, k)
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1).masked_fill(~mask, 0.0)
    return weights.sum(dim=2) / mask.sum(dim=2).clamp_min(1)
