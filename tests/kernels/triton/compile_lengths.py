"""Prints which kernels three calls compile that differ in nothing but their lengths; run without the interpreter."""

from __future__ import annotations

import json
import sys

import torch

from benchmarks.kernels_compiled import by_triton
from kernels.triton.ahead import compiled_ahead


def main() -> None:
    for queries, keys in ((1000, 1000), (1, 1001), (16, 992)):
        with compiled_ahead(90) as built:
            q, k, v = (torch.empty(2, 3, n, 64, dtype=torch.bfloat16, device="meta") for n in (queries, keys, keys))
            by_triton("lightning", q, k, v)
        sys.stdout.write(json.dumps(sorted(made.key for made in built)) + "\n")


if __name__ == "__main__":
    main()
