"""How sparse attention may be before a forecast suffers: `python -m benchmarks.frontier`, after arXiv 2504.17768.

A forecast of the next hour (12 steps of five minutes) is ridge regression on the last changes and on what heads of
attention read from the history: queries and keys are projections of the last steps at several scales, a key's value is
what followed it. Everything is fitted with dense attention on some series; on others attention is then replaced by
sparse one, as it is in a model that was trained dense. *Sparsity* is the share of visible keys that queries did not
read, counted by gradients, not the one asked for. FLOPs are those of projections, ridge and attention with its search
for keys, counted; of dense attention those of the visible pairs. Sizes are heads (S 1, M 2, L 4) with 16 numbers each.

A sparsity is safe where the CRPS is at most 1 % above that of dense attention, at 95 % confidence: the upper end of the
interval of their ratio (paired bootstrap of stretches of two hours, within each series) is below 1.01. The largest safe
one of a method has only safe ones below it. Series are made up, with their difficulty controlled; all comes from a
seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from forecasting.baselines.linear import Moments, solve
from forecasting.comparing import bootstrap_ratio
from forecasting.scores import crps, mean_absolute_error
from kernels import attention
from kernels.lab.cab import compositional_index
from kernels.lab.rows import RowFile
from kernels.lab.studies import Unit, rows_of

DAY, HORIZON, LAGS, JUDGED, TOGETHER = 288, 12, 12, 144, 24
FITTED, SCORED, PATHS = 24, 10, 25
HISTORIES = {"1 day": DAY, "2 days": 2 * DAY, "4 days": 4 * DAY}
SIZES = {"S": 1, "M": 2, "L": 4}
SCALES = (12, 48, 6, 96)
WIDTH = 16
SPARSITIES = (0.5, 0.75, 0.9, 0.95)
MARGIN = 0.01
ROWS = Path(__file__).with_suffix(".jsonl")
PENALTIES = np.logspace(-5, 1, 7)


# ---- tasks ------------------------------------------------------------------------------------------------------
def noise(rng, count, length, keep=0.8, size=0.1):
    """Autoregressive noise of order 1."""
    x = rng.standard_normal((count, length)) * size
    for t in range(1, length):
        x[:, t] += keep * x[:, t - 1]
    return x


def days(rng, count, length):
    t = np.arange(length)
    phase, second = rng.uniform(0, 1, (2, count, 1))
    return np.sin(2 * np.pi * (t / DAY - phase)) + 0.5 * np.sin(2 * np.pi * (2 * t / DAY - second))


def steady(rng, count, length):
    return noise(rng, count, length, size=0.3)


def daily(rng, count, length):
    return days(rng, count, length) + noise(rng, count, length)


def bursty(rng, count, length):
    """Bursts at random times, each of one of two shapes that its beginning gives away."""
    x, t = noise(rng, count, length), np.arange(36)
    shapes = (2.5 * np.exp(-t / 6), 2.5 * (t < 3) + 1.5 * ((t > 12) & (t < 24)))
    for row in x:
        for start in np.flatnonzero(rng.uniform(size=length) < 1 / 60):
            some = shapes[rng.integers(2)][: length - start]
            row[start : start + len(some)] += rng.uniform(0.8, 1.2) * some
    return x


def regimes(rng, count, length):
    """One of four patterns at a time, for some hours each."""
    t = np.arange(length)
    x = noise(rng, count, length)
    periods, levels = (8, 16, 30, 50), (0.0, 2.0, 1.0, -1.0)
    for row in x:
        at = 0
        while at < length:
            stop, which = at + int(rng.integers(60, 180)), rng.integers(4)
            row[at:stop] += levels[which] + np.sin(2 * np.pi * t[at:stop] / periods[which])
            at = stop
    return x


def long_lag(rng, count, length):
    """Bursts of any size that come back, once, a day less two hours later: one key of the history matters."""
    x, lag, t = noise(rng, count, length), DAY - 24, np.arange(18)
    for row in x:
        for start in np.flatnonzero(rng.uniform(size=length) < 1 / 80):
            some = rng.uniform(1.0, 3.0) * np.sin(np.pi * t / 18) ** 2
            for begin in (start, start + lag):
                row[begin : begin + 18] += some[: max(0, length - begin)]
    return x


TASKS = {"steady": steady, "daily": daily, "bursty": bursty, "regime change": regimes, "long lag": long_lag}


# ---- the forecaster ---------------------------------------------------------------------------------------------
def with_sparsity(method, sparsity, length):
    """Options by which a query may read about that share of ``length`` keys less than all."""
    keys = max(16, round((1 - sparsity) * length))
    return {
        "sliding_window": {"window": keys - 4, "sinks": 4},
        "dhsa": {"budget": keys, "local": min(32, keys // 2), "first": 4, "block": 16},
        "hip": {"keys": max(4, keys - 20), "window": 16, "sinks": 4, "block": 16, "stride": 4},
        "flexprefill": {
            "block": 16,
            "min_budget": keys // 2,
            "max_budget": keys // 2,
            "coverage": 0.9,
            "threshold": 0.0,
        },
    }[method]


METHODS = ("sliding_window", "dhsa", "hip", "flexprefill")


class Heads:
    """q, k and v of some heads over the last ``length`` steps of series, and what attention reads with them."""

    def __init__(self, series, heads, length):
        g = torch.Generator().manual_seed(7)
        self.series, self.flops = torch.from_numpy(series).float(), 0.0
        q, k = [], []
        before = max(SCALES) + HORIZON
        with FlopCounterMode(display=False) as counter:
            for scale in SCALES[:heads]:
                # The last `scale` steps, less their end, in steps of their own, turned into WIDTH numbers.
                patches = self.series.unfold(1, scale, 1)
                patches = patches - patches[..., -1:]
                patches = patches / patches.std(dim=(1, 2), keepdim=True)
                turned = patches @ (torch.randn(scale, WIDTH, generator=g) / math.sqrt(scale))
                at = torch.arange(before, before + length) - scale + 1
                q.append(turned[:, at])
                k.append(turned[:, at - HORIZON])
        self.flops += counter.get_total_flops()
        self.q, self.k = torch.stack(q, dim=1), torch.stack(k, dim=1)
        # The key of step j ends HORIZON steps before j, its value is what followed, all known at j.
        at = torch.arange(before, before + length)
        followed = torch.stack([self.series[:, at - HORIZON + n + 1] for n in range(HORIZON)], dim=-1)
        followed = followed - self.series[:, at - HORIZON, None]
        self.v = followed[:, None].expand(-1, heads, -1, -1).contiguous()

    def read(self, method, options):
        """What heads read (series, heads, length, HORIZON), and FLOPs of a series for all of it."""
        how = {"method": method, "causal": True, "scale": 0.8, **options}
        with torch.no_grad():
            out = attention(self.q, self.k, self.v, **how)
            with FlopCounterMode(display=False) as counter:
                attention(self.q[:1], self.k[:1], self.v[:1], **how)
        length, heads = self.q.shape[2], self.q.shape[1]
        pairs = heads * length * (length + 1) / 2
        flops = counter.get_total_flops() if method != "sdpa" else 2.0 * pairs * (WIDTH + HORIZON)
        return out, flops + self.flops / len(out) + 2.0 * length * (LAGS + heads * HORIZON) * HORIZON

    def sparsity(self, method, options):
        """Share of visible keys that the last query, and one in the middle of the judged ones, did not read."""
        q, k, v = (x[:2] for x in (self.q, self.k, self.v))
        v = v.clone().requires_grad_()
        out = attention(q, k, v, method=method, causal=True, scale=0.8, **options)
        dropped = []
        for row in (out.shape[2] - 1, out.shape[2] - JUDGED // 2):
            (read,) = torch.autograd.grad(out[:, :, row].sum(), v, retain_graph=True)
            dropped.append(1 - float((read.abs().sum(-1) > 0).sum(-1).float().mean()) / (row + 1))
        return statistics.fmean(dropped)


def split(series, length):
    """The last steps that a history of ``length`` needs, and what follows the judged ones (n, JUDGED, HORIZON)."""
    series = series[:, -(length + max(SCALES) + 2 * HORIZON) :]
    future = np.stack([series[:, -JUDGED - HORIZON + n + 1 :][:, :JUDGED] for n in range(HORIZON)], axis=-1)
    return series, future


def design(series, out):
    """(series, JUDGED, terms): the constant, the last changes, what the heads read."""
    ends = series[:, : series.shape[1] - HORIZON]
    last = ends[:, -JUDGED:]
    lags = np.stack([ends[:, -JUDGED - n : -n] - last for n in range(1, LAGS + 1)], axis=-1)
    terms = [np.ones((*last.shape, 1)), lags]
    if out is not None:
        read = out[:, :, -JUDGED:].double().numpy()
        terms.append(np.moveaxis(read, 1, 2).reshape(*last.shape, -1))
    return np.concatenate(terms, axis=2), last


class Fitted:
    """The ridge on dense attention of the series that are fitted, and its errors there."""

    def __init__(self, series, future, out):
        x, last = design(series, out)
        y = future - last[..., None]
        some = len(x) * 7 // 10
        early = solve(Moments.of(_flat(x[:some]), _flat(y[:some])), PENALTIES)
        miss = [float(((_flat(x[some:]) @ c - _flat(y[some:])) ** 2).mean()) for c in early]
        self.coefficients = solve(Moments.of(_flat(x), _flat(y)), PENALTIES[[int(np.argmin(miss))]])[0]
        errors = _flat(y[some:]) - _flat(x[some:]) @ early[int(np.argmin(miss))]
        self.errors = errors[np.random.default_rng(0).integers(len(errors), size=PATHS)]

    def scores(self, series, future, out):
        """CRPS and absolute error (series, JUDGED), means over the horizon."""
        x, last = design(series, out)
        middle = last[..., None] + x @ self.coefficients
        paths = middle[:, :, None] + self.errors
        found = []
        for score in (crps, mean_absolute_error):
            values = score(_flat(paths)[..., None], _flat(future)[..., None])
            found.append(values.reshape(len(series), JUDGED, -1).mean(axis=2))
        return found


def _flat(x):
    return x.reshape(-1, *x.shape[2:])


# ---- measuring --------------------------------------------------------------------------------------------------
def measured(task, size, history):
    """One row: scores and FLOPs of no attention, dense attention, and every method at every sparsity."""
    length = HISTORIES[history]
    rng = np.random.default_rng([list(TASKS).index(task), 1])
    whole = TASKS[task](rng, FITTED + SCORED, max(HISTORIES.values()) + max(SCALES) + 2 * HORIZON)
    series, future = split(whole, length)
    ours, theirs = (series[:FITTED], future[:FITTED]), (series[FITTED:], future[FITTED:])
    before = [s[:, : s.shape[1] - HORIZON] for s in (ours[0], theirs[0])]
    fit_heads, heads = (Heads(s, SIZES[size], length) for s in before)
    dense_out, dense_flops = heads.read("sdpa", {})
    model, bare = Fitted(*ours, fit_heads.read("sdpa", {})[0]), Fitted(*ours, None)
    dense = model.scores(*theirs, dense_out)
    none = bare.scores(*theirs, None)
    found = [
        told("none", 1.0, none, dense, 2.0 * length * LAGS * HORIZON),
        told("dense", 0.0, dense, dense, dense_flops),
    ]
    for method, wanted in itertools.product(METHODS, SPARSITIES):
        options = with_sparsity(method, wanted, length)
        out, flops = heads.read(method, options)
        row = told(method, heads.sparsity(method, options), model.scores(*theirs, out), dense, flops)
        found.append({**row, "wanted": wanted})
    return {"found": found}


def told(method, sparsity, scores, dense, flops):
    """Figures of one way to attend; the ratio of its CRPS to that of dense attention with its interval."""
    pairs = list(zip(scores[0], dense[0], strict=True))
    ratio = bootstrap_ratio(pairs, [TOGETHER] * len(pairs))
    return {
        "method": method,
        "sparsity": round(sparsity, 4),
        "crps": round(float(scores[0].mean()), 5),
        "mae": round(float(scores[1].mean()), 5),
        "ratio": round(ratio.value, 5),
        "ratio_high": round(ratio.high, 5),
        "mflops": round(flops / 1e6, 2),
    }


def units():
    """A row for each task, size and history."""
    found = []
    for history, size, task in itertools.product(HISTORIES, SIZES, TASKS):
        asked = {"study": "frontier", "task": task, "size": size, "history": history}
        weight = SIZES[size] * HISTORIES[history] ** 1.5
        found.append(Unit(f"{task}, {size}, {history}", weight, asked, partial(measured, task, size, history)))
    return found


# ---- telling ----------------------------------------------------------------------------------------------------
def largest_safe(found, method):
    """The largest sparsity of a method that is safe and has only safe ones below it; None if the least is not."""
    safe = None
    for row in sorted((r for r in found if r["method"] == method), key=lambda r: r["sparsity"]):
        if not row["ratio_high"] <= 1 + MARGIN:
            break
        safe = row["sparsity"]
    return safe


def percent(x):
    return "-" if x is None else f"{x:.0%}"


def safe_table(rows, histories=tuple(HISTORIES)):
    yield f"| task | history | {' | '.join(METHODS)} |"
    yield f"|---|---|{'---:|' * len(METHODS)}"
    for task, history in itertools.product(TASKS, histories):
        some = [r["found"] for r in rows if (r["task"], r["history"]) == (task, history)]
        # Safe for every size.
        cells = []
        for method in METHODS:
            each = [largest_safe(found, method) for found in some]
            cells.append(percent(None if None in each else min(each)))
        yield f"| {task} | {history} | {' | '.join(cells)} |"


def worst_table(rows):
    """Per method and history, over all tasks and sizes."""
    yield f"| history | {' | '.join(METHODS)} | the task that breaks first |"
    yield f"|---|{'---:|' * len(METHODS)}---|"
    for history in HISTORIES:
        cells, breaks = [], []
        for method in METHODS:
            each = {(r["task"], r["size"]): largest_safe(r["found"], method) for r in rows if r["history"] == history}
            worst = min(each, key=lambda key: -1 if each[key] is None else each[key])
            cells.append(percent(each[worst]))
            breaks.append(worst[0])
        yield f"| {history} | {' | '.join(cells)} | {', '.join(dict.fromkeys(breaks))} |"


def iso_table(rows):
    """Per task and budget of FLOPs (those of each dense size over all histories): the best that it buys."""
    yield "| task | budget, MFLOP a series | best dense | CRPS | best sparse | CRPS | sparse over dense |"
    yield "|---|---:|---|---:|---|---:|---:|"
    for task in TASKS:
        some = [(r["size"], r["history"], f) for r in rows if r["task"] == task for f in r["found"]]
        dense = [x for x in some if x[2]["method"] == "dense"]
        sparse = [x for x in some if x[2]["method"] in METHODS]
        for budget in sorted(x[2]["mflops"] for x in dense)[2::3]:
            best = []
            for group in (dense, sparse):
                within = [x for x in group if x[2]["mflops"] <= budget * 1.0001]
                best.append(min(within, key=lambda x: x[2]["crps"]))
            names = [
                f"{s}, {h}" + (f", {f['method']} at {f['sparsity']:.0%}" if f["method"] != "dense" else "")
                for s, h, f in best
            ]
            one, two = (x[2]["crps"] for x in best)
            yield f"| {task} | {budget:,.1f} | {names[0]} | {one:.4f} | {names[1]} | {two:.4f} | {two / one - 1:+.1%} |"


def index_table(rows, size="M", history="4 days", wanted=0.75):
    """CAB's compositional index of methods at one size, history and sparsity, with and without attention."""
    scores = {}
    for r in rows:
        if (r["size"], r["history"]) == (size, history):
            chosen = {f["method"]: f for f in r["found"] if f.get("wanted", wanted) == wanted}
            scores[r["task"]] = {m: {name: f[m] for name, f in chosen.items()} for m in ("crps", "mae")}
    index = compositional_index(scores)
    yield "| attention | index | " + " | ".join(TASKS) + " |"
    yield "|---|---:|" + "---:|" * len(TASKS)
    for name in sorted(index, key=index.get, reverse=True):
        cells = [f"{scores[task]['crps'][name]:.4f}" for task in TASKS]
        yield f"| {name} | {index[name]:+.2f} | {' | '.join(cells)} |"


def law(rows):
    """Ratio of CRPS to dense as a power of heads, length and keys kept, fitted without the longest history."""
    points = [
        (
            math.log(SIZES[r["size"]]),
            math.log(HISTORIES[r["history"]]),
            -math.log(1 - f["sparsity"]),
            f["ratio"],
            r["history"],
            r["task"],
            f["method"],
        )
        for r in rows
        for f in r["found"]
        if f["method"] in METHODS and f["sparsity"] < 1
    ]
    longest = list(HISTORIES)[-1]
    misses, plain = [], []
    for task, method in itertools.product(TASKS, METHODS):
        some = [p for p in points if p[5:] == (task, method)]
        fitted = [p for p in some if p[4] != longest]
        held = [p for p in some if p[4] == longest]
        x = np.array([[1.0, *p[:3]] for p in fitted])
        c, *_ = np.linalg.lstsq(x, np.log([p[3] for p in fitted]), rcond=None)
        misses += [abs(float(np.array([1.0, *p[:3]]) @ c) - math.log(p[3])) for p in held]
        middle = statistics.fmean(math.log(p[3]) for p in fitted)
        plain += [abs(middle - math.log(p[3])) for p in held]
    return (
        "A law that has the logarithm of the ratio linear in those of heads, length and 1 / (share of keys kept), "
        f"fitted for each task and method on the shorter histories, misses the ratios at {longest} by "
        f"{statistics.median(misses):.1%} in the middle ({statistics.fmean(misses):.1%} in the mean); the mean of the "
        f"shorter histories misses them by {statistics.median(plain):.1%} ({statistics.fmean(plain):.1%})."
    )


def text(rows):
    lines = ["# How sparse attention may be before a forecast suffers", ""]
    lines += [*(part.replace("\n", " ") + "\n" for part in __doc__.strip().split("\n\n"))]
    lines += [
        "## Largest safe sparsity, for all sizes",
        "",
        "A dash: not even the least sparse setting is safe.",
        "",
        *safe_table(rows),
        "",
    ]
    lines += ["## Safe for every task and size", "", *worst_table(rows), ""]
    lines += ["## For the same FLOPs (isoFLOPS)", ""]
    lines += [
        "Best CRPS of any size and history within a budget, with dense and with sparse attention. The best of sixteen "
        "sparse settings, chosen on the series that are scored, is better than the best of one by chance too: read "
        "differences of a few tenths of a percent as none.",
        "",
        *iso_table(rows),
        "",
    ]
    lines += ["## Methods over all tasks", ""]
    lines += [
        "CAB's compositional index (mean z-score, higher is better) and CRPS, size M, 4 days, asked for 75 % sparsity; "
        "*none* has no attention at all.",
        "",
    ]
    lines += [*index_table(rows), "", law(rows), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    file = RowFile(ROWS)
    if not args.page_only:
        for row in rows_of(units(), file):
            worst = max(row["found"], key=lambda f: f["ratio"] if f["method"] in METHODS else 0)
            print(row["task"], row["size"], row["history"], json.dumps(worst), flush=True)
    rows = [file.kept(unit.asked) for unit in units()]
    ROWS.with_suffix(".md").write_text(text(rows))


if __name__ == "__main__":
    main()
