"""Mixture-of-Head beside all heads, on a CPU: `python -m benchmarks.moh_speed --threads 1`.

Prints, per length, the shortest of some runs of the scores alone (8 heads of 64, 2 shared and 2 of the other 6 for each
token, evenly spread) and of the whole layer with its projections and router, taken in turn in one process.
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.lightning_loop import shortest
from kernels import MultiHead, attention, build
from kernels.heads.gathered import gathered_attention

HEADS, SIZE, SHARED, ACTIVE = 8, 64, 2, 2


def even_use(length):
    """Which token uses which head, (1, H, L): the shared ones, and of the others two at random."""
    order = torch.rand(1, HEADS - SHARED, length).argsort(dim=1) < ACTIVE
    return torch.cat([torch.ones(1, SHARED, length, dtype=torch.bool), order], dim=1)


def back(out):
    """The backward pass of a sum, if there is one."""
    if out.requires_grad:
        out.sum().backward()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="4096,8192")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    torch.manual_seed(0)
    print("| length | causal | passes | scores: all heads ms | half of them | share | layer: all ms | half | share |")
    print("|---|---|---|---|---|---|---|---|---|")
    plain = MultiHead(HEADS * SIZE, heads=HEADS)
    mixed = build("moh", heads=HEADS, head_dim=SIZE, shared=SHARED, active=ACTIVE)
    torch.nn.init.normal_(mixed.route.weight, std=0.02)
    for length in (int(n) for n in args.lengths.split(",")):
        used = even_use(length)
        gates = used.float()
        for causal in (False, True):
            how = {"causal": causal, "key_mask": None, "scale": SIZE**-0.5}
            for both in (False, True):
                q, k, v = (torch.randn(1, HEADS, length, SIZE, requires_grad=both) for _ in range(3))
                x = torch.randn(1, length, HEADS * SIZE, requires_grad=both)
                with torch.set_grad_enabled(both):
                    a, b, c, d = shortest(
                        args.runs,
                        clock,
                        lambda q=q, k=k, v=v, causal=causal: back(attention(q, k, v, causal=causal)),
                        lambda q=q, k=k, v=v, how=how, used=used, gates=gates: back(
                            gathered_attention(q, k, v, gates, used, **how)
                        ),
                        lambda x=x, causal=causal: back(plain(x, causal=causal)),
                        lambda x=x, causal=causal: back(mixed(x, causal=causal)),
                    )
                passes = "forward and backward" if both else "forward"
                print(
                    f"| {length} | {'yes' if causal else 'no'} | {passes} | {a * 1e3:.0f} | {b * 1e3:.0f} | {b / a:.2f}"
                    f" | {c * 1e3:.0f} | {d * 1e3:.0f} | {d / c:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
