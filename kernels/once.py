"""What happens where a second derivative is asked for: mechanisms have a first one only, and say so."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from kernels.errors import KernelError

__all__ = ["differentiable_once", "fused_once", "no_second_derivative"]

_FUSED = ("FlashAttention", "EfficientAttention", "CudnnAttention")
"""Parts of the names of operators whose gradients PyTorch cannot differentiate."""

_Backward = TypeVar("_Backward", bound=Callable[..., Any])


def no_second_derivative() -> KernelError:
    """The error of a second derivative."""
    return KernelError("attention has no second derivative here; backend='reference' is differentiable twice")


class _Context(Protocol):
    """What a forward pass left behind."""

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]: ...


class _Refusing(torch.autograd.Function):
    """Gradients as they are, which depend on what comes after them and cannot be differentiated."""

    @staticmethod
    def forward(ctx: object, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def backward(ctx: object, *_: Tensor) -> tuple[Tensor, ...]:
        raise no_second_derivative()


def _refusing(gradients: Sequence[Tensor | None], behind: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Gradients of a backward pass that depend on ``behind``: whoever differentiates them gets a `KernelError`."""
    attached = [x for x in behind if x is not None and x.requires_grad] if torch.is_grad_enabled() else []
    given = [x for x in gradients if x is not None]
    if not attached or not given:
        return tuple(gradients)
    done = iter(_Refusing.apply(len(given), *given, *attached))  # type: ignore[no-untyped-call]
    return tuple(None if x is None else next(done) for x in gradients)


def fused_once(out: Tensor) -> Tensor:
    """``out`` of PyTorch's own attention; where a fused kernel made it, a second derivative is a `KernelError`."""
    node = out.grad_fn
    if node is not None and any(x in node.name() for x in _FUSED):
        node.register_hook(lambda gradients, _: _refusing(gradients, gradients) if torch.is_grad_enabled() else None)
    return out


def differentiable_once(backward: _Backward) -> _Backward:
    """A backward pass `backward(ctx, *gradients)` without a graph; a second derivative is a `KernelError`."""

    @functools.wraps(backward)
    def wrapped(ctx: _Context, *gradients: Tensor | None) -> object:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        return _refusing(found, (*gradients, *ctx.saved_tensors)) if torch.is_grad_enabled() else found

    return cast(_Backward, wrapped)
