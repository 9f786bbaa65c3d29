"""The level-masked cascade as its definition reads, token by token.

For level l = 1, 2, ... with members M_l (tokens of level l and tokens of level -1, which belong to every level), and
with P the output of the level before restricted to its members (P = 0 before the first):

    q_l = q 1[M_l] + P,   k_l = k 1[M_l] + P,   v_l = v 1[M_l] + P
    Y_l = softmax(scale q_l k_l^T) v_l,   P <- Y_l 1[M_l]

and the result is the sum of all P. With *true* masks the softmax runs over the members of this level and of the one
before; with *zero* masks (as released) over all present tokens, so that each outsider, a zero key with a zero value,
takes a weight of exp(0) and shrinks the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["reference_hierarchical"]


def reference_hierarchical(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    levels: Sequence[int],
    *,
    token_mask: Tensor | None = None,
    zero_mask: bool = False,
    scale: float | None = None,
) -> Tensor:
    """The cascade for q, k (B, H, N, D), v (B, H, N, D) and one level per token; see the module for the definition.

    ``token_mask`` (B, N): False for an absent token, which no one sees and whose own row is 0.
    """
    batch, heads, n, d = q.shape
    scale = 1.0 / math.sqrt(d) if scale is None else scale
    out = torch.zeros_like(v)
    for b in range(batch):
        present = [token_mask is None or bool(token_mask[b, i]) for i in range(n)]
        for h in range(heads):
            carried: dict[int, Tensor] = {}
            for level in range(1, max((*levels, 1)) + 1):
                members = {i for i in range(n) if present[i] and levels[i] in (level, -1)}
                zero = torch.zeros_like(q[b, h, 0])
                base = {i: carried.get(i, zero) for i in range(n)}
                ql, kl, vl = (
                    {i: base[i] + (x[b, h, i] if i in members else zero) for i in range(n)} for x in (q, k, v)
                )
                seen = [i for i in range(n) if present[i] and (zero_mask or i in members or i in carried)]
                fresh: dict[int, Tensor] = {}
                for i in sorted(members):
                    weights = torch.softmax(torch.stack([scale * (ql[i] @ kl[j]) for j in seen]), dim=0)
                    fresh[i] = sum((w * vl[j] for w, j in zip(weights, seen, strict=True)), start=zero)
                    out[b, h, i] += fresh[i]
                carried = fresh
    return out
