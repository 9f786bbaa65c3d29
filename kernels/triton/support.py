"""What all Triton kernels share: whether they can run here, and how they are launched.

Triton decides when it is first imported whether kernels are compiled for a GPU or interpreted on the CPU
(`TRITON_INTERPRET=1`); nothing in this module imports it before a kernel is wanted.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.errors import KernelError
from kernels.triton.tiles import ARCHITECTURES

__all__ = [
    "AHEAD",
    "LARGEST_HEAD",
    "LOG2E",
    "capability",
    "installed",
    "interpreting",
    "launch",
    "launch_options",
    "obstacle",
    "on_device",
    "operands",
    "padded",
    "precision",
    "require",
    "serves",
    "summed_heads",
    "widened",
]

LOG2E = 1.4426950408889634
"""log2(e): the kernels compute 2^x, which GPUs have as one instruction."""
LARGEST_HEAD = 256
AHEAD: ContextVar[int | None] = ContextVar("capability", default=None)
"""The compute capability (90 for sm_90) that kernels are only compiled for, on tensors without numbers."""
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def installed() -> bool:
    """Whether the package triton is there; looking does not import it."""
    if "triton" in sys.modules:
        return sys.modules["triton"] is not None
    return importlib.util.find_spec("triton") is not None


@cache
def interpreting() -> bool:
    """Whether Triton was imported with TRITON_INTERPRET=1 (imports it)."""
    import triton.language as tl
    from triton.runtime.jit import JITFunction

    # The functions of Triton's own library were decorated at the import, for the interpreter or for the compiler.
    return not isinstance(tl.sum, JITFunction)


def obstacle(*tensors: Tensor) -> str | None:
    """Why Triton kernels cannot take these tensors, in one line; None if they can."""
    if not installed():
        return "it needs the package triton: pip install 'harmony-autoscaler[gpu]'"
    for x in tensors:
        if x.dtype not in _TYPES:
            return f"it takes float32, bfloat16 and float16, not {x.dtype}"
        if x.shape[-1] > LARGEST_HEAD:
            return f"it takes head sizes up to {LARGEST_HEAD}, not {x.shape[-1]}"
        if x.device.type != ("cuda" if AHEAD.get() is None else "meta") and not interpreting():
            return (
                f"it needs tensors on a CUDA GPU, not {x.device.type}, or TRITON_INTERPRET=1 set before Python starts"
            )
    return None


def require(*tensors: Tensor) -> None:
    """Raise `KernelError` with the reason unless Triton kernels can take these tensors."""
    why = obstacle(*tensors)
    if why is not None:
        raise KernelError(f"backend 'triton' cannot be used: {why}")


def serves(backend: str | None, *tensors: Tensor) -> bool:
    """Whether Triton computes this: it was asked for (`KernelError` if it cannot), or nothing was and it is a GPU's."""
    if backend == "triton":
        require(*tensors)
        return True
    return backend is None and tensors[0].device.type == "cuda" and obstacle(*tensors) is None


def widened(x: Tensor) -> Tensor:
    """``x``, in float32 if it is bfloat16 under the interpreter, whose products of that type are wrong."""
    return x.float() if x.dtype == torch.bfloat16 and interpreting() else x


def capability(x: Tensor) -> int:
    """The compute capability (90 for sm_90) that kernels on ``x`` are compiled for; off a GPU the newest known."""
    ahead = AHEAD.get()
    if ahead is not None:
        return ahead
    if not x.is_cuda:
        return ARCHITECTURES[-1]
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def summed_heads(dx: Tensor, x: Tensor) -> Tensor:
    """Gradients (B, H, ...) of what neighbouring heads share, added up for those of ``x`` (B, Hx, ...)."""
    if dx.shape[1] == x.shape[1]:
        return dx
    summed: Tensor = dx.unflatten(1, (x.shape[1], -1)).sum(dim=2)
    return summed


def on_device(x: Tensor) -> AbstractContextManager[Any]:
    """The context in which kernels launch on the GPU that holds ``x``."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def launch_options(warps: int, stages: int) -> dict[str, object]:
    """Keyword arguments of a launch: warps of a program, stages of its pipeline; none under the interpreter."""
    if interpreting():
        return {}
    # Multiply-adds are said outright, because the default of Triton is about to change.
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def padded(size: int, least: int = 16) -> int:
    """The power of two that holds ``size``, at least ``least`` (what `tl.dot` takes)."""
    return max(least, 1 << max(size - 1, 0).bit_length())


def precision(dtype: torch.dtype) -> str:
    """`input_precision` of `tl.dot`: float32 is not to be rounded to TF32."""
    return "ieee" if dtype == torch.float32 else "tf32"


def operands(dtype: torch.dtype) -> tuple[str, str]:
    """What inputs of a type are multiplied as, where sums reach far: OPERAND and PRECISION of the linear kernels.

    TF32 holds every float16, and with the exponents of float32: neither large sums nor small factors leave its range.
    """
    if dtype == torch.bfloat16:
        return ("rounded", "ieee") if interpreting() else ("bf16", "tf32")
    return "fp32", precision(dtype)


def launch(kernel: Any, programs: int, *parts: tuple[object, ...] | dict[str, object]) -> None:
    """Run ``programs`` programs of a kernel on its arguments in order, and on the last part by name."""
    named = {name: x for part in parts if isinstance(part, dict) for name, x in part.items()}
    kernel[(programs,)](*(x for part in parts if isinstance(part, tuple) for x in part), **named)
