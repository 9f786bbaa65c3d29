"""How long the forecaster takes: `python benchmarks/forecast_speed.py [--model base] [--threads 2] [--json]`.

Two loads: a fleet (200 services, 11 indicators, 144 rows back, 12 steps ahead, 200 paths) and a replay (9,000 windows
of 8 indicators of which only demand is wanted, 10 steps ahead, 200 paths). With `--experts` the fleet is forecast by
`ensemble` too, which learns one service of 11 indicators first. Seconds of wall-clock, best of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as everywhere in the product: pieces are too small for more

import numpy as np
import torch

from forecasting.ensemble import Ensemble
from forecasting.errors import ArtefactError
from forecasting.forecaster import Forecaster
from forecasting.network import ForecastNet
from forecasting.panel import Indicator, Panel
from forecasting.windows import WindowBatch

LEARNED = 4032  # rows


def walk(rows: int, indicators: int) -> Panel:
    """Random walks."""
    values = np.random.default_rng(0).normal(size=(rows, indicators)).cumsum(0)
    columns = tuple(Indicator(f"x{i}", level=1 if i == 0 else 2 + i % 2) for i in range(indicators))
    return Panel(values, columns, 0.0, 60.0)


def windows(count: int, indicators: int, lookback: int, horizon: int) -> WindowBatch:
    """Random walks with seasons, as many windows as asked for."""
    rows = lookback + count + 2100
    return WindowBatch.of(walk(rows, indicators), np.arange(rows - count, rows), lookback, horizon=horizon)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="base", help="bundled model, model folder, or 'fresh' (untrained weights)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--experts", action="store_true", help="forecast the fleet by the ensemble too")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.model == "fresh":
        from forecasting.config import ModelConfig

        model = Forecaster.of_networks([ForecastNet(ModelConfig())])
    else:
        try:
            model = Forecaster.load(args.model)
        except ArtefactError as error:
            parser.error(str(error))
    loads = {
        "fleet": (windows(200, 11, 144, 12), 12, 200, None),
        "replay": (windows(9000, 8, 144, 10), 10, 200, ["x0"]),
    }
    found: dict[str, dict[str, float]] = {}
    models: dict[str, Forecaster | Ensemble] = dict.fromkeys(loads, model)
    if args.experts:
        batch = windows(200, 11, 144, 12)
        took = []
        for _ in range(args.repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            models["fleet, experts included"] = Ensemble(flow=model).fit([walk(LEARNED, 11)], lookback=144, horizon=12)
            took.append((time.perf_counter() - wall, time.process_time() - cpu))
        wall, cpu = min(took)
        loads["fleet, experts included"] = loads["fleet"]
        found["learning"] = {"wall_seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "threads": args.threads}
        if not args.json:
            print(f"learning: {LEARNED} rows x 11 indicators, 12 steps: {wall:.2f} s wall, {cpu:.2f} s cpu")
    for name, (batch, horizon, samples, only) in loads.items():
        took = []
        for _ in range(args.repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            models[name].predict(batch, horizon, samples=samples, only=only)
            took.append((time.perf_counter() - wall, time.process_time() - cpu))
        wall, cpu = min(took)
        found[name] = {"wall_seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "threads": args.threads}
        if not args.json:
            shape = f"{len(batch)} windows x {len(batch.indicators)} indicators x {batch.lookback} rows"
            wanted = "all" if only is None else f"{len(only)} wanted"
            print(f"{name}: {shape} -> {wanted}, {horizon} steps, {samples} paths: {wall:.2f} s wall, {cpu:.2f} s cpu")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
