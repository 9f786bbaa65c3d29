"""What learning on line gives: `python -m benchmarks.refresh_gain --data FOLDER` writes `benchmarks/refresh_gain.md`.

Demand of the traces of `benchmarks/base_scores.py` 12 steps ahead, scored on the last 40 % of each; services learn in
16 periods from 60 % on, as they do in a replay, and what is scored is what is in force. The bundled model has seen the
first 55 % of these traces (of NASA nothing).
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.base_scores import TRACES, score
from benchmarks.train_base import gridded, read_columns
from forecasting.base import LOOKBACK, ForecastModel
from forecasting.baselines.ridge import Ridge
from forecasting.forecaster import Forecaster
from forecasting.online import Online
from forecasting.panel import Panel
from forecasting.refreshing import Schedule
from forecasting.specialised import Specialised

SCORED, PERIODS, HORIZON, WINDOWS = 0.6, 16, 12, 320
LEARNED = {"bundled, its calibration learned": "", "`ridge` learned": "ridge", "`ensemble` learned": "ensemble"}
PAGE = f"""# What learning on line gives

`python -m benchmarks.refresh_gain --data FOLDER`: demand {HORIZON} steps ahead, {WINDOWS} windows in the last 40 % of
each trace, learned in {PERIODS} periods (`forecasting.refreshing`). CRPS and pinball loss at 0.99 of the largest value
within these steps, both over the mean of the trace before; how often that largest value lay above its stated 0.99
quantile (1 % would be exact). Last rows: geometric means, relative to the bundled model as it comes.

| trace | method | CRPS | pinball of the maximum | above | refreshes |
|---|---|---:|---:|---:|---|
"""


def main() -> None:
    """Score every method on every trace and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    rows, ratios = [], dict[str, list[tuple[float, float]]]()
    for file, column in TRACES.items():
        times, columns, dated = read_columns(args.data / f"{file}.csv.gz")
        panel = gridded(times, columns, {column: 1}, dated, file.split("/")[1].split(".")[0])
        found = _of_trace(panel)
        plain = found["bundled"][0]
        for name, (scores, outcomes) in found.items():
            ratios.setdefault(name, []).append((scores[0] / plain[0], scores[1] / plain[1]))
            rows.append(f"| {panel.name} | {name} | {scores[0]:.4f} | {scores[1]:.4f} | {scores[2]:.1%} | {outcomes} |")
            print(rows[-1], flush=True)
    for name, pairs in ratios.items():
        crps, tail = np.exp(np.mean(np.log(pairs), axis=0))
        rows.append(f"| **mean** | {name} | {crps:.3f} | {tail:.3f} | | |")
    args.out.write_text(PAGE + "\n".join(rows) + "\n", encoding="utf-8")
    print(args.out.read_text(encoding="utf-8"))


def _of_trace(panel: Panel) -> dict[str, tuple[tuple[float, ...], str]]:
    """(CRPS, pinball, share above), and what came of the refreshes, by method."""
    shared = Forecaster.base()
    start = int(SCORED * len(panel))
    past = panel.rows(0, start)
    unit = float(np.nanmean(np.abs(past.values)))
    ends = np.unique(np.linspace(start, len(panel) - HORIZON - 1, WINDOWS).round().astype(int))
    fitted = Ridge().fit([past], lookback=LOOKBACK, horizon=HORIZON)
    once = Specialised(fitted, panel.names[0], math.inf)
    plain: dict[str, ForecastModel] = {"bundled": shared, "`ridge` fitted once": once}
    out = {name: (_scored([(model, ends)], panel, unit), "") for name, model in plain.items()}
    for name, method in LEARNED.items():
        every_s = max(3600.0, (len(panel) - start) * panel.step_s / PERIODS)
        online: Online[str] = Online(shared, method, Schedule(every_s, budget_s=math.inf), time.process_time)
        models: list[ForecastModel] = []
        outcomes: Counter[str] = Counter()
        for end in ends:
            now_s = panel.start_s + float(end) * panel.step_s
            while (number := online.due("", now_s)) is not None:
                outcomes[str(online.refresh("", panel, number, HORIZON).outcome)] += 1
            models.append(online.model("", now_s) or shared)
        parts = [(m, ends[[k for k, other in enumerate(models) if other is m]]) for m in dict.fromkeys(models)]
        said = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items())
        out[name] = (_scored(parts, panel, unit), said)
    return out


def _scored(parts: list[tuple[ForecastModel, np.ndarray]], panel: Panel, unit: float) -> tuple[float, ...]:
    """Scores of stretches that different models forecast, weighed by their windows."""
    scores = [score(model, panel, ends, unit, HORIZON) for model, ends in parts]
    weights = [len(ends) for _, ends in parts]
    return tuple(float(x) for x in np.average(scores, axis=0, weights=weights))


if __name__ == "__main__":
    main()
