"""Shape, type and mask checks shared by all mechanisms, with messages that name both sides."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable
from functools import cache, lru_cache
from typing import SupportsIndex

import torch
from torch import Tensor

from kernels.errors import KernelError

__all__ = [
    "blanked",
    "check_key_mask",
    "check_qkv",
    "compute_dtype",
    "default_scale",
    "kept_on_gpu",
    "positive",
    "repeat_heads",
    "visible",
]


def check_qkv(q: Tensor, k: Tensor, v: Tensor, *, free_head_size: bool = False) -> int:
    """Raise `KernelError` unless q (B, Hq, Lq, D), k (B, Hk, Lk, D), v (B, Hv, Lk, Dv) fit each other.

    Returns the number of heads of the result, the largest of the three, which the others must divide.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise KernelError(f"{name} has shape {tuple(x.shape)}, expected (batch, heads, length, head size)")
        if x.shape[3] == 0:
            raise KernelError(f"{name} has shape {tuple(x.shape)}, expected heads of at least 1 number")
        if not x.is_floating_point():
            raise KernelError(f"{name} is {x.dtype}, expected a floating type")
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise KernelError(f"batch sizes differ: q {q.shape[0]}, k {k.shape[0]}, v {v.shape[0]}")
    if k.shape[2] != v.shape[2]:
        raise KernelError(f"k has {k.shape[2]} keys but v has {v.shape[2]} values")
    if q.shape[3] != k.shape[3] and not free_head_size:
        raise KernelError(f"q has head size {q.shape[3]} but k has {k.shape[3]}")
    if not q.dtype == k.dtype == v.dtype:
        raise KernelError(f"types differ: q {q.dtype}, k {k.dtype}, v {v.dtype}")
    if not q.device == k.device == v.device:
        raise KernelError(f"devices differ: q {q.device}, k {k.device}, v {v.device}")
    counts = {"q": q.shape[1], "k": k.shape[1], "v": v.shape[1]}
    most = max(counts, key=counts.__getitem__)
    for name, count in counts.items():
        if count == 0 or counts[most] % count:
            raise KernelError(f"{name} has {count} heads, which do not divide the {counts[most]} heads of {most}")
    return counts[most]


def check_key_mask(key_mask: Tensor | None, k: Tensor, axis: int = 2) -> None:
    """Raise `KernelError` unless ``key_mask`` is None or bool (B, Lk), True = visible; Lk is the ``axis`` of k."""
    if key_mask is None:
        return
    want = (k.shape[0], k.shape[axis])
    if key_mask.dtype != torch.bool or tuple(key_mask.shape) != want:
        raise KernelError(
            f"key_mask is {key_mask.dtype} of shape {tuple(key_mask.shape)}, expected torch.bool of shape {want}"
        )


def positive(name: str, value: object, least: int = 1) -> int:
    """``value`` if it is a whole number of at least ``least``; `KernelError` with the option's name otherwise."""
    wrong = KernelError(f"{name} is {value!r}, expected a whole number of at least {least}")
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise wrong
    try:
        found = operator.index(value)
    except TypeError as e:
        raise wrong from e
    if found < least:
        raise wrong
    return found


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type of scores, statistics and states: float32, or float64 for float64 inputs."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def default_scale(q: Tensor, scale: float | Tensor | None) -> float:
    """``scale``, or 1 / sqrt(head size) if it is None; `KernelError` unless it is a finite number."""
    if scale is None:
        return 1.0 / math.sqrt(q.shape[-1])
    if isinstance(scale, Tensor) and scale.requires_grad:
        raise KernelError("scale is a tensor that wants a gradient, which it would not get; multiply q by it")
    try:
        found = math.nan if isinstance(scale, str | bool) else float(scale)
    except (TypeError, ValueError, RuntimeError):
        found = math.nan
    if not math.isfinite(found):
        raise KernelError(f"scale is {scale!r}, expected a finite number")
    return found


def blanked(key_mask: Tensor | None, x: Tensor, axis: int = 2) -> Tensor:
    """``x`` with 0 in the rows along ``axis`` that a mask (B, L) hides: what they held, NaN or not, reaches nothing.

    Nor does it on the way back, where a weight of 0 times NaN would be NaN again. `KernelError` as `check_key_mask`.
    """
    if key_mask is None:
        return x
    check_key_mask(key_mask, x, axis)
    shape = [1] * x.ndim
    shape[0], shape[axis] = key_mask.shape
    return x.masked_fill(~key_mask.view(shape), 0.0)


def kept_on_gpu(make: Callable[..., Tensor], x: Tensor) -> Callable[..., Tensor]:
    """``make``, or where ``x`` lies on a GPU the same with what it gave kept, for arguments that are plain values.

    What is made on the CPU is then copied to the GPU once, which is not allowed while a CUDA graph is captured.
    """
    # What is made while a program is traced or exported is no tensor with numbers.
    return _keeping(make) if x.is_cuda and type(x) in (Tensor, torch.nn.Parameter) else make


@cache
def _keeping(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @lru_cache(maxsize=64)
    def kept(*args: Hashable) -> Tensor:
        # What is made in inference mode could take no part in training later.
        with torch.inference_mode(mode=False):
            return make(*args)

    return kept


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(B, H, L, D) with each head repeated to ``heads`` (neighbouring heads share one), a view where equal."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def visible(q: Tensor, k: Tensor, *, causal: bool, key_mask: Tensor | None) -> Tensor | None:
    """Which key each query may see: bool, broadcastable to (B, 1, Lq, Lk), or None if all may be seen.

    Causal is aligned bottom right: query i sees key j iff j <= i + (Lk - Lq).
    """
    mask = None if key_mask is None else key_mask[:, None, None, :]
    if causal:
        lq, lk = q.shape[2], k.shape[2]
        i = torch.arange(lq, device=q.device)[:, None]
        j = torch.arange(lk, device=q.device)[None, :]
        below = (j <= i + (lk - lq))[None, None]
        mask = below if mask is None else mask & below
    return mask
