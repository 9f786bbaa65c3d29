"""What is asked of the demo's services: two weeks each, which come again; and what was read of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray, Indicator, IntArray
from forecasting.windows import DAY_S
from simulator.demo.specs import DemoSpec
from simulator.traces.generate import generate
from simulator.traces.profiles import MONDAY_S, GeneratorOptions

__all__ = ["INDICATORS", "STEP_S", "DemoRows", "Readings"]

STEP_S = 60.0
DAYS = 14  # what was asked comes again after that; weeks and days stay weeks and days
ROWS = round(DAYS * DAY_S / STEP_S)
INDICATORS = (
    Indicator("requests", "requests/s", 1, "rate"),
    Indicator("output_tokens", "tokens/s", 1, "rate"),
    Indicator("gpu_utilization", "1", 2, "gauge"),
    Indicator("waiting_requests", "requests", 3, "gauge"),
)
Float32Array = npt.NDArray[np.float32]


class Readings:
    """Demand as it is, and indicators as they were read (NaN where lost), of all services on one grid of minutes.

    Row r is at ``MONDAY_S + r * STEP_S``; rows beyond two weeks fall onto the first ones again. `actual` (services,
    rows) is the demand that the replicas must carry.
    """

    def __init__(self, specs: Sequence[DemoSpec], *, detail: bool) -> None:
        """``detail``: all of `INDICATORS`, not only the demand."""
        self.indicators = INDICATORS if detail else INDICATORS[:1]
        self.actual: Float32Array = np.empty((len(specs), ROWS), dtype=np.float32)
        self._read: Float32Array = np.full((len(specs), ROWS, len(self.indicators)), np.nan, dtype=np.float32)
        for i, spec in enumerate(specs):
            requests, tokens = _generated(spec.demand, spec.seed)
            self.actual[i] = np.roll(np.nan_to_num(requests), spec.roll) * spec.scale
            seen = np.roll(requests, spec.roll) * spec.scale
            lost = _lost(spec)
            self._read[i, :, 0] = np.where(lost, np.nan, seen)
            if detail:
                self._read[i, :, 1] = np.where(lost, np.nan, np.roll(tokens, spec.roll) * spec.scale)

    @staticmethod
    def time_s(row: int) -> float:
        """When row ``row`` was read, seconds since the Unix epoch."""
        return MONDAY_S + row * STEP_S

    def demand(self, service: int, row: int) -> float:
        """What was read of the demand; NaN where it was lost."""
        return float(self._read[service, row % ROWS, 0])

    def need(self, service: int, row: int) -> float:
        """What really was asked."""
        return float(self.actual[service, row % ROWS])

    def note(self, row: int, utilization: Sequence[float], waiting: Sequence[float]) -> None:
        """Write down (services,) what the services' replicas showed in this row."""
        if len(self.indicators) > 1:
            known = ~np.isnan(self._read[:, row % ROWS, 0])
            self._read[:, row % ROWS, 2] = np.where(known, utilization, np.nan)
            self._read[:, row % ROWS, 3] = np.where(known, waiting, np.nan)

    def recent(self, service: int, row: int, rows: int) -> tuple[FloatArray, FloatArray]:
        """(rows,) times and demand up to ``row``, NaN where absent."""
        numbers = np.arange(row - rows + 1, row + 1)
        values = self._read[service, numbers % ROWS, 0].astype(np.float64)
        return MONDAY_S + numbers.astype(np.float64) * STEP_S, values

    def rows_of(self, service: int, *, demand_only: bool = False) -> DemoRows:
        """What was read of one service, as forecasts take it."""
        count = 1 if demand_only else len(self.indicators)
        return DemoRows(self._read[service], self.indicators[:count])


class DemoRows:
    """What was read of one service of the demo: a `RowSource` whose two weeks come again, so that no row is before it.

    Of earlier seasons the demand alone is known, as in the cluster.
    """

    start_s = MONDAY_S
    step_s = STEP_S
    calendar = True

    def __init__(self, read: Float32Array, indicators: tuple[Indicator, ...]) -> None:
        self.indicators = indicators
        self._read = read  # (rows, indicators or more)

    def row_at(self, now_s: float) -> int:
        """Number of the last row that is complete at ``now_s``."""
        return math.floor((now_s - MONDAY_S) / STEP_S + 1e-6)

    def recent(self, rows: IntArray) -> FloatArray:
        """(..., indicators) readings, NaN where lost."""
        found: FloatArray = self._read[rows % ROWS, : len(self.indicators)].astype(np.float64)
        return found

    def earlier(self, rows: IntArray) -> FloatArray:
        """(..., indicators) the demand, NaN for other indicators."""
        found = np.full((*rows.shape, len(self.indicators)), np.nan)
        found[..., 0] = self._read[rows % ROWS, 0]
        return found


@lru_cache(maxsize=32)
def _generated(options: GeneratorOptions, seed: int) -> tuple[FloatArray, FloatArray]:
    """(rows,) requests and output tokens per second of one service."""
    panel = generate(days=DAYS, step_s=STEP_S, seed=seed, options=options)
    return panel.column("requests_per_second"), panel.column("output_tokens_per_second")


def _lost(spec: DemoSpec) -> npt.NDArray[np.bool_]:
    """(rows,) True where the service's readings are lost."""
    lost = np.zeros(ROWS, dtype=np.bool_)
    if spec.lost_every_s <= 0.0:
        return lost
    rng = np.random.default_rng([spec.seed, 0x4C4F5354])
    row = 0
    while row < ROWS:
        row += max(30, round(float(rng.exponential(spec.lost_every_s)) / STEP_S))
        length = max(2, round(float(rng.uniform(0.5, 1.5)) * spec.lost_s / STEP_S))
        lost[row : row + length] = True
        row += length
    return lost
