"""Forecasts of posted histories: one at a time on a thread of their own, few waiting."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from forecasting.distribution import ForecastDistribution
from forecasting.panel import Indicator, Panel
from harmony.api.depends import needed
from harmony.api.models import AdHocForecast, AdHocRequest, ForecastExplanation, QuantileRow
from harmony.api.ports import ExplainForecastPort, ForecastPort
from harmony.api.problems import Problem
from harmony.serving.views import numbers, utc

__all__ = ["AdHoc", "panel_of", "summary"]

WAITING = 16


class AdHoc:
    """The forecaster's queue: the model uses one thread well, and a second forecast beside it only slows both."""

    def __init__(self, forecast: ForecastPort, explain: ExplainForecastPort | None = None) -> None:
        self._forecast = forecast
        self._explain = explain
        self._pool = ThreadPoolExecutor(1, "harmony-forecast")
        self._waiting = 0

    async def forecast(self, request: AdHocRequest) -> AdHocForecast:
        """The joint forecast; `Problem` "unavailable" when too many wait, or where nobody can explain it."""
        if request.explain:
            needed(self._explain, "what explains forecasts")
        if self._waiting >= WAITING:
            raise Problem("unavailable", "Too many forecasts wait.", {"retry-after": "2"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._make, request)
        finally:
            self._waiting -= 1

    def _make(self, request: AdHocRequest) -> AdHocForecast:
        panel = panel_of(request)
        made = self._forecast(panel, request.horizon, request.samples)
        found = summary(made, request)
        if self._explain is None or not request.explain:
            return found
        name = panel.names[0]
        if np.isnan(made.of(name)).all():
            note = f"{name} is absent all through the window: there is no forecast of it to explain"
            return found.model_copy(update={"explanation_note": note})
        why = self._explain(panel, request.horizon).to_json()
        return found.model_copy(update={"explanation": ForecastExplanation.model_validate(why)})

    def close(self) -> None:
        """Take no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def panel_of(request: AdHocRequest) -> Panel:
    """The posted history; counters have become rates. `DataError` where it cannot be one."""
    values = np.array([[math.nan if v is None else v for v in row] for row in request.values], dtype=np.float64)
    return Panel(
        values=values,
        indicators=tuple(Indicator(i.name, i.unit, i.level, i.kind) for i in request.indicators),
        start_s=0.0 if request.start is None else request.start.timestamp(),
        step_s=request.step_seconds,
        name="history",
        calendar=request.start is not None,
    ).counters_as_rates()


def summary(found: ForecastDistribution, request: AdHocRequest) -> AdHocForecast:
    """Mean, quantiles and as many paths as were asked for."""
    levels = sorted(set(request.quantiles))
    quantiles, mean = found.quantile(levels), found.mean()
    rows = [
        QuantileRow(
            name=indicator.name,
            level=int(indicator.level),
            unit=indicator.unit,
            mean=numbers(mean[:, k]),
            quantiles={str(q): numbers(quantiles[i, :, k]) for i, q in enumerate(levels)},
            paths=[numbers(p) for p in found.paths[: request.paths, :, k]] if request.paths else None,
        )
        for k, indicator in enumerate(found.indicators)
    ]
    return AdHocForecast(
        model=found.model,
        origin=utc(found.origin_s) if request.start is not None else None,
        step_seconds=found.step_s,
        horizon=found.horizon,
        samples=found.samples,
        indicators=rows,
    )
