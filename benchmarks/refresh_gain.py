"""What learning on line gives: `python -m benchmarks.refresh_gain --data FOLDER` writes `benchmarks/refresh_gain.md`.

Demand of the traces of `benchmarks/base_scores.py` 12 steps ahead, at 12 dates in the last 40 % of each: what a period
that ended one hour (20 steps, if these are longer) before has taught is in force, and is scored until the next one is.
Every date begins anew, as after a restart. The bundled model has seen the first 55 % of these traces (of NASA nothing).
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

SCORED, DATES, HORIZON, WINDOWS = 0.6, 12, 12, 20  # windows of a date
ONCE = 20_000  # rows that are learned once
LEARNED = {"bundled, its calibration learned": "", "`ridge` learned": "ridge", "`ensemble` learned": "ensemble"}
PAGE = f"""# What learning on line gives

`python -m benchmarks.refresh_gain --data FOLDER`: demand {HORIZON} steps ahead, {WINDOWS} windows after each of {DATES}
dates in the last 40 % of a trace, forecast by what was learned until an hour (or 20 steps) before the date
(`forecasting.refreshing`). CRPS and pinball loss at 0.99 of the largest value within these steps, both over the mean of
the trace before; how often that largest value lay above its stated 0.99 quantile (1 % would be exact). `ridge` fitted
once learned the newest {ONCE:,} rows of the first 60 %. Last rows: geometric means, relative to the bundled model as it
comes.

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
    schedule = Schedule(max(3600.0, WINDOWS * panel.step_s), budget_s=math.inf)
    dates = _dates(panel, start, schedule)
    ends = np.concatenate(list(dates.values()))
    fitted = Ridge().fit([past.rows(start - ONCE, start)], lookback=LOOKBACK, horizon=HORIZON)
    once = Specialised(fitted, panel.names[0], math.inf)
    plain: dict[str, ForecastModel] = {"bundled": shared, "`ridge` fitted once": once}
    out = {name: (_scored([(model, ends)], panel, unit), "") for name, model in plain.items()}
    for name, method in LEARNED.items():
        parts: list[tuple[ForecastModel, np.ndarray]] = []
        outcomes: Counter[str] = Counter()
        for number, part in dates.items():
            online: Online[str] = Online(shared, method, schedule, time.process_time)
            made = online.refresh("", _known(panel, schedule, number), number, HORIZON)
            outcomes[str(made.outcome)] += 1
            parts.append((made.model or shared, part))
        out[name] = (_scored(parts, panel, unit), ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()))
    return out


def _known(panel: Panel, schedule: Schedule, number: int) -> Panel:
    """What is known at the end of a period, and nothing later."""
    return panel.rows(0, panel.row_at(schedule.end_s(number)) + 1)


def _dates(panel: Panel, start: int, schedule: Schedule) -> dict[int, np.ndarray]:
    """By number of the period that is in force, the rows from which is forecast."""
    whole = round(schedule.every_s / panel.step_s)
    first = schedule.newest(panel.start_s + start * panel.step_s) + 1
    last = schedule.newest(panel.start_s + (len(panel) - HORIZON - 2 * whole) * panel.step_s) - 2
    out = {}
    for number in np.unique(np.linspace(first, last, DATES).round().astype(int)).tolist():
        begin = panel.row_at(schedule.end_s(number) + schedule.ready_s)
        out[number] = begin + np.linspace(0, whole - 1, min(WINDOWS, whole)).round().astype(int)
    return out


def _scored(parts: list[tuple[ForecastModel, np.ndarray]], panel: Panel, unit: float) -> tuple[float, ...]:
    """Scores of stretches that different models forecast, weighed by their windows."""
    scores = [score(model, panel, ends, unit, HORIZON) for model, ends in parts]
    weights = [len(ends) for _, ends in parts]
    return tuple(float(x) for x in np.average(scores, axis=0, weights=weights))


if __name__ == "__main__":
    main()
