"""The benchmark for GPUs runs as far as a machine without one can tell, and counts what the kernels do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import kernels_gpu
from kernels.triton.linear_work import features_work, scan_work


def test_a_dry_run_goes_through_every_step(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if device != "cpu":
        pytest.skip("a dry run is for the interpreter")
    written = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["kernels_gpu", "--dry-run", "--out", str(written)])
    monkeypatch.setattr(kernels_gpu, "TINY", kernels_gpu.replace(kernels_gpu.TINY, lengths=(32,)))
    assert kernels_gpu.main() == 0
    printed = capsys.readouterr().out
    assert not written.exists()
    # Whether it is right, a row, beside dense attention and as a graph; linear ones also beside what must be moved, and
    # windows beside flex_attention.
    for method in kernels_gpu.TINY.methods:
        assert printed.count(f"| `{method}` |") == 5
    assert "Not measured: a dry run." in printed
    assert "Not done" not in printed


def test_steps_that_no_time_is_left_for_are_left_out_and_named() -> None:
    budget = kernels_gpu.Budget(minutes=1.0)
    assert budget.allows("one", needs_s=50)
    assert not budget.allows("two", needs_s=70)
    assert not budget.allows("three", needs_s=70)
    assert list(budget.closing())[1] == "Not done, as the time was over: two, three."


def test_without_a_gpu_it_says_what_is_missing(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if device != "cpu":
        pytest.skip("there is a GPU")
    monkeypatch.setattr(sys, "argv", ["kernels_gpu"])
    assert kernels_gpu.main() == 2
    assert capsys.readouterr().err.splitlines() == [
        "a CUDA GPU is missing (PyTorch finds none); --dry-run runs the script without one"
    ]


def test_work_is_what_the_kernels_read_write_and_multiply() -> None:
    x = torch.empty(2, 3, 128, 16, device="meta")
    # Under the interpreter a segment has 64 positions and a chunk 32: 2 segments, 3 states of 16 x 16 + 2 x 16 numbers.
    work = scan_work(x, x, x, causal=True, normalised=False)
    rows, state = 6 * 128, 16 * 16 + 32
    # Keys and values twice, queries and output once; states written, read and written, and read.
    assert work.bytes == 4 * (rows * 16 * 6 + 6 * 3 * state * 4)
    assert work.flops == 2 * rows * (3 * 16 * 16 + 32 * (16 + 16))
    made = features_work(x, 24, 4, causal=True)
    assert made.bytes == 4 * rows * (16 * 1.5 + 24)
    assert made.flops == 2 * rows * 16 * (48 + 24)
    assert (work + made).least_seconds(1.0, 1e30) == work.flops + made.flops
