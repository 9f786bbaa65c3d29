"""Compiles every kernel of the engines ahead of time, prints what came out as JSON; run without the interpreter."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from kernels.triton import (
    block_sparse_backward,
    block_sparse_forward,
    block_sparse_listed,
    haar_kernels,
    linear_scan_backward,
    linear_scan_forward,
    partial_kernels,
)
from kernels.triton.block_sparse import launch_for
from kernels.triton.haar import rows_at_once
from kernels.triton.linear_scan_cut import scan_launch
from kernels.triton.support import Compiled, compile_ahead, padded, precision

KERNELS = {
    "forward": block_sparse_forward.forward,
    "query_grads": block_sparse_backward.query_grads,
    "key_grads": block_sparse_backward.key_grads,
    "listed forward": block_sparse_listed.forward,
    "listed backward": block_sparse_listed.backward,
    "received": partial_kernels.received,
}
SCAN = {
    "key_states": linear_scan_forward.key_states,
    "outputs": linear_scan_forward.outputs,
    "row_grads": linear_scan_backward.row_grads,
    "query_states": linear_scan_backward.query_states,
    "query_grads": linear_scan_backward.query_grads,
    "scan key_grads": linear_scan_backward.key_grads,
    "carry": linear_scan_forward.carry,
}
HAAR = {"features": haar_kernels.features, "features_backward": haar_kernels.features_backward}
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
VARIANTS = ((torch.bfloat16, 64, 90, False), (torch.float16, 40, 80, True))
STATISTICS = {"LSE", "DLSE", "DELTA", "BIAS", "DBIAS", "OUT"}
SUMS = {"DECAY", "STATES", "TOTAL", "DTOTAL", "STEPS", "W", "DSTEPS", "DW"}
DATA = {"Q", "K", "V", "O", "DO", "DQ", "DK", "DV_", "X", "F", "DF", "DX"}


def argument(name: str, dtype: torch.dtype) -> str:
    """Triton's type of an argument, by our names for them."""
    if name in DATA:
        return "*" + TYPES[dtype]
    if name in STATISTICS | SUMS:
        return "*fp32"
    if name == "KEYS":
        return "*u8"
    if name == "scale":
        return "fp32"
    return "i32" if name.islower() else "*i32"


def compiled(kernel: Any, dtype: torch.dtype, size: int, capability: int, *, rich: bool) -> dict[str, object]:
    """One variant; a ``rich`` one has a mask of bits, a key mask and a bias, the other a window."""
    how = launch_for(1024, None, size, dtype, backward=kernel is not block_sparse_forward.forward)
    constants = {
        "D": size,
        "DV": size,
        "BLOCK_D": padded(size),
        "BLOCK_DV": padded(size),
        "BLOCK_M": how.block_m,
        "BLOCK_N": how.block_n,
        "GROUPED": rich,
        "USE_BITS": rich,
        "HAS_KEYS": rich,
        "HAS_DLSE": rich,
        "HAS_BIAS": rich,
        "CAUSAL": True,
        "UNIT": 64,
        "POWERS": True,
        "PRECISION": precision(dtype),
    }
    return told(made(kernel, dtype, constants, capability, how.warps, how.stages))


def linear(name: str, dtype: torch.dtype, size: int, capability: int, *, rich: bool) -> dict[str, object]:
    """One variant of the linear scan or the features; a ``rich`` one is mala with a key mask, the other decays."""
    kernel = (SCAN | HAAR)[name]
    how = scan_launch(size, size, dtype, backward=name in ("query_states", "query_grads", "scan key_grads"))
    chunk = rows_at_once(dtype) if name in HAAR else how.chunk
    constants: dict[str, object] = {
        "D": size,
        "DV": size,
        "M": size,
        "BLOCK_D": padded(size),
        "BLOCK_DV": padded(size) if name == "row_grads" else how.block_dv,
        "BLOCK_M": padded(size),
        "CHUNK": chunk,
        "PER": 1024 // chunk,
        "HALO": 16,
        "LEVELS": 4,
        "SEGMENT": 1024,
        "BLOCK": 1024,
        "HAS_KEYS": rich,
        "HAS_DECAY": not rich,
        "CAUSAL": True,
        "BACKWARDS": rich,
        "NEED_STEPS": rich,
        "NEED_W": rich,
        "FEATURE": "elu" if rich else "none",
        "KIND": 2 if rich or name == "row_grads" else 0,
        "EPS": 1e-6,
        "OPERAND": "bf16" if dtype == torch.bfloat16 else "fp32",
        "PRECISION": precision(dtype),
    }
    return told(made(kernel, dtype, constants, capability, 8 if name in HAAR else how.warps, how.stages))


def made(
    kernel: Any, dtype: torch.dtype, constants: dict[str, object], capability: int, warps: int, stages: int
) -> Compiled:
    """``kernel`` compiled with those of the constants that it has."""
    # Elements of a row lie side by side, as the launcher tells the compiler.
    constants = constants | {f"stride_{x}d": 1 for x in "qkvgx"}
    constants = {name: x for name, x in constants.items() if name in kernel.arg_names}
    types = {name: argument(name, dtype) for name in kernel.arg_names if name not in constants}
    return compile_ahead(kernel, types, constants, capability=capability, warps=warps, stages=stages)


def told(made: Compiled) -> dict[str, object]:
    """What the test looks at."""
    return {
        "cubin": len(made.cubin),
        "shared": made.shared,
        "tensor cores": "wgmma.mma" in made.ptx or "mma.sync" in made.ptx,
        "asynchronous": "cp.async" in made.ptx,
    }


def engines() -> dict[str, object]:
    """The kernels of engines 1 and 3."""
    found: dict[str, object] = {}
    for name, kernel in KERNELS.items():
        for dtype, size, capability, rich in VARIANTS:
            found[f"{name} sm_{capability}"] = compiled(kernel, dtype, size, capability, rich=rich)
    found["forward sm_90 fp32"] = compiled(KERNELS["forward"], torch.float32, 128, 90, rich=True)
    return found


def scans() -> dict[str, object]:
    """The kernels of engine 2."""
    found: dict[str, object] = {}
    for name in SCAN | HAAR:
        for dtype, size, capability, rich in VARIANTS:
            found[f"{name} sm_{capability}"] = linear(name, dtype, size, capability, rich=rich)
    found["outputs sm_90 fp32"] = linear("outputs", torch.float32, 32, 90, rich=True)
    return found


def main() -> None:
    sys.stdout.write(json.dumps({"engines": engines, "scans": scans}[sys.argv[1]]()))


if __name__ == "__main__":
    main()
