"""Series that a specialist learns or does not, and a model that stands in for what all services share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from forecasting.distribution import ForecastBatch
from forecasting.panel import FloatArray, Indicator, Panel
from forecasting.windows import WindowBatch

STEP_S, HOUR = 300.0, 3600.0
START_S = 1_767_571_200.0  # 2026-01-05T00:00:00Z
DEMAND = Indicator("requests", "requests/s", 1, "rate")


class Around:
    """The newest reading and even noise about it, of a given width and offset: a stand-in for what all share."""

    name, lookback = "around", 144

    def __init__(self, width: float = 10.0, offset: float = 0.0) -> None:
        self.width, self.offset = width, offset
        self.version = f"{width:g}{offset:+g}"

    def fit(self, panels: Any, **_: Any) -> Around:
        return self

    def update(self, panels: Any, **_: Any) -> Around:
        return self

    def predict(
        self, windows: WindowBatch, horizon: int, *, samples: int = 100, seed: int = 0, only: Any = None
    ) -> ForecastBatch:
        names = [i.name for i in windows.indicators]
        picks = [names.index(n) for n in (names if only is None else only)]
        level = (np.arange(samples) + 0.5) / samples
        spread = np.random.default_rng(seed).permuted(np.tile(self.width * (2 * level - 1), (horizon, 1)), axis=1).T
        last = windows.values[:, -1, picks] + self.offset
        paths = last[:, None, None] + spread[None, :, :, None]
        indicators = tuple(windows.indicators[p] for p in picks)
        return ForecastBatch(paths, indicators, windows.end_s, windows.step_s, f"{self.name} {self.version}")


def wave(rows: int = 1200, seed: int = 0) -> FloatArray:
    """A rhythm of two hours that a ridge learns and the newest reading does not know."""
    at = np.arange(rows)
    noise = np.random.default_rng(seed).normal(size=rows)
    return np.float32(100 + 30 * np.sin(at / 24 * 2 * math.pi) + noise).astype(np.float64)


def walk(rows: int = 1200, seed: int = 1) -> FloatArray:
    return np.float32(500 + np.random.default_rng(seed).normal(size=rows).cumsum()).astype(np.float64)


def panel(values: FloatArray) -> Panel:
    return Panel(values[:, None], (DEMAND,), START_S, STEP_S, "chat")
