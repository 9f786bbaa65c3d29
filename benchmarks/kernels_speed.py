"""CPU seconds of every mechanism at one length, beside SDPA in the same run: `python -m benchmarks.kernels_speed`.

Seconds are those of the process, so that a busy machine disturbs them less; one thread unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from kernels import attention

METHODS = {
    "sliding_window": {"window": 256},
    "power": {"window": 256},
    "elastic_window": {"alpha": 256.0, "beta": 0.0},
    "halo": {"block": 128, "halo": 64},
    "neighborhood": {"kernel": 255},
    "lightning": {},
    "mala": {},
    "wersa": {},
}


def cpu_seconds(run, repeat):
    found = []
    for _ in range(repeat):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def rows(length, args):
    """Method and CPU seconds of each run at one length."""
    g = torch.Generator().manual_seed(0)
    shape = (1, args.heads, length, args.head_dim)
    q, k, v = (torch.randn(shape, generator=g).requires_grad_(args.backward) for _ in range(3))

    def run(method, **options):
        out = attention(q, k, v, method=method, causal=True, **options)
        if args.backward:
            out.sum().backward()

    if not args.no_sdpa:
        yield "sdpa", cpu_seconds(lambda: run("sdpa"), args.repeat)
    for method in args.methods:
        yield method, cpu_seconds(lambda method=method: run(method, **METHODS[method]), args.repeat)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[16384])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--backward", action="store_true", help="time forward and backward together")
    parser.add_argument("--no-sdpa", action="store_true", help="leave SDPA out, as lengths beyond 16,384 want")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for length in args.lengths:
        dense = None
        for method, seconds in rows(length, args):
            dense = seconds if method == "sdpa" else dense
            ratio = None if dense is None else round(dense / seconds, 1)
            row = {
                "method": method,
                "length": length,
                "cpu_seconds": round(seconds, 4),
                "times_faster_than_sdpa": ratio,
            }
            if args.json:
                shape = {"heads": args.heads, "head_dim": args.head_dim}
                print(json.dumps({**row, **shape, "threads": args.threads, "backward": args.backward}))
            else:
                print(f"{method:16} {length:7} {seconds:8.3f} s" + ("" if ratio is None else f"   {ratio:6.1f} x SDPA"))


if __name__ == "__main__":
    main()
