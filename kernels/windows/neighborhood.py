"""Neighborhood attention on a 1-D, 2-D or 3-D grid, with dilation, stride and causality per axis (NATTEN's NA, GNA).

Along one axis of n tokens with kernel w and dilation 1, the queries of a stride share the window of their leader:

    not causal   leader = min(s (i // s) + s // 2, n - 1), window [c, c + w) with c = clip(leader - w // 2, 0, n - w)
    causal       leader = min(s (i // s) + s - 1, n - 1),  window [max(leader - w + 1, 0), i]

With dilation d the rule holds among the tokens of the same remainder modulo d, counted by t = i // d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.checks import positive
from kernels.dense.reference import masked_attention
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.grid import Axis, coordinates, grid_of, plan_from_axes
from kernels.engines.kept import KEPT, Reach, State, kept_like, rolled_keys
from kernels.engines.ruled import ruled_fast
from kernels.engines.rules import Call, Rule
from kernels.errors import KernelError
from kernels.registry import Backend, Mechanism, Taxonomy
from kernels.triton.block_sparse import listed_attention

__all__ = ["MECHANISM", "neighborhood_attention", "reference_neighborhood"]

_TILE_SIDE = {1: 64, 2: 8, 3: 4}
"""Queries of a tile along each axis, 64 in all."""


@dataclass(frozen=True, slots=True)
class _Window:
    """One axis: its length and, for each coordinate, the window [lo, hi) in steps of the dilation."""

    n: int
    dilation: int
    lo: Tensor
    hi: Tensor

    def sees(self, i: Tensor, j: Tensor) -> Tensor:
        """Whether the query at coordinate i sees the key at coordinate j."""
        t = j.div(self.dilation, rounding_mode="floor")
        seen = (t >= self.lo[i.long()]) & (t < self.hi[i.long()])
        return seen if self.dilation == 1 else seen & (i % self.dilation == j % self.dilation)


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    kernel: int | Sequence[int] = 7,
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    grid: Sequence[int] | None = None,
    causal_axes: Sequence[bool] | None = None,
    backend: Backend = "torch",
) -> Tensor:
    """Attention of each token over the nearest ``kernel`` tokens of each axis; (B, H, L, Dv).

    Args:
        q: queries (B, H, L, D).
        k: keys (B, H, L, D).
        v: values (B, H, L, Dv).
        causal: every axis is causal.
        key_mask: bool (B, L).
        scale: factor on the dot products.
        kernel: keys per axis, even numbers included; kernel * dilation must not exceed the axis.
        dilation: distance of neighbours, per axis.
        stride: queries that share one window, per axis; at most the kernel.
        grid: lengths of the axes (the last runs fastest), their product is L; one axis if None.
        causal_axes: which axes are causal, where that differs between axes.
        backend: of engine 1, "torch" or "triton".
    """
    windows = _windows(q, causal, kernel, dilation, stride, grid, causal_axes)
    sizes = [w.n for w in windows]
    if len(windows) == 1 and windows[0].dilation == 1:
        only = windows[0]
        rule = Rule(
            lambda h, i, j: only.sees(i.clamp(0, only.n - 1), j),
            lambda h, i: (only.lo[i][None], only.hi[i][None]),
            key=("neighborhood", str((kernel, stride, causal_axes))),
        )
        return ruled_fast(q, k, v, rule, causal=causal, key_mask=key_mask, scale=scale, backend=backend)
    plan = plan_from_axes([_tiles(w, _TILE_SIDE[len(sizes)]) for w in windows], sizes)

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = torch.ones((), dtype=torch.bool, device=i.device)
        for w, ci, cj in zip(windows, coordinates(i, sizes), coordinates(j, sizes), strict=True):
            seen = seen & w.sees(ci, cj)
        return seen

    engine = listed_attention if backend == "triton" else block_sparse_attention
    return engine(q, k, v, plan=plan, sees=sees, scale=scale, key_mask=key_mask, offset=0)[0]


def reference_neighborhood(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    kernel: int | Sequence[int] = 7,
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    grid: Sequence[int] | None = None,
    causal_axes: Sequence[bool] | None = None,
) -> Tensor:
    """The definition: the masks of the axes, multiplied and written out; arguments as `neighborhood_attention`."""
    mask = torch.ones(1, 1, dtype=torch.bool, device=q.device)
    for w in _windows(q, causal, kernel, dilation, stride, grid, causal_axes):
        c = torch.arange(w.n, device=q.device)
        one = w.sees(c[:, None], c[None, :])
        mask = (mask[:, None, :, None] & one[None, :, None, :]).flatten(2).flatten(0, 1)
    mask = mask[None, None]
    return masked_attention(q, k, v, mask if key_mask is None else mask & key_mask[:, None, None], scale=scale)[0]


def _windows(
    q: Tensor, causal: bool, kernel: object, dilation: object, stride: object, grid: object, causal_axes: object
) -> list[_Window]:
    """The windows of each axis, after raising `KernelError` for options that do not fit."""
    sizes = grid_of(grid, q.shape[2])
    if causal and causal_axes is not None:
        raise KernelError("causal=True makes every axis causal; give causal_axes with causal=False")
    backward = [causal] * len(sizes) if causal_axes is None else _per_axis("causal_axes", causal_axes, len(sizes))
    found: list[_Window] = []
    for n, w, d, s, c in zip(
        sizes,
        _per_axis("kernel", kernel, len(sizes)),
        _per_axis("dilation", dilation, len(sizes)),
        _per_axis("stride", stride, len(sizes)),
        backward,
        strict=True,
    ):
        w, d, s = positive("kernel", w), positive("dilation", d), positive("stride", s)
        if w * d > n:
            raise KernelError(f"kernel {w} with dilation {d} spans {w * d} tokens of an axis of {n}")
        if s > w:
            raise KernelError(f"stride {s} exceeds the kernel {w}: keys would be left out")
        found.append(_window(n, w, d, s, bool(c), q.device))
    return found


def _window(n: int, w: int, d: int, s: int, causal: bool, device: torch.device) -> _Window:
    """The rule of one axis, for every coordinate."""
    i = torch.arange(n, device=device)
    t, group = i.div(d, rounding_mode="floor"), i % d
    last = (n - group + d - 1).div(d, rounding_mode="floor") - 1
    start = t.div(s, rounding_mode="floor") * s
    if causal:
        leader = torch.minimum(start + s - 1, last)
        return _Window(n, d, (leader - w + 1).clamp_min(0), t + 1)
    leader = torch.minimum(start + s // 2, last)
    lo = torch.minimum((leader - w // 2).clamp_min(0), last + 1 - w)
    return _Window(n, d, lo, lo + w)


def _tiles(window: _Window, side: int) -> Axis:
    """Runs of ``side`` tokens of the same remainder, with the keys between their first and last window."""
    d = window.dilation
    queries, keys = [], []
    for group in range(d):
        for run in torch.split(torch.arange(group, window.n, d, device=window.lo.device), side):
            queries.append(run)
            keys.append(
                group + d * torch.arange(int(window.lo[run].min()), int(window.hi[run].max()), device=run.device)
            )
    padded = (torch.nn.utils.rnn.pad_sequence(x, batch_first=True, padding_value=-1) for x in (queries, keys))
    return Axis(*padded)


def _per_axis(name: str, given: object, axes: int) -> list[object]:
    """One value per axis; `KernelError` if a sequence of another length was given."""
    if not isinstance(given, Sequence):
        return [given] * axes
    if len(given) != axes:
        raise KernelError(f"{name} has {len(given)} entries for {axes} axes")
    return list(given)


def _line(kernel: int | Sequence[int], dilation: int | Sequence[int]) -> tuple[int, int]:
    """Kernel and dilation on a line."""
    (w,), (d,) = _per_axis("kernel", kernel, 1), _per_axis("dilation", dilation, 1)
    return positive("kernel", w), positive("dilation", d)


def _reach(*, kernel: int | Sequence[int] = 7, dilation: int | Sequence[int] = 1, **_: object) -> Reach:
    w, d = _line(kernel, dilation)
    return Reach(w * d - 1)


def _stateful(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State | None,
    *,
    key_mask: Tensor | None,
    scale: float,
    kernel: int | Sequence[int] = 7,
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    grid: Sequence[int] | None = None,
    causal_axes: Sequence[bool] | None = None,
) -> tuple[Tensor, State]:
    """The next positions of a line whose queries have windows of their own: the keys of the last window are kept."""
    if grid is not None or causal_axes is not None or _per_axis("stride", stride, 1) != [1]:
        raise KernelError("a neighborhood goes on from a state on a line, with stride 1")
    w, d = _line(kernel, dilation)

    def rule(call: Call) -> Rule:
        def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            apart = i - j
            return (apart >= 0) & (apart < w * d) & (apart % d == 0)

        def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
            lo = i[None] - (w - 1 if d == 1 else d * torch.arange(w, device=i.device).view(-1, *[1] * i.ndim))
            return lo, (i + 1).expand_as(lo) if d == 1 else lo + 1

        return Rule(sees, spans)

    return rolled_keys(rule, lambda: _reach(kernel=w, dilation=d))(q, k, v, state, key_mask=key_mask, scale=scale)


MECHANISM = Mechanism(
    name="neighborhood",
    summary="the nearest tokens on a 1-D, 2-D or 3-D grid, with dilation, stride and causality per axis",
    paper="Neighborhood attention, arXiv 2204.07143; GNA / NATTEN, arXiv 2403.04690, 2504.16922",
    cost="O(L prod(kernel) D) time, O(L D) memory",
    use="the nearest steps with dilation (same hour of past days), or nearest cells of day by hour",
    reference=reference_neighborhood,
    torch=neighborhood_attention,
    stateful=_stateful,
    state_names=KEPT,
    state_like=kept_like(_reach),
    shares_keys=True,
    triton=partial(neighborhood_attention, backend="triton"),
    cross=False,
    taxonomy=Taxonomy(unit="token", importance="fixed", budget="uniform", kv="keep all"),
)
