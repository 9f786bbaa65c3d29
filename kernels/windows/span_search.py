"""Which window suits which head (MoA, arXiv 2406.14909): measure what each head's keys matter, then choose by a budget.

Three steps: `influence` of every block of keys on a loss, from one backward pass; `span_losses`, what each candidate
window would hide of it; `choose_spans`, the plans of one window per head that no other plan of the same density beats.
The last word is the loss of these plans at a length that was not measured. Plans are options of `elastic_window`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.checks import check_key_mask, check_qkv, compute_dtype, default_scale, positive, repeat_heads
from kernels.errors import KernelError
from kernels.windows.elastic_window import window_blocks

__all__ = ["Span", "SpanPlan", "choose_spans", "influence", "span_density", "span_grid", "span_losses"]

_ROWS = 256
"""Rows of attention that are written out at once."""
_SOLVED, _INFEASIBLE = 0, 2
_PARETO = 1e-4
"""Weight of the other lengths beside the one that is minimised: among equals the plan that is better elsewhere."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A window of ``alpha`` + ``beta`` N of N keys."""

    alpha: float
    beta: float


@dataclass(frozen=True, slots=True)
class SpanPlan:
    """One span per layer and head, with the loss it is estimated to add and its mean density, by length."""

    spans: tuple[tuple[Span, ...], ...]
    losses: Mapping[int, float]
    densities: Mapping[int, float]

    def options(self, layer: int) -> dict[str, list[float]]:
        """The options of `elastic_window` for the heads of a layer."""
        return {"alpha": [s.alpha for s in self.spans[layer]], "beta": [s.beta for s in self.spans[layer]]}


# ---- what matters -------------------------------------------------------------------------------------------------
@torch.no_grad()
def influence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    *,
    causal: bool = True,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    block: int = 64,
) -> Tensor:
    """How much a loss would change if single attention weights were taken away, summed over blocks; (Hk, nq, nk).

    Blocks of queries are counted on the axis of the keys, as in `elastic_window`: the last of them is the last of keys.

    For a weight A_ij with dL/dA_ij = g_ij it is |A_ij / (1 - A_ij) (sum_n g_in A_in - g_ij)|, the change to first order
    when the weight is set to zero and its row sums to one again; a row with one key only loses it all, |g_ij A_ij|
    (MoA, as its code does it). The mean over the batch; of query heads that share keys the largest.

    Args:
        q: queries (B, Hq, Lq, D) of the dense attention in a trained model.
        k: keys (B, Hk, Lk, D).
        v: values (B, Hk, Lk, Dv).
        grad: (B, Hq, Lq, Dv), the gradient of the loss by the output of that attention.
        causal: as the attention was, aligned bottom right.
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: factor on the dot products, 1 / sqrt(D) if None.
        block: side of the blocks.

    Raises `KernelError` for shapes that do not fit, or more queries than keys.
    """
    heads = check_qkv(q, k, v)
    check_key_mask(key_mask, k)
    c = positive("block", block)
    if grad.shape != (*q.shape[:3], v.shape[3]):
        raise KernelError(f"grad has shape {tuple(grad.shape)}, expected that of the output")
    if q.shape[2] > k.shape[2]:
        raise KernelError(f"{q.shape[2]} queries see {k.shape[2]} keys; expected no more queries than keys")
    shared = k.shape[1]
    to, s = compute_dtype(q), default_scale(q, scale)
    q, k, v, grad = (repeat_heads(x, heads).to(to) for x in (q, k, v, grad))
    lq, lk = q.shape[2], k.shape[2]
    offset, j = lk - lq, torch.arange(lk, device=q.device)
    found = torch.zeros(heads, -(-lk // c) - offset // c, -(-lk // c), dtype=to, device=q.device)
    for start in range(0, lq, _ROWS):
        i = torch.arange(start, min(start + _ROWS, lq), device=q.device)
        seen = torch.ones(len(i), lk, dtype=torch.bool, device=q.device)
        if causal:
            seen = j <= i[:, None] + offset
        if key_mask is not None:
            seen = seen & key_mask[:, None, None]
        scores = (q[:, :, i] @ k.mT * s).masked_fill(~seen, float("-inf"))
        # Only a row that sees no key is nothing; what is no number in the inputs stays so.
        a = torch.softmax(scores, dim=-1).masked_fill_(~seen.any(dim=-1, keepdim=True), 0.0)
        of_entry = _of_entries(a, grad[:, :, i] @ v.mT, seen).abs().mean(dim=0)
        by_keys = torch.nn.functional.pad(of_entry, (0, -lk % c)).view(heads, len(i), -1, c).sum(dim=-1)
        found.index_add_(1, (i + offset) // c - offset // c, by_keys)
    return found.view(shared, heads // shared, *found.shape[1:]).amax(dim=1)


def _of_entries(a: Tensor, g: Tensor, seen: Tensor) -> Tensor:
    """The change of the loss by each weight a (..., rows, Lk), whose gradients are g."""
    rest = (1.0 - a).clamp_min(torch.finfo(a.dtype).eps)
    change = a / rest * ((g * a).sum(dim=-1, keepdim=True) - g)
    alone = seen.sum(dim=-1, keepdim=True) == 1
    return torch.where(alone, -g * a, change)


# ---- what a window would hide -------------------------------------------------------------------------------------
def span_grid(
    lengths: Sequence[int],
    *,
    alphas: Sequence[float] = tuple(range(-2048, 8193, 1024)),
    betas: Sequence[float] = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0),
) -> tuple[Span, ...]:
    """All spans of these numbers that see more than nothing and no more than everything at the extreme lengths."""
    if not lengths or min(lengths) < 1:
        raise KernelError(f"lengths are {list(lengths)}, expected at least one positive number")
    if not all(isinstance(x, int | float) for x in (*alphas, *betas)):
        raise KernelError(f"alphas are {list(alphas)} and betas {list(betas)}, expected numbers")
    ends = (min(lengths), max(lengths))
    pairs = itertools.product(alphas, betas)
    return tuple(Span(float(a), float(b)) for a, b in pairs if all(0 < a + b * n <= n for n in ends))


def span_losses(
    influence: Tensor, spans: Sequence[Span], *, length: int, causal: bool = True, block: int = 64
) -> Tensor:
    """The influence (H, nq, nk) of what each span hides of ``length`` keys; (H, spans).

    A wider span never has a larger loss.
    """
    if influence.ndim != 3:
        raise KernelError(f"influence has shape {tuple(influence.shape)}, expected (heads, query blocks, key blocks)")
    nq, nk = influence.shape[1:]
    if nk != -(-length // block):
        raise KernelError(f"influence has {nk} blocks of keys, expected {-(-length // block)} of {block} for {length}")
    apart = torch.arange(nq, device=influence.device)[:, None] + (nk - nq) - torch.arange(nk, device=influence.device)
    # By distance in blocks, without block 0, which every span sees.
    by_distance = influence.new_zeros(influence.shape[0], nk + 1)
    far = apart.abs()[:, 1:].flatten().expand(len(influence), -1)
    hidden = influence[:, :, 1:]
    if causal:
        hidden = hidden.masked_fill(apart[:, 1:] < 0, 0.0)
    elif nq == nk:
        # The first queries see every key.
        hidden = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, 1:]], dim=1)
    by_distance.scatter_add_(1, far, hidden.flatten(1))
    beyond = by_distance.flip(1).cumsum(1).flip(1)
    reach = [min(window_blocks(length, s.alpha, s.beta, block=block), nk) for s in spans]
    return beyond[:, torch.tensor(reach, device=influence.device)]


def span_density(span: Span, length: int, *, block: int = 64, causal: bool = True) -> float:
    """The largest number of blocks that a query sees, over the number of all blocks of ``length`` keys.

    Not causal it sees both ways; queries of the first block, which see all, are not counted.
    """
    blocks = -(-length // block)
    reach = window_blocks(length, span.alpha, span.beta, block=block)
    return min(reach + 1 if causal else 2 * reach, blocks) / blocks


# ---- the choice ---------------------------------------------------------------------------------------------------
def choose_spans(
    losses: Mapping[int, Tensor],
    spans: Sequence[Span],
    *,
    density: float = 0.5,
    least: float = 0.9,
    also_at: Sequence[int] = (),
    distinct: int = 2,
    points: int = 5,
    block: int = 64,
    causal: bool = True,
) -> list[SpanPlan]:
    """Plans of one span per head that no other plan within the budget beats at every length; best first at the longest.

    Each length in turn is minimised while the others are held below ``points`` levels between their best and what the
    best plans of other lengths make of them: whole-number programmes, solved by HiGHS to the end.

    Args:
        losses: by length, (layers, heads, spans) as `span_losses` gives them for each layer.
        spans: the candidates.
        density: the mean density of all heads is at most that, at every length.
        least: and at least this share of it, so that plans are compared at like cost.
        also_at: more lengths at which the density must keep to that.
        distinct: spans that the heads of one layer have at most.
        points: levels of each other length.
        block: side of the blocks.
        causal: whether the attention is, which decides what a span costs.

    Raises `KernelError` for losses that do not fit the spans, or if no plan keeps the density.
    """
    problem = _Problem.of(losses, spans, density, least, also_at, positive("distinct", distinct), block, causal)
    lengths = list(losses)
    best = {n: problem.solve(n, {}) for n in lengths}
    if any(found is None for found in best.values()):
        every = [span_density(s, max(losses), block=block, causal=causal) for s in spans]
        raise KernelError(
            f"no plan has a mean density between {least * density:g} and {density:g} at every length; "
            f"the spans' own are {min(every):.3g} to {max(every):.3g} at {max(losses)}"
        )
    found = {plan for plan in best.values() if plan is not None}
    levels = {}
    for n in lengths:
        ends = [problem.loss(plan, n) for plan in found]
        levels[n] = np.linspace(min(ends), max(ends), positive("points", points))
    for n in lengths:
        others = [m for m in lengths if m != n]
        for bounds in itertools.product(*(levels[m] for m in others)):
            plan = problem.solve(n, dict(zip(others, bounds, strict=True)))
            if plan is not None:
                found.add(plan)
    scored = [(tuple(problem.loss(plan, n) for n in lengths), plan) for plan in found]
    kept = [(own, plan) for own, plan in scored if not any(_beats(other, own) for other, _ in scored)]
    kept.sort(key=lambda pair: (pair[0][::-1], pair[1]))
    return [problem.plan(plan) for _, plan in kept]


def _beats(a: Sequence[float], b: Sequence[float]) -> bool:
    """Nowhere worse and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


_Choice = tuple[int, ...]
"""The number of the span of every head, layer after layer."""
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Problem:
    """The choice as a whole-number programme: x[head, span] chosen or not, y[layer, span] used in the layer or not."""

    lengths: tuple[int, ...]
    spans: tuple[Span, ...]
    costs: Mapping[int, _Floats]
    """(layers, heads, spans)"""
    densities: Mapping[int, _Floats]
    """(spans,), at every length of the budget."""
    budget: tuple[float, float]
    distinct: int

    @classmethod
    def of(
        cls,
        losses: Mapping[int, Tensor],
        spans: Sequence[Span],
        density: float,
        least: float,
        also_at: Sequence[int],
        distinct: int,
        block: int,
        causal: bool,
    ) -> _Problem:
        if not losses or not spans:
            raise KernelError("choose_spans needs the losses of at least one length and at least one span")
        for n, x in losses.items():
            if not isinstance(x, Tensor):
                raise KernelError(f"the losses at {n} are a {type(x).__name__}, expected a tensor")
        costs = {n: x.detach().double().cpu().numpy() for n, x in losses.items()}
        shapes = {x.shape for x in costs.values()}
        shape = next(iter(shapes))
        if len(shapes) > 1 or len(shape) != 3 or shape[2] != len(spans):
            given = ", ".join(str(s) for s in sorted(shapes))
            raise KernelError(f"losses have the shapes {given}, expected (layers, heads, {len(spans)}) at every length")
        if not all(np.isfinite(x).all() for x in costs.values()):
            raise KernelError("losses are not all finite numbers")
        if not 0.0 <= least <= 1.0 or not 0.0 < density <= 1.0:
            raise KernelError(f"density is {density} and least {least}, expected shares between 0 and 1")
        of_span = {
            n: np.array([span_density(s, n, block=block, causal=causal) for s in spans]) for n in (*losses, *also_at)
        }
        return cls(tuple(losses), tuple(spans), costs, of_span, (least * density, density), distinct)

    @property
    def shape(self) -> tuple[int, int, int]:
        layers, heads, spans = next(iter(self.costs.values())).shape
        return layers, heads, spans

    def loss(self, choice: _Choice, length: int) -> float:
        """The summed loss of a choice."""
        layers, heads, _ = self.shape
        return float(np.take_along_axis(self.costs[length].reshape(layers * heads, -1), _column(choice), 1).sum())

    def plan(self, choice: _Choice) -> SpanPlan:
        """A choice with what it is worth."""
        heads = self.shape[1]
        rows = [choice[n : n + heads] for n in range(0, len(choice), heads)]
        return SpanPlan(
            tuple(tuple(self.spans[r] for r in row) for row in rows),
            {n: self.loss(choice, n) for n in self.lengths},
            {n: float(d[list(choice)].mean()) for n, d in self.densities.items()},
        )

    def solve(self, length: int, bounds: Mapping[int, float]) -> _Choice | None:
        """The choice of least loss at ``length`` while others are within bounds; None if there is none."""
        from scipy.optimize import Bounds, milp

        layers, heads, spans = self.shape
        sizes = {n: max(float(x.max()), 1e-300) for n, x in self.costs.items()}
        weights = {n: (1.0 if n == length else _PARETO) / sizes[n] for n in self.lengths}
        cost = np.sum([w * self.costs[n].ravel() for n, w in weights.items()], axis=0)
        used = np.zeros(layers * spans)
        for presolve in (True, False):
            done = milp(
                np.concatenate([cost, used]),
                # A span in use has y >= 1 by the constraints, whole or not.
                integrality=np.concatenate([np.ones(len(cost)), used]),
                bounds=Bounds(0, 1),
                constraints=list(self._constraints(bounds, sizes)),
                options={"mip_rel_gap": 0.0, "presolve": presolve},
            )
            if done.status in (_SOLVED, _INFEASIBLE):
                break
        else:
            raise KernelError(f"the solver found no answer: {done.message}")
        if done.status == _INFEASIBLE:
            return None
        return tuple(int(r) for r in done.x[: len(cost)].reshape(layers * heads, spans).argmax(axis=1))

    def _constraints(self, bounds: Mapping[int, float], sizes: Mapping[int, float]) -> Iterator[object]:
        """Linear constraints on (x, y)."""
        from scipy.optimize import LinearConstraint
        from scipy.sparse import csr_array, eye_array, hstack, kron

        layers, heads, spans = self.shape
        count = layers * heads
        no_y = csr_array((count, layers * spans))
        each = kron(eye_array(count), np.ones((1, spans)))
        yield LinearConstraint(hstack([each, no_y]).tocsr(), 1, 1)
        # x <= y: what a head of the layer has is used in the layer, of which there are few.
        in_layer = kron(kron(eye_array(layers), np.ones((heads, 1))), eye_array(spans))
        yield LinearConstraint(hstack([eye_array(count * spans), -in_layer]).tocsr(), -np.inf, 0)
        few = kron(eye_array(layers), np.ones((1, spans)))
        yield LinearConstraint(hstack([csr_array((layers, count * spans)), few]).tocsr(), 0, self.distinct)
        for d in self.densities.values():
            row = np.concatenate([np.tile(d, count) / count, np.zeros(layers * spans)])
            # A hair of room, as the solver sums in another order than one would.
            yield LinearConstraint(row[None], self.budget[0] - 1e-12, self.budget[1] + 1e-12)
        for n, most in bounds.items():
            row = np.concatenate([self.costs[n].ravel(), np.zeros(layers * spans)]) / sizes[n]
            yield LinearConstraint(row[None], -np.inf, most / sizes[n] * (1 + 1e-12))


def _column(choice: _Choice) -> npt.NDArray[np.int64]:
    return np.array(choice, dtype=np.int64)[:, None]
