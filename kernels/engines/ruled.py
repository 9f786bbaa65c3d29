"""A mechanism made of nothing but a rule: its reference is a written-out mask, its fast path engine 1."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial

from torch import Tensor

from kernels.dense.reference import masked_attention
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.kept import KEPT, Reach, kept_keys, kept_like, rolled_keys
from kernels.engines.plan import block_for, plan_from_spans
from kernels.engines.rules import Call, Rule, boolean
from kernels.registry import Backend, Mechanism, Taxonomy
from kernels.triton.block_sparse import ruled_attention

__all__ = ["call_of", "made_once", "ruled_fast", "ruled_mechanism", "ruled_reference"]


def call_of(q: Tensor, k: Tensor, *, causal: bool) -> Call:
    """The facts of a call on q (B, H, Lq, D) and k (B, H, Lk, D) that rules depend on."""
    lq, lk = q.shape[2], k.shape[2]
    return Call(heads=q.shape[1], lq=lq, lk=lk, causal=causal, device=q.device, offset=lk - lq)


def made_once(rule: Callable[..., Rule], call: Call, options: Mapping[str, object]) -> Rule:
    """`rule(call, **options)`, kept for the next call with the same where the options are plain values.

    A kept rule copies no numbers to the GPU again, which is not allowed while a CUDA graph is captured.
    """
    plain = tuple((name, tuple(x) if isinstance(x, list) else x) for name, x in options.items())
    try:
        hash(plain)
    except TypeError:
        return rule(call, **options)
    return _kept_rule(rule, call, plain)


@lru_cache(maxsize=64)
def _kept_rule(rule: Callable[..., Rule], call: Call, options: tuple[tuple[str, object], ...]) -> Rule:
    made = rule(call, **dict(options))
    return made if made.key is not None else replace(made, key=(rule, options))


def ruled_reference(
    q: Tensor, k: Tensor, v: Tensor, rule: Rule, *, causal: bool, key_mask: Tensor | None, scale: float
) -> Tensor:
    """Attention under the rule's mask, written out; (B, H, Lq, Dv)."""
    mask = boolean(rule, call_of(q, k, causal=causal))[None]
    return masked_attention(q, k, v, mask if key_mask is None else mask & key_mask[:, None, None], scale=scale)[0]


def ruled_fast(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: Rule,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    backend: Backend = "torch",
) -> Tensor:
    """The same by engine 1, in PyTorch or Triton; (B, H, Lq, Dv)."""
    call = call_of(q, k, causal=causal)
    if backend == "triton":
        return ruled_attention(q, k, v, rule, call, scale=scale, key_mask=key_mask)[0]
    listed, singles = (rule, None) if rule.split is None else rule.split
    block = block_for(listed, call)
    plan = plan_from_spans(listed, call, block_q=block, block_k=block)
    return block_sparse_attention(
        q, k, v, plan=plan, sees=listed.sees, scale=scale, key_mask=key_mask, singles=singles
    )[0]


def ruled_mechanism(
    name: str,
    rule: Callable[..., Rule],
    *,
    summary: str,
    paper: str,
    cost: str,
    taxonomy: Taxonomy,
    use: str = "",
    cross: bool = True,
    reach: Callable[..., Reach] | None = None,
    keeps_all: bool = False,
) -> Mechanism:
    """The mechanism of `rule(call, **options) -> Rule`; the options and their defaults are those of ``rule``.

    ``reach(**options)`` tells which keys a causal query at a later position may still see, ``keeps_all`` that it may
    be any of them; with neither, as where the rule depends on the whole length, there is no state to go on from.
    """

    def reference(
        q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float, **options: object
    ) -> Tensor:
        made = rule(call_of(q, k, causal=causal), **options)
        return ruled_reference(q, k, v, made, causal=causal, key_mask=key_mask, scale=scale)

    def fast(
        backend: Backend,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool,
        key_mask: Tensor | None,
        scale: float,
        **options: object,
    ) -> Tensor:
        call = call_of(q, k, causal=causal)
        made = made_once(rule, call, options) if backend == "triton" else rule(call, **options)
        return ruled_fast(q, k, v, made, causal=causal, key_mask=key_mask, scale=scale, backend=backend)

    stateful = None if reach is None else rolled_keys(rule, reach)
    if keeps_all:
        stateful = kept_keys(partial(fast, "torch"), shares_keys=True)
    if "call" not in inspect.signature(rule).parameters:
        raise TypeError(f"the rule of {name!r} must take the facts of the call as `call`")
    return Mechanism(
        name=name,
        summary=summary,
        paper=paper,
        cost=cost,
        reference=reference,
        torch=partial(fast, "torch"),
        triton=partial(fast, "triton"),
        declared=rule,
        rule=rule,
        stateful=stateful,
        state_names=() if stateful is None else KEPT,
        state_like=None if stateful is None else kept_like(reach),
        cross=cross,
        shares_keys=True,
        use=use,
        taxonomy=taxonomy,
    )
