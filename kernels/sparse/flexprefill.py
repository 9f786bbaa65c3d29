"""FlexPrefill: the last queries tell for each head which blocks of keys to read, as many as hold a share of attention.

Heads whose block averages foretell well where the last queries look choose pairs of blocks by averages ("query-aware");
all others read the keys (verticals) and the distances (slashes) at which the last queries look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.checks import compute_dtype, positive
from kernels.dense.reference import masked_attention
from kernels.errors import KernelError
from kernels.registry import Backend, Mechanism, Taxonomy
from kernels.sparse.chosen import Choice, chosen_attention, is_empty, nothing

__all__ = ["MECHANISM", "active_blocks", "flexprefill_attention", "reference_flexprefill"]

_LONGEST_DISTANCE = math.sqrt(math.log(2.0))
"""Of two distributions that have nothing in common."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """The options, checked; budgets in blocks."""

    block: int
    coverage: float
    threshold: float
    least: int
    most: int | None


def flexprefill_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    coverage: float = 0.95,
    threshold: float = 0.1,
    min_budget: int = 1024,
    max_budget: int | None = None,
    block: int = 128,
    backend: Backend = "torch",
) -> Tensor:
    """Causal softmax of q (B, H, Lq, D) over blocks of keys k (B, H, Lk, D), v (B, H, Lk, Dv) chosen per head.

    Args:
        q: queries.
        k: keys.
        v: values.
        causal: must be true; query i stands at key i + (Lk - Lq).
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: factor on the dot products.
        coverage: the share of the estimated attention that the chosen blocks hold; the more, the nearer to dense, which
            1 is.
        threshold: heads whose estimate by averages is nearer than this to what the last queries see (root of the
            Jensen-Shannon divergence, 0 to 0.83) choose pairs of blocks; 0: none does.
        min_budget: keys and distances that are read at least; inputs no longer than that are dense.
        max_budget: keys, and distances, that verticals and slashes read at most; no bound if None.
        block: keys of a block and queries of a tile; as many last queries are asked.
        backend: of engine 1, "torch" or "triton".
    """
    s = _settings(coverage, threshold, min_budget, max_budget, block)
    if is_empty(q, k):
        return nothing(q, k, v)
    with torch.no_grad():
        active = _active(q, k, key_mask, scale, s)
        blocks = torch.arange(active.shape[3], device=q.device)
        choice = Choice(s.block, s.block, torch.where(active, blocks, -1))
    return chosen_attention(q, k, v, choice, causal=True, key_mask=key_mask, scale=scale, backend=backend)[0]


def active_blocks(
    q: Tensor,
    k: Tensor,
    *,
    key_mask: Tensor | None = None,
    scale: float,
    coverage: float = 0.95,
    threshold: float = 0.1,
    min_budget: int = 1024,
    max_budget: int | None = None,
    block: int = 128,
) -> Tensor:
    """Which block of keys each tile of queries of each head reads, bool (B, H, tiles, blocks); arguments as above."""
    return _active(q, k, key_mask, scale, _settings(coverage, threshold, min_budget, max_budget, block)).detach()


def _settings(coverage: object, threshold: object, least: object, most: object, block: object) -> _Settings:
    c = positive("block", block)
    share, bound = _number("coverage", coverage, 0.0, 1.0), _number("threshold", threshold, 0.0, math.inf)
    low = -(-positive("min_budget", least, least=0) // c)
    high = None if most is None else -(-positive("max_budget", most) // c)
    return _Settings(c, share, bound, low, high)


def _number(name: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise KernelError(f"{name} is {value!r}, expected a number from {least:g} to {most:g}")
    return float(value)


def _active(q: Tensor, k: Tensor, key_mask: Tensor | None, scale: float, s: _Settings) -> Tensor:
    (batch, heads, lq, _), lk, c = q.shape, k.shape[2], s.block
    offset, tiles, blocks = lk - lq, -(-lq // c), -(-lk // c)
    first = torch.arange(tiles, device=q.device)[:, None] * c + offset
    last = (first + c - 1).clamp_max(lk - 1)
    start = torch.arange(blocks, device=q.device)[None] * c
    reachable = start <= last
    if s.coverage >= 1.0 or lk <= max(2, s.least) * c:
        return reachable.expand(batch, heads, tiles, blocks)
    to = compute_dtype(q)
    q, k = q.detach().to(to), k.detach().to(to)
    shown = torch.ones(1, lk, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    vertical, slash, a_bar = _estimates(q[:, :, -c:], k, shown, scale, c)
    aware = _distance(a_bar, vertical) < s.threshold
    by_vertical, by_slash = (_best(x, s, aware) for x in (vertical, slash))
    by_vertical[..., 0] = True
    by_slash[..., 0] = True
    active = by_vertical[:, :, None, :].expand(batch, heads, tiles, blocks)
    # Distances in a pair of blocks fall into two bins, three where tiles and blocks are not in step.
    nearest, farthest = (
        (first - start - c + 1).div(c, rounding_mode="floor"),
        (last - start).div(c, rounding_mode="floor"),
    )
    for step in range(3):
        at = nearest + step
        some = by_slash[:, :, at.clamp(0, blocks - 1)] & ((at >= 0) & (at <= farthest))
        active = active | some
    if bool(aware.any()):
        active = active | (_by_pairs(q, k, shown, scale, reachable, s) & aware[..., None, None])
    return active & reachable


def _estimates(q: Tensor, k: Tensor, shown: Tensor, scale: float, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of the last queries by blocks of keys and of distances, and as averages foretell it; (B, H, blocks)."""
    m, lk = q.shape[2], k.shape[2]
    blocks = -(-lk // c)
    i = torch.arange(lk - m, lk, device=q.device)[:, None]
    seen = shown[:, None, None] & (torch.arange(lk, device=q.device) <= i)
    p = _softmax((scale * (q @ k.mT)).masked_fill_(~seen, float("-inf")))
    vertical = p.mean(dim=2)
    # Reversed and padded, a distance is a column of rows that are each one shorter.
    wide = torch.nn.functional.pad(p.flip(-1), (0, m))
    sheared = wide.as_strided((*p.shape[:2], m, lk), (*wide.stride()[:2], lk + m - 1, 1), m - 1)
    pooled = _means(k, shown, c)
    filled = _pooled(shown.to(q.dtype), c) > 0
    logits = scale * torch.einsum("bhd,bhnd->bhn", q.mean(dim=2), pooled)
    a_bar = _softmax(logits.masked_fill(~filled[:, None], float("-inf")))
    return _pooled(vertical, c), _pooled(sheared.mean(dim=2), c), a_bar[..., :blocks]


def _softmax(scores: Tensor) -> Tensor:
    """Softmax along the last axis, 0 where nothing is seen."""
    return torch.softmax(scores, dim=-1).nan_to_num_(0.0)


def _pooled(x: Tensor, c: int) -> Tensor:
    """Sums of ``c`` numbers in a row along the last axis."""
    x = torch.nn.functional.pad(x, (0, -x.shape[-1] % c))
    return x.view(*x.shape[:-1], -1, c).sum(dim=-1)


def _means(x: Tensor, shown: Tensor, c: int) -> Tensor:
    """Means of the shown rows of each block of x (B, H, L, D); (B, H, blocks, D)."""
    weights: Tensor = shown.to(x.dtype)[:, None, :, None]
    pad = -x.shape[2] % c
    sums = torch.nn.functional.pad(x * weights, (0, 0, 0, pad)).view(*x.shape[:2], -1, c, x.shape[3]).sum(dim=3)
    return sums / _pooled(shown.to(x.dtype), c)[:, None, :, None].clamp_min(1.0)


def _distance(p: Tensor, q: Tensor) -> Tensor:
    """Root of the Jensen-Shannon divergence along the last axis, in nats."""
    mean = 0.5 * (p + q)

    def divergence(x: Tensor) -> Tensor:
        found: Tensor = torch.special.xlogy(x, x / mean.clamp_min(torch.finfo(x.dtype).tiny)).sum(dim=-1)
        return found

    return (0.5 * (divergence(p) + divergence(q))).clamp_min(0.0).sqrt()


def _best(share: Tensor, s: _Settings, aware: Tensor) -> Tensor:
    """The fewest blocks that hold the coverage, within the budgets; the least budget for heads that choose pairs."""
    ranked, order = share.sort(dim=-1, descending=True, stable=True)
    enough = (ranked.cumsum(dim=-1) < s.coverage * share.sum(dim=-1, keepdim=True)).sum(dim=-1) + 1
    count = torch.where(aware, s.least, enough.clamp(min=s.least, max=s.most))
    chosen = torch.arange(share.shape[-1], device=share.device) < count[..., None]
    return torch.zeros_like(chosen).scatter_(-1, order, chosen)


def _by_pairs(q: Tensor, k: Tensor, shown: Tensor, scale: float, reachable: Tensor, s: _Settings) -> Tensor:
    """Pairs of a tile and a block, the largest of the attention among averages, until they hold the coverage."""
    c = s.block
    rows = torch.ones(1, q.shape[2], dtype=torch.bool, device=q.device)
    logits = scale * torch.einsum("bhtd,bhnd->bhtn", _means(q, rows, c), _means(k, shown, c))
    seen = reachable & (_pooled(shown.to(q.dtype), c) > 0)[:, None, None]
    shares = _softmax(logits.masked_fill(~seen, float("-inf"))).flatten(2)
    ranked, order = shares.sort(dim=-1, descending=True, stable=True)
    held = ranked.cumsum(dim=-1) - ranked
    chosen = (held < s.coverage * shares.sum(dim=-1, keepdim=True)) & (ranked > 0)
    return torch.zeros_like(chosen).scatter_(-1, order, chosen).view(logits.shape)


def reference_flexprefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    coverage: float = 0.95,
    threshold: float = 0.1,
    min_budget: int = 1024,
    max_budget: int | None = None,
    block: int = 128,
) -> Tensor:
    """The definition: each head's blocks found one after the other, then a mask written out; arguments as above."""
    s = _settings(coverage, threshold, min_budget, max_budget, block)
    if is_empty(q, k):
        return nothing(q, k, v)
    (batch, heads, lq, _), lk, c = q.shape, k.shape[2], s.block
    to = compute_dtype(q)
    i = torch.arange(lq, device=q.device)[:, None] + (lk - lq)
    j = torch.arange(lk, device=q.device)[None]
    mask = torch.zeros(batch, heads, lq, lk, dtype=torch.bool, device=q.device)
    for b in range(batch):
        shown = torch.ones(lk, dtype=torch.bool) if key_mask is None else key_mask[b].cpu()
        for h in range(heads):
            pairs = _pairs_by_hand(q[b, h].detach().to(to).cpu(), k[b, h].detach().to(to).cpu(), shown, scale, s)
            for tile, at in pairs:
                mask[b, h, tile * c : (tile + 1) * c, at * c : (at + 1) * c] = True
    mask &= j <= i
    if key_mask is not None:
        mask &= key_mask[:, None, None]
    return masked_attention(q, k, v, mask, scale=scale)[0]


def _pairs_by_hand(q: Tensor, k: Tensor, shown: Tensor, scale: float, s: _Settings) -> set[tuple[int, int]]:
    """The pairs (tile, block) of one head, by loops."""
    lq, lk, c = len(q), len(k), s.block
    tiles, blocks = -(-lq // c), -(-lk // c)
    first = [t * c + lk - lq for t in range(tiles)]
    last = [min(f + c, lk) - 1 for f in first]
    every = {(t, n) for t in range(tiles) for n in range(blocks) if n * c <= last[t]}
    if s.coverage >= 1.0 or lk <= max(2, s.least) * c:
        return every

    vertical, slash, guess, by_block = _estimates_by_hand(q, k, shown, scale, c)
    filled = torch.tensor([bool(shown[n * c : (n + 1) * c].any()) for n in range(blocks)])

    def part(x: float, y: float) -> float:
        return 0.0 if x == 0.0 else x * math.log(2 * x / (x + y))

    apart = 0.5 * sum(part(x, y) + part(y, x) for x, y in zip(guess, vertical, strict=True))
    aware = math.sqrt(max(apart, 0.0)) < s.threshold

    def best(shares: list[float]) -> set[int]:
        ranked = sorted(range(blocks), key=lambda n: (-shares[n], n))
        count, held = 0, 0.0
        while count < blocks and (count == 0 or held < s.coverage * sum(shares)):
            held += shares[ranked[count]]
            count += 1
        count = s.least if aware else min(max(count, s.least), s.most or blocks)
        return {*ranked[:count], 0}

    columns, distances = best(vertical), best(slash)
    found = {
        (t, n)
        for t, n in every
        if n in columns
        or any(
            bin_ in distances and max(bin_ * c, first[t] - n * c - c + 1) <= min(bin_ * c + c - 1, last[t] - n * c)
            for bin_ in range(blocks)
        )
    }
    if aware:
        shares = []
        for t in range(tiles):
            seen = torch.tensor([(t, n) in every and bool(filled[n]) for n in range(blocks)])
            line = _weights_by_hand(scale * (by_block @ q[t * c : (t + 1) * c].mean(dim=0)), seen).tolist()
            shares += [(-line[n], t, n) for n in range(blocks) if line[n] > 0]
        total, held = -sum(x for x, _, _ in shares), 0.0
        for x, t, n in sorted(shares):
            if held >= s.coverage * total:
                break
            held -= x
            found.add((t, n))
    return found


def _weights_by_hand(scores: Tensor, seen: Tensor) -> Tensor:
    """The softmax of the scores that are seen, 0 for the others."""
    found = torch.zeros_like(scores)
    if bool(seen.any()):
        found[seen] = torch.softmax(scores[seen], dim=0)
    return found


def _estimates_by_hand(
    q: Tensor, k: Tensor, shown: Tensor, scale: float, c: int
) -> tuple[list[float], list[float], list[float], Tensor]:
    """Attention of the last queries by blocks and by distances, that foretold by averages, and the keys' averages."""
    lq, lk = len(q), len(k)
    blocks = range(-(-lk // c))
    vertical, slash = [0.0 for _ in blocks], [0.0 for _ in blocks]
    asked = range(max(lq - c, 0), lq)
    for row in asked:
        at = row + lk - lq
        p = _weights_by_hand(scale * (k @ q[row]), shown & (torch.arange(lk) <= at)).tolist()
        for key in range(max(at + 1, 0)):
            vertical[key // c] += p[key] / len(asked)
            slash[(at - key) // c] += p[key] / len(asked)
    means = []
    for n in blocks:
        of = shown[n * c : (n + 1) * c]
        means.append(k[n * c : (n + 1) * c][of].sum(dim=0) / max(int(of.sum()), 1))
    filled = torch.tensor([bool(shown[n * c : (n + 1) * c].any()) for n in blocks])
    by_block = torch.stack(means)
    guess = _weights_by_hand(scale * (by_block @ q[asked.start :].mean(dim=0)), filled).tolist()
    return vertical, slash, guess, by_block


MECHANISM = Mechanism(
    name="flexprefill",
    summary="blocks of keys per head that hold a share of the attention, as the last queries or averages foretell it",
    paper="FlexPrefill, arXiv 2502.20766 (gradients and several sequences are ours)",
    cost="O(L block D + (L / block)^2 D + blocks read x block^2 D) time, O(L D + block L) memory",
    use="reads a long history as far as its last steps look, each head as much of it as it needs",
    function="softmax over the chosen keys",
    exact=False,
    reference=reference_flexprefill,
    torch=flexprefill_attention,
    triton=partial(flexprefill_attention, backend="triton"),
    causal="only",
    looks_ahead="sequence",
    taxonomy=Taxonomy(
        unit="block, vertical and slash",
        importance="content-aware, by the last queries",
        budget="adaptive over heads",
        kv="keep all",
    ),
)
