"""Routing Transformer: queries and keys gather around centroids, and those of one cluster see each other.

Each cluster takes the queries and the keys that are nearest to its centroid, as many of both in every cluster. A query
may be in several clusters, which are averaged, or in none, which gives 0: the paper has as many heads with a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from kernels.checks import blanked, check_key_mask, compute_dtype, positive, repeat_heads
from kernels.dense.reference import masked_attention
from kernels.dispatch import attention
from kernels.errors import KernelError
from kernels.registry import Backend, Mechanism, Taxonomy
from kernels.sparse.chosen import Choice, chosen_attention, is_empty, nothing

__all__ = ["MECHANISM", "RoutingAttention", "clusters_of", "reference_routing", "routing_attention"]

_NORMS = ("layernorm", "l2", "none")
_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a call works with: centroids (H, C, D), and how many queries and keys each cluster takes."""

    centroids: Tensor
    queries: int
    keys: int
    norm: str


def routing_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    clusters: int | None = None,
    window: int | None = None,
    centroids: Tensor | None = None,
    norm: str = "layernorm",
    seed: int = 0,
    backend: Backend = "torch",
) -> Tensor:
    """Softmax attention of q (B, H, Lq, D) over k (B, H, Lk, D), v (B, H, Lk, Dv) within clusters; (B, H, Lq, Dv).

    Args:
        q: queries; with the same keys as queries every query sees itself, as the paper has it for causal calls.
        k: keys.
        v: values.
        causal: query i sees key j only if j <= i + (Lk - Lq). Who is in a cluster depends on the whole sequence.
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: factor on the dot products.
        clusters: C, about the root of Lk if None.
        window: keys that a cluster takes, Lk / C if None; of queries it takes the same share.
        centroids: (H, C, D); random ones of ``seed`` if None.
        norm: "layernorm": q and k are normalised, for clusters and for scores; "l2": for clusters only, to length 1;
            "none".
        seed: of random centroids.
        backend: of engine 1, "torch" or "triton".
    """
    if is_empty(q, k):
        return nothing(q, k, v)
    s = _settings(q, k, clusters, window, centroids, norm, seed)
    (batch, heads, lq, _), lk, to = q.shape, k.shape[2], compute_dtype(q)
    dtype, v = q.dtype, v.to(to)
    q, k = _scored(q.to(to), s), _scored(k.to(to), s)
    of_query, of_key = (
        clusters_of(q, s.centroids, s.queries, norm=s.norm),
        clusters_of(k, s.centroids, s.keys, norm=s.norm, key_mask=key_mask),
    )
    many = heads * s.centroids.shape[1]
    qc, kc, vc = (_rows(x, at) for x, at in ((q, of_query), (k, of_key), (v, of_key)))
    query_at, key_at = of_query.view(batch * many, -1), of_key.view(batch * many, -1)

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        h = h.long()
        key = key_at[h, j.clamp(0, s.keys - 1).long()]
        seen = key >= 0
        if causal:
            seen = seen & (key <= query_at[h, i.clamp(0, s.queries - 1).long()] + (lk - lq))
        if key_mask is not None:
            seen = seen & key_mask[h.div(many, rounding_mode="floor"), key]
        return seen

    side_q, side_k = _side(s.queries), _side(s.keys)
    blocks = torch.arange(-(-s.keys // side_k), device=q.device)
    choice = Choice(side_q, side_k, blocks.expand(batch, many, -(-s.queries // side_q), -1))
    asked = sees if causal or key_mask is not None else None
    o, lse = chosen_attention(
        qc, kc, vc, choice, causal=False, key_mask=None, scale=scale, offset=0, further=asked, backend=backend
    )
    # Each query gets the mean over the clusters in which it sees a key.
    into = of_query.flatten(2)
    counts = torch.zeros(batch, heads, lq, dtype=to, device=q.device)
    counts.scatter_add_(2, into, (lse != float("-inf")).to(to).reshape(into.shape))
    total = torch.zeros(batch, heads, lq, v.shape[3], dtype=to, device=q.device)
    total = total.scatter_add(2, into[..., None].expand(-1, -1, -1, v.shape[3]), o.reshape(*into.shape, v.shape[3]))
    return (total / counts.clamp_min(1.0)[..., None]).to(dtype)


def clusters_of(
    x: Tensor, centroids: Tensor, window: int, *, norm: str = "layernorm", key_mask: Tensor | None = None
) -> Tensor:
    """The ``window`` rows of x (B, H, L, D) nearest to each centroid (H, C, D), ascending, (B, H, C, window).

    Rows that ``key_mask`` (B, L) hides come last, where there are no others.
    """
    near = x.detach()
    if norm == "l2":
        near = near / near.norm(dim=-1, keepdim=True).clamp_min(_EPS)
    scores = torch.einsum("bhld,hcd->bhcl", near, centroids.to(near))
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None], float("-inf"))
    return scores.topk(window, dim=-1).indices.sort(dim=-1).values


def _settings(
    q: Tensor,
    k: Tensor,
    clusters: object,
    window: object,
    centroids: Tensor | None,
    norm: str,
    seed: object,
) -> _Settings:
    """The options, checked and with their defaults for these shapes."""
    (_, heads, lq, size), lk = q.shape, k.shape[2]
    if norm not in _NORMS:
        raise KernelError(f"norm is {norm!r}, expected one of {', '.join(map(repr, _NORMS))}")
    if centroids is not None:
        if centroids.ndim != 3 or (centroids.shape[0], centroids.shape[2]) != (heads, size) or not centroids.shape[1]:
            raise KernelError(f"centroids have shape {tuple(centroids.shape)}, expected ({heads}, clusters, {size})")
        if clusters is not None and positive("clusters", clusters) != centroids.shape[1]:
            raise KernelError(f"clusters is {clusters} but there are {centroids.shape[1]} centroids of each head")
        count = centroids.shape[1]
    else:
        count = max(round(math.sqrt(lk)), 1) if clusters is None else positive("clusters", clusters)
        g = torch.Generator().manual_seed(positive("seed", seed, least=0))
        centroids = torch.randn(heads, count, size, generator=g, dtype=torch.float64)
    keys = min(-(-lk // count) if window is None else positive("window", window), lk)
    # Of queries the same share as of keys.
    return _Settings(centroids.detach().to(q.device, compute_dtype(q)), min(-(-lq * keys // lk), lq), keys, norm)


def _scored(x: Tensor, s: _Settings) -> Tensor:
    """Queries or keys as they are multiplied."""
    return _layer_norm(x) if s.norm == "layernorm" else x


def _layer_norm(x: Tensor) -> Tensor:
    x = x - x.mean(dim=-1, keepdim=True)
    return x * (x.square().mean(dim=-1, keepdim=True) + _EPS).rsqrt()


def _rows(x: Tensor, at: Tensor) -> Tensor:
    """Rows of x (B, H, L, D) by the clusters (B, H, C, n), (B, H C, n, D)."""
    into = at.flatten(2)[..., None].expand(-1, -1, -1, x.shape[3])
    return x.gather(2, into).view(x.shape[0], -1, at.shape[3], x.shape[3])


def _side(length: int) -> int:
    """A block size of at most 128 that leaves little over."""
    return -(-length // -(-length // 128))


def reference_routing(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    clusters: int | None = None,
    window: int | None = None,
    centroids: Tensor | None = None,
    norm: str = "layernorm",
    seed: int = 0,
) -> Tensor:
    """The definition, one cluster after the other, each with a mask written out; arguments as above."""
    if is_empty(q, k):
        return nothing(q, k, v)
    s = _settings(q, k, clusters, window, centroids, norm, seed)
    (batch, heads, lq, _), lk, to, dtype = q.shape, k.shape[2], compute_dtype(q), q.dtype
    q, k, v = _scored(q.to(to), s), _scored(k.to(to), s), v.to(to)
    items = []
    for b in range(batch):
        shown = [True] * lk if key_mask is None else key_mask[b].tolist()
        for h in range(heads):
            total, counts = v.new_zeros(lq, v.shape[3]), v.new_zeros(lq, 1)
            for centre in s.centroids[h]:
                i = _nearest(q[b, h], centre, s.queries, s, [True] * lq)
                j = _nearest(k[b, h], centre, s.keys, s, shown)
                mask = torch.tensor([[shown[y] and (not causal or y <= x + lk - lq) for y in j] for x in i])
                mask = mask.to(q.device)
                o, _ = masked_attention(
                    q[None, b, None, h, i], k[None, b, None, h, j], v[None, b, None, h, j], mask, scale=scale
                )
                at = torch.tensor(i, device=q.device)
                total = total.index_add(0, at, o[0, 0])
                counts = counts.index_add(0, at, mask.any(dim=1, keepdim=True).to(to))
            items.append(total / counts.clamp_min(1.0))
    return torch.stack(items).view(batch, heads, lq, v.shape[3]).to(dtype)


def _nearest(x: Tensor, centre: Tensor, count: int, s: _Settings, shown: list[bool]) -> list[int]:
    """The rows of x (L, D) nearest to one centroid, ascending; hidden ones last."""
    near = x.detach()
    scores = [float(row @ centre) / (max(float(row.norm()), _EPS) if s.norm == "l2" else 1.0) for row in near]
    return sorted(sorted(range(len(near)), key=lambda n: (not shown[n], -scores[n]))[:count])


class RoutingAttention(nn.Module):
    """Routing attention whose centroids follow the queries and keys that it sees in training; called as `attention`.

    After a call in training each centroid moves to the running mean of the queries and keys that are nearest to it; one
    without any stays. `commitment` is then the mean squared distance of both from their centroids times ``weight``, to
    be added to the loss. Replicas do not share their means.
    """

    centroids: Tensor
    counts: Tensor

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        clusters: int = 16,
        window: int | None = None,
        norm: str = "layernorm",
        decay: float = 0.999,
        weight: float = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise KernelError(f"decay is {decay}, expected a number from 0 to below 1")
        self.heads, self.window, self.norm, self.decay, self.weight = heads, window, norm, decay, weight
        g = torch.Generator().manual_seed(positive("seed", seed, least=0))
        self.register_buffer("centroids", torch.randn(heads, positive("clusters", clusters), head_dim, generator=g))
        self.register_buffer("counts", torch.ones(heads, clusters))
        self.commitment: Tensor | None = None

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
        """(B, H, Lq, Dv) for q (B, H, Lq, D); heads of k and v divide H; see `attention`."""
        if q.shape[1] != self.heads:
            raise KernelError(f"this module has {self.heads} heads but q has {q.shape[1]}")
        # As they stand, since a call in training moves them afterwards.
        centroids = self.centroids.clone()
        out = attention(
            q,
            k,
            v,
            method="routing",
            causal=causal,
            key_mask=key_mask,
            scale=scale,
            backend=backend,
            centroids=centroids,
            window=self.window,
            norm=self.norm,
        )
        if self.training:
            self._follow(q, k, key_mask)
        return out

    def extra_repr(self) -> str:
        """Clusters, window and normalisation, for `print(module)`."""
        return f"'routing', clusters={self.centroids.shape[1]}, window={self.window}, norm={self.norm!r}"

    def _follow(self, q: Tensor, k: Tensor, key_mask: Tensor | None) -> None:
        check_key_mask(key_mask, k)
        x = torch.cat([repeat_heads(y, self.heads) for y in (q, blanked(key_mask, k))], dim=2).to(self.centroids.dtype)
        if self.norm != "none":
            x = _layer_norm(x) if self.norm == "layernorm" else x / x.norm(dim=-1, keepdim=True).clamp_min(_EPS)
        real = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
        keys = real.new_ones(k.shape[0], k.shape[2]) if key_mask is None else key_mask
        weight = torch.cat([real, keys], dim=1).to(x.dtype)[:, None].expand(x.shape[:3])
        with torch.no_grad():
            nearest = torch.einsum("bhld,hcd->bhlc", x, self.centroids).argmax(dim=-1)
        mine = self.centroids[torch.arange(self.heads, device=x.device)[:, None], nearest]
        squares = (x - mine).square().mean(dim=-1) * weight
        if not torch.compiler.is_exporting():
            # What is exported has outputs and buffers only.
            self.commitment = self.weight * squares.sum() / weight.sum().clamp_min(1.0)
        with torch.no_grad():
            one = torch.nn.functional.one_hot(nearest, self.centroids.shape[1]).to(x.dtype) * weight[..., None]
            counts = one.sum(dim=(0, 2))
            sums = torch.einsum("bhlc,bhld->hcd", one, x)
            seen = counts > 0
            kept = self.decay * self.counts
            now = kept + (1.0 - self.decay) * counts
            moved = (kept[..., None] * self.centroids + (1.0 - self.decay) * sums) / now.clamp_min(_EPS)[..., None]
            self.centroids.copy_(torch.where(seen[..., None], moved, self.centroids))
            self.counts.copy_(torch.where(seen, now, self.counts))


MECHANISM = Mechanism(
    name="routing",
    summary="queries and keys of one cluster see each other; clusters of equal size around centroids that may learn",
    paper="Routing Transformer, arXiv 2003.05997",
    cost="O(L clusters D + L window D) time, O(L D + L clusters) memory: O(L^1.5 D) at clusters = sqrt(L)",
    use="steps of one kind (a regime, an hour of the day) see each other wherever they stand in the history",
    function="softmax over the keys of the query's clusters, their mean; 0 for a query in none",
    reference=reference_routing,
    torch=routing_attention,
    triton=partial(routing_attention, backend="triton"),
    build=RoutingAttention,
    looks_ahead="sequence",
    taxonomy=Taxonomy(unit="token", importance="content-aware, by clusters", budget="uniform", kv="keep all"),
)
