"""SoftPAG: the weights of a head are blended with the identity, A_u = (1 - u) A + u I (arXiv 2506.10978)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.checks import compute_dtype, visible
from kernels.dense.reference import masked_attention
from kernels.dense.sdpa import sdpa_attention
from kernels.errors import KernelError
from kernels.registry import Mechanism

__all__ = ["MECHANISM", "guided", "identity_attention", "reference_identity", "soft_identity"]


def soft_identity(o: Tensor, v: Tensor, u: float | Sequence[float] | Tensor) -> Tensor:
    """(1 - u) o + u v: what attention with the output o (B, H, L, Dv) gives as its weights go to the identity.

    ``u`` is one share between 0 and 1, or one per head: 0 changes nothing, with 1 each token keeps to itself. It may
    carry a gradient. No weights are needed. Raises `KernelError` for shapes or shares that do not fit.
    """
    if o.shape != v.shape:
        raise KernelError(f"o has shape {tuple(o.shape)} and v {tuple(v.shape)}, expected equal ones (self-attention)")
    to = compute_dtype(o)
    share = torch.as_tensor(u, dtype=to, device=o.device)
    if tuple(share.shape) not in ((), (o.shape[1],)):
        raise KernelError(f"u has shape {tuple(share.shape)}, expected one number or ({o.shape[1]},)")
    if not bool(((share >= 0.0) & (share <= 1.0)).all()):
        raise KernelError(f"u is {u!r}, expected shares between 0 and 1")
    share = share.view(-1, 1, 1)
    return ((1.0 - share) * o.to(to) + share * v.to(to)).to(o.dtype)


def guided(strong: Tensor, weak: Tensor, w: float) -> Tensor:
    """The sum strong + w (strong - weak): away from what the model gives with damaged heads; w = 0 changes nothing."""
    return strong + w * (strong - weak)


def identity_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    u: float | Sequence[float] | Tensor = 0.5,
) -> Tensor:
    """Dense self-attention blended with the identity, (B, H, L, Dv); ``u`` as in `soft_identity`.

    A hidden token has no own value: its row is (1 - u) times what it sees.
    """
    to = compute_dtype(q)  # so that the blend alone is rounded, not what goes into it
    wide = q.to(to), k.to(to), v.to(to)
    return soft_identity(sdpa_attention(*wide, causal=causal, key_mask=key_mask, scale=scale), wide[2], u).to(q.dtype)


def reference_identity(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    u: float | Sequence[float] | Tensor = 0.5,
) -> Tensor:
    """The definition, on the matrix of weights; as `identity_attention`."""
    to = compute_dtype(q)
    wide = [x.to(to) for x in (q, k, v)]
    eye = torch.eye(k.shape[2], dtype=to, device=k.device).expand(*k.shape[:2], -1, -1)
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    weights = masked_attention(wide[0], wide[1], eye, mask, scale=scale)[0]
    share = torch.as_tensor(u, dtype=to, device=q.device).view(-1, 1, 1)
    return (((1.0 - share) * weights + share * eye) @ wide[2]).to(q.dtype)


MECHANISM = Mechanism(
    name="soft_identity",
    summary="dense self-attention whose weights are blended with the identity, by a share per head",
    paper="HeadHunter and SoftPAG, arXiv 2506.10978 (from its abstract and the PAG line of work)",
    cost="O(L^2 (D + Dv)) time, O(L (D + Dv)) memory",
    use="the forecast without one head's mixing: an atlas of what heads carry, a weak model to contrast with",
    function="(1 - u) softmax over the visible keys + u identity",
    reference=reference_identity,
    torch=identity_attention,
    cross=False,
)
