"""Triton compiles every kernel for real GPUs, none needed; and nobody pays for Triton who does not ask for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SHARED_MEMORY = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}
"""Bytes that a block can have, from NVIDIA's tables of compute capabilities."""


def python(*args: str, **env: str) -> str:
    """What a fresh interpreter of Python prints, without TRITON_INTERPRET."""
    clean = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"} | env
    done = subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("engines", "kernels"), [("engines", 13), ("scans", 19)])
def test_every_kernel_compiles_for_sm_80_and_sm_90(engines: str, kernels: int, tmp_path: Path) -> None:
    # An empty cache: what was compiled once would not be compiled again.
    told = python("-m", "tests.kernels.triton.compile_all", engines, TRITON_CACHE_DIR=str(tmp_path))
    found = json.loads(told)
    assert len(found) == kernels
    for name, made in found.items():
        assert made["cubin"] > 0
        assert made["shared"] < SHARED_MEMORY["sm_90" if "sm_90" in name else "sm_80"], name
        # `carry` only adds up.
        assert made["tensor cores"] == ("fp32" not in name and "carry" not in name), name
        assert made["asynchronous"] == ("carry" not in name), name


def test_importing_the_kernels_does_not_import_triton_and_a_cpu_needs_the_interpreter() -> None:
    told = python(
        "-c",
        "import sys, torch, kernels\n"
        "q = torch.zeros(1, 1, 4, 16)\n"
        "kernels.attention(q, q, q, method='sliding_window')\n"
        "print('triton' in sys.modules)\n"
        "try:\n"
        "    kernels.attention(q, q, q, method='sliding_window', backend='triton')\n"
        "except kernels.KernelError as error:\n"
        "    print(error)\n",
    )
    assert told.splitlines() == [
        "False",
        "backend 'triton' cannot be used: it needs tensors on a CUDA GPU, not cpu, or TRITON_INTERPRET=1 set before "
        "Python starts",
    ]


def test_without_triton_the_error_names_the_extra() -> None:
    told = python(
        "-c",
        "import sys\n"
        "sys.modules['triton'] = None\n"  # what Python itself keeps for a module that cannot be imported
        "import torch, kernels\n"
        "q = torch.zeros(1, 1, 4, 16)\n"
        "try:\n"
        "    kernels.attention(q, q, q, method='halo', backend='triton')\n"
        "except kernels.KernelError as error:\n"
        "    print(error)\n",
    )
    assert told.strip() == (
        "backend 'triton' cannot be used: it needs the package triton: pip install 'harmony-autoscaler[gpu]'"
    )
