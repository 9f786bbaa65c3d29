"""Triton's kernels run on the GPU if there is one and in its interpreter otherwise (see tests/conftest.py)."""

from __future__ import annotations

import pytest
import torch

from kernels.triton.support import interpreting


@pytest.fixture(scope="session")
def device() -> str:
    """Where the kernels run: "cuda", or "cpu" under the interpreter."""
    if torch.cuda.is_available() and not interpreting():
        return "cuda"
    assert interpreting(), "Triton was imported before TRITON_INTERPRET was set, or the variable was set to 0"
    return "cpu"


@pytest.fixture(scope="session")
def gpu() -> str:
    """The device of the tests that need a GPU; they are skipped without one."""
    if not torch.cuda.is_available() or interpreting():
        pytest.skip("needs a CUDA GPU")
    return "cuda"
