"""Where a replay's loop gets its forecasts: batches prepared ahead (each from its own past only), or the truth."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from forecasting.base import ForecastModel, rows_read
from forecasting.distribution import ForecastDistribution
from forecasting.fleet import forecast_rows
from forecasting.online import Online
from forecasting.panel import FloatArray, Indicator, IntArray, Panel
from forecasting.refreshing import Schedule, Standing

__all__ = ["BatchedForecasts", "Learning", "TrueFuture"]

CHUNK = 256


class BatchedForecasts:
    """Forecasts of one panel's demand at every ``every``-th row, computed in batches when first asked for.

    A forecast at row t sees rows up to t and nothing later, exactly as `model.predict` on a live panel would; only
    the batching differs. ``first`` is the first row with enough history; before it there is no forecast. ``online``:
    who forecasts when, where the service learns on line; learning is then a part of what is computed.
    """

    def __init__(
        self,
        panel: Panel,
        model: ForecastModel,
        *,
        lookback: int,
        horizon: int,
        samples: int,
        seed: int,
        every: int = 1,
        first: int = 0,
        on_batch: Callable[[int, int], None] | None = None,
        online: Learning | None = None,
    ) -> None:
        self.panel = panel
        self._online = online
        self.model = model
        self.horizon = horizon
        self._lookback = lookback
        self._samples = samples
        self._seed = seed
        self._every = every
        self._first = first
        self._on_batch = on_batch
        self._chunks: dict[int, list[ForecastDistribution]] = {}

    @property
    def _per_chunk(self) -> int:
        return CHUNK * self._every

    def latest(self, now_s: float) -> ForecastDistribution | None:
        """The forecast made at ``now_s``; None before there is enough history or off the decision grid."""
        row = round((now_s - self.panel.start_s) / self.panel.step_s)
        if row < self._first or row % self._every:
            return None
        number = row // self._per_chunk
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = self._chunks[number] = self._compute(number)
        return chunk[(row - number * self._per_chunk) // self._every]

    def _compute(self, number: int) -> list[ForecastDistribution]:
        """The forecasts of a chunk's rows: of the panel's first indicator, without the windows that a density needs."""
        start = number * self._per_chunk
        rows = np.arange(start, min(start + self._per_chunk, len(self.panel)), self._every)
        made: list[ForecastDistribution] = []
        for model, part in self._by_model(rows):
            batch = forecast_rows(
                model,
                self.panel,
                part,
                self.horizon,
                samples=self._samples,
                seed=self._seed,
                lookback=self._lookback if model is self.model else max(self._lookback, rows_read(model)),
                only=self.panel.names[:1],
                held=True,
            )
            made += replace(batch, log_prob_of=None)
        if self._on_batch is not None:
            self._on_batch(int(rows[-1]) + 1, len(self.panel))
        return made

    def _by_model(self, rows: IntArray) -> Iterator[tuple[ForecastModel, IntArray]]:
        """The rows in stretches that one model forecasts."""
        if self._online is None:
            yield self.model, rows
            return
        models = [self._online.model_at(int(row)) for row in rows]
        for _, same in itertools.groupby(range(len(rows)), key=lambda i: id(models[i])):
            at = list(same)
            yield models[at[0]], rows[at]


class Learning:
    """A service of a replay that learns on line as it would in a cluster: of every period once it has ended.

    Equal panel, schedule and horizon give equal models; rows may be asked for in any order.
    """

    def __init__(self, panel: Panel, shared: ForecastModel, method: str, every_s: float, horizon: int) -> None:
        self._panel = panel
        schedule = Schedule(every_s=every_s, budget_s=math.inf)  # what comes of it must not depend on the machine
        self._online: Online[str] = Online(shared, method, schedule, time.thread_time)
        self._horizon = horizon
        self._models: list[ForecastModel] = []  # by row
        self.standings: list[Standing] = []

    def model_at(self, row: int) -> ForecastModel:
        """What forecasts from ``row`` on."""
        name, panel = self._panel.name, self._panel
        for k in range(len(self._models), row + 1):
            now_s = panel.start_s + k * panel.step_s
            while (number := self._online.due(name, now_s)) is not None:
                self.standings.append(self._online.refresh(name, panel, number, self._horizon))
            self._models.append(self._online.model(name, now_s) or self._online.shared)
        return self._models[row]


class TrueFuture:
    """The truth as a forecast of one path: for the oracle only."""

    def __init__(self, demand: FloatArray, indicator: Indicator, start_s: float, step_s: float, horizon: int) -> None:
        self._padded = np.concatenate([demand, np.full(horizon, np.nan)])
        self._indicators = (indicator,)
        self._start_s = start_s
        self._step_s = step_s
        self._horizon = horizon

    def latest(self, now_s: float) -> ForecastDistribution | None:
        """The coming ``horizon`` steps as they will be (NaN beyond the end)."""
        row = round((now_s - self._start_s) / self._step_s)
        ahead = self._padded[row + 1 : row + 1 + self._horizon]
        return ForecastDistribution(ahead[None, :, None], self._indicators, now_s, self._step_s, "truth")
