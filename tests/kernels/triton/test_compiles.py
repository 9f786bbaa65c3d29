"""Triton compiles every kernel for real GPUs, none needed; and nobody pays for Triton who does not ask for it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kernels_compiled import SIZES, SPILL_BAR, Row
from kernels.triton.cubin import read_cubin

ROOT = Path(__file__).parents[3]
KERNELS = {
    "block_sparse_backward.key_grads",
    "block_sparse_backward.query_grads",
    "block_sparse_forward.combine",
    "block_sparse_forward.forward",
    "block_sparse_forward.forward_split",
    "block_sparse_listed.backward",
    "block_sparse_listed.forward",
    "haar_kernels.features",
    "haar_kernels.features_backward",
    "haar_kernels.weight_grads",
    "linear_scan_backward.key_grads",
    "linear_scan_backward.query_grads",
    "linear_scan_backward.query_states",
    "linear_scan_backward.row_grads",
    "linear_scan_backward.value_grads",
    "linear_scan_forward.carry",
    "linear_scan_forward.key_states",
    "linear_scan_forward.outputs",
    "partial_kernels.received",
}
SUMS = {"block_sparse_forward.combine", "linear_scan_forward.carry"}
"""Kernels that only add up."""
SHARED_MEMORY = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}
"""Bytes that a block can have, from NVIDIA's tables of compute capabilities."""


def python(*args: str, **env: str) -> str:
    """What a fresh interpreter of Python prints, without TRITON_INTERPRET."""
    clean = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"} | env
    done = subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_and_keeps_its_numbers_in_registers(capability: int, tmp_path: Path) -> None:
    # An empty cache: what was compiled once would not be compiled again.
    args = ("-m", "benchmarks.kernels_compiled", "--json", "--sizes", "128", "--capabilities", str(capability))
    told = python(*args, TRITON_CACHE_DIR=str(tmp_path))
    found = [Row(**json.loads(row)) for row in told.splitlines()]
    assert {row.kernel for row in found} == KERNELS
    assert [row for row in found if row.spilled > SPILL_BAR] == []
    for row in found:
        assert 0 < row.registers <= 255
        assert row.shared < SHARED_MEMORY[row.arch], row
        assert (row.wgmma + row.mma > 0) == (row.kernel not in SUMS), row
        assert row.cp_async > 0 or row.kernel in SUMS, row
    assert capability == 80 or sum(row.wgmma > 0 for row in found) >= len(KERNELS) // 2


def test_the_committed_table_has_every_kernel_at_every_size_and_none_spills_more() -> None:
    lines = (ROOT / "benchmarks" / "kernels_compiled.md").read_text().splitlines()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][1:]
    found = {(row[1], row[2], int(row[3])) for row in rows if row[4] == "bf16"}
    assert found == {(kernel, arch, size) for kernel in KERNELS for arch in SHARED_MEMORY for size in SIZES}
    assert max(int(row[8]) for row in rows) <= SPILL_BAR


def test_lengths_do_not_make_triton_compile_anew(tmp_path: Path) -> None:
    told = python("-m", "tests.kernels.triton.compile_lengths", TRITON_CACHE_DIR=str(tmp_path))
    found = [json.loads(row) for row in told.splitlines()]
    # The linear scan over any numbers of queries and keys; windows; one query over ever more keys.
    counts = {"lightning": 3, "sliding_window": 1, "one query": 2}
    for case, kernels in counts.items():
        keys = [row["keys"] for row in found if row["case"] == case]
        assert len(keys) == 3
        assert all(one == keys[0] for one in keys), case
        assert len(set(keys[0])) == kernels


def test_spills_are_read_from_the_machine_code() -> None:
    # An instruction that stores 16 bytes to local memory, one that loads 8 from it, and one that does neither.
    text = b"".join(struct.pack("<QQ", low, size << 9) for low, size in ((0x7387, 6), (0x7983, 5), (0x7918, 0)))
    info = struct.pack("<BBHII", 4, 0x2F, 8, 1, 168) + struct.pack("<BBH", 3, 0x1B, 255)
    info += struct.pack("<BBHII", 4, 0x11, 8, 1, 24)
    found = read_cubin(elf({".nv.info": info, ".text.kernel": text}))
    assert (found.registers, found.stack, found.stored, found.loaded, found.spilled) == (168, 24, 16, 8, 24)
    with pytest.raises(ValueError, match=r"no section .nv.info, only \['', '.names'\]"):
        read_cubin(elf({}))
    with pytest.raises(ValueError, match="not a 64-bit ELF file"):
        read_cubin(b"PTX")


def elf(sections: dict[str, bytes]) -> bytes:
    """A 64-bit ELF file of some sections, and one of their names."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in [*sections, ".names"])
    body, headers, at = b"", [struct.pack("<IIQQQQIIQQ", *[0] * 10)], 64
    for name, content in [*sections.items(), (".names", names)]:
        place = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(struct.pack("<IIQQQQIIQQ", place, 1, 0, 0, at, len(content), 0, 0, 1, 0))
        body, at = body + content, at + len(content)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, at, 0, 64, 0, 0, 64,
                                                              len(headers), len(headers) - 1)  # fmt: skip
    return head + body + b"".join(headers)


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
