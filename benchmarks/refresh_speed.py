"""What learning on line costs: `python benchmarks/refresh_speed.py [--out FILE]` writes `benchmarks/refresh_speed.md`.

One service is a generated demand in steps of a minute, of which a refresh reads the newest 4,032 rows. CPU seconds of
one core, medians of several services; memory is what so many refreshed services hold more of.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
from pathlib import Path

from forecasting.fleet import FleetForecaster, Wanted
from forecasting.forecaster import Forecaster
from forecasting.memory import PeakMemory
from forecasting.online import Online
from forecasting.panel import Panel
from forecasting.refreshing import Schedule
from simulator.traces.generate import generate

STEP_S, ROWS = 60.0, 4_400
METHODS = {"calibration of the bundled model": "", "`ridge`": "ridge", "`ensemble`": "ensemble"}
HORIZONS = (12, 24, 48)
TIMED = 3
KEPT = 20
FLEET = 1_000


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    out = parser.parse_args().out
    demands = [generate(days=4, step_s=STEP_S, seed=k) for k in range(KEPT)]
    panels = [p.select([p.names[0]]).rows(0, ROWS) for p in demands]
    shared = Forecaster.base()
    rows = [_row(title, method, shared, panels) for title, method in METHODS.items()]
    out.write_text(PAGE + "\n".join(rows) + "\n", encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


PAGE = f"""# What learning on line costs

`python benchmarks/refresh_speed.py`: a refresh of one service in steps of a minute, of whose newest 4,032 rows it learns
85 % and scores up to 300 windows of the rest, the bundled model and what is in force among the scored. Seconds of one core,
medians of {TIMED} services, by steps ahead; the budget is {Schedule().budget_s:g} s. Memory beyond the loaded model,
{KEPT} services measured and counted for {FLEET:,}. Forecasts: one tick of {FLEET:,} services 12 steps ahead with 200 paths,
counted from {KEPT}; with the bundled model alone for all, the first row's less the moving of levels.

| what is learned | {" | ".join(f"{h} ahead" for h in HORIZONS)} | {FLEET:,} services, 12 ahead, of an hour | memory of {FLEET:,} | forecasts of {FLEET:,} |
|---|{"---:|" * len(HORIZONS)}---:|---:|---:|
"""  # noqa: E501


def _row(title: str, method: str, shared: Forecaster, panels: list[Panel]) -> str:
    seconds = []
    for horizon in HORIZONS:
        online: Online[int] = Online(shared, method, Schedule(budget_s=math.inf), time.process_time)
        online.refresh(0, panels[0], online.schedule.newest(panels[0].end_s) - 1, horizon)  # imports and first calls
        took = [_refreshed(online, k, panels[k], horizon) for k in range(TIMED)]
        seconds.append(statistics.median(took))
    online = Online(shared, method, Schedule(budget_s=math.inf, better=0.0), time.process_time)
    gc.collect()
    memory = PeakMemory()
    for k, panel in enumerate(panels):
        _refreshed(online, k, panel, HORIZONS[0])
    gc.collect()
    with memory:
        pass
    now_s = panels[0].end_s
    late_s = now_s + online.schedule.ready_s
    own = sum(online.model(k, late_s) is not None for k in range(KEPT))
    fleet = FleetForecaster(shared, samples=200, own=lambda key, _: online.model(key, late_s))
    wanted = [Wanted(k, panel, HORIZONS[0]) for k, panel in enumerate(panels)]
    fleet.forecast(wanted, now_s)
    began = time.process_time()
    fleet.forecast(wanted, now_s)
    forecasts = (time.process_time() - began) * FLEET / KEPT
    held = memory.mib * FLEET / max(1, own)
    return (
        f"| {title} | {' | '.join(f'{s:.2f} s' for s in seconds)} | {seconds[0] * FLEET / 60:.0f} min | "
        f"{held:.0f} MiB ({own} of {KEPT} have one) | {forecasts:.1f} s |"
    )


def _refreshed(online: Online[int], key: int, panel: Panel, horizon: int) -> float:
    return online.refresh(key, panel, online.schedule.newest(panel.end_s), horizon).seconds


if __name__ == "__main__":
    main()
