"""Small traces and a forecaster that knows nothing, for tests of the simulated world."""

from __future__ import annotations

import numpy as np

from forecasting.panel import FloatArray, Indicator, Panel
from simulator.traces.trace import Trace


def make_trace(demand: FloatArray, step_s: float = 60.0, name: str = "made") -> Trace:
    """A trace of one demand indicator."""
    panel = Panel(np.asarray(demand, dtype=float)[:, None], (Indicator("rps", "requests/s"),), 0.0, step_s, name=name)
    return Trace(panel, "rps")


def waves(steps: int = 600, seed: int = 0) -> FloatArray:
    """Two cycles of demand around 100 with noise."""
    t = np.arange(steps)
    noise = np.random.default_rng(seed).normal(0, 4, steps)
    return np.maximum(100 + 60 * np.sin(t / steps * 4 * np.pi) + noise, 0.0)
