"""What learning on line costs: `python benchmarks/refresh_speed.py [--out FILE]` writes `benchmarks/refresh_speed.md`.

One service is a generated demand in steps of a minute, of which a refresh reads the newest 4,032 rows. CPU seconds of
one core, medians of several services; memory is what so many refreshed services hold more of.
"""

from __future__ import annotations

import argparse
import math
import pickle
import statistics
import time
from pathlib import Path

from forecasting.fleet import FleetForecaster, Wanted
from forecasting.forecaster import Forecaster
from forecasting.online import Online
from forecasting.panel import Panel
from forecasting.refreshing import Schedule, learner
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
85 % and scores up to 200 windows of the rest, the bundled model and what is in force among the scored. Seconds of one core,
medians of {TIMED} services, by steps ahead; the budget is {Schedule().budget_s:g} s. Memory of what {FLEET:,} services
hold if each has a model of its own, the shared one left out, and forecasts of one tick for all of them, 12 steps ahead with
200 paths: both measured on {KEPT}. Other work on the same cores makes seconds dearer.

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
    learn, schedule = learner(method, shared), Schedule()
    own = {
        k: learn(schedule.known(p, schedule.newest(p.end_s)), HORIZONS[0], lambda: None) for k, p in enumerate(panels)
    }
    of_shared = 0 if method == "ridge" else len(pickle.dumps(shared))
    held = statistics.mean(len(pickle.dumps(model)) for model in own.values()) - of_shared
    fleet = FleetForecaster(shared, samples=200, own=lambda key, _: own[key])
    wanted = [Wanted(k, panel, HORIZONS[0]) for k, panel in enumerate(panels)]
    fleet.forecast(wanted, panels[0].end_s)
    began = time.process_time()
    found = fleet.forecast(wanted, panels[0].end_s)
    forecasts = (time.process_time() - began) * FLEET / KEPT
    assert not found.failed
    assert not found.left_out
    return (
        f"| {title} | {' | '.join(f'{s:.2f} s' for s in seconds)} | {seconds[0] * FLEET / 60:.0f} min | "
        f"{held * FLEET / 2**20:.0f} MiB | {forecasts:.1f} s |"
    )


def _refreshed(online: Online[int], key: int, panel: Panel, horizon: int) -> float:
    return online.refresh(key, panel, online.schedule.newest(panel.end_s), horizon).seconds


if __name__ == "__main__":
    main()
