"""HaloNet's learned relative positions: tables whose products with the queries are added to the scores.

In a window the places of keys are distinct modulo its width. So a query can carry its logits of all places in its
window, in the order of that remainder, and each key a one at its own remainder: their product is the logit, exactly,
and the engine needs to know nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels.checks import compute_dtype, positive
from kernels.dispatch import attention
from kernels.engines.grid import coordinates
from kernels.errors import KernelError
from kernels.registry import Backend

__all__ = ["HaloAttention", "with_tables"]


def with_tables(
    q: Tensor,
    k: Tensor,
    tables: Sequence[Tensor],
    sizes: Sequence[int],
    layout: Sequence[tuple[int, int]],
    *,
    block: int,
    halo: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Add columns to q (B, H, Lq, D) and k (B, H, Lk, D), so that their products are scores with relative logits.

    In float32 at least, as logits that were rounded to 16 bits would be other positions. ``sizes`` are the axes of the
    queries, ``layout`` those of the keys: places before the grid, and places in all.
    """
    win = block + 2 * halo
    to = compute_dtype(q)
    slots = torch.arange(win, device=q.device)
    of_query = coordinates(torch.arange(q.shape[2], device=q.device), sizes)
    of_key = coordinates(torch.arange(k.shape[2], device=q.device), [n for _, n in layout])
    queries, keys = [q.to(to) * scale], [k.to(to)]
    for table, at, place, (before, _) in zip(tables, of_query, of_key, layout, strict=True):
        within = at % block
        first = at - within - halo
        # Which key of the window has the remainder of each slot, and the row of the table that is meant for it.
        j = (slots - first[:, None]) % win
        rows = j - within[:, None] + win - 1
        logits = q.to(to) @ table.to(to).T
        queries.append(logits.gather(3, rows.expand(*logits.shape[:3], win)))
        one = ((place - before)[:, None] % win == slots).to(to)
        keys.append(one.expand(*k.shape[:2], -1, -1))
    return torch.cat(queries, dim=3), torch.cat(keys, dim=3)


class HaloAttention(nn.Module):
    """Halo attention, with ``relative`` with the paper's learned table of relative positions per axis; as `attention`.

    The tables are shared by the heads and start as normal numbers of variance 1 / head_dim. With ``scale_tables`` their
    logits are multiplied by the scale of the scores, without they are not (as in timm).
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        block: int = 64,
        halo: int = 32,
        grid: Sequence[int] | None = None,
        pad_mode: str = "mask",
        rel_bias: Tensor | None = None,
        relative: bool = False,
        scale_tables: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("relative", relative), ("scale_tables", scale_tables)):
            if not isinstance(value, bool):
                raise KernelError(f"{name} is {value!r}, expected True or False")
        if grid is not None and not (isinstance(grid, Sequence) and 1 <= len(grid) <= 3):
            raise KernelError(f"grid is {grid!r}, expected one to three whole numbers")
        win = positive("block", block) + 2 * positive("halo", halo, least=0)
        self.heads, self.head_dim, self.scale_tables = heads, head_dim, scale_tables
        self.options = {"block": block, "halo": halo, "grid": grid, "pad_mode": pad_mode, "rel_bias": rel_bias}
        axes = (1 if grid is None else len(grid)) if relative else 0
        shape = (2 * win - 1, head_dim)
        self.tables = nn.ParameterList([nn.Parameter(head_dim**-0.5 * torch.randn(shape)) for _ in range(axes)])

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool = False,
        key_mask: Tensor | None = None,
        scale: float | None = None,
        backend: Backend | None = None,
    ) -> Tensor:
        """(B, H, L, Dv) for q (B, H, L, D); heads of k and v divide H; see `attention`."""
        options = dict(self.options)
        if len(self.tables):
            if q.shape[3] != self.head_dim:
                raise KernelError(f"this module has head size {self.head_dim} but q has {q.shape[3]}")
            factor = 1.0
            if self.scale_tables:
                factor = self.head_dim**-0.5 if scale is None else scale
            options["rel_tables"] = [factor * table for table in self.tables]
        call = {"causal": causal, "key_mask": key_mask, "scale": scale, "backend": backend, **options}
        out: Tensor = attention(q, k, v, method="halo", **call)  # type: ignore[arg-type]
        return out

    def extra_repr(self) -> str:
        """The options, for `print(module)`."""
        return ", ".join(f"{k}={v!r}" for k, v in self.options.items() if not isinstance(v, Tensor))
