"""What it brings to weigh the price of changes in the choice of a single count: `python benchmarks/switching.py`.

    HARMONY_DATA=/path/to/traces python benchmarks/switching.py nyc_taxi fisher1 tweets_FB

`harmony` with the bundled model at 1 %, nothing tuned, in the world of `benchmarks/savings.py`; the last 40 % are
counted. A start costs 1, 5, 15 and 60 minutes of a replica, half of it where a replica is added and half where it is
removed. Without: changes count where settings are scored, and not in what one of them chooses. The bill is the hours
and the changes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from benchmarks.savings import MEAN_REPLICAS, demand_of
from forecasting.panel import Indicator, Panel
from harmony.decision.past import own_past
from harmony.decision.switching import weight_of
from harmony.model.objective import Objective
from simulator.pool import StartUp
from simulator.replaying import ReplaySettings, replay
from simulator.traces.registry import load_trace
from simulator.traces.trace import Trace

MINUTES = (1.0, 5.0, 15.0, 60.0)
TEST = 0.4


def service(name: str) -> tuple[Trace, float]:
    """A trace and its lead time in seconds; without a name the bundled one."""
    if not name:
        return load_trace("synthetic"), 300.0
    demand, step_s, lead_s = demand_of(Path(os.environ["HARMONY_DATA"]), name)
    panel = Panel(name=name, values=demand[:, None], indicators=(Indicator("demand"),), start_s=1.6e9, step_s=step_s)
    return Trace(panel, "demand"), lead_s


def measured(trace: Trace, lead_s: float, minutes: float) -> tuple[float, float, float, float, float]:
    """Hours, changes and replicas moved a day, violated share and bill of one run."""
    price = minutes / 60.0 / 2.0
    settings = ReplaySettings(
        mean_replicas=MEAN_REPLICAS, start_up=StartUp(lead_s), objective=Objective(switch_price=price),
        test_fraction=TEST,
    )  # fmt: skip
    result = replay(trace, ["harmony"], settings)
    run, first = result.policies["harmony"], result.scored_from
    moved = np.abs(np.diff(run.ordered[first - 1 :]))
    days = moved.size * result.step_s / 86_400
    bill = run.gpu_hours + price * moved.sum()
    return run.gpu_hours, run.scale_events / days, moved.sum() / days, run.violation_rate, float(bill)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="of benchmarks/savings.py; without one the bundled trace")
    print("| trace | a start costs | changes a day | replicas moved a day | hours | violated | bill |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in parser.parse_args().names or [""]:
        trace, lead_s = service(name)
        for minutes in MINUTES:
            rows = []
            for weighs in (False, True):
                own_past.weight_of = weight_of if weighs else (lambda _: 0.0)
                rows.append(measured(trace, lead_s, minutes))
            (h0, c0, m0, v0, b0), (h, c, m, v, b) = rows
            print(
                f"| {name or 'bundled'} | {minutes:g} min | {c0:.0f} / {c:.0f} | {m0:.0f} / {m:.0f} | {h / h0:.3f} "
                f"| {v0:.2%} / {v:.2%} | {b / b0:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
