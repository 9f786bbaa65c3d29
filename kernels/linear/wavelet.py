"""The Haar part of WERSA: each level of detail of a sequence is multiplied by its own factor.

The decimated transform mixes a whole block of 2^J positions and so looks ahead; the undecimated causal one (ours) only
looks back. Factors are s_0 (finest detail) .. s_(J-1) (coarsest detail), s_J (approximation).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["causal_haar", "causal_haar_after", "haar", "reference_causal_haar", "reference_haar"]


def haar(x: Tensor, factors: Tensor) -> Tensor:
    """T x = s_0 x + sum over l = 1..J of (s_l - s_(l-1)) A_l x, with A_l the mean over aligned blocks of 2^l.

    x (B, H, L, D) counts as followed by zeros up to a multiple of 2^J; factors (B, J+1). Returns (B, H, L, D).
    """
    levels, length = factors.shape[-1] - 1, x.shape[2]
    padded = pad(x, (0, 0, 0, -length % (1 << levels)))
    steps = factors.diff(dim=-1)[:, :, None, None, None]
    means = [padded]
    for _ in range(levels):
        last = means[-1]
        means.append(last.reshape(*last.shape[:2], last.shape[2] // 2, 2, last.shape[3]).mean(dim=3))
    # From coarse to fine each level is half as long as the next: the sum costs two passes, not one per level.
    coarse = steps[:, levels - 1] * means[levels]
    for level in range(levels - 1, 0, -1):
        coarse = coarse.repeat_interleave(2, dim=2) + steps[:, level - 1] * means[level]
    return factors[:, 0, None, None, None] * x + coarse.repeat_interleave(2, dim=2)[:, :, :length]


def causal_haar(x: Tensor, factors: Tensor) -> Tensor:
    """T x = s_0 x + sum over l = 1..J of (s_l - s_(l-1)) a_l with a_l[t] = (a_(l-1)[t] + a_(l-1)[t - 2^(l-1)]) / 2.

    That is the sum of the details a_(l-1) - a_l times s_(l-1), and of a_J times s_J, with a_0 = x. Before the start the
    first value is repeated. x (B, H, L, D); factors (B, L, J+1) may change in time. Returns (B, H, L, D), of which row
    t depends on rows up to t only.
    """
    steps = factors.diff(dim=-1)[:, None, :, :, None]
    smooth, out = x, factors[:, None, :, :1] * x
    for level in range(1, factors.shape[-1]):
        shift = min(1 << (level - 1), x.shape[2])
        back = torch.cat([smooth[:, :, :1].expand(-1, -1, shift, -1), smooth[:, :, : x.shape[2] - shift]], dim=2)
        smooth = torch.lerp(smooth, back, 0.5)
        out = torch.addcmul(out, steps[:, :, :, level - 1], smooth)
    return out


def causal_haar_after(x: Tensor, factors: Tensor, length: int) -> Tensor:
    """The last ``length`` rows of `causal_haar` of a longer sequence, from 2^J - 1 rows more before them.

    x (B, H, length + 2^J - 1, D); factors (B, length or 1, J+1). Returns (B, H, length, D).
    """
    steps = factors.diff(dim=-1)[:, None, :, :, None]
    smooth, out = x, factors[:, None, :, :1] * x[:, :, -length:]
    for level in range(1, factors.shape[-1]):
        shift = 1 << (level - 1)
        smooth = torch.lerp(smooth[:, :, shift:], smooth[:, :, :-shift], 0.5)
        out = torch.addcmul(out, steps[:, :, :, level - 1], smooth[:, :, -length:])
    return out


def reference_haar(x: Tensor, factors: Tensor) -> Tensor:
    """The same by analysis, scaling and synthesis, as the transform is defined."""
    levels, length = factors.shape[-1] - 1, x.shape[2]
    smooth = pad(x, (0, 0, 0, -length % (1 << levels)))
    details: list[Tensor] = []
    for _ in range(levels):
        even, odd = smooth[:, :, 0::2], smooth[:, :, 1::2]
        smooth, detail = (even + odd) / math.sqrt(2.0), (even - odd) / math.sqrt(2.0)
        details.append(detail)
    smooth = smooth * factors[:, levels, None, None, None]
    for level in reversed(range(levels)):
        detail = details[level] * factors[:, level, None, None, None]
        both = torch.stack([smooth + detail, smooth - detail], dim=3) / math.sqrt(2.0)
        smooth = both.flatten(2, 3)
    return smooth[:, :, :length]


def reference_causal_haar(x: Tensor, factors: Tensor) -> Tensor:
    """`causal_haar` one position at a time."""
    levels = factors.shape[-1] - 1
    smooth = [x]
    for level in range(1, levels + 1):
        a = smooth[-1]
        rows = [(a[:, :, t] + a[:, :, max(t - (1 << (level - 1)), 0)]) / 2 for t in range(x.shape[2])]
        smooth.append(torch.stack(rows, dim=2))
    f = factors[:, None, :, :, None]
    out = f[:, :, :, levels] * smooth[levels]
    for level in range(1, levels + 1):
        out = out + f[:, :, :, level - 1] * (smooth[level - 1] - smooth[level])
    return out
