"""CPU time of replaying two weeks of minutes under a portfolio: `python benchmarks/selection_speed.py`."""

from __future__ import annotations

import time

import numpy as np

from forecasting.specialists import LeadGrid
from harmony.decision.budget import ErrorBudget
from harmony.decision.past.own_past import OwnPast
from harmony.decision.past.piece import NO_PRICES, Prices
from harmony.decision.past.portfolio import Portfolio

MINUTES = 14 * 1440
TREES = (("ridge", "boosted"), ("forecast",), ("ridge", "boosted", "forecast"))
PORTFOLIOS = {
    "ridge at 8 prices": Portfolio(experts=(("ridge",),), prices=tuple(np.geomspace(3.0, 3e4, 8)), thumbs=()),
    "the default, no trees": Portfolio(),
    "the default with LightGBM": Portfolio(experts=TREES),
}


def main() -> None:
    rng = np.random.default_rng(0)
    at = np.arange(MINUTES)
    demand = 2000.0 * np.exp(0.5 * np.sin(2 * np.pi * at / 1440) + 0.1 * rng.standard_normal(MINUTES))
    given = demand[:, None] * np.array([1.0, 1.2, 1.1, 1.3])
    runs = [(name, portfolio, NO_PRICES) for name, portfolio in PORTFOLIOS.items()]
    runs.insert(2, ("the same where a change costs five minutes", PORTFOLIOS["the default, no trees"], Prices(5.0)))
    for name, portfolio, prices in runs:
        past = OwnPast.start(portfolio, LeadGrid(60.0, 5), ErrorBudget(0.01), cap=0.05).within(1, 100_000, prices)
        began = time.process_time()
        past = past.backfilled(MINUTES * 60.0, demand, 100.0, given)
        print(f"{name}: {len(past.settings)} settings, {time.process_time() - began:.1f} s CPU")


if __name__ == "__main__":
    main()
