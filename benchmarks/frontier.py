"""How sparse attention may be before a forecast suffers: `python -m benchmarks.frontier`, after arXiv 2504.17768.

A forecast of the next hour (12 steps of five minutes) is ridge regression on the last changes and on what heads of
attention read from the history: queries and keys are projections of the last steps at several scales, a key's value is
what followed it. Everything is fitted with dense attention on some series; on others attention is then replaced by
sparse one, as it is in a model that was trained dense. *Sparsity* is the share of visible keys that queries did not
read, counted by gradients, not the one asked for. FLOPs are those of projections, ridge and attention with its search
for keys, counted; of dense attention those of the visible pairs. Sizes are heads (S 1, M 2, L 4) with 16 numbers each.

A sparsity is safe where the CRPS is at most 1 % above that of dense attention, at 95 % confidence: the upper end of the
interval of their ratio (paired bootstrap of stretches of two hours, within each series) is below 1.01. The largest safe
one of a method has only safe ones below it. Whatever is chosen, such as the largest safe sparsity or the best of
several settings, is chosen on validation windows, and what is reported of it is measured on test windows.

Five tasks are made up, with their difficulty controlled, from a seed: series of each are fitted, others validated and
again others tested. Four are real traces in steps of five minutes (in the folder that HARMONY_DATA names; without it
what was measured of them stays): windows whose judged steps lie in the first 60 % of a trace are fitted, those in the
next 20 % validated, those in the last 20 % tested.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
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
from simulator.traces.registry import load_trace

DAY, HORIZON, LAGS, JUDGED, TOGETHER = 288, 12, 12, 144, 24
FITTED, SCORED, PATHS = 24, 10, 25
PARTS = ("validation", "test")
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
TRACES = {
    "Google cluster": "cluster_google2019/usage_5min.csv.gz",
    "Helios GPUs": "gpu_helios_earth/vccaA_1min.csv.gz",
    "NASA web": "web_nasa/aug1995_1min.csv.gz",
    "Twitter": "nab/Twitter_volume_FB.csv.gz",
}
ALL_TASKS = (*TASKS, *TRACES)


def made_up(task, length):
    """Series of a made-up task: FITTED, then SCORED for validation and as many for the test."""
    rng = np.random.default_rng([list(TASKS).index(task), 1])
    return np.split(TASKS[task](rng, FITTED + 2 * SCORED, length), (FITTED, FITTED + SCORED))


def of_trace(values, length):
    """Windows of a trace for fitting, validation and the test, in time; none of two is judged at the same steps.

    Missing values are the last ones before them. Numbers are in units of the deviation within the first 60 %.
    """
    at = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    values = values[at]
    ends = [round(share * len(values)) for share in (0.6, 0.8, 1.0)]
    values = (values - np.nanmean(values[: ends[0]])) / np.nanstd(values[: ends[0]])
    judged = JUDGED + HORIZON
    found = []
    for begin, end, most in zip((0, *ends), ends, (FITTED, SCORED, SCORED), strict=False):
        # The last windows of a part, one behind the other, whose histories may reach into the part before.
        stops = [end - n * judged for n in range(most) if end - n * judged >= max(length, begin + judged)]
        found.append(np.stack([values[stop - length : stop] for stop in reversed(stops)]))
    return found


def demand(task):
    """The demand of a real trace in steps of five minutes."""
    return load_trace(Path(os.environ["HARMONY_DATA"]) / TRACES[task], step_s=300).panel.values[:, 0]


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
                patches = patches / patches.std(dim=(1, 2), keepdim=True).clamp_min(1e-6)
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
    whole = max(HISTORIES.values()) + max(SCALES) + 2 * HORIZON
    made = made_up(task, whole) if task in TASKS else of_trace(demand(task), whole)
    fitted, *scored = (split(series, length) for series in made)
    heads = [Heads(series[:, : series.shape[1] - HORIZON], SIZES[size], length) for series, _ in (fitted, *scored)]
    model, bare = Fitted(*fitted, heads[0].read("sdpa", {})[0]), Fitted(*fitted, None)
    ways = [("none", {}, {}), ("dense", {}, {})]
    ways += [(m, with_sparsity(m, w, length), {"wanted": w}) for m, w in itertools.product(METHODS, SPARSITIES)]
    found = [{"method": method, **wanted} for method, _, wanted in ways]
    for name, part, (series, future) in zip(PARTS, heads[1:], scored, strict=True):
        dense_out, dense_flops = part.read("sdpa", {})
        dense = model.scores(series, future, dense_out)
        for row, (method, options, _) in zip(found, ways, strict=True):
            if method == "none":
                scores, sparsity, flops = bare.scores(series, future, None), 1.0, 2.0 * length * LAGS * HORIZON
            elif method == "dense":
                scores, sparsity, flops = dense, 0.0, dense_flops
            else:
                out, flops = part.read(method, options)
                scores, sparsity = model.scores(series, future, out), part.sparsity(method, options)
            row[name] = told(sparsity, scores, dense, flops)
    return {"windows": [len(series) for series, _ in (fitted, *scored)], "found": found}


def told(sparsity, scores, dense, flops):
    """Figures of one way to attend; the ratio of its CRPS to that of dense attention with its interval."""
    pairs = list(zip(scores[0], dense[0], strict=True))
    ratio = bootstrap_ratio(pairs, [TOGETHER] * len(pairs))
    return {
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
    for history, size, task in itertools.product(HISTORIES, SIZES, ALL_TASKS):
        asked = {"study": "frontier", "task": task, "size": size, "history": history}
        weight = SIZES[size] * HISTORIES[history] ** 1.5
        found.append(Unit(f"{task}, {size}, {history}", weight, asked, partial(measured, task, size, history)))
    return found


# ---- telling ----------------------------------------------------------------------------------------------------
def chosen(rows, task, history, method):
    """The largest sparsity asked for that is safe for every size on validation windows, as less is; None if none is.

    With the least sparsity reached there, and on test windows the largest ratio of CRPS to dense attention over sizes
    and the largest upper end of its interval.
    """
    some = [r["found"] for r in rows if (r["task"], r["history"]) == (task, history)]
    best = None
    for wanted in SPARSITIES:
        each = [f for found in some for f in found if f["method"] == method and f.get("wanted") == wanted]
        if not each or not all(f["validation"]["ratio_high"] <= 1 + MARGIN for f in each):
            break
        best = {
            "sparsity": min(f["validation"]["sparsity"] for f in each),
            "ratio": max(f["test"]["ratio"] for f in each),
            "ratio_high": max(f["test"]["ratio_high"] for f in each),
        }
    return best


def told_choice(found):
    return "-" if found is None else f"{found['sparsity']:.0%} ({found['ratio'] - 1:+.1%})"


def kept_promises(rows):
    """How many of the choices made on validation windows hold on test windows."""
    found = [chosen(rows, *which) for which in itertools.product(ALL_TASKS, HISTORIES, METHODS)]
    made = [x for x in found if x is not None]
    within, sure = (sum(x[name] <= 1 + MARGIN for x in made) for name in ("ratio", "ratio_high"))
    return (
        f"Of {len(made)} choices over all tasks and histories, {within} are at most 1 % worse than dense attention on "
        f"test windows too, at every size, {sure} of them at 95 % confidence."
    )


def safe_table(rows, histories=tuple(HISTORIES)):
    yield f"| task | history | {' | '.join(METHODS)} |"
    yield f"|---|---|{'---:|' * len(METHODS)}"
    for task, history in itertools.product(ALL_TASKS, histories):
        cells = [told_choice(chosen(rows, task, history, method)) for method in METHODS]
        yield f"| {task} | {history} | {' | '.join(cells)} |"


def worst_table(rows):
    """Per method and history, over all tasks and sizes."""
    yield f"| history | {' | '.join(METHODS)} | the task that breaks first |"
    yield f"|---|{'---:|' * len(METHODS)}---|"
    for history in HISTORIES:
        cells, breaks = [], []
        for method in METHODS:
            each = {task: chosen(rows, task, history, method) for task in ALL_TASKS}
            worst = min(each, key=lambda task: -1 if each[task] is None else each[task]["sparsity"])
            cells.append("-" if each[worst] is None else f"{each[worst]['sparsity']:.0%}")
            breaks.append(worst)
        yield f"| {history} | {' | '.join(cells)} | {', '.join(dict.fromkeys(breaks))} |"


def iso_table(rows):
    """Per task and budget of FLOPs (those of each dense size over all histories): the best that it buys."""
    yield "| task | budget, MFLOP a series | best dense | CRPS | best sparse | CRPS | sparse over dense |"
    yield "|---|---:|---|---:|---|---:|---:|"
    for task in ALL_TASKS:
        some = [(r["size"], r["history"], f) for r in rows if r["task"] == task for f in r["found"]]
        dense = [x for x in some if x[2]["method"] == "dense"]
        sparse = [x for x in some if x[2]["method"] in METHODS]
        for budget in sorted(x[2]["validation"]["mflops"] for x in dense)[2::3]:
            best = []
            for group in (dense, sparse):
                within = [x for x in group if x[2]["validation"]["mflops"] <= budget * 1.0001]
                best.append(min(within, key=lambda x: x[2]["validation"]["crps"]))
            names = [
                f"{s}, {h}" + (f", {f['method']} at {f['test']['sparsity']:.0%}" if f["method"] != "dense" else "")
                for s, h, f in best
            ]
            one, two = (x[2]["test"]["crps"] for x in best)
            yield f"| {task} | {budget:,.1f} | {names[0]} | {one:.4f} | {names[1]} | {two:.4f} | {two / one - 1:+.1%} |"


def index_table(rows, size="M", history="4 days", wanted=0.75):
    """CAB's compositional index of methods at one size, history and sparsity, with and without attention."""
    scores = {}
    for r in rows:
        if (r["size"], r["history"]) == (size, history):
            found = {f["method"]: f["test"] for f in r["found"] if f.get("wanted", wanted) == wanted}
            scores[r["task"]] = {m: {name: f[m] for name, f in found.items()} for m in ("crps", "mae")}
    index = compositional_index(scores)
    yield "| attention | index | " + " | ".join(ALL_TASKS) + " |"
    yield "|---|---:|" + "---:|" * len(ALL_TASKS)
    for name in sorted(index, key=index.get, reverse=True):
        cells = [f"{scores[task]['crps'][name]:.4f}" for task in ALL_TASKS]
        yield f"| {name} | {index[name]:+.2f} | {' | '.join(cells)} |"


def law(rows):
    """Ratio of CRPS to dense as a power of heads, length and keys kept, fitted without the longest history."""
    points = [
        (
            math.log(SIZES[r["size"]]),
            math.log(HISTORIES[r["history"]]),
            -math.log(1 - f["test"]["sparsity"]),
            f["test"]["ratio"],
            r["history"],
            r["task"],
            f["method"],
        )
        for r in rows
        for f in r["found"]
        if f["method"] in METHODS and f["test"]["sparsity"] < 1
    ]
    longest = list(HISTORIES)[-1]
    misses, plain = [], []
    for task, method in itertools.product(ALL_TASKS, METHODS):
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
    counts = {r["task"]: r["windows"] for r in rows}
    numbers = "; ".join(f"{task} {', '.join(map(str, counts[task]))}" for task in ALL_TASKS)
    lines += [f"Windows that are fitted, validated and tested: {numbers}.", ""]
    lines += [
        "## Largest safe sparsity, for all sizes",
        "",
        "Chosen on validation windows; in brackets the change of CRPS against dense attention on test windows, at the "
        "size where it is worst. A dash: not even the least sparse setting is safe.",
        "",
        *safe_table(rows),
        "",
        kept_promises(rows),
        "",
    ]
    lines += ["## Safe for every task and size", "", *worst_table(rows), ""]
    lines += ["## For the same FLOPs (isoFLOPS)", ""]
    lines += [
        "Of every size and history within a budget the setting with the best CRPS on validation windows, with dense "
        "and with sparse attention, and its CRPS on test windows.",
        "",
        *iso_table(rows),
        "",
    ]
    lines += ["## Methods over all tasks", ""]
    lines += [
        "CAB's compositional index (mean z-score, higher is better) and CRPS on test windows, size M, 4 days, asked "
        "for 75 % sparsity; *none* has no attention at all.",
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
        there = [u for u in units() if u.asked["task"] in TASKS or "HARMONY_DATA" in os.environ or file.kept(u.asked)]
        for row in rows_of(there, file):
            worst = max(row["found"], key=lambda f: f["test"]["ratio"] if f["method"] in METHODS else 0)
            print(row["task"], row["size"], row["history"], json.dumps(worst), flush=True)
    rows = [file.kept(unit.asked) for unit in units()]
    if None in rows:
        raise SystemExit("rows of real traces are missing: set HARMONY_DATA to the folder that holds them")
    ROWS.with_suffix(".md").write_text(text(rows))


if __name__ == "__main__":
    main()
