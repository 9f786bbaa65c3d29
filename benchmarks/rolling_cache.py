"""Appending a step to a history beside encoding it again, on a CPU: `python -m benchmarks.rolling_cache`.

Two causal layers of width 64 with 4 heads over a window of 512 steps: prints processor time per step of both, the
number of times, and how far the newest encodings are apart after the steps that were appended.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from kernels import MultiHead
from kernels.caches.rolling import RollingCache


class Block(nn.Module):
    """A causal layer with a residual sum."""

    def __init__(self, width, options):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attend = MultiHead(width, heads=4, **options)

    def forward(self, x):
        return x + self.attend(self.norm(x), causal=True)

    def append(self, x, state=None):
        mixed, state = self.attend.append(self.norm(x), state)
        return x + mixed, state


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--history", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--again", type=int, default=10, help="how often the whole history is encoded for its time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| method | history | steps | append ms | encode again ms | times | apart |")
    print("|---|---|---|---|---|---|---|")
    for method, options in (("sliding_window", {"window": 512}), ("mala", {}), ("sdpa", {})):
        torch.manual_seed(0)
        layers = nn.Sequential(*(Block(64, {"method": method, "options": options}) for _ in range(2)))
        x = torch.randn(1, args.history + args.steps, 64)
        with torch.no_grad():
            cache = RollingCache(list(layers), keep=args.history)
            cache.append(x[:, : args.history])
            start = time.process_time()
            for n in range(args.history, args.history + args.steps):
                cache.append(x[:, n : n + 1])
            step = (time.process_time() - start) / args.steps
            start = time.process_time()
            for _ in range(args.again):
                layers(x[:, -args.history :])
            again = (time.process_time() - start) / args.again
            # The whole stream: a window of it alone is another sequence where layers see beyond its start.
            apart = float((layers(x)[:, -args.history :] - cache.encodings()).abs().max())
        print(
            f"| {method} | {args.history} | {args.steps} | {step * 1e3:.2f} | {again * 1e3:.1f} | {again / step:.0f}"
            f" | {apart:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
