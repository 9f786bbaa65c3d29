"""HaloNet: the queries of a block share one window of keys, the block and a halo around it; 1-D, 2-D or 3-D."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.checks import positive
from kernels.dense.reference import masked_attention
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.grid import Axis, grid_of, plan_from_axes
from kernels.engines.ruled import call_of, ruled_fast
from kernels.engines.rules import Call, Rule
from kernels.errors import KernelError
from kernels.registry import Backend, Mechanism, Taxonomy
from kernels.triton.block_sparse import listed_attention

__all__ = ["MECHANISM", "halo_attention", "reference_halo"]


def halo_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    block: int = 64,
    halo: int = 32,
    grid: Sequence[int] | None = None,
    pad_mode: str = "mask",
    rel_bias: Tensor | None = None,
    backend: Backend = "torch",
) -> Tensor:
    """Attention of each block of queries over the keys of the block and of a halo on every side; (B, H, L, Dv).

    Args:
        q: queries (B, H, L, D).
        k: keys (B, H, L, D).
        v: values (B, H, L, Dv).
        causal: keys after the query are hidden; only on a 1-D grid, with the mask as border.
        key_mask: bool (B, L).
        scale: factor on the dot products.
        block: side of the blocks.
        halo: keys beyond the block on each side.
        grid: lengths of the axes (the last runs fastest), their product is L; one axis if None.
        pad_mode: "mask" hides what lies outside of the grid, "zero" lets it take part as zero keys and values.
        rel_bias: (H or 1, block^d, (block + 2 halo)^d), added to the scores: the relative position logits.
        backend: of engine 1, "torch" or "triton".
    """
    sizes = _checked(q, causal, block, halo, grid, pad_mode, rel_bias)
    if len(sizes) == 1 and pad_mode == "mask" and rel_bias is None:
        rule = _rule_1d(call_of(q, k, causal=causal), block, halo)
        return ruled_fast(q, k, v, rule, causal=causal, key_mask=key_mask, scale=scale, backend=backend)
    length = q.shape[2]
    axes = [_axis(n, block, halo, q.device) for n in sizes]
    plan = plan_from_axes(axes, sizes)
    if pad_mode == "zero":
        k, v = pad(k, (0, 0, 0, 1)), pad(v, (0, 0, 0, 1))
        key_mask = None if key_mask is None else pad(key_mask, (0, 1), value=True)
        plan.index.masked_fill_(plan.index < 0, length)

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) if causal else (j >= 0) & (i == i)

    engine = listed_attention if backend == "triton" else block_sparse_attention
    return engine(q, k, v, plan=plan, sees=sees, scale=scale, key_mask=key_mask, bias=rel_bias, offset=0)[0]


def reference_halo(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    block: int = 64,
    halo: int = 32,
    grid: Sequence[int] | None = None,
    pad_mode: str = "mask",
    rel_bias: Tensor | None = None,
) -> Tensor:
    """The definition, one block after the other; arguments as for `halo_attention`."""
    sizes = _checked(q, causal, block, halo, grid, pad_mode, rel_bias)
    batch, heads, length, _ = q.shape
    out = q.new_zeros(batch, heads, length, v.shape[3])
    shown = torch.ones(batch, length, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    # One zero row behind the sequence stands for whatever lies outside of the grid.
    k, v, shown = pad(k, (0, 0, 0, 1)), pad(v, (0, 0, 0, 1)), pad(shown, (0, 1), value=pad_mode == "zero")
    side = range(block)
    window = range(-halo, block + halo)
    for corner in itertools.product(*(range(0, n, block) for n in sizes)):
        rows = [_flat(corner, step, sizes) for step in itertools.product(side, repeat=len(sizes))]
        keys = [_flat(corner, step, sizes) for step in itertools.product(window, repeat=len(sizes))]
        real = [r for r, row in enumerate(rows) if row is not None]
        i = torch.tensor([rows[r] for r in real], device=q.device)
        j = torch.tensor([length if key is None else key for key in keys], device=q.device)
        mask = shown[:, None, None, j]
        if causal:
            mask = mask & (j[None, :] <= i[:, None])
        bias = None if rel_bias is None else rel_bias[:, real]
        done = masked_attention(q[:, :, i], k[:, :, j], v[:, :, j], mask, scale=scale, bias=bias)[0]
        out = out.index_copy(2, i, done)
    return out


def _flat(corner: Sequence[int], step: Sequence[int], sizes: Sequence[int]) -> int | None:
    """The flattened position ``step`` away from ``corner``, None outside of the grid."""
    flat = 0
    for c, s, n in zip(corner, step, sizes, strict=True):
        if not 0 <= c + s < n:
            return None
        flat = flat * n + c + s
    return flat


def _checked(
    q: Tensor, causal: bool, block: int, halo: int, grid: object, pad_mode: str, rel_bias: Tensor | None
) -> tuple[int, ...]:
    """The grid, after raising `KernelError` for options that do not fit."""
    positive("block", block)
    positive("halo", halo, least=0)
    sizes = grid_of(grid, q.shape[2])
    if pad_mode not in ("mask", "zero"):
        raise KernelError(f"pad_mode is {pad_mode!r}, expected 'mask' or 'zero'")
    if causal and (len(sizes) > 1 or pad_mode == "zero"):
        raise KernelError("a causal halo exists on a 1-D grid with pad_mode='mask' only")
    if rel_bias is not None:
        want = (block ** len(sizes), (block + 2 * halo) ** len(sizes))
        if rel_bias.ndim != 3 or tuple(rel_bias.shape[1:]) != want or rel_bias.shape[0] not in (1, q.shape[1]):
            raise KernelError(f"rel_bias has shape {tuple(rel_bias.shape)}, expected ({q.shape[1]} or 1, *{want})")
    return sizes


def _axis(n: int, block: int, halo: int, device: torch.device) -> Axis:
    """Blocks of one axis and their windows."""
    corner = torch.arange(0, n, block, device=device)[:, None]
    queries = corner + torch.arange(block, device=device)
    keys = corner + torch.arange(-halo, block + halo, device=device)
    return Axis(torch.where(queries < n, queries, -1), torch.where((keys >= 0) & (keys < n), keys, -1))


def _rule_1d(call: Call, block: int, halo: int) -> Rule:
    """The window of a block on a line as a rule for the engine."""
    causal = call.causal

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        lo, hi = edges(i)
        return (j >= lo) & (j < hi)

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        lo, hi = edges(i)
        return lo[None], hi[None]

    def edges(i: Tensor) -> tuple[Tensor, Tensor]:
        start = i.div(block, rounding_mode="floor") * block
        return start - halo, i + 1 if causal else start + block + halo

    return Rule(sees, spans, block=block)


MECHANISM = Mechanism(
    name="halo",
    summary="blocks of queries that share the window of their block and a halo around it",
    paper="HaloNet, arXiv 2103.12731 (the 1-D causal form is ours)",
    cost="O(L (block + 2 halo)^d D) time, O(L D) memory",
    reference=reference_halo,
    torch=halo_attention,
    triton=partial(halo_attention, backend="triton"),
    cross=False,
    taxonomy=Taxonomy(unit="block", importance="fixed", budget="uniform", kv="keep all"),
)
