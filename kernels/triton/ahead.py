"""Compiling kernels for NVIDIA GPUs that are not there, exactly as a call would compile and launch them.

Within `compiled_ahead` launches compile and run nothing. Tensors lie on the device "meta", which has shapes and no
numbers: what waits for a number of the GPU fails there, so that a call that goes through never waits.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kernels.errors import KernelError
from kernels.triton.cubin import Code, read_cubin
from kernels.triton.support import AHEAD, installed, interpreting

__all__ = ["Built", "compiled_ahead"]


@dataclass(frozen=True, slots=True)
class Built:
    """A kernel as one launch had it compiled."""

    module: str
    name: str
    key: str
    """The same for launches that one compiled kernel serves."""
    warps: int
    stages: int
    shared: int
    """Bytes of shared memory of a block."""
    ptx: str
    code: Code


class _Absent:
    """What Triton asks of a driver before it compiles, for a GPU that is not there."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        # Kernels are kept by device: no real one has such a number.
        return int(self.target.arch)

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiled_ahead(capability: int, *, skip: Container[str] = ()) -> Iterator[list[Built]]:
    """A context in which Triton launches on "meta" tensors compile for that compute capability (90 is sm_90).

    Its value lists what was compiled, a launch each, but for kernels in ``skip`` ("module.name"). Not for several
    threads at once.

    Raises:
        KernelError: without the package triton, or under its interpreter.
    """
    if not installed():
        raise KernelError("compiling ahead needs the package triton: pip install 'harmony-autoscaler[gpu]'")
    if interpreting():
        raise KernelError("compiling ahead needs Triton's compiler: TRITON_INTERPRET=1 must not be set")
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    built: list[Built] = []
    launched = JITFunction.run

    def compile_only(kernel: Any, *args: object, grid: object, warmup: bool, **named: object) -> object:
        if f"{kernel.module}.{kernel.__name__}" in skip:
            return None
        made = launched(kernel, *args, grid=grid, warmup=True, **named)
        how, asm = made.metadata, made.asm
        code = read_cubin(asm["cubin"])
        names = kernel.module, kernel.__name__, made.hash
        built.append(Built(*names, how.num_warps, how.num_stages, how.shared, asm["ptx"], code))
        return made

    # `driver.reset_active` would look for a real GPU, and fail without one.
    before = driver._active
    token = AHEAD.set(capability)
    driver.set_active(_Absent(capability))
    JITFunction.run = compile_only
    try:
        yield built
    finally:
        JITFunction.run = launched
        driver.set_active(before)
        AHEAD.reset(token)
