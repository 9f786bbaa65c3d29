"""The nodes of `kernels.compiled` for `torch.compile`, whose machinery is imported here and not by `kernels`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.compiler import allow_in_graph, assume_constant_result

from kernels.compiled import node, tensors_of
from kernels.engines.rules import rule_of
from kernels.registry import mechanism

__all__ = ["names_of_state", "traced"]


def _node(
    name: str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    rules: Mapping[str, str],
) -> list[Tensor]:
    """The tensors of `node`; options that are rules are given apart, by their names."""
    named = {key: rule_of(rule) for key, rule in rules.items()}
    return tensors_of(node(name, args, {**kwargs, **named}))


def _names_of_state(method: str) -> tuple[str, ...]:
    return mechanism(method).state_names


traced: Callable[..., list[Tensor]] = allow_in_graph(_node)  # type: ignore[no-untyped-call]
"""Of this the compiler traces the operators and not the code."""
names_of_state: Callable[[str], tuple[str, ...]] = assume_constant_result(_names_of_state)  # type: ignore[no-untyped-call]
"""Names of the tensors of a state of a method."""
