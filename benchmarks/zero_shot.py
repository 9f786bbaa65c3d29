"""Forecasts from the first hours of a service: `python -m benchmarks.zero_shot --data FOLDER`.

The demand series of the eight data sets of `harmony evaluate`, six steps ahead. `ridge` learns from the full past (the
first 80 % of the rows). Beside it stand the bundled model, which learns nothing and reads six hours before each
forecast and no more (no row of a day or a week before), and `ensemble`, which learns from the last so many hours before
the test rows. Scored on the same windows of the last 20 %. Writes benchmarks/zero_shot.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np

from forecasting import scores
from forecasting.base import ForecastModel
from forecasting.baselines.ridge import Ridge
from forecasting.ensemble import Ensemble
from forecasting.forecaster import Forecaster
from forecasting.panel import FloatArray, IntArray, Panel
from forecasting.windows import WindowBatch
from harmony.app.datasets import chosen, read_dataset

HORIZON = 6
SAMPLES = 200
WINDOWS = 200
TEST = 0.2
FIRST_S = 6 * 3600.0
LEAST_ROWS = 6  # of hours where six of them are fewer rows
LEARNED_S = {"a day": 86_400.0, "a week": 7 * 86_400.0}
LOOKBACK = 144


def crps(model: ForecastModel, panel: Panel, ends: IntArray, rows: int, *, seasons: bool) -> FloatArray:
    """(windows,) mean CRPS of demand; NaN where nothing was observed."""
    windows = WindowBatch.of(panel, ends, rows, horizon=HORIZON)
    if not seasons:
        windows = dataclasses.replace(windows, seasonal=None)
    found = model.predict(windows, HORIZON, samples=SAMPLES, only=panel.names[:1]).paths
    outcome = panel.values[ends[:, None] + np.arange(1, HORIZON + 1), :1]
    return np.asarray(np.nanmean(scores.crps(found, outcome), axis=(1, 2)))


def learned(panel: Panel, test: int, seconds: float) -> tuple[ForecastModel, int, float] | None:
    """The ensemble of the last ``seconds`` before the test rows, the rows that it reads, and how long that took."""
    rows = round(seconds / panel.step_s)
    lookback = min(LOOKBACK, rows // 4)
    if rows > test or lookback < 2 * HORIZON:
        return None
    began = time.process_time()
    model = Ensemble().fit([panel.rows(test - rows, test)], lookback=lookback, horizon=HORIZON)
    return model, max(lookback, model.history), time.process_time() - began


def compared(panel: Panel) -> dict[str, float]:
    """CRPS over that of ridge, and seconds of learning, by column."""
    test = len(panel) - int(TEST * len(panel))
    ends = np.arange(test - 1, len(panel) - HORIZON)
    ends = ends[np.linspace(0, len(ends) - 1, min(WINDOWS, len(ends))).round().astype(np.int64)]
    one = panel.select(panel.names[:1])
    lookback = min(LOOKBACK, test // 4)
    began = time.process_time()
    ridge = Ridge().fit([one.rows(0, test)], lookback=lookback, horizon=HORIZON)
    out = {"ridge s": time.process_time() - began}
    against = crps(ridge, one, ends, lookback, seasons=True)
    first = max(LEAST_ROWS, round(FIRST_S / panel.step_s))
    out["base"] = float(np.nanmean(crps(Forecaster.base(), one, ends, first, seasons=False)) / np.nanmean(against))
    for name, seconds in LEARNED_S.items():
        made = learned(one, test, seconds)
        if made is not None:
            model, rows, took = made
            out[name] = float(np.nanmean(crps(model, one, ends, rows, seasons=True)) / np.nanmean(against))
            out[f"{name} s"] = took
    return out


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="folder of the shared traces")
    ap.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = ap.parse_args()
    rows = []
    for dataset in chosen(["all"]):
        for name, panel in read_dataset(dataset, args.data).items():
            rows.append((f"{dataset.name} {name}", compared(panel)))
            print(rows[-1], flush=True)
    columns = ["base", *LEARNED_S]

    def cell(row: dict[str, float], name: str) -> str:
        return f"{row[name]:.3f}" if name in row else ""

    def over(name: str) -> str:
        known = [row[name] for _, row in rows if name in row]
        within = sum(x <= (1.05 if name == "base" else 1.0) for x in known)
        return f"{np.exp(np.mean(np.log(known))):.3f} ({within} of {len(known)})"

    longest = {n: max(row[f"{n} s"] for _, row in rows if f"{n} s" in row) for n in LEARNED_S}
    lines = [
        "# Forecasts from the first hours of a service",
        "",
        "`python -m benchmarks.zero_shot --data FOLDER`: CRPS of the demand over that of `ridge` that learned the full "
        f"past (80 % of the rows), {HORIZON} steps ahead, {SAMPLES} paths, at most {WINDOWS} windows of the last 20 %, "
        "seed 0; the demand alone is read. `base` is the bundled model, which learns nothing, reads six hours (at "
        f"least {LEAST_ROWS} rows) and nothing of a day or a week before; the others are `ensemble` that learned from "
        "the last day or week before the test rows and nothing older. The bundled weights come from public traces, the "
        "first 55 % of most of these series among them (none of Fisher, NASA and GenTD26). In brackets how many are "
        "within the aim: 1.05 without learning, 1.0 with it.",
        "",
        "| series | base from six hours | ensemble, a day | ensemble, a week |",
        "|---|---:|---:|---:|",
        *(f"| {name} | " + " | ".join(cell(row, c) for c in columns) + " |" for name, row in rows),
        "| **geometric mean** | " + " | ".join(over(c) for c in columns) + " |",
        "",
        "Learning took at most "
        + ", ".join(f"{s:.1f} s from {n}" for n, s in longest.items())
        + " of one core. A cell "
        "is empty where so much time holds too few rows for a forecast to be learned.",
    ]
    args.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
