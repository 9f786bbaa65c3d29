"""What a method computes for given shapes, in the terms of `kernels.lab.kinetics`, without running it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from kernels.engines.rules import Call, area
from kernels.lab.kinetics import Shape, terms
from kernels.registry import mechanism

__all__ = ["method_terms"]

Options = Mapping[str, Any]


def method_terms(method: str, options: Options, shape: Shape, *, causal: bool) -> tuple[float, ...]:
    """The terms of a call: scores where the method makes any, FLOPs of states where it keeps some.

    Scores are those that a rule shows, or as many as the budget of the method has it make; a method of neither kind
    is taken to be dense. Constant factors do not matter, as every method has coefficients of its own.
    """
    chosen = mechanism(method)
    given = {name: default for name, default in chosen.options.items() if default != "required"} | dict(options)
    if chosen.rule is not None:
        call = Call(shape.heads, shape.lq, shape.lk, causal, torch.device("cpu"), shape.lk - shape.lq)
        each = area(chosen.rule(call, **options), call)
        heads = shape.heads if len(each) == 1 else 1
        return terms(shape, float(shape.batch * heads * each.sum()))
    if method in _STATES:
        rows = shape.batch * shape.heads * (shape.lq + shape.lk) / 2
        return terms(shape, 0.0, rows * _STATES[method](given, shape))
    if method in _BUDGETS:
        budget, searched = _BUDGETS[method](given, shape)
        return terms(shape, _within(shape, budget, causal=causal) + shape.pairs(causal=causal) * searched)
    return terms(shape, shape.pairs(causal=causal))


def _within(shape: Shape, budget: float, *, causal: bool) -> float:
    """Scores of all queries where each sees at most ``budget`` keys."""
    if budget >= shape.lk:
        return shape.pairs(causal=causal)
    rows = shape.batch * shape.heads
    short = min(budget, shape.lq) if causal and shape.lq == shape.lk else 0.0
    return rows * (budget * shape.lq - short * short / 2)


_STATES: Mapping[str, Callable[[Options, Shape], float]] = {
    "lightning": lambda o, s: 4.0 * s.d * s.dv,
    "mala": lambda o, s: 4.0 * s.d * s.dv,
    "wersa": lambda o, s: 4.0 * o["features"] * (s.d + s.dv),
}
"""FLOPs for each position of what runs over a state in place of scores."""

_BUDGETS: Mapping[str, Callable[[Options, Shape], tuple[float, float]]] = {
    "dhsa": lambda o, s: (o["budget"] + o["local"], 1 / o["block"]),
    "flexprefill": lambda o, s: (s.lk, 0.0),
    "hip": lambda o, s: (o["keys"] + o["window"] + o["sinks"], 1 / (o["unit"] * o["block"])),
    "hyper": lambda o, s: (o["exact"] + (o["block"] + o["samples"]) * math.log2(max(2.0, s.lk / o["exact"])), 0.0),
    "landmark": lambda o, s: (o["block"] * ((o["top_k"] or s.lk) + 1), 1 / o["block"]),
    "routing": lambda o, s: (float(o["window"] or math.sqrt(s.lk) * 2), 0.0),
}
"""Keys that a query gets at most, and the share of all pairs that finding them scores. The budget of FlexPrefill is
what the data has it be; all keys, on data where none stands out."""
