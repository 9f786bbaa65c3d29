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
from kernels.engines.kept import KEPT, Reach, State, kept_like, rolled_keys
from kernels.engines.ruled import call_of, ruled_fast
from kernels.engines.rules import Call, Rule
from kernels.errors import KernelError
from kernels.registry import Backend, Mechanism, Taxonomy
from kernels.triton.block_sparse import listed_attention
from kernels.triton.support import LARGEST_HEAD
from kernels.windows.halo_tables import HaloAttention, with_tables

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
    rel_tables: Sequence[Tensor] | None = None,
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
        rel_bias: (H or 1, block^d, (block + 2 halo)^d), added to the scores: relative positions that count alike for
            every query.
        rel_tables: per axis (2 (block + 2 halo) - 1, D), the relative position logits of the paper: q . row is added
            to the scores, the row being the key's index in the window less the query's in the block.
        backend: of engine 1, "torch" or "triton"; with tables a head may become too large for the latter.
    """
    sizes = _checked(q, causal, block, halo, grid, pad_mode, rel_bias, rel_tables)
    k, v, key_mask, layout = _bordered(k, v, key_mask, sizes, block, halo, pad_mode)
    to = q.dtype
    if rel_tables is not None:
        q, k = with_tables(q, k, rel_tables, sizes, layout, block=block, halo=halo, scale=scale)
        v, scale = v.to(q.dtype), 1.0
        backend = backend if q.shape[3] <= LARGEST_HEAD else "torch"
    if len(sizes) == 1 and pad_mode == "mask" and rel_bias is None:
        rule = _rule_1d(call_of(q, k, causal=causal), block, halo)
        return ruled_fast(q, k, v, rule, causal=causal, key_mask=key_mask, scale=scale, backend=backend).to(to)
    axes = [_axis(n, block, halo, q.device, *border) for n, border in zip(sizes, layout, strict=True)]
    plan = plan_from_axes(axes, sizes, [n for _, n in layout])

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) if causal else (j >= 0) & (i == i)

    engine = listed_attention if backend == "triton" else block_sparse_attention
    return engine(q, k, v, plan=plan, sees=sees, scale=scale, key_mask=key_mask, bias=rel_bias, offset=0)[0].to(to)


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
    rel_tables: Sequence[Tensor] | None = None,
) -> Tensor:
    """The definition, one block after the other; arguments as for `halo_attention`."""
    sizes = _checked(q, causal, block, halo, grid, pad_mode, rel_bias, rel_tables)
    batch, heads, length, _ = q.shape
    out = q.new_zeros(batch, heads, length, v.shape[3])
    shown = torch.ones(batch, length, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    # One zero row behind the sequence stands for whatever lies outside of the grid.
    k, v, shown = pad(k, (0, 0, 0, 1)), pad(v, (0, 0, 0, 1)), pad(shown, (0, 1), value=pad_mode == "zero")
    side = range(block)
    sides = list(itertools.product(side, repeat=len(sizes)))
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
        if rel_tables is not None:
            logits = _logits(q[:, :, i], rel_tables, [side_of for n, side_of in enumerate(sides) if n in real], block)
            bias = logits if bias is None else bias + logits
        done = masked_attention(q[:, :, i], k[:, :, j], v[:, :, j], mask, scale=scale, bias=bias)[0]
        out = out.index_copy(2, i, done)
    return out


def _logits(q: Tensor, tables: Sequence[Tensor], within: Sequence[tuple[int, ...]], block: int) -> Tensor:
    """Relative position logits (B, H, n, window^d) of queries q (B, H, n, D) at the places ``within`` their block."""
    d = len(tables)
    win = (len(tables[0]) + 1) // 2
    total = q.new_zeros(*q.shape[:3], *(win,) * d)
    for axis, table in enumerate(tables):
        rows = torch.tensor([[j - place[axis] + win - 1 for j in range(win)] for place in within], device=q.device)
        own = torch.einsum("bhid,ijd->bhij", q, table[rows].to(q.dtype))
        total = total + own.view(*own.shape[:3], *(win if n == axis else 1 for n in range(d)))
    return total.flatten(3)


def _flat(corner: Sequence[int], step: Sequence[int], sizes: Sequence[int]) -> int | None:
    """The flattened position ``step`` away from ``corner``, None outside of the grid."""
    flat = 0
    for c, s, n in zip(corner, step, sizes, strict=True):
        if not 0 <= c + s < n:
            return None
        flat = flat * n + c + s
    return flat


def _checked(
    q: Tensor,
    causal: bool,
    block: int,
    halo: int,
    grid: object,
    pad_mode: str,
    rel_bias: Tensor | None,
    rel_tables: Sequence[Tensor] | None,
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
    if rel_tables is not None:
        if not isinstance(rel_tables, list | tuple) or not all(isinstance(t, Tensor) for t in rel_tables):
            raise KernelError(f"rel_tables is a {type(rel_tables).__name__}, expected a list of tensors, one per axis")
        shape = (2 * (block + 2 * halo) - 1, q.shape[3])
        found = [tuple(t.shape) for t in rel_tables]
        if found != [shape] * len(sizes):
            raise KernelError(f"rel_tables have shapes {found}, expected {len(sizes)} of {shape}, one per axis")
    return sizes


def _axis(n: int, block: int, halo: int, device: torch.device, before: int, length: int) -> Axis:
    """Blocks of one axis of n and their windows; keys lie on ``length`` places, of which ``before`` come before it."""
    corner = torch.arange(0, n, block, device=device)[:, None]
    queries = corner + torch.arange(block, device=device)
    keys = corner + torch.arange(-halo, block + halo, device=device) + before
    return Axis(torch.where(queries < n, queries, -1), torch.where((keys >= 0) & (keys < length), keys, -1))


def _bordered(
    k: Tensor, v: Tensor, key_mask: Tensor | None, sizes: Sequence[int], block: int, halo: int, pad_mode: str
) -> tuple[Tensor, Tensor, Tensor | None, list[tuple[int, int]]]:
    """Keys, values and mask with the border of zeros that takes part, if one does.

    And per axis how many places come before the grid, and how many there are.
    """
    if pad_mode == "mask":
        return k, v, key_mask, [(0, n) for n in sizes]
    after = [-n % block + halo for n in sizes]
    pads = [side for n in reversed(after) for side in (halo, n)]

    def around(x: Tensor, value: bool | float) -> Tensor:
        if x.ndim == 2:
            return pad(x.view(-1, *sizes), pads, value=value).flatten(1)
        on_grid = x.transpose(2, 3).reshape(*x.shape[:2], x.shape[3], *sizes)
        return pad(on_grid, pads, value=value).flatten(3).transpose(2, 3)

    layout = [(halo, halo + n + more) for n, more in zip(sizes, after, strict=True)]
    return around(k, 0.0), around(v, 0.0), None if key_mask is None else around(key_mask, True), layout


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

    return Rule(sees, spans, block=block, key=("halo", block, halo))


def _reach(*, block: int = 64, halo: int = 32, **_: object) -> Reach:
    return Reach(block + halo - 1)


def _stateful(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State | None,
    *,
    key_mask: Tensor | None,
    scale: float,
    block: int = 64,
    halo: int = 32,
    **others: object,
) -> tuple[Tensor, State]:
    """The next positions of a line: its block so far and the halo before it are kept."""
    if any(x is not None and x != "mask" for x in others.values()):
        raise KernelError(f"a halo that goes on from a state takes block and halo, not {', '.join(sorted(others))}")
    block, halo = positive("block", block), positive("halo", halo, least=0)
    rolled = rolled_keys(lambda call: _rule_1d(call, block, halo), lambda: _reach(block=block, halo=halo))
    return rolled(q, k, v, state, key_mask=key_mask, scale=scale)


MECHANISM = Mechanism(
    name="halo",
    summary="blocks of queries that share the window of their block and a halo around it",
    paper="HaloNet, arXiv 2103.12731 (the 1-D causal form is ours)",
    cost="O(L (block + 2 halo)^d D) time, O(L D) memory",
    use="neighbouring steps, or a map of services by hours, in blocks of equal work",
    reference=reference_halo,
    torch=halo_attention,
    stateful=_stateful,
    state_names=KEPT,
    state_like=kept_like(_reach),
    shares_keys=True,
    triton=partial(halo_attention, backend="triton"),
    build=HaloAttention,
    cross=False,
    taxonomy=Taxonomy(unit="block", importance="fixed", budget="uniform", kv="keep all"),
)
