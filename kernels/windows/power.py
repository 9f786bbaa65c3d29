"""PowerAttention: a window, the first keys, and the keys at power-of-two distances.

With d layers every distance up to 2^(d+1) - 2 is reached without holes, at about log2(L) blocks more per row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import positive
from kernels.engines.ruled import ruled_mechanism
from kernels.engines.rules import Call, Form, Rule
from kernels.engines.singles import Singles
from kernels.registry import Taxonomy
from kernels.windows.sliding_window import sliding_window

__all__ = ["MECHANISM", "power"]


def power(call: Call, *, window: int = 256, block: int = 1, sinks: int = 64) -> Rule:
    """Blocks of ``block`` keys at block distance below window / block or 1, 2, 4, ..., and the first sinks / block.

    ``block`` = 1 is the definition, by tokens: one key per power of two. Blocks of 64 or 128 see more far keys, at a
    cost that grows with L log L; they suit the tiles of a GPU. ``window`` and ``sinks`` are in keys, rounded up to
    whole blocks. Not causal, the distance counts in both directions.
    """
    c, causal = positive("block", block), call.causal
    near = -(-positive("window", window) // c)
    first = -(-positive("sinks", sinks, least=0) // c)
    reach = max(call.lk, call.lq, 1)
    steps = [1 << t for t in range(reach.bit_length()) if (1 << t) >= near]

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        bj = j.div(c, rounding_mode="floor")
        apart = i.div(c, rounding_mode="floor") - bj
        if not causal:
            apart = apart.abs()
        # A power of two has one bit: d & (d - 1) = 0 (true of 0 as well, which the window holds anyway).
        seen = (apart < near) | ((apart & (apart - 1)) == 0) | (bj < first)
        return seen & (j <= i) if causal else seen

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        bi = i.div(c, rounding_mode="floor")
        lo = [(bi - near + 1) * c, torch.zeros_like(i), *((bi - s) * c for s in steps)]
        hi = [(bi + near) * c, torch.full_like(i, first * c), *((bi - s + 1) * c for s in steps)]
        if not causal:
            lo += [(bi + s) * c for s in steps]
            hi += [(bi + s + 1) * c for s in steps]
        end = torch.stack(hi)
        return torch.stack(lo), torch.minimum(end, i + 1) if causal else end

    form = Form(near, first, c, powers=True, causal=causal)
    if c > 1:
        return Rule(sees, spans, block=c, form=form)
    # One key per distance: as blocks nearly all of what is computed would be hidden.
    both = steps if causal else [*steps, *(-s for s in steps)]
    return Rule(
        sees, spans, form=form, split=(sliding_window(call, window=near, sinks=first), Singles(tuple(both), first))
    )


MECHANISM = ruled_mechanism(
    "power",
    power,
    summary="window, sinks and keys at power-of-two distances; single keys, where the paper counts blocks (block=64)",
    paper="PowerAttention, arXiv 2503.03588 (from its abstract; the defaults and the non-causal form are ours)",
    cost="O(L (window + sinks + block log2(L / block)) D) time, O(L D) memory",
    use="recent steps and single ones at doubling distances: hours, days and weeks in a few layers",
    taxonomy=Taxonomy(unit="block", importance="fixed", budget="uniform", kv="keep all"),
    keeps_all=True,
)
