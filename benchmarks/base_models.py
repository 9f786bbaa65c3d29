"""Base models against each other: `python -m benchmarks.base_models --data FOLDER --model base --model A`.

The demand series of the eight data sets of `harmony evaluate`, six steps ahead, nothing learned of the series: from six
hours of history alone, and from 144 rows with the values of a day and a week before. CRPS, and the pinball loss at 0.99
of the largest value within the six steps (what a replica count must cover), both over those of the first model; the
CRPS from six hours also over that of a `ridge` that learned the full past, as `benchmarks/zero_shot.py` has it. Scored
on the last 20 % of the rows; with `--choose` on the 20 % before, which no model has learned from either.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.base_scores import of_the_largest
from benchmarks.zero_shot import FIRST_S, HORIZON, LEAST_ROWS, LOOKBACK, SAMPLES, TEST, WINDOWS
from forecasting import scores
from forecasting.base import ForecastModel
from forecasting.baselines.ridge import Ridge
from forecasting.forecaster import Forecaster
from forecasting.panel import Indicator, IntArray, Panel
from forecasting.windows import WindowBatch
from harmony.app.datasets import chosen, read_dataset


def scored(model: ForecastModel, panel: Panel, ends: IntArray, rows: int, *, seasons: bool) -> tuple[float, float]:
    """(mean CRPS, pinball loss of the largest value within the steps ahead)."""
    windows = WindowBatch.of(panel, ends, rows, horizon=HORIZON)
    if not seasons:
        windows = dataclasses.replace(windows, seasonal=None)
    paths = model.predict(windows, HORIZON, samples=SAMPLES, only=panel.names[:1]).paths[..., 0]
    truth = panel.values[ends[:, None] + np.arange(1, HORIZON + 1), 0]
    spread = float(np.nanmean(scores.crps(paths[..., None], truth[..., None])))
    return spread, of_the_largest(paths, truth)[0]


def compared(panel: Panel, models: dict[str, Forecaster], choose: bool) -> dict[str, list[float]]:
    """By model: CRPS over ridge's from six hours, CRPS and 0.99 loss from six hours, the same from 144 rows."""
    count = int(TEST * len(panel))
    stop = len(panel) - count if choose else len(panel)
    test = stop - count
    ends = np.arange(test - 1, stop - HORIZON)
    ends = ends[np.linspace(0, len(ends) - 1, min(WINDOWS, len(ends))).round().astype(np.int64)]
    one = panel.select(panel.names[:1])
    lookback = min(LOOKBACK, test // 4)
    ridge = Ridge().fit([one.rows(0, test)], lookback=lookback, horizon=HORIZON)
    against = scored(ridge, one, ends, lookback, seasons=True)[0]
    first = max(LEAST_ROWS, round(FIRST_S / panel.step_s))
    out = {}
    for name, model in models.items():
        short = scored(model, one, ends, first, seasons=False)
        out[name] = [short[0] / against, *short, *scored(model, one, ends, LOOKBACK, seasons=True)]
    return out


def milliseconds(model: Forecaster) -> float:
    """Of one service with 8 indicators, 144 rows, 10 steps, 200 paths, on one core: the median of 20."""
    values = np.random.default_rng(0).gamma(2.0, size=(400, 8))
    panel = Panel(values, tuple(Indicator(f"i{i}", level=min(1 + i // 3, 3)) for i in range(8)), 0.0, 60.0)
    windows = WindowBatch.of(panel, [399], LOOKBACK, horizon=10)
    took = []
    for _ in range(20):
        began = time.process_time()
        model.predict(windows, 10, samples=SAMPLES, only=panel.names[:1])
        took.append(time.process_time() - began)
    return 1000 * float(np.median(took))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="folder of the shared traces")
    ap.add_argument("--model", action="append", required=True, help="folder or bundled name; the first is the measure")
    ap.add_argument("--choose", action="store_true", help="score the 20 %% of the rows before the last 20 %%")
    ap.add_argument("--save", type=Path, default=None, help="write the figures of every series as JSON")
    args = ap.parse_args()
    torch.set_num_threads(1)
    models = {name: Forecaster.load(name) for name in args.model}
    found = {}
    for dataset in chosen(["all"]):
        for name, panel in read_dataset(dataset, args.data).items():
            found[f"{dataset.name} {name}"] = rows = compared(panel, models, args.choose)
            print(f"{dataset.name} {name}", *(f"{row[0]:.3f}" for row in rows.values()), flush=True)
    if args.save is not None:
        args.save.write_text(json.dumps(found, indent=1))
    all_rows = np.array([[row[m] for m in models] for row in found.values()])  # (series, models, figures)
    print(
        "\n| model | of ridge, six hours | within 1.05 | CRPS, six hours | 0.99 loss "
        "| CRPS, 144 rows | 0.99 loss | ms |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for m, (name, model) in enumerate(models.items()):
        ridge = np.exp(np.log(all_rows[:, m, 0]).mean())
        over = np.exp(np.log(all_rows[:, m, 1:] / all_rows[:, 0, 1:]).mean(axis=0))
        within = f"{(all_rows[:, m, 0] <= 1.05).sum()} of {len(all_rows)}"
        print(
            f"| {name} | {ridge:.3f} | {within} | " + " | ".join(f"{x:.3f}" for x in over)
            + f" | {milliseconds(model):.1f} |"
        )  # fmt: skip


if __name__ == "__main__":
    main()
