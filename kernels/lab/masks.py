"""The twelve mask patterns of LongCA-bench (arXiv 2510.17896) at several lengths, by every backend that takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.bench import BenchSettings, identity, inputs_of
from kernels.dense.reference import masked_attention
from kernels.dispatch import attention
from kernels.engines.rules import Call, Rule, area, boolean
from kernels.errors import KernelError
from kernels.lab.clock import interleaved, peak_bytes
from kernels.lab.studies import Unit
from kernels.masks import MASKS
from kernels.triton.support import serves

__all__ = ["BACKENDS", "patterns", "units"]

BACKENDS = ("blocks", "triton", "sdpa with a mask", "sdpa without one")
"""The block-sparse engine in PyTorch, its GPU kernels, PyTorch's attention under the mask written out, and the same
without any mask, for comparison."""
_MOST_MASK_BYTES = 1 << 30


def patterns(length: int, window: int) -> dict[str, Rule]:
    """The twelve rules for a sequence of ``length``, at least 16: documents of half of it and less.

    Documents are a half, a quarter, an eighth and so on of the sequence, in a mixed order, multiples of a sixteenth;
    blocks are a 32nd, prefixes a 16th, and 16 positions are global.
    """
    if length < 16 or length % 16:
        raise KernelError(f"length is {length}, expected a multiple of 16: documents are multiples of a 16th of it")
    part = length // 16
    documents = [2 * part, 8 * part, part, 4 * part, part]
    block = max(1, part // 2)
    block = block if part % block == 0 else part
    given: dict[str, Mapping[str, Any]] = {
        "full": {"length": length},
        "causal": {"length": length},
        "sliding_window": {"window": window},
        "sliding_window_causal": {"window": window},
        "prefix_lm_causal": {"prefix": part},
        "prefix_lm_document": {"documents": documents, "prefix": part},
        "global_sliding_window": {"length": length, "window": window, "globals_": 16},
        "block_causal_document": {"documents": documents, "block": block},
    }
    return {name: make(**given.get(name, {"documents": documents})) for name, make in MASKS.items()}


def units(settings: BenchSettings) -> list[Unit]:
    """A row for each length and pattern: what each backend takes, how much of the square is seen, and errors."""
    found = []
    for length in settings.lengths:
        for name, rule in patterns(length, settings.window).items():
            asked = {"study": "masks", "pattern": name, **identity(settings, length, "masked")}
            del asked["causal"], asked["power_block"], asked["backend"], asked["method"]
            measure = partial(_measured, settings, length, rule)
            found.append(Unit(f"{name} at {length:,}", float(length) ** 2, asked, measure))
    return found


def _measured(settings: BenchSettings, length: int, rule: Rule) -> dict[str, Any]:
    s = settings
    qkv = inputs_of(s, length, s.dtype)
    call = Call(s.heads, length, length, False, torch.device("cpu"), 0)
    seen = int(area(rule, call).sum())
    runs = _runs(rule, qkv, s)
    with torch.no_grad():
        took = interleaved(runs, s.device, rounds=5, least_s=1e-3)
        peaks = {name: peak_bytes(run, s.device) for name, run in runs.items()}
        want = _definition(rule, s)
        errors = {name: _error(run, want) for name, run in _runs(rule, want[0], s).items() if "without" not in name}
    row: dict[str, Any] = {"area": seen, "density": seen / length**2}
    # Two products of the visible pairs, as the benchmark counts them.
    work = 4.0 * seen * s.batch * s.heads * s.head_dim
    row["forward_ms"] = {name: 1e3 * t for name, t in took.items()}
    row["flops_per_s"] = {name: work / t for name, t in took.items() if "without" not in name}
    row["peak_bytes"] = peaks
    row["rel_error"] = errors
    if s.backward:
        with_gradients = {name: partial(_train, rule, qkv, s, name) for name in runs}
        row["with_backward_ms"] = {n: 1e3 * t for n, t in interleaved(with_gradients, s.device, rounds=3).items()}
    return row


def _runs(rule: Rule, qkv: Sequence[Tensor], s: BenchSettings) -> dict[str, Callable[[], Tensor]]:
    """A call of each backend that takes these tensors."""
    q, k, v = qkv
    masked = partial(attention, q, k, v, method="masked", rule=rule)
    found: dict[str, Callable[[], Tensor]] = {"blocks": partial(masked, backend="torch")}
    if q.device.type == "cuda" and serves(None, q, k, v):
        found["triton"] = partial(masked, backend="triton")
    if q.shape[2] ** 2 <= _MOST_MASK_BYTES:
        call = Call(s.heads, q.shape[2], k.shape[2], False, q.device, 0)
        # The mask is there before: a training run makes it once for many layers.
        mask = boolean(rule, call)[None]
        found["sdpa with a mask"] = partial(_under_a_mask, q, k, v, mask)
    found["sdpa without one"] = partial(attention, q, k, v)
    return found


def _under_a_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    heads = q.shape[1]
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _train(rule: Rule, qkv: Sequence[Tensor], s: BenchSettings, name: str) -> None:
    leaves = [x.detach().requires_grad_() for x in qkv]
    torch.autograd.grad(_runs(rule, leaves, s)[name]().sum(), leaves)


def _definition(rule: Rule, s: BenchSettings) -> tuple[list[Tensor], Tensor]:
    """Inputs of 256 positions, and what the definition makes of them in float64 under the same rule, cut off there."""
    length = 256
    qkv = inputs_of(s, length, s.dtype)
    q, k, v = (x.double() for x in qkv)
    k, v = (x.repeat_interleave(s.heads // x.shape[1], dim=1) for x in (k, v))
    mask = boolean(rule, Call(s.heads, length, length, False, q.device, 0))[None]
    return qkv, masked_attention(q, k, v, mask, scale=s.head_dim**-0.5)[0]


def _error(run: Callable[[], Tensor], want: tuple[list[Tensor], Tensor]) -> float:
    return float((run().double() - want[1]).norm() / want[1].norm())
