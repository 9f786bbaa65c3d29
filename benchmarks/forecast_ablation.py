"""What each part of `ensemble` gives: `python -m benchmarks.forecast_ablation --data FOLDER`.

The demand series of the eight data sets of `harmony evaluate`, six steps ahead: members learn the first 70 % of the
rows, weights and calibration come from the next 10 %, and scores from the last 20 %. Every variant pools the very same
members' paths. Then three seeds of learning and drawing on Fisher. Writes benchmarks/forecast_ablation.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forecasting import scores
from forecasting.ensemble import FLOW_PRIOR, TRUST, Ensemble
from forecasting.evaluation import evaluate
from forecasting.panel import FloatArray, IntArray, Panel
from forecasting.pooling import Earned, Levels, bands, pooled, without_crumbs, worth
from forecasting.tails import Tails
from forecasting.windows import WindowBatch
from harmony.app.datasets import chosen, read_dataset

HORIZON = 6
LOOKBACK = 144
JUDGED, SCORED = 200, 150
SAMPLES = 300
SEEDS = (0, 1, 2)
COLUMNS = ("CRPS", "0.99 loss", "80 %", "95 %", "99 %")


def some(first: int, last: int, most: int) -> IntArray:
    """At most so many row numbers, evenly spaced."""
    return np.unique(np.linspace(first, last, most).round().astype(np.int64))


def members_of(model: Ensemble, panel: Panel, ends: IntArray, lookback: int) -> tuple[list[FloatArray], FloatArray]:
    """Each member's paths (windows, samples, horizon, 1), and what came."""
    windows = WindowBatch.of(panel, ends, max(lookback, model.history), horizon=HORIZON)
    return model._each(windows, HORIZON, SAMPLES, 0, None), panel.values[ends[:, None] + np.arange(1, HORIZON + 1)]


def weights(members: Sequence[FloatArray], outcome: FloatArray, flow: bool, each: FloatArray) -> FloatArray:
    """As `Ensemble` finds them, the flow first where it takes part; ``each`` is what a window is `worth`."""
    others = len(members) - flow
    prior = np.array([FLOW_PRIOR] * flow + [(1 - FLOW_PRIOR * flow) / max(1, others)] * others)
    return Earned.of(members, outcome, each).weights(prior / prior.sum(), TRUST * flow)[bands(HORIZON)]  # crumbs too


def scored(rising: FloatArray, outcome: FloatArray) -> list[float]:
    """`COLUMNS` of one variant on one series."""
    held = scores.coverage(rising, outcome, (0.8, 0.95, 0.99))
    lost = scores.pinball(rising, outcome, (0.99,))
    return [
        float(np.nanmean(x)) for x in (scores.crps(rising, outcome), lost, held[0], held[1], held[2])
    ]  # fmt: skip


def variants(panel: Panel) -> dict[str, list[float]]:
    """Scores of every variant on the demand of one series."""
    one = panel.select(panel.names[:1])
    train, test = int(0.7 * len(one)), len(one) - int(0.2 * len(one))
    lookback = min(LOOKBACK, (test - train) // 2)
    validation = one.rows(train - lookback, test)
    model = Ensemble(recalibrate=False).fit(
        [one.rows(0, train)], lookback=lookback, horizon=HORIZON, validation=[validation]
    )
    names = [m.name for m in model._members]
    judged = some(train - 1, test - 1 - HORIZON, JUDGED)
    each = worth(HORIZON, one.step_s, one.step_s * float(np.diff(judged).mean()))
    past, came = members_of(model, one, judged, lookback)
    paths, outcome = members_of(model, one, some(test - 1, len(one) - 1 - HORIZON, SCORED), lookback)

    def pair(kept: Sequence[int], crumbs: bool = False) -> tuple[FloatArray, FloatArray]:
        w = weights([past[k] for k in kept], came, 0 in kept, each)
        w = w if crumbs else without_crumbs(w)
        return pooled([past[k] for k in kept], w), pooled([paths[k] for k in kept], w)

    def mended(before: FloatArray, after: FloatArray) -> FloatArray:
        return Levels.of(before, came).applied(after)

    every = range(len(names))
    before, after = pair(every)
    alike = np.full((HORIZON, 1, len(names)), 1 / len(names))
    best = min(every, key=lambda k: float(np.nanmean(scores.crps(past[k], came))))
    found = {
        "as it is": mended(before, after),
        "no calibration": after,
        "tails learned too": Tails.tried(mended(before, before), came).applied(mended(before, after)),
        "crumbs stay in the pool": mended(*pair(every, crumbs=True)),
        "equal weights": mended(pooled(past, alike), pooled(paths, alike)),
        "the best member on validation alone": np.sort(paths[best], axis=1),
    }
    for k, name in enumerate(names):
        found[f"without {'the bundled model' if k == 0 else f'`{name}`'}"] = mended(*pair([m for m in every if m != k]))
    return {name: scored(rising, outcome) for name, rising in found.items()}


def seeds(data: Path) -> list[str]:
    """Fisher, the four containers, one step ahead: scores by seed of everything random, and their spread."""
    dataset = chosen(["fisher"])[0]
    panels, lines, rows = read_dataset(dataset, data), [], []
    for seed in SEEDS:
        report = evaluate(
            panels, methods=["ensemble"], protocol=dataset.protocol, horizon=1, samples=SAMPLES, seed=seed, windows=300
        )
        mean = report.mean("ensemble")
        rows.append([mean[n] for n in ("crps", "crps_forecastable", "crps_load", "mse", "coverage_80", "pinball_99")])
        lines.append(f"| {seed} | " + " | ".join(f"{x:.4f}" for x in rows[-1]) + " |")
        print(lines[-1], flush=True)
    middle, spread = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
    return [
        *lines,
        "| mean ± spread | " + " | ".join(f"{m:.4f} ± {s:.4f}" for m, s in zip(middle, spread, strict=True)) + " |",
    ]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="folder of the shared traces")
    ap.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = ap.parse_args()
    tables: list[dict[str, list[float]]] = []
    for dataset in chosen(["all"]):
        for name, panel in read_dataset(dataset, args.data).items():
            tables.append(variants(panel))
            print(dataset.name, name, {n: round(x[0], 6) for n, x in tables[-1].items()}, flush=True)
    whole = np.array([t["as it is"] for t in tables])
    rows = []
    for name in tables[0]:
        mine = np.array([t.get(name, t["as it is"]) for t in tables])  # a member that was left out changes nothing
        ratios = np.exp(np.mean(np.log(mine[:, :2] / whole[:, :2]), axis=0))
        held = 100 * mine[:, 2:].mean(axis=0)
        worse = int((mine[:, 0] > 1.001 * whole[:, 0]).sum())
        rows.append(
            f"| {name} | {ratios[0]:.3f} | {worse} | {ratios[1]:.3f} | " + " | ".join(f"{h:.1f}" for h in held) + " |"
        )
    lines = [
        "# What each part of the ensemble gives",
        "",
        f"`python -m benchmarks.forecast_ablation --data FOLDER`: demand of the {len(tables)} series of the eight data "
        f"sets, {HORIZON} steps ahead, {SAMPLES} paths, {JUDGED} windows to weigh and calibrate on, {SCORED} of the "
        "last 20 % scored, seed 0. Ratios to the ensemble as it is, geometric means over the series: above 1 the part "
        "is missed.",
        "",
        "| variant | CRPS | worse on | 0.99 loss | 80 % holds | 95 % holds | 99 % holds |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
        "Three seeds of learning and drawing on Fisher: four containers, eleven indicators, one step ahead, 300 "
        "windows.",
        "",
        "| seed | CRPS | forecastable | `load` | MSE | 80 % holds | 0.99 loss |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *seeds(args.data),
        "",
        "Flow against the same marginals drawn independently: [joint_paths.md](joint_paths.md). Long histories: "
        "[long_history_scores.md](long_history_scores.md).",
    ]
    args.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
