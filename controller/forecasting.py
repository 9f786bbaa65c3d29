"""One forecast for all services of a tick: histories of one schema go through the model as one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from controller.prometheus.history import History, window_batch
from controller.resource.settings import ServiceKey
from forecasting.base import ForecastModel
from forecasting.distribution import ForecastBatch, ForecastDistribution
from forecasting.panel import Indicator

__all__ = ["FleetForecaster", "Forecasts", "Wanted"]

CHUNK = 256
HORIZONS = (6, 12, 24, 48, 96, 192, 384)  # horizons are rounded up to these, so that few batches serve all services


@dataclass(frozen=True, slots=True)
class Wanted:
    """A service that wants a forecast of its demand ``horizon`` steps ahead."""

    key: ServiceKey
    history: History
    horizon: int


@dataclass(frozen=True, slots=True)
class Forecasts:
    """What came of one tick: forecasts by service, and why others have none."""

    made: dict[ServiceKey, ForecastDistribution] = field(default_factory=dict)
    failed: dict[ServiceKey, str] = field(default_factory=dict)


class FleetForecaster:
    """Batches services by schema, step and horizon, and keeps one service's trouble from the others."""

    def __init__(self, model: ForecastModel, *, samples: int = 200, seed: int = 0) -> None:
        self.model = model
        self._samples = samples
        self._seed = seed

    def forecast(self, wanted: Sequence[Wanted], now_s: float, cancelled: Callable[[], bool] = bool) -> Forecasts:
        """Joint sample paths of demand for every service; deterministic in histories, time and seed.

        ``cancelled`` is asked between batches; what was not made by then is left out.
        """
        groups: dict[tuple[tuple[Indicator, ...], float, int], list[Wanted]] = {}
        for w in wanted:
            horizon = next((h for h in HORIZONS if h >= w.horizon), w.horizon)
            groups.setdefault((w.history.indicators, w.history.step_s, horizon), []).append(w)
        out = Forecasts()
        for (_, _, horizon), members in groups.items():
            for lo in range(0, len(members), CHUNK):
                if cancelled():
                    return out
                self._forecast(members[lo : lo + CHUNK], now_s, horizon, out)
        return out

    def _forecast(self, members: Sequence[Wanted], now_s: float, horizon: int, out: Forecasts) -> None:
        """One batch; where it fails, halves of it, until whoever breaks it stands alone."""
        try:
            batch = self._predict(members, now_s, horizon)
        except Exception as error:  # noqa: BLE001  (whatever a model raises, the loop goes on without its forecast)
            if len(members) == 1:
                out.failed[members[0].key] = f"{type(error).__name__}: {error}"
                return
            half = len(members) // 2
            self._forecast(members[:half], now_s, horizon, out)
            self._forecast(members[half:], now_s, horizon, out)
            return
        for member, forecast in zip(members, batch, strict=True):
            out.made[member.key] = forecast

    def _predict(self, members: Sequence[Wanted], now_s: float, horizon: int) -> ForecastBatch:
        windows = window_batch([m.history for m in members], now_s, horizon)
        demand = members[0].history.indicators[0].name
        return self.model.predict(windows, horizon, samples=self._samples, seed=self._seed, only=(demand,))
