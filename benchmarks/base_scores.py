"""The base model against simple methods: `python benchmarks/base_scores.py --data FOLDER [--model base] [--update]`.

Demand of a handful of public traces, scored between 55 % and 60 % of each trace: the base model has seen none of these
rows (of NASA, none at all). The simple methods are fitted on the first 55 %. Scores: CRPS over the next 5 steps, and
the pinball loss at 0.99 of the largest value within them (what a replica count for a start-up time must cover), both in
units of the mean of the trace before the scored part; and the share of those maxima above the stated 0.99 quantile.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.train_base import LEARN, gridded, read_columns
from forecasting.base import ForecastModel
from forecasting.baselines.last_value import LastValue
from forecasting.baselines.ridge import Ridge
from forecasting.forecaster import Forecaster
from forecasting.panel import FloatArray, Panel
from forecasting.scores import crps
from forecasting.windows import WindowBatch

TRACES = {
    "gpu_helios_earth/vc8Sj_1min": "running_gpu_num",
    "gpu_helios_earth/vchbv_1min": "running_gpu_num",
    "nab/Twitter_volume_FB": "value",
    "nab/nyc_taxi": "value",
    "cluster_google2019/usage_5min": "cpu_util",
    "web_nasa/jul1995_1min": "requests",
    "llm_servegen/m-large_rate_10min": "rate_rps",
}
SCORED = 0.60
LOOKBACK, HORIZON, SAMPLES, LEVEL = 144, 5, 400, 0.99


def of_the_largest(paths: FloatArray, truth: FloatArray) -> tuple[float, float]:
    """Of (windows, paths, steps) and (windows, steps): pinball loss of the largest value, share above what was stated.

    What a replica count for a start-up time must cover. Windows with an absent outcome or forecast are left out.
    """
    whole = ~np.isnan(truth).any(axis=1) & ~np.isnan(paths).any(axis=(1, 2))
    stated, reached = np.quantile(paths[whole].max(axis=2), LEVEL, axis=1), truth[whole].max(axis=1)
    loss = np.where(reached > stated, LEVEL * (reached - stated), (1 - LEVEL) * (stated - reached))
    return float(loss.mean()), float((reached > stated).mean())


def score(
    model: ForecastModel, panel: Panel, ends: np.ndarray, unit: float, horizon: int = HORIZON
) -> tuple[float, float, float]:
    """(CRPS, pinball loss of the maximum, share of maxima above its stated quantile)."""
    windows = WindowBatch.of(panel, ends, LOOKBACK, horizon=horizon)
    paths = model.predict(windows, horizon, samples=SAMPLES, only=[panel.names[0]]).paths[..., 0]
    truth = panel.values[ends[:, None] + np.arange(1, horizon + 1), 0]
    whole = ~np.isnan(truth).any(axis=1)
    spread = crps(paths[whole][..., None], truth[whole][..., None])
    loss, above = of_the_largest(paths, truth)
    return float(np.mean(spread)) / unit, loss / unit, above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="base")
    parser.add_argument("--windows", type=int, default=800)
    args = parser.parse_args()
    torch.set_num_threads(1)
    total: dict[str, list[tuple[float, float, float]]] = {}
    for file, column in TRACES.items():
        times, columns, dated = read_columns(args.data / f"{file}.csv.gz")
        panel = gridded(times, columns, {column: 1}, dated, file.split("/")[1].split(".")[0])
        cut, end = int(LEARN * len(panel)), int(SCORED * len(panel))
        ends = np.unique(np.linspace(cut, end - HORIZON - 1, args.windows).round().astype(int))
        past = panel.rows(0, cut)
        unit = float(np.nanmean(np.abs(past.values)))
        before = panel.rows(0, round(0.85 * cut))
        held = panel.rows(round(0.85 * cut) - LOOKBACK, cut)
        base, updated = Forecaster.load(args.model), Forecaster.load(args.model)
        began = time.process_time()
        updated.update([past])
        took = time.process_time() - began
        methods: dict[str, ForecastModel] = {"base": base, "base, updated": updated}
        for name, method in (
            ("last value + residuals", LastValue()),
            ("scaled", LastValue(scaled=True)),
            ("ridge", Ridge()),
        ):
            methods[name] = method.fit([before], lookback=LOOKBACK, horizon=HORIZON, validation=[held])
        print(f"{file} {column}: {len(ends)} windows, update {took:.0f} s", flush=True)
        for name, method in methods.items():
            found = score(method, panel, ends, unit)
            total.setdefault(name, []).append(found)
            print(f"  {name:24s} crps {found[0]:.4f}  pinball {found[1]:.5f}  above {100 * found[2]:.1f} %", flush=True)
    print("mean of the traces (geometric for losses)")
    for name, rows in total.items():
        a = np.array(rows)
        losses = np.exp(np.log(a[:, :2]).mean(axis=0))
        print(f"  {name:24s} crps {losses[0]:.4f}  pinball {losses[1]:.5f}  above {100 * a[:, 2].mean():.1f} %")


if __name__ == "__main__":
    main()
