"""Prints which kernels calls compile that differ in nothing but their lengths; run without the interpreter."""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor

from benchmarks.kernels_compiled import by_triton
from kernels.triton.ahead import compiled_ahead

CASES = {
    "lightning": ("lightning", {}, ((1000, 1000), (1, 1001), (16, 992))),
    "sliding_window": ("sliding_window", {"window": 64}, ((1000, 1000), (992, 1024), (4099, 4099))),
    "one query": ("sliding_window", {"window": 1 << 20}, ((1, 4099), (1, 4112), (1, 8191))),
}
"""Methods, options and numbers of queries and keys."""


def main() -> None:
    for case, (method, options, lengths) in CASES.items():
        for queries, keys in lengths:
            q, k, v = (torch.empty(2, 3, n, 64, dtype=torch.bfloat16, device="meta") for n in (queries, keys, keys))
            tell(case, method, options, q, k, v)


def tell(case: str, method: str, options: dict[str, int], q: Tensor, k: Tensor, v: Tensor) -> None:
    """A line with the compiled kernels of a call."""
    with compiled_ahead(90) as built:
        by_triton(method, q, k, v, **options)
    sys.stdout.write(json.dumps({"case": case, "keys": sorted(made.key for made in built)}) + "\n")


if __name__ == "__main__":
    main()
