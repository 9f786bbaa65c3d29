"""Compiles kernels ahead of time and prints what came out as JSON lines; run without the interpreter."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import torch

from benchmarks.kernels_compiled import by_triton, compiled
from kernels.triton.ahead import compiled_ahead

SPILLS = (
    ("mala", 128, "bf16"),
    ("wersa, learned", 128, "bf16"),
    ("bits", 128, "bf16"),
    ("listed", 128, "bf16"),
    ("received", 128, "bf16"),
)
"""Cases that reach every kernel at the head size that needs the most registers, each of them with a mask or a bias."""


def spills(capability: int) -> None:
    """A line for each kernel of `SPILLS`; wersa is there for its features, as its scan is that of mala."""
    seen = set()
    for case in SPILLS:
        for row in compiled(*case, capability, skip=seen):
            seen.add(row.kernel)
            sys.stdout.write(json.dumps(asdict(row)) + "\n")


def lengths() -> None:
    """How many kernels compile for calls that differ in nothing but their lengths, forward."""
    for queries, keys in ((1000, 1000), (1, 1001), (16, 992)):
        with compiled_ahead(90) as built:
            q, k, v = (torch.empty(2, 3, n, 64, dtype=torch.bfloat16, device="meta") for n in (queries, keys, keys))
            by_triton("lightning", q, k, v)
        sys.stdout.write(json.dumps(sorted(made.key for made in built)) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "lengths":
        lengths()
    else:
        spills(int(sys.argv[1]))
