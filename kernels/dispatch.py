"""The front door: checks the arguments, finds the mechanism, and runs it."""

from __future__ import annotations

from torch import Tensor

from kernels.checks import check_key_mask, check_qkv, default_scale, repeat_heads
from kernels.errors import KernelError, near
from kernels.registry import mechanism

__all__ = ["attention"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    method: str = "sdpa",
    causal: bool = False,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    **options: object,
) -> Tensor:
    """Attention of queries over keys and values by the mechanism ``method``.

    Args:
        q: queries (B, Hq, Lq, D).
        k: keys (B, Hk, Lk, D); Hk divides Hq.
        v: values (B, Hv, Lk, Dv); Hv divides Hq.
        method: one of `kernels.available()`.
        causal: query i sees key j only if j <= i + (Lk - Lq), i.e. the last query sees all keys.
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: factor on the dot products, 1 / sqrt(D) if None.
        options: what the method takes besides (`kernels.registry.mechanism(name).options`).

    Returns:
        (B, Hq, Lq, Dv); rows of queries that see no key are 0.

    Raises:
        KernelError: for an unknown method or option (naming the near ones) or for shapes that do not fit.
    """
    chosen = mechanism(method)
    for name in options:
        if name not in chosen.options:
            raise KernelError(f"attention method {method!r} has no option {name!r}; {near(name, chosen.options)}")
    check_qkv(q, k, v)
    check_key_mask(key_mask, k)
    heads = q.shape[1]
    return chosen.run(
        q,
        repeat_heads(k, heads),
        repeat_heads(v, heads),
        causal=causal,
        key_mask=key_mask,
        scale=default_scale(q, scale),
        **options,
    )
