"""Does looking beyond the lead time save hours at equal violation? On real traces, with a ridge regression's paths.

    HARMONY_DATA=/path/to/traces python benchmarks/look_ahead.py

World of `benchmarks/savings.py`: a replica carries what makes the mean demand need 20; a lead of five minutes or one
step; ready is the least of what was ordered over the lead. The forecaster is fitted on the first 60 %, scored are up
to 3,000 steps after it. Paths reach one lead and a hold (twelve steps) ahead. Four rules on the same paths:

    window        the cheapest count of the lead window at a price (look_ahead over one lead: no further step)
    held          the same with a scale-down that waits one lead
    far           look_ahead over lead and hold, changes cost 2 replica-steps a replica
    far, held     both

Each is run at nine prices; hours at equal violation are read off its frontier (interpolated in the logarithm).
Changes are of the desired count, per day, at the price whose violation is nearest to 1 %.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np

from forecasting.fleet import forecast_rows
from forecasting.methods import create_method
from harmony.decision.look_ahead import look_ahead
from simulator.traces.registry import load_trace

TRACES = {
    "helios_vccaA": "gpu_helios_earth/vccaA_1min.csv.gz", "helios_vc8Sj": "gpu_helios_earth/vc8Sj_1min.csv.gz",
    "nasa_jul": "web_nasa/jul1995_1min.csv.gz", "alibaba2018": "cluster_alibaba2018/usage_30s.csv.gz",
    "nyc_taxi": "nab/nyc_taxi.csv.gz", "tweets_FB": "nab/Twitter_volume_FB.csv.gz",
    "fisher1": "fisher/container1.csv.gz", "fisher7": "fisher/container7.csv.gz",
}  # fmt: skip
PRICES = np.geomspace(3, 3_000, 9)
SAMPLES, AHEAD, MOST, LOOKBACK = 60, 12, 3_000, 144
SWITCH = 2.0
RULES = {
    "window": (0, 0.0, False),
    "held": (0, 0.0, True),
    "far": (AHEAD, SWITCH, False),
    "far, held": (AHEAD, SWITCH, True),
}


def lived(
    need: np.ndarray, truth: np.ndarray, lead: int, price: float, rule: tuple[int, float, bool]
) -> tuple[float, float, int]:
    """Replica-steps, violated share and changes of one rule; need (turns, samples, steps), truth (turns,)."""
    ahead, switch, held = rule
    ordered, wishes, orders = 20, [20] * (lead + 1), []
    for paths, now in zip(need, truth, strict=True):
        wished = look_ahead(
            paths[:, : lead + ahead], lead, ordered, price=price, switch=switch, least=1, floor=math.ceil(now - 1e-9)
        ).now
        wishes = [*wishes[1:], wished]
        ordered = max(wishes) if held else wished
        orders.append(ordered)
    counts = np.array(orders)
    padded = np.concatenate([np.full(lead, counts[0]), counts])
    ready = np.lib.stride_tricks.sliding_window_view(padded, lead + 1).min(axis=1)
    return float(counts.sum()), float((truth > ready + 1e-9).mean()), int((np.diff(counts) != 0).sum())


def hours_at(points: list[tuple[float, float, int]], violation: float) -> float:
    """Hours of a frontier at a violated share; NaN outside of it."""
    ranked = sorted((max(v, 1e-5), h) for h, v, _ in points)
    v, h = np.log([p[0] for p in ranked]), np.log([p[1] for p in ranked])
    inside = v[0] <= math.log(violation) <= v[-1]
    return float(np.exp(np.interp(math.log(violation), v, h))) if inside else math.nan


def main() -> None:
    folder = Path(os.environ["HARMONY_DATA"])
    names = sys.argv[1:] or list(TRACES)
    print("| trace | " + " | ".join(f"{r}: hours, changes a day" for r in RULES) + " |\n|---|" + "---:|" * len(RULES))
    ratios: dict[str, list[float]] = {r: [] for r in RULES}
    for name in names:
        panel = load_trace(folder / TRACES[name]).panel
        panel = panel.select(panel.names[:1]) if hasattr(panel, "select") else panel
        values = panel.values[:, 0]
        split = int(len(panel) * 0.6)
        lead = max(1, math.ceil(300 / panel.step_s))
        per_replica = np.nanmean(values) / 20
        model = create_method("ridge").fit(
            [panel.rows(0, split * 4 // 5)], lookback=LOOKBACK, horizon=lead + AHEAD,
            validation=[panel.rows(split * 4 // 5 - LOOKBACK, split)], seed=0,
        )  # fmt: skip
        rows = np.arange(split, min(len(panel), split + MOST))
        rows = rows[~np.isnan(values[rows])]
        paths = np.concatenate(
            [
                forecast_rows(
                    model, panel, part, lead + AHEAD, samples=SAMPLES, seed=0, lookback=LOOKBACK, only=panel.names[:1]
                ).paths[..., 0]
                for part in np.array_split(rows, max(1, rows.size // 256))
            ]
        )
        need, truth = np.maximum(paths, 0) / per_replica, values[rows] / per_replica
        frontiers = {r: [lived(need, truth, lead, p, rule) for p in PRICES] for r, rule in RULES.items()}
        spans = [(min(v for _, v, _ in f), max(v for _, v, _ in f)) for f in frontiers.values()]
        low, high = max(s[0] for s in spans), min(s[1] for s in spans)
        at = min(max(0.01, low), high)
        days = rows.size * panel.step_s / 86_400
        cells = []
        base = hours_at(frontiers["window"], at)
        for r, points in frontiers.items():
            ratio = hours_at(points, at) / base
            ratios[r].append(ratio)
            nearest = min(points, key=lambda p: abs(math.log(max(p[1], 1e-5) / at)))
            cells.append(f"{ratio:.3f}, {nearest[2] / days:,.0f}")
        print(f"| {name} at {at:.1%} | " + " | ".join(cells) + " |", flush=True)
    means = [float(np.exp(np.nanmean(np.log(ratios[r])))) for r in RULES]
    print("| geometric mean | " + " | ".join(f"{m:.3f}" for m in means) + " |")


if __name__ == "__main__":
    main()
