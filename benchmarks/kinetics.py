"""How well `method="auto"` chooses, and the cost model behind it: `python -m benchmarks.kinetics`.

All candidates of a shape run in turn, five rounds, and the medians are compared; with one thread, times are processor
time. *Slower than the fastest* is the measured time of what was chosen over the least measured one, less 1.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from functools import partial
from pathlib import Path

import torch
from scipy.stats import spearmanr

from kernels import attention
from kernels.dense.ways import WAYS
from kernels.lab import fastest, keep_fits_in
from kernels.lab.clock import interleaved
from kernels.lab.kinetics import Shape, fits
from kernels.lab.work import method_terms

DENSE = ((1, 4, 16, 16, 64), (8, 2, 64, 64, 16), (1, 4, 128, 128, 64), (2, 4, 300, 300, 32), (1, 4, 700, 700, 64))
DENSE += (
    (1, 2, 1600, 1600, 64),
    (1, 1, 3000, 3000, 32),
    (1, 4, 1, 1000, 64),
    (1, 8, 1, 6000, 32),
    (1, 4, 100, 1000, 64),
)
LENGTHS, SIZES = (128, 400, 1000, 2500, 6000), (32, 64)
CANDIDATES = ("sdpa", ("sliding_window", {"window": 128}), "lightning", "mala", "wersa", "power", "routing")
WITHOUT_LINEAR = ("sdpa", ("sliding_window", {"window": 128}), "power", "routing")
BAR = 0.15


def inputs(batch, heads, lq, lk, d):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(batch, heads, n, d, generator=g) for n in (lq, lk, lk)]


def dense_rows():
    """Of each shape and kind of call: what was chosen, what was fastest, how much slower, and predictions."""
    for (b, h, lq, lk, d), causal, masked in itertools.product(DENSE, (False, True), (False, True)):
        q, k, v = inputs(b, h, lq, lk, d)
        mask = torch.rand(b, lk, generator=torch.Generator().manual_seed(1)) < 0.9 if masked else None
        choice = fastest(q, k, v, causal=causal, key_mask=mask)
        ways = [name.removeprefix("dense, ") for name in choice.seconds]
        runs = {w: partial(WAYS[w], q, k, v, causal=causal, key_mask=mask, scale=d**-0.5) for w in ways}
        doors = {m: partial(attention, q, k, v, method=m, causal=causal, key_mask=mask) for m in ("sdpa", "auto")}
        took = interleaved({**runs, **doors}, "cpu", least_s=2e-3)
        whole = {m: took.pop(m) for m in doors}
        what = f"{b} x {h} heads of {d}, {lq:,} to {lk:,}{', causal' * causal}{', key mask' * masked}"
        predicted = {w: choice.seconds[f"dense, {w}"] for w in ways}
        yield what, choice.chosen.name, took, predicted, whole


def named_rows(candidates):
    """The same among named methods."""
    for length, d in itertools.product(LENGTHS, SIZES):
        q, k, v = inputs(1, 4, length, length, d)
        choice = fastest(q, k, v, causal=True, candidates=candidates)
        named = {str(c if isinstance(c, str) else c[0]): ({} if isinstance(c, str) else c[1]) for c in candidates}
        runs = {m: partial(attention, q, k, v, method=m, causal=True, **o) for m, o in named.items()}
        took = interleaved(runs, "cpu", least_s=2e-3)
        predicted = {name.partition(",")[0]: s for name, s in choice.seconds.items()}
        costs = {m: method_terms(m, o, Shape(1, 4, length, length, d, d), causal=True) for m, o in named.items()}
        yield f"4 heads of {d}, {length:,}", choice.chosen.name, took, predicted, costs


def regret(chosen, took):
    return took[chosen] / min(took.values()) - 1


def table(rows):
    yield "| call | chosen | ms | predicted | fastest | ms | slower than the fastest |"
    yield "|---|---|---:|---:|---|---:|---:|"
    for what, chosen, took, predicted, *_ in rows:
        best = min(took, key=took.get)
        cells = (f"`{chosen}`", f"{1e3 * took[chosen]:.2f}", f"{1e3 * predicted[chosen]:.2f}")
        yield f"| {what} | {' | '.join(cells)} | `{best}` | {1e3 * took[best]:.2f} | {regret(chosen, took):.1%} |"


def summary(rows):
    found = [regret(chosen, took) for _, chosen, took, *_ in rows]
    apart = [abs(predicted[n] / t - 1) for _, _, took, predicted, *_ in rows for n, t in took.items()]
    middle, most = statistics.median(apart), sorted(apart)[int(0.9 * len(apart))]
    return (
        f"{sum(r <= BAR for r in found)} of {len(found)} choices are within {BAR:.0%} of the fastest, the worst is "
        f"{max(found):.1%} slower, the mean {statistics.mean(found):.1%}. Predictions of all candidates are apart from "
        f"the measured times by {middle:.0%} in the middle, by {most:.0%} at the ninth tenth."
    )


def doors(rows):
    """`attention` with `method="auto"` and by default, called as a user does."""
    ratio = {what: whole["sdpa"] / whole["auto"] for what, _, _, _, whole in rows}
    order = sorted(ratio, key=ratio.get)
    least, most = (f"{ratio[what]:.2f} ({what})" for what in (order[0], order[-1]))
    above, below = sum(r > 1.15 for r in ratio.values()), sum(r < 1 / 1.15 for r in ratio.values())
    return (
        "Called as `attention(..., method=...)`, the time of `sdpa`, which holds no more for pairs than its inputs "
        f"take, over that of `auto` is {statistics.median(ratio.values()):.2f} in the middle, {least} at least, {most} "
        f"at most; above 1.15 in {above} of {len(ratio)} calls, below 1 / 1.15 in {below}."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_fits_in(None)
    with torch.no_grad():
        parts = []
        for make in (dense_rows, partial(named_rows, CANDIDATES), partial(named_rows, WITHOUT_LINEAR)):
            rows = []
            for row in make():
                rows.append(row)
                print(*list(table([row]))[2:], flush=True)
            parts.append(rows)
            print(summary(rows), flush=True)
    dense, named, softmax = parts
    lines = ["# What `auto` chooses, and how well the cost model predicts", ""]
    lines += [
        f"`python -m benchmarks.kinetics --threads {args.threads}`, float32, forward.",
        __doc__.split("\n\n")[1].strip(),
        "",
    ]
    lines += ["## Among ways to compute dense attention", "", summary(dense), "", doors(dense), "", *table(dense), ""]
    lines += ["## Among named methods, causal", "", summary(named), "", *table(named), ""]
    lines += ["## Among those with a softmax, causal", "", summary(softmax), "", *table(softmax), ""]
    # FLOPs and bytes with one intensity for all methods, as in Kinetics, against the model with rates of each.
    took, flops, eflops, model = [], [], [], []
    rate, byte = 1e11, 1e10
    for _, _, measured, predicted, costs in named:
        for name, t in measured.items():
            _, work, moved, score_bytes, _ = costs[name]
            took.append(t)
            flops.append(work)
            eflops.append(work + rate / byte * (moved + score_bytes))
            model.append(predicted[name])
    lines += [
        "## Order of all these times",
        "",
        "Rank correlation (Spearman) with the measured times of all methods and lengths above:",
        "",
    ]
    for name, of in (("FLOPs", flops), ("FLOPs + 10 x bytes (eFLOPs)", eflops), ("the fitted model", model)):
        lines.append(f"- {name}: {spearmanr(of, took).statistic:.3f}")
    spent = [f.error for f in fits().all().values()]
    lines += [
        "",
        f"{len(spent)} fits, apart from their own calibration by {statistics.median(spent):.1%} in the middle.",
    ]
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
