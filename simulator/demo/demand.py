"""What is asked of the demo's services: two weeks each, which come again; what was read of it, and its forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from forecasting.base import ForecastModel
from forecasting.distribution import ForecastBatch
from forecasting.panel import FloatArray, Indicator
from forecasting.windows import DAY_S, SEASONS_S, WindowBatch
from simulator.demo.specs import DemoSpec
from simulator.traces.generate import generate
from simulator.traces.profiles import MONDAY_S, GeneratorOptions

__all__ = ["INDICATORS", "LOOKBACK", "STEP_S", "Readings"]

STEP_S = 60.0
LOOKBACK = 144
DAYS = 14  # what was asked comes again after that; weeks and days stay weeks and days
ROWS = round(DAYS * DAY_S / STEP_S)
SAMPLES = 200
INDICATORS = (
    Indicator("requests", "requests/s", 1, "rate"),
    Indicator("output_tokens", "tokens/s", 1, "rate"),
    Indicator("gpu_utilization", "1", 2, "gauge"),
    Indicator("waiting_requests", "requests", 3, "gauge"),
)
IntArray = npt.NDArray[np.int64]
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

    def forecast(self, model: ForecastModel, services: Sequence[int], row: int, horizon: int) -> ForecastBatch:
        """All indicators of these services from ``row`` on, as one batch."""
        return self._predict(model, np.asarray(services), np.full(len(services), row), horizon, len(self.indicators))

    def forecast_past(self, model: ForecastModel, service: int, rows: Sequence[int], horizon: int) -> ForecastBatch:
        """The demand of one service from each of many rows on, each from its own past."""
        return self._predict(model, np.full(len(rows), service), np.asarray(rows), horizon, 1)

    def _predict(
        self, model: ForecastModel, services: IntArray, rows: IntArray, horizon: int, count: int
    ) -> ForecastBatch:
        back = rows[:, None] + np.arange(-LOOKBACK + 1, 1)
        ahead = np.arange(1, horizon + 1)
        seasons = np.stack([rows[:, None] + ahead - round(s / STEP_S) for s in SEASONS_S], axis=1)
        seasonal = np.full((*seasons.shape, count), np.nan)
        seasonal[..., 0] = self._read[services[:, None, None], seasons % ROWS, 0]
        windows = WindowBatch(
            values=self._read[services[:, None], back % ROWS, :count].astype(np.float64),
            indicators=self.indicators[:count],
            end_s=MONDAY_S + rows.astype(np.float64) * STEP_S,
            step_s=STEP_S,
            seasonal=seasonal,
        )
        return model.predict(windows, horizon, samples=SAMPLES, seed=0)


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
