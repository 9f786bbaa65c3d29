"""Compiles every kernel of engines 1 and 3 ahead of time, prints what came out as JSON; run without the interpreter."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from kernels.triton import block_sparse_backward, block_sparse_forward, block_sparse_listed, partial_kernels
from kernels.triton.block_sparse import launch_for
from kernels.triton.support import compile_ahead, padded, precision

KERNELS = {
    "forward": block_sparse_forward.forward,
    "query_grads": block_sparse_backward.query_grads,
    "key_grads": block_sparse_backward.key_grads,
    "listed forward": block_sparse_listed.forward,
    "listed backward": block_sparse_listed.backward,
    "received": partial_kernels.received,
}
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
STATISTICS = {"LSE", "DLSE", "DELTA", "BIAS", "DBIAS", "OUT"}
DATA = {"Q", "K", "V", "O", "DO", "DQ", "DK", "DV_"}


def argument(name: str, dtype: torch.dtype) -> str:
    """Triton's type of an argument, by our names for them."""
    if name in DATA:
        return "*" + TYPES[dtype]
    if name in STATISTICS:
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
    # Elements of a row lie side by side, as the launcher tells the compiler.
    constants |= {name: 1 for name in ("stride_qd", "stride_kd", "stride_vd", "stride_gd")}
    types = {name: argument(name, dtype) for name in kernel.arg_names if name not in constants}
    made = compile_ahead(kernel, types, constants, capability=capability, warps=how.warps, stages=how.stages)
    return {
        "cubin": len(made.cubin),
        "shared": made.shared,
        "tensor cores": "wgmma.mma" in made.ptx or "mma.sync" in made.ptx,
        "asynchronous": "cp.async" in made.ptx,
    }


def main() -> None:
    found = {}
    for name, kernel in KERNELS.items():
        for dtype, size, capability, rich in ((torch.bfloat16, 64, 90, False), (torch.float16, 40, 80, True)):
            found[f"{name} sm_{capability}"] = compiled(kernel, dtype, size, capability, rich=rich)
    found["forward sm_90 fp32"] = compiled(KERNELS["forward"], torch.float32, 128, 90, rich=True)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
