"""A policy learned by group-relative optimisation (PORAG) beside the price rule.

`python -m benchmarks.group_relative --data FOLDER`

At every step a count is chosen for the step one lead time ahead, from ten levels of the bundled model's paths of demand
there. The price rule takes the level of least expected cost, count + price x P(violation), by the same paths. The
learned policy has seen what came of groups of levels on the first 60 % (count and violation there, as two rewards) and
knows how wide, how steep and how high the forecast is, and how restless demand was. Its advantages are over the spread
of all groups; over their own, as in GRPO, rare violations are outvoted, which is counted too. Both over the same
prices; scored on the last 40 %: hours at equal violation, three seeds. Writes benchmarks/group_relative.md.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from benchmarks.savings import MEAN_REPLICAS, TEST, demand_of
from forecasting.fleet import forecast_rows
from forecasting.forecaster import Forecaster
from forecasting.panel import FloatArray, Indicator, Panel
from simulator.group_relative import learn
from simulator.hindsight import Curve, at_level

TRACES = ("nyc_taxi", "google2019", "fisher1", "fisher7", "servegen_m-mid", "burstgpt_conv")
LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995)
BEYOND = (1.0, 1.15)  # times the largest path
PRICES = tuple(float(p) for p in np.geomspace(5, 2000, 10))
AT = (0.01, 0.05)
MOST, SAMPLES, SEEDS = 2000, 300, 3


def states(folder: Path, name: str) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Features (states, 5), counts by level (states, levels), the paths' risk of each, demand that came (replicas)."""
    demand, step_s, lead_s = demand_of(folder, name)
    load = demand / demand.mean() * MEAN_REPLICAS
    lead = max(1, math.ceil(lead_s / step_s - 1e-9))
    panel = Panel(load[:, None], (Indicator("demand"),), start_s=1.6e9, step_s=step_s, name=name)
    ends = np.arange(min(144, len(load) // 8), len(load) - lead)
    ends = ends[:: max(1, -(-len(ends) // MOST))]
    paths = forecast_rows(Forecaster.base(), panel, ends, lead, samples=SAMPLES, only=["demand"]).paths[:, :, -1, 0]
    ladder = np.column_stack([np.quantile(paths, LEVELS, axis=1).T, *(paths.max(axis=1) * b for b in BEYOND)])
    counts = np.maximum(1.0, np.ceil(ladder))
    risk = (paths[:, None, :] > counts[:, :, None]).mean(axis=2)
    middle = np.maximum(ladder[:, 0], 1e-9)
    restless = np.array([np.abs(np.diff(load[max(0, e - 12) : e + 1])).mean() for e in ends])
    known = np.column_stack(
        [(ladder[:, 6] - ladder[:, 0]) / middle, middle / np.maximum(load[ends], 1e-9) - 1.0, np.log(middle), restless]
    )
    past = slice(0, math.floor(len(ends) * (1 - TEST)))
    known = (known - known[past].mean(axis=0)) / np.maximum(known[past].std(axis=0), 1e-9)
    return np.column_stack([np.ones(len(ends)), np.clip(known, -3, 3)]), counts, risk, load[ends + lead]


def curve(counts: FloatArray, came: FloatArray, chosen: list[np.ndarray]) -> Curve:
    """Hours and violated share of each way to choose levels (states,)."""
    taken = [counts[np.arange(len(came)), levels] for levels in chosen]
    return Curve(np.array([float(n.sum()) for n in taken]), np.array([float((came > n).mean()) for n in taken]))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="folder of the shared traces")
    ap.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = ap.parse_args()
    rows: list[tuple[str, list[list[float]]]] = []
    outvoted: list[float] = []
    for name in TRACES:
        features, counts, risk, came = states(args.data, name)
        cut = math.floor(len(came) * (1 - TEST))
        past, test = slice(0, cut), slice(cut, len(came))

        priced = curve(
            counts[test], came[test], [(counts[test] + price * risk[test]).argmin(axis=1) for price in PRICES]
        )
        fixed = curve(counts[test], came[test], [np.full(len(came) - cut, level) for level in range(counts.shape[1])])
        found: list[list[float]] = [[at_level([fixed], e) / at_level([priced], e) for e in AT]]
        for seed in range(SEEDS):
            learned = []
            for price in PRICES:
                violated = came[past, None] > counts[past]
                rewards = -(counts[past] + price * violated)
                learned.append(learn(features[past], rewards, by_group=False, seed=seed).choose(features[test]))
            found.append([at_level([curve(counts[test], came[test], learned)], e) / at_level([priced], e) for e in AT])
        dearest = -(counts[past] + PRICES[-1] * (came[past, None] > counts[past]))
        levels = learn(features[past], dearest, seed=0).choose(features[test])
        outvoted.append(float((came[test] > counts[test][np.arange(len(levels)), levels]).mean()))
        rows.append((name, found))
        print(name, [[round(v, 3) for v in one] for one in found], flush=True)
    lines = [
        "# Levels learned by group-relative optimisation beside the price rule",
        "",
        f"`python -m benchmarks.group_relative`: hours at equal violation over those of the price rule on the same "
        f"paths; six traces, last {TEST:.0%} scored, {SEEDS} seeds (mean, least to most). Above 1 the price rule needs "
        "less. Advantages are over the spread of all groups; over each group's own, as in GRPO, rare violations are "
        f"outvoted: at the highest price, {PRICES[-1]:,.0f} replicas a violation, {min(outvoted):.0%} to "
        f"{max(outvoted):.0%} of the time is violated.",
        "",
        "| trace | fixed level, 1 % | learned, 1 % | fixed level, 5 % | learned, 5 % |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in rows:
        seeds = np.array(found[1:])
        told = [
            f"{found[0][i]:.3f} | {seeds[:, i].mean():.3f} ({seeds[:, i].min():.3f} to {seeds[:, i].max():.3f})"
            for i in range(len(AT))
        ]
        lines.append(f"| {name} | {' | '.join(told)} |")
    whole = np.exp(np.nanmean(np.log(np.array([[f[0], np.mean(f[1:], axis=0)] for _, f in rows])), axis=0))
    lines += [
        "",
        f"Geometric means: fixed level {whole[0][0]:.3f} at 1 % and {whole[0][1]:.3f} at 5 %, "
        f"learned {whole[1][0]:.3f} and {whole[1][1]:.3f}.",
    ]
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
