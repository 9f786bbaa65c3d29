"""The arguments of a call as a list of tensors and one line of text, which is how they travel through a graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kernels.engines.rules import Rule, rule_of
from kernels.errors import KernelError

__all__ = ["pack", "unpack"]

_held: dict[str, Rule] = {}
"""Rules that graphs of this process refer to by name: they are functions, which no text holds."""


def pack(call: str, arguments: Mapping[str, object]) -> tuple[list[Tensor], str]:
    """Tensors and text of a call; `KernelError` for an argument that is neither a tensor, a rule nor plain data."""
    tensors: list[Tensor] = []
    held = {name: _packed(name, value, tensors) for name, value in arguments.items()}
    return tensors, json.dumps({"call": call, "arguments": held})


def unpack(tensors: Sequence[Tensor], text: str) -> tuple[str, dict[str, object]]:
    """The name of the call and its arguments."""
    found = json.loads(text)
    return found["call"], {name: _unpacked(value, tensors) for name, value in found["arguments"].items()}


def _packed(name: str, value: object, tensors: list[Tensor]) -> object:
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if value is None or isinstance(value, bool | str | float | int):
        return value
    if isinstance(value, torch.SymInt | torch.SymFloat):
        # An option is a number of the graph: another one is another graph.
        return int(value) if isinstance(value, torch.SymInt) else float(value)
    if isinstance(value, list):
        return [_packed(name, x, tensors) for x in value]
    if isinstance(value, tuple):
        return {"tuple": [_packed(name, x, tensors) for x in value]}
    if isinstance(value, Mapping):
        return {"dict": {str(key): _packed(name, x, tensors) for key, x in value.items()}}
    if isinstance(value, Rule):
        _held[value.name] = value
        return {"rule": value.name}
    own = getattr(value, "tolist", None)
    if own is None:
        raise KernelError(f"{name} is a {type(value).__name__}, which a graph cannot hold; expected tensors or data")
    return _packed(name, own(), tensors)


def _unpacked(value: object, tensors: Sequence[Tensor]) -> object:
    if isinstance(value, list):
        return [_unpacked(x, tensors) for x in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "tuple":
        return tuple(_unpacked(x, tensors) for x in held)
    if kind == "dict":
        return {key: _unpacked(x, tensors) for key, x in held.items()}
    return rule_of(held)
