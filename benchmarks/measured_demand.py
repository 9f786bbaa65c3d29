"""What becomes of a service whose demand is measured where it is served: three days, among requests.

    python benchmarks/measured_demand.py

Bundled trace; `reactive` and `hpa`, untuned, and `harmony` without the deep forecast, taking saturated readings for
demand and for lower bounds of it (censored), on demand as it arrives (requests that are sent again included), as it is
served, and by the balance of what is served and what is in the system more than before. Clients time out after 20 s
and come back twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from harmony.policies.harmony import HarmonyPolicy
from simulator.living import Measured, WorldSettings
from simulator.replaying import ReplaySettings, replay
from simulator.requests import Clients
from simulator.traces.registry import load_trace


def main() -> None:
    trace = load_trace("synthetic")
    trace = replace(trace, panel=trace.panel.rows(0, 4_320))
    own = HarmonyPolicy(forecaster="")
    print("| demand is | policy | GPU-hours | steps violated | requests within the bound | gave up |")
    print("|---|---|---:|---:|---:|---:|")
    for measured in get_args(Measured):
        world = WorldSettings(measured=measured, clients=Clients(20.0, 2, 2.0))
        policies = ["reactive", "hpa", own, replace(own, censored=True, name="harmony, censored")]
        for name, run in replay(trace, policies, ReplaySettings(world=world)).policies.items():
            told = run.requests
            print(
                f"| {measured} | {name} | {run.gpu_hours:,.0f} | {run.violation_rate:.2%} "
                f"| {told['slo_attainment']:.2%} | {told['gave_up']:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
