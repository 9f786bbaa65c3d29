"""Do queue, tokens in flight and request rates by size make the joint forecast of demand better?

    python benchmarks/leading_indicators.py [--days 4]

A service lives in the request-level world under `reactive` (time-outs and retries, capacity a little short, so that
there are queues); what it measures in each step is recorded: demand (arrivals, retries included), and at level 2 what
may lead it. Forecasters are fitted on the first 60 % of it, once with the demand alone and once with everything, and
scored on the rest one lead (five minutes) ahead: CRPS of 100 paths over the mean demand, and the mean absolute error
of the median. The difference's interval is a bootstrap over hours (95 %).
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from forecasting.fleet import forecast_rows
from forecasting.methods import create_method
from forecasting.panel import Panel
from harmony.loop.managed import ManagedService
from harmony.loop.state import Terms
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective
from harmony.policies.reactive import ReactivePolicy
from simulator.living import BOUND, LiveRequests, Traffic, WorldSettings
from simulator.nodes import NodePool, Supply
from simulator.pool import StartUp
from simulator.requests import Clients
from simulator.traces.registry import load_trace

LEAD = 5


def recorded(days: float) -> Panel:
    panel = load_trace("synthetic").panel.rows(0, int(days * 1440))
    panel = dataclasses.replace(panel, name="bundled")
    capacity = float(np.nanmean(panel.values[:, 0])) / 20
    settings = WorldSettings(clients=Clients(15.0, 3, 2.0), utilisation=1.0)
    traffic = Traffic.of(panel, None, capacity, settings, 0)
    pool = NodePool(20, StartUp(300.0), Supply(), panel.step_s, np.random.default_rng(0))
    live = LiveRequests(traffic, panel.values[:, 0], 0, pool)
    terms = Terms(
        objective=Objective(bound=BOUND), policy=ReactivePolicy(margin=0.0), capacity=Capacity.known(capacity),
        lead_time=LeadTime.known(300.0), step_s=panel.step_s, interval_s=panel.step_s, stale_after_s=0.0,
        steps_back=False, scored=False,
    )  # fmt: skip
    live.run(ManagedService(terms))
    return live.panel(panel.indicators[0], "recorded")


def crps(paths: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(rows,) by the sorted-sample form."""
    ordered = np.sort(paths, axis=1)
    m = ordered.shape[1]
    spread = (ordered * (2 * np.arange(1, m + 1) - m - 1)).sum(axis=1) / m**2
    return np.abs(ordered - truth[:, None]).mean(axis=1) - spread


def scored(panel: Panel, method: str) -> tuple[np.ndarray, np.ndarray]:
    """CRPS and absolute error of each row of the last 40 %, one lead ahead."""
    split = int(len(panel) * 0.6)
    cut = split * 4 // 5
    model = create_method(method).fit(
        [panel.rows(0, cut)], lookback=72, horizon=LEAD, validation=[panel.rows(cut - 72, split)], seed=0
    )
    rows = np.arange(split, len(panel) - LEAD)
    rows = rows[~np.isnan(panel.values[rows + LEAD, 0]) & ~np.isnan(panel.values[rows, 0])]
    name = panel.names[0]
    parts = np.array_split(rows, max(1, rows.size // 256))
    paths = np.concatenate(
        [
            forecast_rows(model, panel, p, LEAD, samples=100, seed=0, lookback=72, only=(name,)).paths[
                :, :, LEAD - 1, 0
            ]
            for p in parts
        ]
    )
    truth = panel.values[rows + LEAD, 0]
    return crps(paths, truth), np.abs(np.median(paths, axis=1) - truth)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=float, default=4)
    parser.add_argument("--method", action="append")
    options = parser.parse_args()
    panel = recorded(options.days)
    mean = float(np.nanmean(panel.values[:, 0]))
    queued, again = (float(np.mean(panel.column(c) > 0)) for c in ("queue_length", "retries_per_second"))
    print(f"{len(panel):,} steps, a queue in {queued:.0%} of them, retries in {again:.0%}")
    print("\n| method | demand alone: CRPS, error | with leading indicators | CRPS changes by (95 %) |")
    print("|---|---:|---:|---:|")
    rng = np.random.default_rng(0)
    bare = Panel(panel.values[:, :1], panel.indicators[:1], panel.start_s, panel.step_s, name=panel.name)
    known = [i for i in range(panel.values.shape[1]) if i == 0 or np.isfinite(panel.values[:, i]).mean() > 0.5]
    full = Panel(
        np.nan_to_num(panel.values[:, known]),
        tuple(panel.indicators[i] for i in known),
        panel.start_s,
        panel.step_s,
        name=panel.name,
    )
    for method in options.method or ["ridge", "boosted_quantiles"]:
        (a, ea), (b, eb) = scored(bare, method), scored(full, method)
        hours = np.arange(a.size) // 60
        sums = np.array([[x[hours == h].sum() for h in range(hours[-1] + 1)] for x in (a, b)])
        pick = rng.integers(0, sums.shape[1], (2_000, sums.shape[1]))
        ratio = sums[1][pick].sum(axis=1) / sums[0][pick].sum(axis=1) - 1
        low, high = np.quantile(ratio, [0.025, 0.975])
        print(
            f"| {method} | {a.mean() / mean:.4f}, {ea.mean() / mean:.4f} "
            f"| {b.mean() / mean:.4f}, {eb.mean() / mean:.4f} "
            f"| {b.mean() / a.mean() - 1:+.1%} ({low:+.1%} to {high:+.1%}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
