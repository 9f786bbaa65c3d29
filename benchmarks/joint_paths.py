"""What the joint distribution adds to its marginals: `python -m benchmarks.joint_paths --data FOLDER`.

On the demand series of the eight data sets of `harmony evaluate`, 12 steps ahead: the bundled model's paths beside the
very same marginals drawn independently at each step (each step's values shuffled over the paths). Scored on test rows:
the energy score of the 12 steps, and of the largest demand within them (which is what replicas have to carry) the
pinball loss of its 0.95 quantile and how often it lay above. Writes benchmarks/joint_paths.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from forecasting import scores
from forecasting.fleet import forecast_rows
from forecasting.forecaster import Forecaster
from forecasting.panel import FloatArray
from harmony.app.datasets import chosen, read_dataset

HORIZON = 12
SAMPLES = 400
WINDOWS = 200
TEST = 0.2
LEVEL = 0.95


def largest(paths: FloatArray, outcome: FloatArray) -> tuple[float, float]:
    """Pinball loss of the stated 0.95 quantile of the largest value, and the share of windows above it."""
    stated = np.quantile(paths.max(axis=2), LEVEL, axis=1)
    found = outcome.max(axis=1)
    miss = found - stated
    return float(np.maximum(LEVEL * miss, (LEVEL - 1) * miss).mean()), float((miss > 0).mean())


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="folder of the shared traces")
    ap.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = ap.parse_args()
    model, rows = Forecaster.base(), []
    for dataset in chosen(["all"]):
        for name, panel in read_dataset(dataset, args.data).items():
            test = len(panel) - int(TEST * len(panel))
            ends = np.arange(test - 1, len(panel) - HORIZON)
            ends = ends[:: max(1, -(-len(ends) // WINDOWS))]
            demand = panel.names[0]
            found = forecast_rows(model, panel, ends, HORIZON, samples=SAMPLES, only=[demand]).paths
            outcome = panel.values[ends[:, None] + np.arange(1, HORIZON + 1), 0]
            seen = ~(np.isnan(outcome).any(axis=1) | np.isnan(found).any(axis=(1, 2, 3)))
            joint, outcome = found[seen], outcome[seen]
            apart = np.random.default_rng(0).permuted(joint, axis=1)
            energy = [float(scores.energy_score(p, outcome[..., None]).mean()) for p in (joint, apart)]
            (loss, above), (loss_apart, above_apart) = (largest(p[..., 0], outcome) for p in (joint, apart))
            rows.append((f"{dataset.name} {name}", energy[0] / energy[1], loss / loss_apart, above, above_apart))
            print(rows[-1], flush=True)
    ratios = np.exp(np.mean(np.log([r[1:3] for r in rows]), axis=0))
    above = np.mean([r[3:] for r in rows], axis=0)
    lines = [
        "# Joint paths beside the same marginals drawn independently",
        "",
        "`python -m benchmarks.joint_paths --data FOLDER`, seed 0: the bundled model, demand, 12 steps, 400 paths, "
        "200 windows of the last 20 % of each series. Ratios below 1 say what "
        "the joint distribution gains; 5 % above would be exact.",
        "",
        "| series | energy score | pinball of the largest value's 0.95 quantile | above it: joint | independent |",
        "|---|---:|---:|---:|---:|",
        *(f"| {n} | {e:.3f} | {p:.3f} | {100 * a:.1f} % | {100 * b:.1f} % |" for n, e, p, a, b in rows),
        f"| **mean** (geometric for ratios) | {ratios[0]:.3f} | {ratios[1]:.3f} | {100 * above[0]:.1f} % | "
        f"{100 * above[1]:.1f} % |",
    ]
    args.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
