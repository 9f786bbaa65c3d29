"""`lightning` beside the plain chunked loop that its paper describes, on a CPU: `python -m benchmarks.lightning_loop`.

Prints, per length and chunk of the loop, the shortest of some runs of both, forward, taken in turn in one process.
"""

from __future__ import annotations

import argparse
import time

import torch

from kernels import attention
from kernels.linear.lightning import alibi_log_decay


def loop(q, k, v, log_decay, chunk):
    """Causal linear attention with decay, one chunk after the other; L is a multiple of the chunk."""
    r = torch.arange(chunk)
    into = torch.exp(log_decay[:, None] * r)[:, :, None]
    out_of = torch.exp(log_decay[:, None] * (chunk - r))[:, :, None]
    whole = torch.exp(log_decay * chunk)[:, None, None]
    mask = torch.exp(log_decay[:, None, None] * (r[:, None] - r).clamp_min(0)).tril()
    state = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])
    out = []
    for qs, ks, vs in zip(*(x.split(chunk, dim=2) for x in (q, k, v)), strict=True):
        out.append(((qs @ ks.mT) * mask) @ vs + (qs * into) @ state)
        state = whole * state + (ks * out_of).mT @ vs
    return torch.cat(out, dim=2)


def shortest(runs, clock, *functions):
    """The shortest time of each function over some rounds, in which all take turns."""
    best = [float("inf")] * len(functions)
    for _ in range(runs):
        for n, f in enumerate(functions):
            start = clock()
            f()
            best[n] = min(best[n], clock() - start)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="4096,16384")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # With one thread the processor's time tells the same where others use the machine too.
    clock = time.process_time if args.threads == 1 else time.perf_counter
    torch.manual_seed(0)
    log_decay = alibi_log_decay(4)
    print("| length | chunk of the loop | loop ms | lightning ms | as fast | apart |")
    print("|---|---|---|---|---|---|")
    for length in (int(n) for n in args.lengths.split(",")):
        q, k, v = (torch.randn(1, 4, length, 64) for _ in range(3))
        ours = attention(q, k, v, method="lightning", causal=True)
        for chunk in (64, 128):
            apart = float((loop(q, k, v, log_decay, chunk) - ours).norm() / ours.norm())
            plain, fast = shortest(
                args.runs,
                clock,
                lambda q=q, k=k, v=v, chunk=chunk: loop(q, k, v, log_decay, chunk),
                lambda q=q, k=k, v=v: attention(q, k, v, method="lightning", causal=True),
            )
            print(
                f"| {length:,} | {chunk} | {1e3 * plain:.1f} | {1e3 * fast:.1f} | {plain / fast:.2f} | {apart:.0e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
