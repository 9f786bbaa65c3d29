"""The level-masked cascade, one dense attention per level over that level's tokens and those of the level before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.autocast import agreed, as_declared
from kernels.checks import blanked, default_scale
from kernels.compiled import Like, as_node
from kernels.errors import KernelError

__all__ = ["hierarchical_attention"]


def _like(
    q: Tensor, k: Tensor, v: Tensor, levels: Sequence[int], *, token_mask: Tensor | None = None, **_: object
) -> Like:
    """What `hierarchical_attention` gives; `KernelError` as it."""
    _check(q, k, v, levels, token_mask)
    return Like(tuple(v.shape), v.dtype, v.device)


@as_node(_like)
def hierarchical_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    levels: Sequence[int],
    *,
    token_mask: Tensor | None = None,
    zero_mask: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Cascading attention across levels of tokens (definition in `kernels.hierarchical.reference`).

    Cost is the sum over levels of |M_l| * |M_l + M_(l-1)| instead of levels * N^2.

    Args:
        q: queries (B, H, N, D).
        k: keys (B, H, N, D).
        v: values (B, H, N, D); they share D with q and k since outputs of one level are added to all three.
        levels: one per token: 1, 2, ... or -1 for a member of every level.
        token_mask: bool (B, N), False for an absent token: nobody sees it and its own row is 0.
        zero_mask: mask by zero keys as the paper's release does, instead of truly.
        scale: factor on the dot products, 1 / sqrt(D) if None.

    Returns:
        (B, H, N, D), the sum over levels of the outputs of their members.

    Raises:
        KernelError: for shapes, levels or masks that do not fit.
    """
    q, k, v = agreed(q, k, v)
    _check(q, k, v, levels, token_mask)
    scale = default_scale(q, scale)
    q, k, v = (blanked(token_mask, x) for x in (q, k, v))
    with as_declared(q):
        return _cascade(q, k, v, levels, token_mask, zero_mask, scale)


def _cascade(
    q: Tensor, k: Tensor, v: Tensor, levels: Sequence[int], token_mask: Tensor | None, zero_mask: bool, scale: float
) -> Tensor:
    """`hierarchical_attention` of tensors that are 0 where a token is absent."""
    out = torch.zeros_like(v)
    before: list[int] = []
    carried = q.new_zeros(q.shape)
    for level in range(1, max((*levels, 1)) + 1):
        members = [i for i, own in enumerate(levels) if own in (level, -1)]
        if members:
            fresh = _one_level(q, k, v, carried, members, before, token_mask, zero_mask, scale)
            index = torch.tensor(members, device=q.device)
            carried = torch.zeros_like(carried).index_copy(2, index, fresh)
            out = out + carried
        else:
            carried = torch.zeros_like(carried)
        before = members
    return out


def _one_level(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    carried: Tensor,
    members: list[int],
    before: list[int],
    token_mask: Tensor | None,
    zero_mask: bool,
    scale: float,
) -> Tensor:
    """(B, H, |M|, D): what the members of one level read from themselves and from the level before."""
    n = q.shape[2]
    keys = sorted({*members, *before})
    own = q.new_zeros(len(keys), 1)
    own[[keys.index(i) for i in members]] = 1.0
    ql = q[:, :, members] + carried[:, :, members]
    kl = k[:, :, keys] * own + carried[:, :, keys]
    vl = v[:, :, keys] * own + carried[:, :, keys]
    scores = scale * (ql @ kl.transpose(-1, -2))
    if token_mask is not None:
        scores = scores.masked_fill(~token_mask[:, None, None, keys], float("-inf"))
    top = scores.amax(dim=-1, keepdim=True)
    if zero_mask:
        top = top.clamp_min(0.0)
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top)).detach()
    weights = torch.exp(scores - top)
    total = weights.sum(dim=-1, keepdim=True)
    if zero_mask:
        outside = [i for i in range(n) if i not in set(keys)]
        count: Tensor | float = float(len(outside))
        if token_mask is not None:
            count = token_mask[:, outside].sum(dim=1).to(q.dtype)[:, None, None, None]
        total = total + count * torch.exp(-top)
    result: Tensor = (weights @ vl) / total.clamp_min(torch.finfo(q.dtype).tiny)
    if token_mask is not None:
        result = result * token_mask[:, None, members, None].to(q.dtype)
    return result


def _check(q: Tensor, k: Tensor, v: Tensor, levels: Sequence[int], token_mask: Tensor | None) -> None:
    """Raise `KernelError` for shapes, levels or masks that do not fit each other."""
    if q.ndim != 4 or q.shape != k.shape or q.shape != v.shape:
        raise KernelError(
            f"q, k, v have shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}; "
            "expected three equal (B, H, N, D)"
        )
    if len(levels) != q.shape[2]:
        raise KernelError(f"{len(levels)} levels for {q.shape[2]} tokens")
    wrong = [level for level in levels if level != -1 and level < 1]
    if wrong:
        raise KernelError(f"level {wrong[0]} is neither -1 (every level) nor 1, 2, ...")
    if token_mask is not None and (
        token_mask.dtype != torch.bool or tuple(token_mask.shape) != (q.shape[0], q.shape[2])
    ):
        raise KernelError(
            f"token_mask is {token_mask.dtype} of shape {tuple(token_mask.shape)}, expected torch.bool of shape "
            f"{(q.shape[0], q.shape[2])}"
        )
