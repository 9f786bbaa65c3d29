"""Compiled flex_attention beside our engine on a CPU: `python -m benchmarks.flex_cpu` (needs a C++ compiler).

Prints the seconds of the first call (the compilation) and the shortest of some later ones, forward only: PyTorch's
flex_attention has no backward pass on a CPU.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from kernels import attention


def seconds(run):
    """How long a run takes on the clock."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="1024,4096,16384")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    compiled = torch.compile(flex_attention, dynamic=False)
    print("| length | ours ms | flex_attention ms | of ours | its first call s | its mask ms | apart |")
    print("|---|---|---|---|---|---|---|")
    for length in (int(n) for n in args.lengths.split(",")):
        print(line(length, args.window, args.runs, compiled), flush=True)


def line(length, window, runs, compiled):
    """One row of the table."""
    q, k, v = (torch.randn(1, 4, length, 64) for _ in range(3))

    def visible(b, h, i, j):
        return (i - j < window) & (j <= i)

    def ours():
        return attention(q, k, v, method="sliding_window", window=window, causal=True)

    start = time.perf_counter()
    mask = create_block_mask(visible, None, None, length, length, device="cpu")
    made = time.perf_counter() - start

    def flex():
        return compiled(q, k, v, block_mask=mask)

    start = time.perf_counter()
    flex()
    first = time.perf_counter() - start
    apart = float((flex() - ours()).norm() / ours().norm())
    # Each in turn, so that both meet the same machine.
    rounds = [(seconds(ours), seconds(flex)) for _ in range(runs)]
    a, b = (1e3 * min(r[n] for r in rounds) for n in (0, 1))
    return f"| {length:,} | {a:.0f} | {b:.0f} | {b / a:.2f} | {first:.1f} | {1e3 * made:.0f} | {apart:.0e} |"


if __name__ == "__main__":
    main()
