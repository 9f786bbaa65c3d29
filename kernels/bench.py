"""What attention costs on this machine: time, memory, achieved rates and error of every mechanism.

Time is the shortest of some runs, after one that is not counted: on the clock, or with one thread on a CPU its
processor time, which is the same where nobody else computes. Memory is the most that was allocated
at once during one call beyond what was there before it, from PyTorch's own record of every allocation and release
(temporaries inside its operations included; scratch space of the matrix library is not). The error is that against the
mechanism's definition in float64, at a length at which the definition can be written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels import KernelError, attention, available, describe
from kernels.lab.choosing import Candidate, Kind, predicted
from kernels.lab.clock import peak_bytes, seconds
from kernels.lab.kinetics import Shape
from kernels.lab.rows import machine
from kernels.masks import MASKS
from kernels.registry import Backend

__all__ = [
    "DEFAULT_METHODS",
    "BenchRow",
    "BenchSettings",
    "Ceilings",
    "check_causal",
    "identity",
    "inputs_of",
    "known_methods",
    "measure_ceilings",
    "measure_rows",
    "options_of",
    "planned",
]

DEFAULT_METHODS = (
    "sliding_window",
    "power",
    "elastic_window",
    "halo",
    "neighborhood",
    "lightning",
    "mala",
    "wersa",
)
"""The mechanisms that are windowed or take linear time."""
LONGEST_DENSE = 16_384
"""Above this SDPA is left out on a CPU, where it would take minutes."""
_DENSE = ("sdpa", "selective", "diffqkv")
_ERROR_LENGTH = 512


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What is measured: shapes, type, device and which passes."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    lengths: tuple[int, ...] = (1024, 4096, 16_384)
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    batch: int = 1
    heads: int = 4
    kv_heads: int | None = None
    """Heads of keys and values, which those of queries share; as many as of queries if None."""
    head_dim: int = 64
    causal: bool = True
    window: int = 256
    power_block: int = 1
    """Side of the blocks of `power`; 1 is by tokens."""
    backward: bool = True
    seed: int = 0
    backend: Backend | None = None
    """Where a method has it; None takes what `attention` chooses."""
    predict: bool = False
    """Whether the time that the cost model predicts stands beside the measured one."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device reaches: FLOP/s of a large matrix product, bytes/s (read and written) of a large copy."""

    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One mechanism at one length; None is what was not measured."""

    method: str
    length: int
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    device: str
    threads: int
    causal: bool
    window: int
    power_block: int
    backward: bool
    seed: int
    backend: str | None
    machine: str
    forward_ms: float
    predicted_ms: float | None
    """Forward, by the cost model (`kernels.lab.kinetics`), which is fitted to short calls of the method."""
    backward_ms: float | None
    peak_bytes: int
    backward_peak_bytes: int | None
    input_bytes: int
    sdpa_forward_ms: float | None
    times_faster_than_sdpa: float | None
    flops_per_s: float
    flops_of_ceiling: float
    bytes_per_s: float
    bytes_of_ceiling: float
    rel_error: float
    rel_error_length: int

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


def known_methods() -> tuple[str, ...]:
    """The methods that can be measured: those that are functions of q, k and v."""
    return tuple(m for m in available() if describe(m).backends)


def measure_ceilings(settings: BenchSettings) -> Ceilings:
    """Measure what the device reaches in the type of the settings."""
    # Without instructions for them, half types are a hundred times slower on a CPU.
    side = 8192 if settings.device == "cuda" else 2048 if settings.dtype.itemsize >= 4 else 256
    a = torch.ones(side, side, device=settings.device, dtype=settings.dtype)
    product = seconds(lambda: a @ a, settings.device)
    # Larger than any cache, so that memory itself is measured.
    x = torch.ones(1 << 26, device=settings.device, dtype=torch.float32)
    y = torch.empty_like(x)
    copy = seconds(lambda: y.copy_(x), settings.device)
    return Ceilings(flops_per_s=2.0 * side**3 / product, bytes_per_s=2.0 * x.nbytes / copy)


def planned(settings: BenchSettings) -> list[tuple[int, str]]:
    """The (length, method) of all rows, in the order in which they are measured."""
    return [(length, method) for length in settings.lengths for method in settings.methods]


def identity(settings: BenchSettings, length: int, method: str) -> dict[str, Any]:
    """The fields of a row that are settled before it is measured."""
    s = settings
    return {
        "method": method,
        "length": length,
        "batch": s.batch,
        "heads": s.heads,
        "kv_heads": s.heads if s.kv_heads is None else s.kv_heads,
        "head_dim": s.head_dim,
        "dtype": str(s.dtype).removeprefix("torch."),
        "device": s.device,
        "threads": torch.get_num_threads(),
        "causal": s.causal,
        "window": s.window,
        "power_block": s.power_block,
        "backward": s.backward,
        "seed": s.seed,
        "backend": s.backend,
        "machine": machine(s.device),
    }


def measure_rows(
    settings: BenchSettings,
    ceilings: Ceilings,
    kept: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None,
) -> Iterator[BenchRow]:
    """One row for each of `planned`, in that order; `KernelError` for a method that the settings do not fit.

    `kept(identity)` gives the fields of a row that was measured before, which is then not measured again.
    """
    dense: dict[int, float | None] = {}
    for length, method in planned(settings):
        asked = identity(settings, length, method)
        before = None if kept is None else kept(asked)
        if before is not None:
            yield BenchRow(**{name: before[name] for name in BenchRow.__dataclass_fields__})
            continue
        qkv = inputs_of(settings, length, settings.dtype)
        if length not in dense:
            measured = settings.device == "cuda" or length <= LONGEST_DENSE
            dense[length] = seconds(partial(_run, "sdpa", settings, *qkv), settings.device) if measured else None
        yield BenchRow(**asked, **_measured(method, settings, ceilings, qkv, dense[length]))


def _measured(
    method: str, s: BenchSettings, ceilings: Ceilings, qkv: Sequence[Tensor], dense: float | None
) -> dict[str, Any]:
    """Everything about one method on the inputs given that is not settled before."""
    q, k, v = qkv
    forward = seconds(lambda: _run(method, s, q, k, v), s.device)
    peak = peak_bytes(lambda: _run(method, s, q, k, v), s.device)
    backward, backward_peak = None, None
    if s.backward:
        both = seconds(lambda: _train(method, s, qkv), s.device)
        # The pass back is what the two together take beyond the pass forward.
        backward = max(both - forward, 0.0)
        backward_peak = peak_bytes(lambda: _train(method, s, qkv), s.device)
    flops = _flops(method, s, qkv) / forward
    # Every input read once and the output written once: what no implementation goes below.
    moved = (q.nbytes + k.nbytes + v.nbytes + q.nbytes) / forward
    short = min(q.shape[2], _ERROR_LENGTH)
    return {
        "forward_ms": 1e3 * forward,
        "predicted_ms": _predicted_ms(method, s, qkv) if s.predict else None,
        "backward_ms": None if backward is None else 1e3 * backward,
        "peak_bytes": peak,
        "backward_peak_bytes": backward_peak,
        "input_bytes": q.nbytes + k.nbytes + v.nbytes,
        "sdpa_forward_ms": None if dense is None else 1e3 * dense,
        "times_faster_than_sdpa": None if dense is None else dense / forward,
        "flops_per_s": flops,
        "flops_of_ceiling": flops / ceilings.flops_per_s,
        "bytes_per_s": moved,
        "bytes_of_ceiling": moved / ceilings.bytes_per_s,
        "rel_error": _error(method, s, short),
        "rel_error_length": short,
    }


def _predicted_ms(method: str, s: BenchSettings, qkv: Sequence[Tensor]) -> float | None:
    """By the cost model; None where heads share keys or a backend was asked for, which it does not know."""
    q, k, v = qkv
    if s.backend is not None or q.shape[1] != k.shape[1]:
        return None
    shape = Shape(s.batch, s.heads, q.shape[2], k.shape[2], s.head_dim, v.shape[3], q.element_size())
    kind = Kind(q.device.type, q.dtype, s.causal, masked=False, trains=False, square=True)
    options = options_of(method, s, max(q.shape[2], s.window))
    return 1e3 * predicted(Candidate(method, options), shape, kind)


def options_of(method: str, s: BenchSettings, length: int) -> dict[str, object]:
    """The options by which a method sees about ``window`` keys around a query."""
    w = min(s.window, length)
    found: dict[str, dict[str, object]] = {
        "sliding_window": {"window": w},
        "power": {"window": w, "block": s.power_block},
        "elastic_window": {"alpha": float(w), "beta": 0.0},
        "halo": {"block": max(w // 2, 1), "halo": w // 4},
        "neighborhood": {"kernel": w},
        "masked": {"rule": MASKS["sliding_window_causal" if s.causal else "sliding_window"](w - 1)},
    }
    return found.get(method, {})


def inputs_of(s: BenchSettings, length: int, dtype: torch.dtype) -> list[Tensor]:
    """Standard normal q, k and v, the same numbers on every device."""
    g = torch.Generator().manual_seed(s.seed)
    kv_heads = s.heads if s.kv_heads is None else s.kv_heads
    shapes = [(s.batch, heads, length, s.head_dim) for heads in (s.heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=g).to(device=s.device, dtype=dtype) for shape in shapes]


def _run(method: str, s: BenchSettings, q: Tensor, k: Tensor, v: Tensor, **how: object) -> Tensor:
    """One call."""
    call: Callable[..., Tensor] = attention
    if s.backend in describe(method).backends:
        how = {"backend": s.backend, **how}
    return call(q, k, v, method=method, causal=s.causal, **options_of(method, s, q.shape[2]), **how)


def _train(method: str, s: BenchSettings, qkv: Sequence[Tensor]) -> None:
    """One call and the gradients of its sum."""
    leaves = [x.detach().requires_grad_() for x in qkv]
    torch.autograd.grad(_run(method, s, *leaves).sum(), leaves)


def _flops(method: str, s: BenchSettings, qkv: Sequence[Tensor]) -> float:
    """FLOPs of the matrix products of one forward call; those of what calls SDPA by its definition."""
    from torch.utils.flop_counter import FlopCounterMode

    q, k, v = qkv
    if method in _DENSE:
        lq, lk = q.shape[2], k.shape[2]
        pairs = lq * lk if not s.causal else lq * (lq + 1) // 2
        return 2.0 * s.batch * s.heads * pairs * (q.shape[3] + v.shape[3])
    times, how = 1, {}
    if "triton" in describe(method).backends and (s.device == "cuda" or s.backend == "triton"):
        # Nothing counts inside of Triton kernels: what the method takes in PyTorch is counted, on one head.
        times, how = s.batch * s.heads, {"backend": "torch"}
        q, k, v = (x[:1, :1] for x in qkv)
    with FlopCounterMode(display=False) as counter:
        _run(method, s, q, k, v, **how)
    return times * float(counter.get_total_flops())


def _error(method: str, s: BenchSettings, length: int) -> float:
    """Norm of the difference to the definition in float64 over its norm."""
    got = inputs_of(s, length, s.dtype)
    want = _run(method, s, *(x.double() for x in got), backend="reference")
    return float((_run(method, s, *got).double() - want).norm() / want.norm())


def check_causal(methods: Sequence[str], causal: bool) -> None:
    """Raise `KernelError` for the first method that cannot be computed causally, or only so."""
    for method in methods:
        kind = describe(method).causal
        if (kind == "causal only" and not causal) or (kind == "not causal" and causal):
            raise KernelError(f"attention method {method!r} is {kind}; pass --{'no-' if causal else ''}causal")
