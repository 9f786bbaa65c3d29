"""The table of `benchmarks/shared_keys.md`: `python -m benchmarks.shared_keys` (two quiet cores).

Eight heads of queries share the keys of one or two: each method as it is called, beside the same call on keys and
values that were repeated to eight heads first, in turn in every round. Ratios are those of a round.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import argparse
import statistics
from pathlib import Path

import torch

from kernels import attention, describe
from kernels.lab.clock import peak_bytes, seconds

HEADS, LENGTH, WINDOW = 8, 16_384, 256
METHODS = {
    "sliding_window": {"window": WINDOW},
    "power": {"window": WINDOW},
    "elastic_window": {"alpha": float(WINDOW), "beta": 0.0},
    "halo": {"block": WINDOW // 2, "halo": WINDOW // 4},
    "neighborhood": {"kernel": WINDOW},
    "lightning": {},
    "mala": {},
    "wersa": {},
}


def measured(method, options, kv_heads, causal, rounds):
    """A line of the table."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, LENGTH, 64, generator=g) for heads in (HEADS, kv_heads, kv_heads))
    call = {"method": method, "causal": causal, **options}

    def shared():
        return attention(q, k, v, **call)

    def repeated():
        return attention(q, *(x.repeat_interleave(HEADS // kv_heads, dim=1) for x in (k, v)), **call)

    pairs = [(seconds(shared, "cpu"), seconds(repeated, "cpu")) for _ in range(rounds)]
    ratios = [b / a for a, b in pairs]
    ms, slower = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
    memory = [peak_bytes(run, "cpu") / 2**20 for run in (shared, repeated)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    how = "causal" if causal else "both ways"
    return (
        f"| `{method}` | {kv_heads} | {how} | {ms:.0f} | {slower:.0f} | {spread} | {memory[0]:.0f} | {memory[1]:.0f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    text = [
        "# Heads that share keys",
        "",
        f"CPU, {args.threads} threads, float32, {HEADS} heads of queries of 64, {LENGTH:,} positions, forward; MiB are "
        f"the peak beyond the inputs; medians of {args.rounds} rounds, ratios with the least and the most.",
        "",
        "| method | heads of keys | causal | ms | ms, keys repeated | times faster | MiB | MiB, keys repeated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(text))
    for method, options in METHODS.items():
        if not describe(method).shares_keys:
            raise SystemExit(f"{method} does not share keys")
        for kv_heads in (2, 1):
            for causal in (False, True) if describe(method).causal == "causal or not" else (True,):
                text.append(measured(method, options, kv_heads, causal, args.rounds))
                print(text[-1], flush=True)
    args.out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
