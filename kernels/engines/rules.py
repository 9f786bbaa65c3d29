"""What a sparse mechanism has to say: which keys a query sees, once for an element and once as ranges."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from kernels.engines.singles import Singles
from kernels.errors import KernelError

__all__ = ["EVERY_KEY", "Call", "Form", "Rule", "Sees", "area", "boolean", "causal_part", "full", "rule_of"]


Sees = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A mask elementwise, `sees(head, query position, key position)`: bool, for broadcastable whole-number tensors."""


@dataclass(frozen=True, slots=True)
class Call:
    """Facts of one call that a rule may depend on; positions of queries are counted on the axis of the keys."""

    heads: int
    lq: int
    lk: int
    causal: bool
    device: torch.device
    offset: int
    """Position of the first query, lk - lq where the last query stands at the last key."""


@dataclass(frozen=True, slots=True)
class Form:
    """A mask in numbers, which a kernel can evaluate itself.

    With a = i // unit - j // unit, its size if not ``causal``, query i sees key j if a < near, j // unit < first, or
    (with ``powers``) a is a power of two; and only j <= i if ``causal``.
    """

    near: int
    first: int = 0
    unit: int = 1
    powers: bool = False
    causal: bool = False


EVERY_KEY = 1 << 30
"""`Form.near` that hides nothing."""


_numbers = itertools.count()
_alive: WeakValueDictionary[str, Rule] = WeakValueDictionary()


def _next_name() -> str:
    return f"rule {next(_numbers)}"


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Rule:
    """A static mask, said twice.

    `sees(h, i, j)` is the mask elementwise: bool, for broadcastable whole-number tensors of the head, the position of
    the query and that of the key. `spans(h, i)` lists the same set as ranges: (lo, hi) of which each has a leading
    axis of ranges before the broadcast shape of h and i; query i sees exactly the keys of the union of [lo, hi).
    Ranges may overlap, be empty and reach outside of the keys. The engine finds the blocks to visit from the ranges,
    so that no Lq x Lk mask is ever made.
    """

    sees: Sees
    spans: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    per_head: bool = False
    """Whether heads differ; if not, h is not looked at."""
    block: int | None = None
    """Side of the blocks that the rule itself is made of, if it is."""
    form: Form | None = None
    """The same mask as a form, where there is one: GPU kernels then need no bits for partial blocks."""
    key: Hashable = None
    """What says, with the facts of the call, which mask this is; what GPUs need of it is then made once and kept."""
    split: tuple[Rule, Singles] | None = None
    """The same mask as a rule for most of it and single keys at fixed distances, of which blocks would be a waste."""
    name: str = field(default_factory=_next_name, init=False, compare=False, repr=False)
    """What a compiled graph knows it by, in this process."""

    def __post_init__(self) -> None:
        _alive[self.name] = self


def rule_of(name: str) -> Rule:
    """The rule of that name; `KernelError` if this process has none."""
    found = _alive.get(name)
    if found is None:
        raise KernelError("this graph was made with a rule that is gone: rules stay in the process that made them")
    return found


def full(call: Call) -> Rule:
    """Every key, or with ``call.causal`` every key up to the query itself."""
    lk, causal = call.lk, call.causal

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return j <= i if causal else (j >= 0) & (i == i)

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        hi = i + 1 if causal else torch.full_like(i, lk)
        return torch.zeros_like(hi)[None], hi[None]

    return Rule(sees, spans, form=Form(EVERY_KEY, causal=causal))


def causal_part(rule: Rule) -> Rule:
    """``rule`` without the keys after the query."""

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return rule.sees(h, i, j) & (j <= i)

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        lo, hi = rule.spans(h, i)
        return lo, torch.minimum(hi, i + 1)

    return Rule(sees, spans, per_head=rule.per_head, block=rule.block)


def boolean(rule: Rule, call: Call) -> Tensor:
    """The mask written out, (heads or 1, Lq, Lk); for references, tests and pictures."""
    h = torch.arange(call.heads if rule.per_head else 1, device=call.device)[:, None, None]
    i = torch.arange(call.lq, device=call.device)[None, :, None] + call.offset
    j = torch.arange(call.lk, device=call.device)[None, None, :]
    return rule.sees(h, i, j).expand(h.shape[0], call.lq, call.lk)


def area(rule: Rule, call: Call) -> Tensor:
    """Number of visible (query, key) pairs of each head, from the ranges alone; (heads or 1,), int64."""
    h = torch.arange(call.heads if rule.per_head else 1, device=call.device)[:, None]
    i = torch.arange(call.lq, device=call.device)[None, :] + call.offset
    lo, hi = (x.expand(-1, h.shape[0], call.lq).clamp(0, call.lk) for x in rule.spans(h, i))
    lo, order = lo.sort(dim=0)
    hi = torch.maximum(hi.gather(0, order), lo)
    covered = torch.cat([torch.zeros_like(hi[:1]), hi.cummax(dim=0).values[:-1]])
    return (hi - torch.maximum(lo, covered)).clamp_min(0).sum(dim=(0, 2))
