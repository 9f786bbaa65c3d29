"""Attention under `torch.autocast`: computed in the types that it says, forward and backward, as outside of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

__all__ = ["agreed", "as_declared", "in_declared_types"]

_Backward = TypeVar("_Backward", bound=Callable[..., Any])


def as_declared(x: Tensor) -> AbstractContextManager[object]:
    """A context in which operators on the device of ``x`` keep the types of their inputs, whatever autocast is on."""
    if not torch.amp.is_autocast_available(x.device.type) or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def agreed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as they are, or under autocast in its type where their types differ; float64 is left alone."""
    device = tensors[0].device.type
    types = {x.dtype for x in tensors}
    if len(types) == 1 or torch.float64 in types or not torch.is_autocast_enabled(device):
        return tensors
    to = torch.get_autocast_dtype(device)
    return tuple(x.to(to) if x.is_floating_point() else x for x in tensors)


def in_declared_types(backward: _Backward) -> _Backward:
    """A backward pass `backward(ctx, *gradients)` that recomputes in the types of the forward pass."""

    @functools.wraps(backward)
    def wrapped(ctx: object, *gradients: Tensor | None) -> object:
        given = [x for x in gradients if x is not None]
        with as_declared(given[0]) if given else nullcontext():
            return backward(ctx, *gradients)

    return cast(_Backward, wrapped)
