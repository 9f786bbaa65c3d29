"""What a long history costs and what it gives: `python -m benchmarks.long_history speed|scores [--data FOLDER]`.

`speed`: one optimiser step of the forecaster at batch 16 that reads 4,032 rows (two weeks at five minutes), one token a
row, by the attention among them. `scores`: the forecaster fitted from scratch on one day, three days, one week and two
weeks of history, on the Google cluster trace (four indicators) and the NASA web server (July 1995, five minutes), each
an hour ahead; the last 20 % of each trace is scored, all settings were fixed beforehand, none was chosen on it. Every
model is scored twice: with and without the values one day and one week before each step, which windows carry
beside their rows. Weeks are read in two ways: normalised by the mean and spread of all of it, and by those of its
newest day (`ModelConfig.near_rows`). Both parts write to `benchmarks/long_history_*.md`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from forecasting.config import ModelConfig, TrainingConfig
from forecasting.evaluation import Protocol, Settings, Split, score_model
from forecasting.flow import JointFlow
from forecasting.forecaster import Forecaster
from forecasting.network import ForecastNet
from forecasting.panel import Indicator, Panel
from forecasting.training import examples_of, losses
from simulator.traces.registry import load_trace

STEP_S = 300.0
TWO_WEEKS = 4032
HORIZON = 12
DAY = 288
HISTORIES = {"1 day": DAY, "3 days": 864, "1 week": 2016, "2 weeks": TWO_WEEKS}
ATTENTIONS = {
    "none": {},
    "sdpa": {"temporal_attention": "sdpa"},
    "sliding_window, window 256": {"temporal_attention": "sliding_window", "temporal_options": {"window": 256}},
    "lightning": {"temporal_attention": "lightning"},
    "mala": {"temporal_attention": "mala"},
    "wersa": {"temporal_attention": "wersa"},
    "wersa, 32 features": {"temporal_attention": "wersa", "temporal_options": {"features": 32}},
}
OUT = Path(__file__).parent


# ---- speed ------------------------------------------------------------------------------------------------------
def speed(indicators: int, repeats: int, threads: int) -> None:
    """Seconds of one training step by attention, and the ratio to dense attention in the same run."""
    torch.set_num_threads(threads)
    values = np.random.default_rng(0).gamma(2.0, size=(TWO_WEEKS + 100, indicators))
    columns = tuple(Indicator(f"x{i}", level=min(i + 1, 3)) for i in range(indicators))
    panel = Panel(values, columns, 0.0, STEP_S)
    shape = ModelConfig(lookback=TWO_WEEKS, horizon=HORIZON, patch=1)
    batch = examples_of(panel, shape, lookback=TWO_WEEKS, horizon=HORIZON, stats={}, first=TWO_WEEKS, limit=16)
    if batch is None:
        raise SystemExit("no window of two weeks")
    took = {}
    for name, settings in ATTENTIONS.items():
        torch.manual_seed(0)
        net = ForecastNet(replace(shape, **settings)).train()
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
        found = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(sum(losses(net, JointFlow(), batch)))
            optimiser.step()
            found.append(time.perf_counter() - began)
        took[name] = found[1:]
        print(f"{name}: {min(found[1:]):.2f} to {max(found[1:]):.2f} s", flush=True)
    dense = statistics.median(took["sdpa"])
    lines = [
        "# One training step on two weeks of history",
        "",
        f"`python -m benchmarks.long_history speed --indicators {indicators} --repeats {repeats} --threads {threads}`: "
        f"{TWO_WEEKS} rows of {indicators} indicator(s), one token a row, width {shape.width}, {shape.heads} heads, "
        "batch 16, forward, backward and optimiser step on a CPU, float32; the first step of each is not counted.",
        "",
        "| attention among the rows | seconds (median) | least | most | times faster than sdpa |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in took.items():
        middle = statistics.median(found)
        lines.append(f"| {name} | {middle:.2f} | {min(found):.2f} | {max(found):.2f} | {dense / middle:.1f} |")
    write("long_history_speed.md", lines)


# ---- scores -----------------------------------------------------------------------------------------------------
def traces(data: Path) -> dict[str, Panel]:
    """The two traces on five-minute steps."""
    google = load_trace(str(data / "cluster_google2019/usage_5min.csv.gz"), demand="cpu_util").panel
    nasa = load_trace(str(data / "web_nasa/jul1995_1min.csv.gz"), demand="requests").panel
    return {"Google cluster 2019": google, "NASA July 1995": nasa.coarsened(5)}


def scores(
    data: Path,
    out: str,
    only: str | None,
    histories: list[str],
    attentions: list[str],
    seeds: int,
    steps: int,
    patch: int,
) -> None:
    """CRPS by trace, length of history and attention, as mean and range over seeds."""
    torch.set_num_threads(1)
    training = TrainingConfig(
        steps=steps, batch=16, check_every=50, patience=6, max_windows=2000, max_validation=200, learning_rate=1.5e-3
    )
    lines = [
        "# What a long history gives",
        "",
        f"`python -m benchmarks.long_history scores --data FOLDER --seeds {seeds} --steps {steps} --patch {patch}`: "
        f"the forecaster from scratch, {patch} rows a token, at most {steps} steps of 16 windows; CRPS of the demand "
        "over the next hour (12 steps of five minutes), in the MinMax scale of the first 70 % of rows, on the last "
        "20 %; mean over seeds (least to most). *With seasons* the windows also carry the values one day and one week "
        "before each step, whatever their length. *Normalised by* says which rows give the mean and the spread, the "
        "quantiles and the averages of a window.",
    ]
    for trace, panel in traces(data).items():
        if only and only not in trace.lower():
            continue
        lines += ["", f"## {trace}: {len(panel):,} rows, {len(panel.indicators)} indicator(s)", ""]
        lines += ["| history | normalised by | attention | CRPS without seasons | CRPS with seasons | 80 % covers |"]
        lines += ["|---|---|---|---:|---:|---:|"]
        for (history, rows), near, attention in itertools.product(HISTORIES.items(), (None, DAY), attentions):
            if near == rows or history not in histories:
                continue
            found = [fitted(panel, rows, near, attention, training, patch, seed) for seed in range(seeds)]
            bare, seasonal, covered = (list(x) for x in zip(*found, strict=True))
            by = "its newest day" if near else "all of it"
            line = f"| {history} | {by} | {attention} | {spread(bare)} | {spread(seasonal)}"
            line += f" | {statistics.mean(covered):.0%} |"
            lines.append(line)
            print(trace, line, flush=True)
            write(out, lines)


def fitted(
    panel: Panel, rows: int, near: int | None, attention: str, training: TrainingConfig, patch: int, seed: int
) -> tuple[float, float, float]:
    """CRPS of the demand without and with seasons, coverage of the central 80 % with them."""
    bare = Settings(Protocol("split", seasonal=False), rows, HORIZON, samples=100, seed=seed)
    seasonal = replace(bare, protocol=Protocol("split"))
    split = Split.of(panel, bare)
    model = Forecaster(ModelConfig(patch=patch, near_rows=near, **ATTENTIONS[attention]), training)
    model.fit(
        [panel.rows(0, split.train)],
        lookback=rows,
        horizon=HORIZON,
        validation=[panel.rows(split.train - rows, split.test)],
        seed=seed,
    )
    without, given = (score_model(model, panel, split, s) for s in (bare, seasonal))
    return without.crps_load, given.crps_load, given.coverage_80


def spread(values: list[float]) -> str:
    """Mean, and least to most."""
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def write(name: str, lines: list[str]) -> None:
    (OUT / name).write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    quick = parts.add_parser("speed")
    quick.add_argument("--indicators", type=int, default=1)
    quick.add_argument("--repeats", type=int, default=3)
    quick.add_argument("--threads", type=int, default=1)
    long = parts.add_parser("scores")
    long.add_argument("--data", type=Path, required=True, help="folder with cluster_google2019/ and web_nasa/")
    long.add_argument("--histories", nargs="+", default=list(HISTORIES), choices=list(HISTORIES))
    long.add_argument("--attentions", nargs="+", default=["none", "mala", "wersa"], choices=list(ATTENTIONS))
    long.add_argument("--seeds", type=int, default=2)
    long.add_argument("--steps", type=int, default=600)
    long.add_argument("--patch", type=int, default=12)
    long.add_argument("--only", help="only the trace whose name has this in it, in lower case")
    long.add_argument("--out", default="long_history_scores.md")
    args = parser.parse_args()
    if args.part == "speed":
        speed(args.indicators, args.repeats, args.threads)
    else:
        scores(args.data, args.out, args.only, args.histories, args.attentions, args.seeds, args.steps, args.patch)


if __name__ == "__main__":
    main()
