"""APE: contexts that were encoded apart from each other are read together (arXiv 2502.05431).

Many short contexts are looked at too evenly and weigh too much in sum: scores over them are divided by a temperature T,
and their log-sum-exp multiplied by S T before it is weighed against the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.checks import check_qkv, compute_dtype, positive, visible
from kernels.dense.reference import masked_attention
from kernels.dense.sdpa import sdpa_attention
from kernels.dispatch import attention
from kernels.engines.partial import merge, over_all_keys
from kernels.errors import KernelError
from kernels.registry import Mechanism

__all__ = ["MECHANISM", "ContextCache", "ape_attention", "reference_ape"]


def ape_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    contexts: Sequence[int] | None = None,
    temperature: float = 0.9,
    share: float = 0.9,
) -> Tensor:
    """Attention over contexts and the rest, weighed by softmax([S T lse of contexts, lse of the rest]); (B, H, Lq, Dv).

    Args:
        q: queries (B, H, Lq, D).
        k: keys (B, H, Lk, D): a prefix, the contexts one after the other, and what the queries come with.
        v: values (B, H, Lk, Dv).
        causal: bottom-right aligned.
        key_mask: bool (B, Lk).
        scale: factor on the dot products.
        contexts: first and behind the last of the contexts' keys; None for none, which is dense attention.
        temperature: T, above 0: below 1 sharpens what is looked at in the contexts.
        share: S, above 0: below 1 lets them weigh less. T = S = 1 is one softmax over all keys.
    """
    at = _range(contexts, k.shape[2], temperature, share)
    if at is None:
        return sdpa_attention(q, k, v, causal=causal, key_mask=key_mask, scale=scale)
    offset = k.shape[2] - q.shape[2]
    given_type, to = q.dtype, compute_dtype(q)
    q, k, v = q.to(to), k.to(to), v.to(to)

    def part(start: int, stop: int, by: float) -> tuple[Tensor, Tensor]:
        mask = None if key_mask is None else key_mask[:, start:stop]
        keys = (k[:, :, start:stop], v[:, :, start:stop])
        return over_all_keys(q, *keys, causal=causal, key_mask=mask, scale=scale / by, offset=offset - start)

    o, lse = part(*at, temperature)
    rest = [part(a, b, 1.0) for a, b in ((0, at[0]), (at[1], k.shape[2])) if b > a]
    weighed = torch.where(lse == float("-inf"), lse, share * temperature * lse.masked_fill(lse == float("-inf"), 0.0))
    return merge((o, weighed), *rest)[0].to(given_type)


def reference_ape(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    contexts: Sequence[int] | None = None,
    temperature: float = 0.9,
    share: float = 0.9,
) -> Tensor:
    """The definition, with both softmaxes and the weights between them written out; as `ape_attention`."""
    at = _range(contexts, k.shape[2], temperature, share) or (0, 0)
    to = compute_dtype(q)
    wide = q.to(to), k.to(to), v.to(to)
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    mask = torch.ones(1, dtype=torch.bool, device=q.device) if mask is None else mask
    mask = mask.expand(*q.shape[:3], k.shape[2])
    j = torch.arange(k.shape[2], device=q.device)
    inside = (j >= at[0]) & (j < at[1])
    o_x, l_x = masked_attention(*wide, mask & inside, scale=scale / temperature)
    o_y, l_y = masked_attention(*wide, mask & ~inside, scale=scale)
    none_x, none_y = l_x == float("-inf"), l_y == float("-inf")
    apart = share * temperature * l_x.masked_fill(none_x, 0.0) - l_y.masked_fill(none_y, 0.0)
    on_x = torch.sigmoid(apart).masked_fill(none_x, 0.0).masked_fill(none_y & ~none_x, 1.0)[..., None]
    return (on_x * o_x + (1.0 - on_x) * o_y).to(q.dtype)


def _range(contexts: Sequence[int] | None, length: int, temperature: float, share: float) -> tuple[int, int] | None:
    """First and behind the last key of the contexts; `KernelError` for what does not fit, None for no context."""
    for name, value in (("temperature", temperature), ("share", share)):
        if not 0.0 < value < float("inf"):
            raise KernelError(f"{name} is {value}, expected a positive number")
    if contexts is None:
        return None
    if len(contexts) != 2:
        raise KernelError(f"contexts is {contexts!r}, expected the first key and the one behind the last")
    start, stop = (positive("contexts", n, least=0) for n in contexts)
    if not start <= stop <= length:
        raise KernelError(f"contexts is {contexts!r}, which is no range of the {length} keys")
    return None if start == stop else (start, stop)


class _Context(NamedTuple):
    k: Tensor
    v: Tensor


class ContextCache:
    """Keys and values of contexts that were encoded apart, each seeing only a common prefix and itself.

    They are kept by name, such as a peer service or a past day: one can be put or dropped without touching another.
    Every context is encoded at the positions behind the prefix, so that their order does not matter, and queries stand
    behind the longest of them (`position`).

    Args:
        k: keys of the prefix (B, Hk, P, D); P may be 0.
        v: values of the prefix (B, Hv, P, Dv).
    """

    def __init__(self, k: Tensor, v: Tensor) -> None:
        check_qkv(k, k, v)
        self._prefix = _Context(k, v)
        self._contexts: dict[str, _Context] = {}

    def put(self, name: str, k: Tensor, v: Tensor) -> None:
        """Keep keys (B, Hk, n, D) and values (B, Hv, n, Dv) under a name, in place of what had it."""
        for given, own in ((k, self._prefix.k), (v, self._prefix.v)):
            if given.ndim != 4 or given.shape[:2] != own.shape[:2] or given.shape[3] != own.shape[3]:
                raise KernelError(f"context {name!r} has shape {tuple(given.shape)}, the prefix {tuple(own.shape)}")
        if k.shape[2] != v.shape[2]:
            raise KernelError(f"context {name!r} has {k.shape[2]} keys but {v.shape[2]} values")
        self._contexts[name] = _Context(k, v)

    def drop(self, name: str) -> None:
        """Forget a context; `KernelError` if there is none of that name."""
        if name not in self._contexts:
            raise KernelError(f"no context {name!r} is kept")
        del self._contexts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._contexts)

    def __len__(self) -> int:
        return len(self._contexts)

    @property
    def position(self) -> int:
        """The position of the first query: behind the prefix and the longest context."""
        return self._prefix.k.shape[2] + max((c.k.shape[2] for c in self._contexts.values()), default=0)

    def nbytes(self) -> int:
        """Bytes of all keys and values that are kept."""
        return sum(x.numel() * x.element_size() for c in (self._prefix, *self._contexts.values()) for x in c)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        names: Sequence[str] | None = None,
        temperature: float = 0.9,
        share: float = 0.9,
        scale: float | None = None,
    ) -> Tensor:
        """Queries (B, Hq, n, D) over the prefix, contexts and their own keys and values, causally; (B, H, n, Dv).

        ``names`` picks some of the contexts, such as the best analogues; all if None.
        """
        chosen = list(self._contexts) if names is None else list(names)
        for name in chosen:
            if name not in self._contexts:
                raise KernelError(f"no context {name!r} is kept")
        parts = [self._prefix, *(self._contexts[n] for n in chosen), _Context(k, v)]
        start, stop = self._prefix.k.shape[2], sum(p.k.shape[2] for p in parts[:-1])
        return attention(
            q,
            torch.cat([p.k for p in parts], dim=2),
            torch.cat([p.v for p in parts], dim=2),
            method="ape",
            causal=True,
            scale=scale,
            contexts=(start, stop),
            temperature=temperature,
            share=share,
        )


MECHANISM = Mechanism(
    name="ape",
    summary="dense attention over contexts that were encoded apart, sharpened and weighed against the rest",
    paper="APE, Adaptive Parallel Encoding, arXiv 2502.05431",
    cost="O(Lq Lk (D + Dv)) time, O(L (D + Dv)) memory; no context is encoded again",
    use="histories of peers and past weeks are encoded once and read by every forecast that wants them",
    function="softmax over contexts and softmax over the rest, weighed by S T lse and lse",
    reference=reference_ape,
    torch=ape_attention,
)
