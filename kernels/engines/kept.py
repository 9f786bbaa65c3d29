"""States of softmax mechanisms: keys and values that later queries may still see, and nothing of all pairs.

A state is a plain dict of tensors, to be saved and moved as such: `k` (B, Hk, n, D) and `v` (B, Hv, n, Dv), `seen` bool
(B, n), and `length`, the number of positions so far. Where a mechanism forgets, the state does not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.checks import repeat_heads
from kernels.compiled import Like
from kernels.dense.reference import masked_attention
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.plan import block_for, plan_from_spans
from kernels.engines.rules import Call, Rule, boolean
from kernels.errors import KernelError

__all__ = ["KEPT", "Reach", "State", "Stateful", "kept_keys", "kept_like", "rolled_keys", "wanted"]

_FEW_PAIRS = 1 << 13
"""Pairs of queries and keys of a head for which a mask is written out."""

KEPT = ("k", "v", "seen", "length")
"""Names of the tensors of these states."""
State = dict[str, Tensor]
Stateful = Callable[..., tuple[Tensor, State]]
"""`run(q, k, v, state, *, key_mask, scale, **options)` over the next positions; ``state`` is None before the first."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Which keys a query at a later position may still see: the ``first`` ones, and this many ``recent`` ones."""

    recent: int
    first: int = 0


def wanted(state: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    """The tensors of a state by name; `KernelError` if it is the state of another method."""
    if set(state) != set(names):
        raise KernelError(f"state holds {sorted(state)}, expected {sorted(names)}: is it that of another method?")
    return [state[name] for name in names]


def _joined(k: Tensor, v: Tensor, state: State | None, key_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, int]:
    """Keys, values and mask of the state and of the new positions, and the number of positions before these."""
    seen = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask
    if state is None:
        return k, v, seen, 0
    before = wanted(state, *KEPT)
    for name, x, old in (("k", k, before[0]), ("v", v, before[1])):
        if x.shape[:2] != old.shape[:2] or x.shape[3] != old.shape[3]:
            raise KernelError(f"{name} has shape {tuple(x.shape)}, but the state goes on from {tuple(old.shape)}")
    k, v = (torch.cat([old.to(x.dtype), x], dim=2) for x, old in ((k, before[0]), (v, before[1])))
    return k, v, torch.cat([before[2], seen], dim=1), int(before[3])


def kept_keys(run: Callable[..., Tensor], *, shares_keys: bool = False) -> Stateful:
    """The state of a mechanism whose queries may see every earlier key: all of them are kept."""

    def stateful(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: State | None,
        *,
        key_mask: Tensor | None,
        scale: float,
        **options: object,
    ) -> tuple[Tensor, State]:
        new = q.shape[2]
        k, v, seen, before = _joined(k, v, state, key_mask)
        wide = (k, v) if shares_keys else [repeat_heads(x, q.shape[1]) for x in (k, v)]
        mask = None if bool(seen.all()) else seen
        out = run(q, *wide, causal=True, key_mask=mask, scale=scale, **options)
        return out, {"k": k, "v": v, "seen": seen, "length": torch.tensor(before + new)}

    return stateful


def rolled_keys(rule: Callable[..., Rule], reach: Callable[..., Reach]) -> Stateful:
    """The state of a mechanism by a rule that forgets: the keys within its reach (``reach(**options)``)."""

    def stateful(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: State | None,
        *,
        key_mask: Tensor | None,
        scale: float,
        **options: object,
    ) -> tuple[Tensor, State]:
        new, keeps = q.shape[2], reach(**options)
        k, v, seen, before = _joined(k, v, state, key_mask)
        length, columns = before + new, k.shape[2]
        first = min(keeps.first, columns)
        gone = length - columns
        call = Call(q.shape[1], new, length, True, q.device, before)
        shifted = _without(rule(call, **options), first, gone) if gone else rule(call, **options)
        mask = None if bool(seen.all()) else seen
        held = Call(q.shape[1], new, columns, True, q.device, before)
        if new * columns <= _FEW_PAIRS:
            # To list blocks would take longer than all of the scores.
            shown = boolean(shifted, held)[None] & seen[:, None, None]
            wide = [repeat_heads(x, q.shape[1]) for x in (k, v)]
            out = masked_attention(q, wide[0], wide[1], shown, scale=scale)[0]
        else:
            block = block_for(shifted, held)
            plan = plan_from_spans(shifted, held, block_q=block, block_k=block)
            out, _ = block_sparse_attention(
                q, k, v, plan=plan, sees=shifted.sees, scale=scale, key_mask=mask, offset=before
            )
        drop = slice(first, max(columns - keeps.recent, first))
        kept = [torch.cat([x[:, :, : drop.start], x[:, :, drop.stop :]], dim=2) for x in (k, v)]
        seen = torch.cat([seen[:, : drop.start], seen[:, drop.stop :]], dim=1)
        return out, {"k": kept[0], "v": kept[1], "seen": seen, "length": torch.tensor(length)}

    return stateful


def kept_like(reach: Callable[..., Reach] | None = None) -> Callable[..., dict[str, Like]]:
    """What the states of `kept_keys`, or with ``reach`` of `rolled_keys`, are like: see `Mechanism.state_like`."""

    def like(q: Like, k: Like, v: Like, state: Mapping[str, Tensor] | None, **options: object) -> dict[str, Like]:
        columns = k.shape[2] + (0 if state is None else wanted(state, *KEPT)[0].shape[2])
        if reach is not None:
            keeps = reach(**options)
            first = min(keeps.first, columns)
            columns = first + min(columns - first, max(keeps.recent, 0))
        shapes = {name: (x.shape[0], x.shape[1], columns, x.shape[3]) for name, x in (("k", k), ("v", v))}
        return {
            "k": Like(shapes["k"], k.dtype, k.device),
            "v": Like(shapes["v"], v.dtype, v.device),
            "seen": Like((k.shape[0], columns), torch.bool, k.device),
            "length": Like((), torch.int64, torch.device("cpu")),
        }

    return like


def _without(rule: Rule, first: int, gone: int) -> Rule:
    """``rule`` over columns that lack the ``gone`` positions behind the ``first`` ones."""

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return rule.sees(h, i, torch.where(j < first, j, j + gone))

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        lo, hi = rule.spans(h, i)
        return tuple(torch.where(x < first, x, (x - gone).clamp_min(first)) for x in (lo, hi))  # type: ignore[return-value]

    return Rule(sees, spans, per_head=rule.per_head, block=rule.block)
