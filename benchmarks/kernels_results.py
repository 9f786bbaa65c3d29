"""The page `docs/kernels-results.md`: `python -m benchmarks.kernels_results` (`--measure` and `--train` measure anew).

It is made of what each method says of itself and of the rows of `benchmarks/kernels_results.jsonl`. Measuring replaces
the rows of `--methods` (of every method if left out), with `--measure` one at a time, so that what was measured stays
where it is interrupted. Rows are of three kinds:

- `{"measured": method, ...}`: a causal forward pass with default options on two made-up inputs, beside SDPA in the same
  run (`--measure`);
- `{"timed": method, ...}`: the same and the pass back on `--threads` threads, methods and SDPA in turn (`--train`);
- `{"entry": name, "home": module, "paper": ..., "use": ..., "figures": {what: number}}`: what is no method of
  `kernels.available()`, such as a cache; the command that measured its figures replaces the row (`replace_rows`).

What `harmony bench kernels --study cab --threads 1 --out benchmarks/kernels_cab.jsonl` and `benchmarks/frontier.py`
measured stands in sections of its own.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import frontier
from benchmarks.kernels_speed import keep_memory
from harmony.cli.bench_tables import TABLES
from kernels import attention, available, describe
from kernels.lab.clock import interleaved

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks" / "kernels_results.jsonl"
CAB = ROOT / "benchmarks" / "kernels_cab.jsonl"
PAGE = ROOT / "docs" / "kernels-results.md"
HEADS, SIZE = 4, 64
RUNS = 2
ROUNDS = 3
SPARSER = ("kernels.linear", "kernels.sparse", "kernels.windows")
"""Where the methods live whose work is less than the square of the length."""


def noise(length):
    """Standard normal q, k and v: no query has much in common with any key."""
    g = torch.Generator().manual_seed(0)
    return [torch.randn(1, HEADS, length, SIZE, generator=g) for _ in range(3)]


def history(length):
    """q, k and v of a made-up history in steps of five minutes: a day and a week, regimes, a slow drift and noise.

    Heads see it through projections of their own, in which keys resemble queries; scores have a deviation of about 3.
    """
    g = torch.Generator().manual_seed(1)
    t = torch.arange(length)
    waves = [f(2 * math.pi * n * t / 288) for n in (1, 2, 3) for f in (torch.cos, torch.sin)]
    waves += [f(2 * math.pi * t / 2016) for f in (torch.cos, torch.sin)]
    changes = (torch.rand(length, generator=g) < 1 / 200).cumsum(0) % 8
    regimes = torch.randn(8, 8, generator=g)[changes]
    drift = torch.randn(length, 4, generator=g).cumsum(0) / math.sqrt(length)
    x = torch.cat([torch.stack(waves, dim=1), regimes, 2 * drift, 0.5 * torch.randn(length, 8, generator=g)], dim=1)
    seen = torch.randn(HEADS, x.shape[1], SIZE, generator=g) / math.sqrt(x.shape[1])
    told = seen + 0.3 * torch.randn(seen.shape, generator=g) / math.sqrt(x.shape[1])
    q, k, v = x @ seen, x @ told, x @ torch.randn(seen.shape, generator=g)
    size = (q[:, ::97] @ k[:, ::97].mT / math.sqrt(SIZE)).std()
    return [y[None] * z for y, z in ((q, (3 / size) ** 0.5), (k, (3 / size) ** 0.5), (v, 1.0))]


INPUTS = {"noise": noise, "history": history}


def shortest(run, clock):
    """The shortest of some runs, after one that is not counted, in ms, and what the last one gave."""
    run()
    best = float("inf")
    for _ in range(RUNS):
        start = clock()
        out = run()
        best = min(best, clock() - start)
    return 1e3 * best, out


def dense_results(length, clock):
    """Of each kind of inputs: the inputs, the time of dense attention over them in ms, and what it gives."""
    found = {}
    for name, make in INPUTS.items():
        q, k, v = make(length)
        found[name] = ((q, k, v), *shortest(lambda q=q, k=k, v=v: attention(q, k, v, causal=True), clock))
    return found


def measured(method, dense, clock):
    """The row of one method, beside `dense_results` of the same run."""
    length = dense["noise"][0][0].shape[2]
    row = {"measured": method, "length": length, "heads": HEADS, "head_dim": SIZE, "threads": torch.get_num_threads()}
    row["torch"] = torch.__version__.partition("+")[0]
    for name, ((q, k, v), dense_ms, whole_out) in dense.items():
        ms, out = shortest(lambda q=q, k=k, v=v: attention(q, k, v, causal=True, method=method), clock)
        with FlopCounterMode(display=False) as counter:
            attention(q, k, v, causal=True, method=method)
        whole = 2.0 * HEADS * (length * (length + 1) / 2) * 2 * SIZE
        row[name] = {
            "ms": round(ms, 1),
            "sdpa_ms": round(dense_ms, 1),
            "products": round(counter.get_total_flops() / whole, 4),
            "apart": float(f"{float((out - whole_out).norm() / whole_out.norm()):.2e}"),
        }
    return row


def trained(methods, length, rounds=ROUNDS):
    """Rows of methods: causal passes forward, and forward and back, in turn with SDPA in every round; medians."""
    rows = {m: {"timed": m, "length": length, "heads": HEADS, "head_dim": SIZE} for m in methods}
    for name, make in INPUTS.items():
        leaves = [x.requires_grad_() for x in make(length)]
        weight = torch.randn(leaves[0].shape, generator=torch.Generator().manual_seed(2))

        def forward(method, leaves=leaves):
            with torch.no_grad():
                attention(*leaves, causal=True, method=method)

        def both(method, leaves=leaves, weight=weight):
            out = attention(*leaves, causal=True, method=method)
            torch.autograd.grad(out, leaves, weight)

        runs = {(m, f.__name__): partial(f, m) for f in (forward, both) for m in ("sdpa", *methods)}
        took = interleaved(runs, "cpu", rounds=rounds)
        # Multiplications and additions of the two products of a pair of positions forward, and of five back.
        whole = {"forward": 2.0 * HEADS * (length * (length + 1) / 2) * 2 * SIZE}
        whole["both"] = 3.5 * whole["forward"]
        for method in methods:
            row = rows[method]
            row |= {"threads": torch.get_num_threads(), "rounds": rounds, "torch": torch.__version__.partition("+")[0]}
            row[name] = {}
            for passes in whole:
                with FlopCounterMode(display=False) as counter:
                    runs[method, passes]()
                row[name][passes] = {
                    "ms": round(1e3 * took[method, passes], 1),
                    "sdpa_ms": round(1e3 * took["sdpa", passes], 1),
                    "products": round(counter.get_total_flops() / whole[passes], 4),
                }
    return list(rows.values())


def read_rows(path=ROWS):
    """What the file holds."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def replace_rows(new, path=ROWS):
    """Put rows into the file in place of those of the same name, in the order of names."""

    def name(row):
        return f"timed {row['timed']}" if "timed" in row else row.get("measured") or row["entry"]

    kept = {name(row): row for row in read_rows(path)} | {name(row): row for row in new}
    path.write_text("".join(json.dumps(kept[key], ensure_ascii=False) + "\n" for key in sorted(kept)))


def measurable():
    """The methods that can be called with their defaults, causally and at any length; what reads others out is none."""
    found = (describe(name) for name in available() if not describe(name).home.startswith("kernels.readouts"))
    return tuple(
        d.name
        for d in found
        if d.backends and "required" not in d.options.values() and d.causal != "not causal" and not d.layer
    )


def approximates(told):
    """Whether being apart from dense attention is an error, and not another function."""
    same = ("softmax over the visible keys", "softmax over the chosen keys", "an estimate of the softmax")
    return told.function.startswith(same)


def page(rows):
    """The lines of the page."""
    by_method = {row["measured"]: row for row in rows if "measured" in row}
    entries = [row for row in rows if "entry" in row]
    yield "# What each attention mechanism is good for"
    yield ""
    yield (
        "Made by `python -m benchmarks.kernels_results` of `benchmarks/kernels_results.jsonl` and of what each method "
        "says of itself (`kernels.describe`); `--measure` measures anew."
    )
    yield ""
    some = next(iter(by_method.values()), None)
    if some:
        clock = "processor time of one thread" if some["threads"] == 1 else f"time on {some['threads']} threads"
        yield (
            f"A causal forward pass of one sequence of {some['length']:,} steps, {some['heads']} heads of "
            f"{some['head_dim']}, float32, default options, {clock}, PyTorch {some['torch']}. *Faster* is the time of "
            "PyTorch's dense attention in the same run over that of the method; *products* the multiplications and "
            "additions of its matrix products over those that dense attention needs. Both are given for noise, where "
            "no key matters more than another, and for a made-up history in steps of five minutes (a day, a week, "
            "regimes, drift, noise; `benchmarks/kernels_results.py`). *Apart* is the distance to dense attention on "
            "that history, over its size: what is lost for the speed. A method whose function is another one has "
            "none; what a model learns with a method is not measured here."
        )
        yield ""
    yield "| method | faster, noise | faster, history | products, noise | products, history | apart |"
    yield "|---|---|---|---|---|---|"
    for name in available():
        row = by_method.get(name)
        if row is None:
            continue
        ratios = [f"{row[kind]['sdpa_ms'] / row[kind]['ms']:.1f} x" for kind in INPUTS]
        products = [f"{row[kind]['products']:.0%}" if row[kind]["products"] else "-" for kind in INPUTS]
        apart = f"{row['history']['apart']:.1%}" if approximates(describe(name)) else "-"
        yield f"| `{name}` | {' | '.join(ratios)} | {' | '.join(products)} | {apart} |"
    slower = [
        (name, kind, by_method[name][kind])
        for name in available()
        if name in by_method and name != "sdpa"
        for kind in INPUTS
        if by_method[name][kind]["ms"] > by_method[name][kind]["sdpa_ms"]
    ]
    if slower:
        yield ""
        yield "Slower than dense attention in that run:"
        yield ""
        for name, kind, found in slower:
            yield f"- `{name}` on {kind}: {found['ms'] / found['sdpa_ms']:.2f} times the time{why(found)}."
    yield ""
    yield from training([row for row in rows if "timed" in row])
    yield from cab(read_rows(CAB))
    yield from how_sparse([row for row in read_rows(frontier.ROWS) if row.get("study") == "frontier"])
    yield "## Where it lives and what it does"
    yield ""
    yield "| method | paper | module | what it does for a forecast or a decision |"
    yield "|---|---|---|---|"
    for name in available():
        told = describe(name)
        yield f"| `{name}` | {told.paper} | `{told.home}` | {told.use} |"
    for row in entries:
        yield f"| {row['entry']} | {row['paper']} | `{row['home']}` | {row['use']} |"
    figures = [(row, what, value) for row in entries for what, value in row.get("figures", {}).items()]
    if figures:
        yield ""
        yield "| | figure | |"
        yield "|---|---|---|"
        for row, what, value in figures:
            yield f"| {row['entry']} | {what} | {value:,.4g} |"


PASSES = {"forward": "forward", "both": "forward and back"}


def training(rows):
    """Both passes on several threads, and by how much and why a method is slower than dense attention there."""
    if not rows:
        return
    some = rows[0]
    dense = "; ".join(
        f"{told} {some[kind][passes]['sdpa_ms'] / 1e3:.2f} s on {kind}"
        for passes, told in PASSES.items()
        for kind in INPUTS
    )
    yield "## Both passes, on several threads"
    yield ""
    yield (
        f"`python -m benchmarks.kernels_results --train --threads {some['threads']}`: times faster than PyTorch's "
        f"dense attention, forward, and forward and back (gradients of q, k and v), on {some['threads']} threads; one "
        f"sequence of {some['length']:,} steps, {some['heads']} heads of {some['head_dim']}, causal, float32, default "
        f"options, PyTorch {some['torch']}. Medians of {some['rounds']} rounds on the clock, in which all methods and "
        f"dense attention run in turn. Dense attention takes {dense}."
    )
    yield ""
    columns = [(kind, passes) for passes in PASSES for kind in INPUTS]
    yield f"| method | {' | '.join(f'{PASSES[passes]}, {kind}' for kind, passes in columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for row in rows:
        found = [row[kind][passes] for kind, passes in columns]
        cells = [f"{x['sdpa_ms'] / x['ms']:.1f} x" for x in found]
        yield f"| `{row['timed']}` | {' | '.join(cells)} |"
    yield ""
    slower = [
        (row["timed"], kind, passes, row[kind][passes])
        for row in rows
        for kind, passes in columns
        if row[kind][passes]["ms"] > row[kind][passes]["sdpa_ms"]
    ]
    if slower:
        yield "Slower than dense attention in that run:"
        yield ""
        for name, kind, passes, x in slower:
            yield f"- `{name}` on {kind}, {PASSES[passes]}: {x['ms'] / x['sdpa_ms']:.2f} times the time{why(x)}."
    else:
        yield "No method is slower than dense attention in that run."
    yield ""


def cab(rows):
    """What methods support and from which length they pay."""
    if not rows:
        return
    yield "## What it supports, and from which length it is faster"
    yield ""
    yield (
        "`harmony bench kernels --study cab --threads 1 --out benchmarks/kernels_cab.jsonl`, after CAB (arXiv "
        "2210.07661). A call is supported (*yes*) if no output changes with later tokens (causal self) or later "
        "queries (causal cross), *no* if one does, and - if there is no such call. *Faster from* is where the times "
        f"fitted over {min(rows[0]['lengths']):,} to {max(rows[0]['lengths']):,} steps meet (dense: a parabola, the "
        "method: a line; *never*: over these lengths its time grows with the square, too), *measured* the least "
        "measured length from which it is at least 5 % faster. PyTorch's dense attention holds little but its output, "
        "so that no method takes less memory."
    )
    yield ""
    _, _, *head = TABLES["cab"].head
    yield from head
    for row in sorted(rows, key=lambda r: r["method"]):
        yield from TABLES["cab"].lines(row)
    yield ""


def how_sparse(rows):
    """The largest safe sparsity in forecasts, in short."""
    if len(rows) < len(frontier.units()):
        return
    yield "## How sparse it may be in a forecast"
    yield ""
    yield (
        "`python -m benchmarks.frontier` (`benchmarks/frontier.md` has every history, what the same FLOPs buy, and how "
        "to read it): the largest share of the history that attention may leave unread with CRPS at most 1 % above "
        "dense, at 95 % confidence, on validation windows, for every size of a small forecaster that was fitted with "
        "dense attention, and by how much CRPS then changes on test windows, at the size where it is worst; a dash is "
        "none of those tried."
    )
    yield ""
    longest = list(frontier.HISTORIES)[-1]
    yield from frontier.safe_table(rows, (longest,))
    yield ""
    safe = [m for m in frontier.METHODS if all(frontier.chosen(rows, t, longest, m) for t in frontier.ALL_TASKS)]
    yield f"Safe for every task on validation windows: {', '.join(safe) or 'no method, at no sparsity tried'}."
    yield ""
    yield frontier.kept_promises(rows)
    yield ""


def why(found):
    """What the figures say of a slow method."""
    if not found["products"]:
        return ", as it computes dense attention and more"
    each = found["ms"] / found["sdpa_ms"] / found["products"]
    return (
        f". It needs {found['products']:.0%} of the products, each of which takes {each:.1f} times as long as in "
        "PyTorch's fused kernel; finding the keys is in that"
    )


def main():
    parser = argparse.ArgumentParser(description="Make docs/kernels-results.md.")
    parser.add_argument("--measure", action="store_true", help="a pass forward of each method, and its distance")
    parser.add_argument("--train", action="store_true", help="passes forward and back, on --threads threads")
    parser.add_argument("--methods", default=None, help="with commas between; all if left out")
    parser.add_argument("--length", type=int, default=16_384)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.measure:
        keep_memory()
        torch.set_num_threads(args.threads)
        # With one thread the processor's time tells the same where others use the machine too.
        clock = time.thread_time if args.threads == 1 else time.perf_counter
        methods = measurable() if args.methods is None else args.methods.split(",")
        with torch.no_grad():
            dense = dense_results(args.length, clock)
            for method in methods:
                row = measured(method, dense, clock)
                replace_rows([row])
                print(json.dumps(row), flush=True)
    if args.train:
        keep_memory()
        torch.set_num_threads(args.threads)
        sparse = [m for m in measurable() if describe(m).home.startswith(SPARSER)]
        rows = trained(sparse if args.methods is None else args.methods.split(","), args.length)
        replace_rows(rows)
        print(*map(json.dumps, rows), sep="\n")
    PAGE.write_text("\n".join(page(read_rows())) + "\n")


if __name__ == "__main__":
    main()
